"""Who may see whom, and what is shown: every relation of a pair × public, private, suspended, gone."""

import itertools
import json

import msgspec
import pytest

from node.social import edges
from node.social.accounts import Suspend, UpdateProfile
from node.social.blocks import BlockUser
from node.social.deletion import DeleteAccount
from node.social.follows import Follow, RemoveFollower
from node.social.people import (
    NOBODY,
    Sight,
    following_edge,
    hidden_between,
    may_follow_more,
    may_see,
    require_sight,
    rfc3339,
    short_users,
    user_view,
    user_views,
)
from tests.node.social.village import START_MS, Village, avatar_url, refused

NOTHING, SEEN, ALL = Sight(False, False), Sight(True, False), Sight(True, True)


def relate(village, owner, viewer, relation):
    if relation == "follower":
        village.run(owner, Follow(owner, viewer))
    elif relation == "requested":
        village.run(owner, UpdateProfile(owner, private=True))
        village.run(owner, Follow(owner, viewer))
    elif relation == "followed by the owner":
        village.run(viewer, Follow(viewer, owner))
    elif relation == "blocked":
        village.run(owner, BlockUser(owner, viewer))
    elif relation == "blocks":
        village.run(viewer, BlockUser(viewer, owner))
    village.settle()


# relation → what the viewer sees of a public and of a private account
SIGHTS = {
    "stranger": (ALL, SEEN),
    "follower": (ALL, ALL),
    "requested": (ALL, SEEN),
    "followed by the owner": (ALL, SEEN),
    "blocked": (NOTHING, NOTHING),
    "blocks": (NOTHING, NOTHING),
}


@pytest.mark.parametrize("relation", SIGHTS)
def test_sight(relation):
    village = Village()
    owner, viewer = village.sign_up("owner", 1), village.sign_up("viewer", 2)
    relate(village, owner, viewer, relation)
    for private, wanted in zip((True, False), reversed(SIGHTS[relation]), strict=True):
        village.run(owner, UpdateProfile(owner, private=private))
        village.proceed(1)  # media follow; requests are not granted yet
        assert may_see(village.rows, owner, viewer) == wanted
        assert may_see(village.rows, owner, owner) == ALL
        assert may_see(village.rows, owner, NOBODY) == (SEEN if private else ALL)
    for end in (Suspend, DeleteAccount):
        village.run(owner, end(owner))
        assert [may_see(village.rows, owner, who) for who in (viewer, owner, NOBODY)] == [NOTHING] * 3
    village.settle()
    assert [may_see(village.rows, owner, who) for who in (viewer, owner, NOBODY)] == [NOTHING] * 3


def test_what_is_hidden_answers_like_what_is_absent():
    village = Village()
    owner, viewer = village.sign_up("owner", 1), village.sign_up("viewer", 2)
    absent = refused("not_found", require_sight, village.rows, owner + 1, viewer)
    village.run(owner, BlockUser(owner, viewer))
    for question in (require_sight, lambda rows, o, v: user_view(rows, o, v, avatar_url)):
        hidden = refused("not_found", question, village.rows, owner, viewer)
        assert hidden == absent.replace(str(owner + 1), str(owner))
    village.run(owner, UpdateProfile(owner, private=True))
    assert refused("not_found", require_sight, village.rows, owner, viewer) == hidden
    assert refused("forbidden", require_sight, village.rows, owner, NOBODY)


def test_a_block_hides_at_both_homes():
    village = Village()
    anna, ben = village.sign_up("anna", 1), village.sign_up("ben", 2)
    village.run(anna, BlockUser(anna, ben))
    assert hidden_between(village.rows, anna, ben)
    village.settle()
    assert hidden_between(village.rows, ben, anna)
    assert not hidden_between(village.rows, anna, NOBODY)
    assert [view.id for view in user_views(village.rows, [anna, ben], anna, avatar_url)] == [str(anna)]


def test_a_user_as_the_api_shows_one():
    village = Village()
    anna, ben = village.sign_up("anna", 1), village.sign_up("ben", 2)
    village.run(anna, UpdateProfile(anna, bio="light"))
    shown = json.loads(msgspec.json.encode(user_view(village.rows, anna, ben, avatar_url)))
    assert shown == {
        "id": str(anna),
        "username": "anna",
        "display_name": "Anna",
        "bio": "light",
        "avatar_url": None,
        "private": False,
        "role": "user",
        "follower_count": 0,
        "following_count": 0,
        "post_count": 0,
        "created_at": rfc3339(START_MS + 1),
        "followed_by_me": False,
        "follows_me": False,
        "requested_by_me": False,
    }


@pytest.mark.parametrize(
    ("to_ben", "to_anna"), [*itertools.product(("none", "follows", "requests"), repeat=2)]
)
def test_what_two_are_to_each_other(to_ben, to_anna):
    village = Village()
    anna, ben = village.sign_up("anna", 1), village.sign_up("ben", 2)
    for author, viewer, relation in ((ben, anna, to_ben), (anna, ben, to_anna)):
        if relation != "none":
            village.run(author, UpdateProfile(author, private=relation == "requests"))
            village.run(author, Follow(author, viewer))
    village.settle()
    view = user_view(village.rows, ben, anna, avatar_url)
    assert view.followed_by_me == (to_ben == "follows")
    assert view.requested_by_me == (to_ben == "requests")
    assert view.follows_me == (to_anna == "follows")
    assert (view.follower_count, view.following_count) == (to_ben == "follows", to_anna == "follows")
    nobody = user_view(village.rows, ben, NOBODY, avatar_url)
    assert not (nobody.followed_by_me or nobody.requested_by_me or nobody.follows_me)


def test_the_viewers_end_of_a_follow():
    village = Village()
    anna, ben = village.sign_up("anna", 1), village.sign_up("ben", 2)
    assert following_edge(village.rows, ben, anna) is None
    village.run(anna, Follow(anna, ben))
    village.settle()
    assert following_edge(village.rows, ben, anna).granted
    village.run(anna, RemoveFollower(anna, ben))
    village.settle()
    assert following_edge(village.rows, ben, anna) is None


def test_room_for_follows(monkeypatch):
    monkeypatch.setattr(edges, "FOLLOWS_MAX", 2)
    village = Village()
    anna, ben, viewer = (village.sign_up(name) for name in ("anna", "ben", "viewer"))
    village.run(ben, UpdateProfile(ben, private=True))
    for author in (anna, ben):
        assert may_follow_more(village.rows, viewer)
        village.run(author, Follow(author, viewer))
        village.settle()
    assert not may_follow_more(village.rows, viewer)


def test_short_users_are_the_active_ones():
    village = Village()
    anna, ben, carl = (village.sign_up(name) for name in ("anna", "ben", "carl"))
    village.run(ben, Suspend(ben))
    village.run(carl, DeleteAccount(carl))
    shown = short_users(village.rows, [anna, ben, carl, anna + 1], avatar_url)
    assert list(shown) == [anna]
    assert msgspec.to_builtins(shown[anna]) == {
        "id": str(anna),
        "username": "anna",
        "display_name": "Anna",
        "avatar_url": None,
    }


@pytest.mark.parametrize(
    ("at_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (START_MS, "2027-01-15T08:00:00.000Z"),
        (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
        (4_102_444_799_001, "2099-12-31T23:59:59.001Z"),
    ],
)
def test_times_as_text(at_ms, text):
    assert rfc3339(at_ms) == text
