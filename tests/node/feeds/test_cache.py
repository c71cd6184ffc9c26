"""The feed cache by itself: what is pushed, what is refused, what it may cost."""

from cluster.streams import Published as StreamRecord
from node.feeds.merge import PLACE_BYTES
from node.feeds.reader import Feeds
from node.feeds.rendering import Renderer
from node.social import changes
from tests.node.feeds.network import Network, sign
from tests.node.feeds.pages import ids_of


class Settings:
    def __init__(self, cache_bytes=10 << 20, pull_above=1000):
        self.cache_bytes = cache_bytes
        self.pull_above = pull_above


class Stand:
    """A network, and feeds over it that hear of its changes when told to."""

    def __init__(self, people=3, kept=4, **limits):
        self.network = Network(people)
        self.feeds = Feeds(Settings(**limits), Renderer(sign), shards=2, kept=kept)

    def read(self, viewer, limit=10, rows=None):
        return ids_of(self.feeds.page(rows or self.network.rows, viewer, None, limit, self.network.now))

    def deliver(self):
        self.feeds.changed(self.network.delivered(), self.network.now)

    def warm(self, viewer):
        self.deliver()
        self.read(viewer)
        self.read(viewer)
        return self.cache

    @property
    def cache(self):
        return self.feeds.statistics().cache


def test_the_second_page_fills_and_the_third_hits():
    stand = Stand()
    viewer, author, _ = stand.network.people
    stand.network.follow(viewer, author)
    stand.network.publish(author)
    stand.deliver()
    for entries, hits in ((0, 0), (1, 0), (1, 1)):
        assert stand.read(viewer) == stand.network.feed(viewer)
        assert (stand.cache.entries, stand.cache.hits) == (entries, hits)


def test_a_new_post_is_pushed_and_a_follow_ends_the_entry():
    stand = Stand()
    viewer, author, other = stand.network.people
    stand.network.follow(viewer, author)
    assert stand.warm(viewer).entries == 1
    stand.network.publish(author)
    stand.network.publish(other)
    stand.deliver()
    assert stand.cache.pushes == 1
    assert stand.read(viewer) == stand.network.feed(viewer)
    stand.network.follow(viewer, other)
    assert stand.read(viewer) == stand.network.feed(viewer)
    assert stand.cache.hits == 1
    assert stand.cache.fills == 2  # at once: the reader is known to be active


def test_many_pushes_cut_the_oldest_and_pages_go_on_below():
    stand = Stand(kept=4)
    viewer, author, _ = stand.network.people
    stand.network.follow(viewer, author)
    stand.network.publish(author)
    stand.warm(viewer)
    for _ in range(30):
        stand.network.publish(author)
        stand.deliver()
    assert stand.read(viewer, limit=100) == stand.network.feed(viewer)
    assert stand.cache.hits == 1
    entry = stand.feeds._cache.get(viewer)
    assert len(entry.places) <= 8 * PLACE_BYTES


def test_posts_that_come_out_of_order_are_put_where_they_belong():
    stand = Stand()
    viewer, first, second = stand.network.people
    for author in (first, second):
        stand.network.follow(viewer, author)
    stand.warm(viewer)
    for author in (first, second, first, second):
        stand.network.publish(author)
    records = stand.network.delivered()
    by_partition = sorted(records, key=lambda record: -record.partition)
    stand.feeds.changed(by_partition, stand.network.now)
    assert stand.read(viewer) == stand.network.feed(viewer)
    assert stand.cache.hits == 1


def test_changes_that_the_fill_had_seen_already_change_nothing():
    stand = Stand()
    viewer, author, _ = stand.network.people
    stand.network.follow(viewer, author)
    stand.network.publish(author)
    gone = stand.network.publish(author)
    stand.network.withdraw(gone)
    stand.read(viewer)
    stand.read(viewer)  # filled from rows that are ahead of the changes
    stand.deliver()
    assert stand.read(viewer) == stand.network.feed(viewer)
    assert stand.cache.hits == 1


def test_a_fill_from_rows_behind_the_changes_is_not_kept():
    stand = Stand()
    network = stand.network
    viewer, author, _ = network.people
    network.follow(viewer, author)
    stand.read(viewer)
    behind = Network(0).rows
    behind.write(dict(network.rows.scan(b"", b"\xff" * 8)))
    network.publish(author)
    stand.deliver()
    assert stand.read(viewer, rows=behind) == []
    assert (stand.cache.entries, stand.cache.refused_fills) == (0, 1)
    assert stand.warm(viewer).entries == 1
    assert stand.read(viewer) == network.feed(viewer)


def test_a_gap_in_a_stream_empties_the_cache():
    stand = Stand()
    viewer, author, _ = stand.network.people
    stand.network.follow(viewer, author)
    stand.network.publish(author)
    stand.warm(viewer)
    stand.network.publish(author)
    stand.network.delivered()  # lost on the way
    stand.network.publish(author)
    stand.deliver()
    assert (stand.cache.entries, stand.cache.resets) == (0, 1)
    assert stand.read(viewer) == stand.network.feed(viewer)


def test_an_author_with_many_cached_followers_is_merged_not_pushed():
    stand = Stand(people=6, pull_above=3)
    author = stand.network.people[0]
    readers = stand.network.people[1:]
    for reader in readers:
        stand.network.follow(reader, author)
        stand.warm(reader)
    assert stand.cache.pulled_authors == 1
    stand.network.publish(author)
    stand.deliver()
    assert stand.cache.pushes == 0
    for reader in readers:
        assert stand.read(reader) == stand.network.feed(reader)
    assert stand.cache.hits == len(readers)
    for reader in readers:
        stand.network.unfollow(reader, author)
        stand.read(reader)
    assert stand.cache.pulled_authors == 0  # as are the others, whom only they follow


def test_the_longest_unread_go_when_the_bytes_are_used_up():
    stand = Stand(people=40, cache_bytes=40_000)
    people = stand.network.people
    for reader in people[1:]:
        stand.network.follow(reader, people[0])
        stand.warm(reader)
    assert stand.cache.bytes <= 40_000
    assert 1 < stand.cache.entries < 39
    assert stand.cache.evictions == 39 - stand.cache.entries
    stand.read(people[-1])
    assert stand.cache.hits == 1


def test_a_reader_of_too_many_and_a_cache_that_is_off_are_merged():
    large = Stand(people=100, cache_bytes=64_000)
    viewer = large.network.people[0]
    for author in large.network.people[1:]:
        large.network.follow(viewer, author)
        large.network.publish(author)
    assert large.warm(viewer).entries == 0
    assert large.cache.refused_fills == 1
    assert large.read(viewer) == large.network.feed(viewer)[:10]
    off = Stand(cache_bytes=0)
    assert off.warm(off.network.people[0]).entries == 0


def test_what_is_said_of_rights_pushes_nothing():
    stand = Stand()
    viewer, author, _ = stand.network.people
    stand.network.follow(viewer, author)
    stand.network.publish(author)
    stand.warm(viewer)
    stand.network.change_user(author, state="suspended")
    stand.deliver()
    assert stand.cache.entries == 1
    assert stand.read(viewer) == []


def test_a_stream_may_begin_anywhere():
    stand = Stand()
    author = stand.network.people[0]
    body = changes.encode(changes.Published(author, author + 1, author + 2))
    stand.feeds.changed([StreamRecord(7, 123, body), StreamRecord(7, 124, body)], stand.network.now)
    assert stand.cache.resets == 0
