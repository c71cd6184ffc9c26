"""Pages of people: order, cursors, who is passed over, and that growth above loses and repeats nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.social import listings
from node.social.accounts import Suspend, Unsuspend, UpdateProfile
from node.social.blocks import BlockUser
from node.social.deletion import DeleteAccount
from node.social.follows import Follow
from tests.node.social.village import PARTITIONS, Village, avatar_url, refused


@pytest.fixture
def village():
    return Village()


def names(page):
    return [view.username for view in page.users]


def all_pages(question, limit):
    """The usernames over all pages; every page but the last is full unless some are passed over."""
    found, after = [], None
    for _ in range(100):
        page = question(after, limit)
        assert len(page.users) <= limit
        found += names(page)
        after = page.after
        if after is None:
            return found
    raise AssertionError("the list does not end")


def directory(village, viewer=0):
    return lambda after, limit: listings.directory(village.rows, PARTITIONS, viewer, after, limit, avatar_url)


def followers(village, owner, viewer=0):
    return lambda after, limit: listings.followers(village.rows, owner, viewer, after, limit, avatar_url)


def following(village, owner, viewer=0):
    return lambda after, limit: listings.following(village.rows, owner, viewer, after, limit, avatar_url)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_the_directory_is_newest_first_over_all_partitions(village, limit):
    for i in range(12):
        village.sign_up(f"user{i}", (i * 5) % PARTITIONS)
    assert all_pages(directory(village), limit) == [f"user{i}" for i in reversed(range(12))]


def test_the_directory_shows_public_active_accounts(village):
    users = {name: village.sign_up(name) for name in ("anna", "ben", "carl", "dora", "emil")}
    village.run(users["ben"], UpdateProfile(users["ben"], private=True))
    village.run(users["carl"], Suspend(users["carl"]))
    village.run(users["dora"], DeleteAccount(users["dora"]))
    assert all_pages(directory(village), 10) == ["emil", "anna"]
    village.run(users["anna"], BlockUser(users["anna"], users["emil"]))
    village.settle()
    assert all_pages(directory(village, users["anna"]), 10) == ["anna"]
    assert all_pages(directory(village, users["emil"]), 10) == ["emil"]
    village.run(users["carl"], Unsuspend(users["carl"]))
    village.run(users["ben"], UpdateProfile(users["ben"], private=False))
    assert all_pages(directory(village), 1) == ["emil", "carl", "ben", "anna"]


@pytest.mark.parametrize("limit", [1, 2, 5, 6])
def test_followers_and_following_newest_first(village, limit):
    star = village.sign_up("star")
    fans = [village.sign_up(f"fan{i}") for i in range(5)]
    for fan in fans:
        village.run(star, Follow(star, fan))
        village.run(fan, Follow(fan, star))
    village.settle()
    want = [f"fan{i}" for i in reversed(range(5))]
    assert all_pages(followers(village, star), limit) == want
    assert all_pages(following(village, star), limit) == want


def test_what_stands_throughout_appears_once_while_the_list_grows(village):
    star = village.sign_up("star")
    for i in range(6):
        village.run(star, Follow(star, village.sign_up(f"fan{i}")))
    village.settle()
    first = followers(village, star)(None, 3)
    village.run(star, Follow(star, village.sign_up("late")))
    village.settle()
    second = followers(village, star)(first.after, 3)
    assert names(first) + names(second) == [f"fan{i}" for i in reversed(range(6))]
    assert second.after is None


def test_a_private_accounts_lists_are_for_its_followers(village):
    star, fan, stranger = village.sign_up("star"), village.sign_up("fan"), village.sign_up("stranger")
    village.run(star, Follow(star, fan))
    village.run(star, UpdateProfile(star, private=True))
    village.settle()
    for question in (followers, following):
        for viewer in (stranger, 0):
            refused("forbidden", question(village, star, viewer), None, 10)
        question(village, star, fan)(None, 10)
        question(village, star, star)(None, 10)
        refused("not_found", question(village, star + 1, fan), None, 10)
    village.run(star, BlockUser(star, fan))
    refused("not_found", followers(village, star, fan), None, 10)


def test_who_is_hidden_or_not_active_is_passed_over(village):
    star = village.sign_up("star")
    fans = {f"fan{i}": village.sign_up(f"fan{i}") for i in range(6)}
    for fan in fans.values():
        village.run(star, Follow(star, fan))
    village.settle()
    village.run(fans["fan2"], Suspend(fans["fan2"]))
    village.run(fans["fan4"], BlockUser(fans["fan4"], fans["fan0"]))
    village.settle()
    for limit in (1, 2, 3, 6):
        assert all_pages(followers(village, star, fans["fan0"]), limit) == ["fan5", "fan3", "fan1", "fan0"]
        assert all_pages(followers(village, star), limit) == ["fan5", "fan4", "fan3", "fan1", "fan0"]


def test_a_page_that_passes_over_many_ends_short_with_a_cursor(village, monkeypatch):
    monkeypatch.setattr(listings, "PASSED_OVER_MAX", 4)
    star = village.sign_up("star")
    fans = [village.sign_up(f"fan{i}") for i in range(9)]
    for fan in fans:
        village.run(star, Follow(star, fan))
    for fan in fans[2:]:
        village.run(fan, Suspend(fan))
    village.settle()
    page = followers(village, star)(None, 2)
    assert names(page) == [] and page.after is not None
    assert all_pages(followers(village, star), 2) == ["fan1", "fan0"]


def test_requests_and_blocks(village):
    star = village.sign_up("star", private=True)
    others = [village.sign_up(f"other{i}") for i in range(5)]
    for other in others:
        village.run(star, Follow(star, other))
    village.settle()

    def requests(after, limit):
        return listings.follow_requests(village.rows, star, after, limit, avatar_url)

    def blocks(after, limit):
        return listings.blocks(village.rows, star, after, limit, avatar_url)

    assert all_pages(requests, 2) == [f"other{i}" for i in reversed(range(5))]
    assert all_pages(blocks, 2) == []
    for i in (3, 0, 4):
        village.run(star, BlockUser(star, others[i]))
    village.run(others[2], BlockUser(others[2], star))
    village.settle()
    assert all_pages(blocks, 2) == ["other4", "other0", "other3"]
    assert all_pages(requests, 2) == ["other1"]


@settings(max_examples=25, deadline=None)
@given(
    homes=st.lists(st.integers(0, PARTITIONS - 1), max_size=12),
    limit=st.integers(1, 5),
    gone=st.sets(st.integers(0, 11)),
)
def test_the_directory_equals_a_sorted_list(homes, limit, gone):
    village = Village()
    users = [village.sign_up(f"user{i}", home) for i, home in enumerate(homes)]
    for i in gone & set(range(len(users))):
        village.run(users[i], UpdateProfile(users[i], private=True))
    want = [f"user{i}" for i in reversed(range(len(users))) if i not in gone]
    assert all_pages(directory(village), limit) == want
