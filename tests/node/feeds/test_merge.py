"""Merging timelines: keys made in one sweep, few reads, cursors that neither repeat nor skip."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.feeds.merge import (
    TAIL_PLACES,
    Merge,
    Timelines,
    authors_in,
    head_keys,
    pack_keys,
    place,
    place_after,
    published_of,
)
from node.feeds.reader import Feeds
from node.feeds.rendering import Renderer
from node.social.keys import CountsKey, PostKey, TimelineHeadKey
from storage.ids import ID_MAX
from storage.records import RecordDamaged
from tests.node.feeds.network import Network, sign
from tests.node.feeds.pages import ids_of


class Off:
    cache_bytes = 0
    pull_above = 1


class Counting:
    """Rows that count how they are read."""

    def __init__(self, rows):
        self._rows = rows
        self.reads = []

    def get(self, key):
        self.reads.append(1)
        return self._rows.get(key)

    def get_many(self, keys):
        keys = list(keys)
        self.reads.append(len(keys))
        return self._rows.get_many(keys)

    def scan(self, start, stop, *, reverse=False):
        self.reads.append("scan")
        return self._rows.scan(start, stop, reverse=reverse)


def feeds():
    return Feeds(Off, Renderer(sign), shards=1)


def page(one, network, viewer, cursor=None, limit=10):
    return one.page(network.rows, viewer, cursor, limit, network.now)


def starring(people, posts):
    """A network in which the first follows all, who have posted in turns."""
    network = Network(people)
    for author in network.people[1:]:
        network.follow(network.people[0], author)
    for number in range(posts):
        network.publish(network.people[number % people])
    return network


@given(st.lists(st.integers(0, ID_MAX), max_size=40))
def test_head_keys_are_those_of_their_type(authors):
    packed = b"".join(author.to_bytes(8, "big") for author in authors)
    assert head_keys(packed) == [TimelineHeadKey(author).encode() for author in authors]


@given(st.integers(1, ID_MAX), st.integers(1, ID_MAX), st.integers(1, ID_MAX))
def test_places_order_newest_first_and_cursors_cut_between(one, other, post):
    first, second = place(one, post, 1), place(other, post, 1)
    assert (first < second) == (one > other) or one == other
    assert published_of(first) == one
    assert (second < place_after(one)) == (other >= one)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 9), st.integers(1, 9))
def test_takes_in_any_steps_give_all_timelines_in_order(turns, step, cut):
    network = Network(6)
    for number in turns:
        network.publish(network.people[number])
    authors = b"".join(person.to_bytes(8, "big") for person in network.people)
    every = sorted((record.published for record in network.posts.values()), reverse=True)
    for cursor in [None, *every[::cut]]:
        merge, taken = Merge(network.rows, Timelines(), authors, place_after(cursor)), []
        while batch := merge.take(step):
            taken += batch
        assert [published_of(one) for one in taken] == [p for p in every if cursor is None or p < cursor]


def test_packs_of_many_authors_are_all_read():
    network = Network(260)
    viewer = network.people[0]
    for author in network.people[1:]:
        network.follow(viewer, author)
    keys = pack_keys(viewer, 259)
    assert len(keys) == 2
    packed = authors_in(network.rows.get_many(keys))
    assert {packed[i : i + 8] for i in range(0, len(packed), 8)} == {
        author.to_bytes(8, "big") for author in network.people[1:]
    }
    post = network.publish(network.people[259])
    assert ids_of(page(feeds(), network, viewer)) == [post]


def test_new_posts_between_pages_neither_repeat_nor_skip():
    network = starring(5, 40)
    viewer, one = network.people[0], feeds()
    standing = network.feed(viewer)
    seen, cursor = [], None
    while True:
        result = page(one, network, viewer, cursor, limit=7)
        seen += ids_of(result)
        if result.next is None:
            break
        cursor = result.next
        for author in network.people:
            network.publish(author)
    assert seen == standing


def test_a_page_that_loses_posts_is_filled_from_further_down():
    network = starring(4, 40)
    viewer, gone = network.people[0], network.people[1]
    network.revoke(viewer, gone)
    result = page(feeds(), network, viewer, limit=10)
    assert ids_of(result) == network.feed(viewer)[:10]
    assert result.count == 10


def test_the_last_page_says_so():
    network = starring(2, 10)
    result = page(feeds(), network, network.people[0], limit=10)
    assert (result.count, result.next) == (10, None)
    assert page(feeds(), network, network.people[0], cursor=1, limit=10).posts == b"[]"


def test_who_is_gone_or_follows_nobody_has_an_empty_feed():
    network = Network(1)
    viewer = network.people[0]
    assert page(feeds(), network, viewer).posts == b"[]"
    network.write.delete(CountsKey(viewer).encode())
    assert page(feeds(), network, viewer).posts == b"[]"


def test_a_page_takes_few_reads_and_looks_down_only_where_it_must():
    network = starring(100, 400)
    rows, one = Counting(network.rows), feeds()
    viewer = network.people[0]
    one.page(rows, viewer, None, 10, network.now)
    # counts and pack, heads, tails of those near the top, posts and people, likes
    assert rows.reads[0] == 2
    assert rows.reads[1] == 100
    assert rows.reads[2:].count("scan") <= 10 + 1 + 1
    again = Counting(network.rows)
    one.page(again, viewer, None, 10, network.now)
    assert again.reads == [2, 100, 30, "scan"]


def test_one_author_alone_is_followed_down_beyond_the_tail():
    network = Network(2)
    network.follow(*network.people)
    posts = [network.publish(network.people[1]) for _ in range(5 * TAIL_PLACES + 1)]
    assert ids_of(page(feeds(), network, network.people[0], limit=100)) == posts[::-1]


def test_damage_is_told_not_served():
    network = starring(2, 4)
    viewer = network.people[0]
    post = network.feed(viewer)[0]
    key = PostKey(post).encode()
    network.write.put(key, network.rows.get(key)[:-1] + b"\x7f")
    with pytest.raises(RecordDamaged):
        page(feeds(), network, viewer)


def test_of_many_heads_all_are_reached_in_order():
    network, timelines = Network(250), Timelines()
    authors = b"".join(person.to_bytes(8, "big") for person in network.people)
    # One after the other, so that what was guessed of one merge is wrong for the next in each way.
    for writers, step in ((network.people, 21), (network.people[:3], 100), (network.people, 1), ([], 300)):
        for author in writers:
            network.publish(author)
        every = sorted((record.published for record in network.posts.values()), reverse=True)
        merge, taken = Merge(network.rows, timelines, authors), []
        while batch := merge.take(step):
            taken += [published_of(one) for one in batch]
        assert taken == every
        below = Merge(network.rows, timelines, authors, place_after(every[99])).take(900)
        assert [published_of(one) for one in below] == every[100:]
