"""Every state of a pair × every event, with both ends looked at once all has settled; and the known races."""

import pytest

from node.social import edges
from node.social.accounts import Suspend, UpdateProfile
from node.social.blocks import BlockUser, UnblockUser
from node.social.deletion import DeleteAccount
from node.social.follows import Accept, Follow, Followed, Reject, RemoveFollower, Unfollow
from node.social.packs import read
from node.social.people import following_edge
from node.social.records import FOLLOWERS, FOLLOWING
from tests.node.social.village import Village, refused


@pytest.fixture
def village():
    return Village()


def pair(village, *, private=False):
    return village.sign_up("author", 1, private=private), village.sign_up("viewer", 2)


def state(village, author, viewer):
    edge = following_edge(village.rows, viewer, author)
    return "nothing" if edge is None else "granted" if edge.granted else "requested"


def bring_to(village, author, viewer, wanted, *, private):
    if wanted != "nothing":
        village.run(author, UpdateProfile(author, private=wanted == "requested"))
        village.settle()
        village.run(author, Follow(author, viewer))
        village.settle()
    village.run(author, UpdateProfile(author, private=private))
    # Not settled when a request meets a public account: its grant is still a piece of work.
    assert state(village, author, viewer) == wanted


EVENTS = {
    "follow": Follow,
    "unfollow": Unfollow,
    "accept": Accept,
    "reject": Reject,
    "remove": RemoveFollower,
}
# (state, private) → event → state after; a Refused code where it is refused
TABLE = {
    ("nothing", False): ("granted", "nothing", "not_found", "nothing", "nothing"),
    ("nothing", True): ("requested", "nothing", "not_found", "nothing", "nothing"),
    ("requested", False): ("granted", "nothing", "granted", "nothing", "granted"),  # remove: then the work
    ("requested", True): ("requested", "nothing", "granted", "nothing", "requested"),
    ("granted", False): ("granted", "nothing", "granted", "granted", "nothing"),
    ("granted", True): ("granted", "nothing", "granted", "granted", "nothing"),
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize(("before", "private"), TABLE)
def test_every_state_and_event(village, before, private, event):
    author, viewer = pair(village)
    bring_to(village, author, viewer, before, private=private)
    after = TABLE[before, private][list(EVENTS).index(event)]
    for _ in range(2):  # the second time changes nothing
        if after == "not_found":
            refused("not_found", village.run, author, EVENTS[event](author, viewer))
        else:
            village.run(author, EVENTS[event](author, viewer))
    village.settle()
    assert state(village, author, viewer) == (before if after == "not_found" else after)
    village.check_graph([author, viewer])


def test_follow_says_what_it_came_to(village):
    author, viewer = pair(village)
    assert village.run(author, Follow(author, viewer), Followed).granted
    village.run(author, UpdateProfile(author, private=True))
    assert village.run(author, Follow(author, viewer), Followed).granted
    village.run(author, Unfollow(author, viewer))
    assert not village.run(author, Follow(author, viewer), Followed).granted


def test_nobody_follows_oneself_or_who_is_not_there(village):
    author, viewer = pair(village)
    refused("invalid_field", village.run, author, Follow(author, author))
    absent = refused("not_found", village.run, author + 1, Follow(author + 1, viewer))
    village.run(author, BlockUser(author, viewer))
    blocked = refused("not_found", village.run, author, Follow(author, viewer))
    assert blocked == absent.replace(str(author + 1), str(author))
    village.run(author, UnblockUser(author, viewer))
    village.run(author, Suspend(author))
    assert refused("not_found", village.run, author, Follow(author, viewer)) == blocked
    village.run(author, DeleteAccount(author))
    assert refused("not_found", village.run, author, Follow(author, viewer)) == blocked
    village.settle()
    assert refused("not_found", village.run, author, Follow(author, viewer)) == blocked


@pytest.mark.parametrize("event", [Accept, Reject, RemoveFollower])
def test_only_an_active_author_decides(village, event):
    author, viewer = pair(village, private=True)
    village.run(author, Follow(author, viewer))
    village.run(author, Suspend(author))
    refused("unauthenticated", village.run, author, event(author, viewer))


def test_a_viewer_leaves_whoever_the_author_is(village):
    author, viewer = pair(village)
    village.run(author, Follow(author, viewer))
    village.run(author, Suspend(author))
    village.run(author, Unfollow(author, viewer))
    village.settle()
    assert state(village, author, viewer) == "nothing"
    village.check_graph([author, viewer])


def test_becoming_public_grants_the_open_requests(village):
    author = village.sign_up("author", private=True)
    viewers = [village.sign_up(f"viewer{i}") for i in range(205)]  # three pieces of work
    for viewer in viewers:
        village.run(author, Follow(author, viewer))
    village.run(author, UpdateProfile(author, private=False))
    village.settle()
    assert {key.viewer for key, _ in FOLLOWERS.scan(village.rows, author)} == set(viewers)
    village.check_graph([author, *viewers])


def test_becoming_private_again_stops_the_granting(village):
    author, viewer = pair(village, private=True)
    village.run(author, Follow(author, viewer))
    village.run(author, UpdateProfile(author, private=False))
    village.run(author, UpdateProfile(author, private=True))
    village.settle()
    assert state(village, author, viewer) == "requested"


# --- races ---------------------------------------------------------------------------------------------
def test_accept_after_withdrawal(village):
    author, viewer = pair(village, private=True)
    village.run(author, Follow(author, viewer))
    village.run(author, Unfollow(author, viewer))
    refused("not_found", village.run, author, Accept(author, viewer))
    village.settle()
    assert state(village, author, viewer) == "nothing"
    village.check_graph([author, viewer])


def test_follow_and_unfollow_before_any_message_arrived(village):
    author, viewer = pair(village)
    for _ in range(3):
        village.run(author, Follow(author, viewer))
        village.run(author, Unfollow(author, viewer))
    village.run(author, Follow(author, viewer))
    village.settle()
    assert state(village, author, viewer) == "granted"
    village.check_graph([author, viewer])


def test_an_older_message_brings_nothing_back(village):
    """As a dead letter that is retried late would."""
    author, viewer = pair(village)
    village.run(author, Follow(author, viewer))
    village.settle()
    edge = FOLLOWERS.get(village.rows, FOLLOWERS.key(author, viewer))
    apply = _Bare(village, viewer)
    edges.revoked(apply, 1, edges.Revoked(viewer, author, edge.version - 1))
    edges.requested(apply, 1, edges.Requested(viewer, author, edge.version - 1, 0))
    edges.left(_Bare(village, author), 2, edges.Left(author, viewer, edge.version - 1))
    village.check_graph([author, viewer])
    assert state(village, author, viewer) == "granted"


class _Bare:
    """Rows that take whatever is put at once, and no messages: an apply that must not send."""

    def __init__(self, village, home):
        self._rows = village.rows
        self.get, self.get_many, self.scan = self._rows.get, self._rows.get_many, self._rows.scan

    def put(self, key, value):
        self._rows.write({key: value})

    def delete(self, key):
        self._rows.write({key: None})


def test_a_message_that_comes_twice_counts_once(village):
    author, viewer = pair(village)
    village.run(author, Follow(author, viewer))
    village.deliver((1, 2), times=3)
    village.settle()
    village.check_graph([author, viewer])


def test_at_most_so_many_follows(village, monkeypatch):
    monkeypatch.setattr(edges, "FOLLOWS_MAX", 3)
    viewer = village.sign_up("viewer")
    authors = [village.sign_up(f"author{i}") for i in range(5)]
    village.run(authors[0], UpdateProfile(authors[0], private=True))
    for author in authors:
        village.run(author, Follow(author, viewer))
    village.settle()
    assert len(list(FOLLOWING.scan(village.rows, viewer))) == 3  # the request is one of them
    village.check_graph([viewer, *authors])
    village.run(authors[0], Accept(authors[0], viewer))  # takes no more room than the request
    village.settle()
    assert state(village, authors[0], viewer) == "granted"
    village.run(authors[1], Unfollow(authors[1], viewer))
    village.run(authors[4], Follow(authors[4], viewer))
    village.settle()
    assert sorted(read(village.rows, viewer)) == sorted([authors[0], authors[2], authors[4]])
    village.check_graph([viewer, *authors])


def test_a_declined_follow_does_not_end_a_later_one(village, monkeypatch):
    monkeypatch.setattr(edges, "FOLLOWS_MAX", 0)
    author, viewer = pair(village)
    village.run(author, Follow(author, viewer))
    village.deliver((1, 2))  # declined: `Left` is on its way
    monkeypatch.setattr(edges, "FOLLOWS_MAX", 1)
    village.run(author, Unfollow(author, viewer))
    village.run(author, Follow(author, viewer))
    village.settle()
    assert state(village, author, viewer) == "granted"
    village.check_graph([author, viewer])
