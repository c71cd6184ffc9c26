"""Accounts: names, profiles, private and public, roles, suspension, and the directory that follows them."""

import pytest

from node.social.accounts import (
    AVATAR_NONE,
    SetRole,
    SignedUp,
    SignUp,
    Suspend,
    SweepNames,
    SweptNames,
    Unsuspend,
    UpdateProfile,
)
from node.social.changes import Restricted, decode
from node.social.deletion import NAME_RESTS_MS, DeleteAccount
from node.social.keys import CountsKey, DirectoryKey, MediaKey, NameKey, UserKey
from node.social.people import user_named, user_view
from node.social.records import COUNTS, DIRECTORY, MEDIA, NAMES, RESTING_NAMES, USERS, Media, VariantPair
from storage.ids import partition_of
from tests.node.social.village import Village, avatar_url, refused


@pytest.fixture
def village():
    return Village()


def sign_up(village, username, partition=3, display_name=""):
    return village.run_in(partition, SignUp(username, display_name, "$argon2id$", b"", 0), SignedUp)


def account(village, user):
    return USERS.get(village.rows, UserKey(user))


def listed(village, user):
    return DIRECTORY.has(village.rows, DirectoryKey(partition_of(user), user))


def restricted(village, user):
    return [decode(change.body) for change in village.changes].count(Restricted(user))


# --- sign-up -------------------------------------------------------------------------------------------
def test_a_user_lives_where_the_name_does(village):
    signed_up = sign_up(village, "Anna.Smith_7", 5, "Anna ❤")
    user = signed_up.user
    assert partition_of(user) == 5
    assert signed_up.session == 0
    found = account(village, user)
    assert (found.username, found.display_name, found.role, found.state) == (
        "Anna.Smith_7",
        "Anna ❤",
        "user",
        "active",
    )
    assert user_named(village.rows, 5, "ANNA.smith_7") == user
    assert user_named(village.rows, 5, "anna") is None
    assert listed(village, user)


def test_a_name_is_unique_without_regard_to_case(village):
    user = sign_up(village, "Anna").user
    refused("username_taken", sign_up, village, "aNNa")
    assert user_named(village.rows, 3, "anna") == user
    assert len(list(DIRECTORY.scan(village.rows, 3))) == 1


@pytest.mark.parametrize("username", ["a", "a" * 30, "_", "a.b", "0", "Z9"])
def test_names_that_are_good(village, username):
    sign_up(village, username)
    assert user_named(village.rows, 3, username)


@pytest.mark.parametrize(
    "username", ["", "a" * 31, "a b", "ä", "a-b", "a\n", "\n", "a\0", "a/b", "\u017f", "\u212a", "１", "@a"]
)
def test_names_that_are_not(village, username):
    detail = refused("invalid_field", sign_up, village, username)
    assert detail.startswith("username:")
    assert not list(DIRECTORY.scan(village.rows, 3))


@pytest.mark.parametrize("display_name", ["a" * 61, "a\nb", "\0", "\x85"])
def test_display_names_that_are_not(village, display_name):
    refused("invalid_field", sign_up, village, "anna", 3, display_name)
    assert user_named(village.rows, 3, "anna") is None
    sign_up(village, "anna", 3, "ש" * 60)


def test_a_deleted_accounts_name_rests(village):
    first = sign_up(village, "Anna").user
    village.run(first, DeleteAccount(first))
    village.settle()
    deleted = village.now
    assert user_named(village.rows, 3, "anna") is None
    refused("username_taken", sign_up, village, "anna")
    village.now = deleted + NAME_RESTS_MS - 2  # each command is a millisecond later
    refused("username_taken", sign_up, village, "anna")
    second = sign_up(village, "anna").user
    assert user_named(village.rows, 3, "anna") == second
    assert not list(RESTING_NAMES.scan(village.rows, 3))
    assert village.run_in(3, SweepNames(), SweptNames).count == 0
    assert user_named(village.rows, 3, "anna") == second


def test_names_are_swept_when_their_rest_is_over(village):
    for name in ("anna", "ben"):
        user = sign_up(village, name).user
        village.run(user, DeleteAccount(user))
        village.now += 1000
    keeps = sign_up(village, "carl").user
    village.settle()
    village.now += NAME_RESTS_MS - 1500
    assert village.run_in(3, SweepNames(), SweptNames).count == 1
    assert not NAMES.has(village.rows, NameKey(3, "anna"))
    assert NAMES.has(village.rows, NameKey(3, "ben"))
    village.now += 1500
    assert village.run_in(3, SweepNames(), SweptNames).count == 1
    assert [key.name for key, _ in NAMES.scan(village.rows, 3)] == ["carl"]
    assert user_named(village.rows, 3, "carl") == keeps


# --- profile -------------------------------------------------------------------------------------------
def test_a_profile_changes_only_what_is_named(village):
    user = village.sign_up("anna")
    village.run(user, UpdateProfile(user, bio="one\ntwo"))
    village.run(user, UpdateProfile(user, display_name="Anna A."))
    village.run(user, UpdateProfile(user))
    found = account(village, user)
    assert (found.display_name, found.bio, found.private) == ("Anna A.", "one\ntwo", False)
    village.run(user, UpdateProfile(user, display_name="", bio="b" * 300))
    assert (account(village, user).display_name, account(village, user).bio) == ("", "b" * 300)


@pytest.mark.parametrize(
    "wrong", [{"bio": "b" * 301}, {"bio": "\0"}, {"bio": "a\rb"}, {"display_name": "d" * 61}]
)
def test_a_profile_that_is_refused_changes_nothing(village, wrong):
    user = village.sign_up("anna")
    before = account(village, user)
    refused("invalid_field", village.run, user, UpdateProfile(user, **({"display_name": "new"} | wrong)))
    refused("invalid_field", village.run, user, UpdateProfile(user, private=True, **wrong))
    assert account(village, user) == before
    assert restricted(village, user) == 0


def medium(village, owner, state="ready"):
    media = owner + 1
    pairs = tuple(VariantPair(bytes([i]) * 32, bytes([i + 4]) * 32, 8, 8) for i in range(4))
    row = Media(
        state=state,
        type="image/png",
        size=10,
        alt="",
        created_ms=0,
        expires_ms=0,
        original=b"o" * 32,
        width=8,
        height=8,
        placeholder="",
        variants=pairs if state == "ready" else (),
        posts=(),
        avatar=False,
        shown=False,
        face=False,
        failure="",
    )
    encoded = MediaKey(owner, media).encode()
    village.rows.write({encoded: MEDIA.codec.encode(encoded, row)})
    return media


def test_an_avatar_is_ones_own_ready_medium(village):
    user, other = village.sign_up("anna"), village.sign_up("ben")
    media = medium(village, user)
    refused("invalid_field", village.run, other, UpdateProfile(other, avatar_media=media))
    village.run(user, UpdateProfile(user, avatar_media=media))
    found = account(village, user).avatar
    assert (found.media, found.webp, found.jpeg) == (media, bytes([0]) * 32, bytes([4]) * 32)
    assert user_view(village.rows, user, 0, avatar_url).avatar_url == avatar_url(user, found)
    village.run(user, UpdateProfile(user, bio="kept"))
    assert account(village, user).avatar == found
    village.run(user, UpdateProfile(user, avatar_media=AVATAR_NONE))
    assert account(village, user).avatar is None
    assert user_view(village.rows, user, 0, avatar_url).avatar_url is None


def test_an_avatar_must_be_ready(village):
    user = village.sign_up("anna")
    refused("conflict", village.run, user, UpdateProfile(user, avatar_media=medium(village, user, "stored")))
    assert account(village, user).avatar is None


def test_private_and_public(village):
    user = village.sign_up("anna")
    village.run(user, UpdateProfile(user, private=True))
    assert account(village, user).private
    assert not listed(village, user)
    assert restricted(village, user) == 1
    village.run(user, UpdateProfile(user, private=True))
    assert restricted(village, user) == 1
    village.run(user, UpdateProfile(user, private=False))
    assert listed(village, user)
    assert restricted(village, user) == 2
    village.settle()
    assert village.dead_letters() == 0


# --- by an admin ---------------------------------------------------------------------------------------
def test_suspension_hides_and_comes_back(village):
    user = village.sign_up("anna")
    for _ in range(2):
        village.run(user, Suspend(user))
        assert not listed(village, user)
        refused("not_found", user_view, village.rows, user, 0, avatar_url)
        refused("unauthenticated", village.run, user, UpdateProfile(user, bio="still here"))
    for _ in range(2):
        village.run(user, Unsuspend(user))
        assert listed(village, user)
        user_view(village.rows, user, 0, avatar_url)
    assert restricted(village, user) == 2


def test_a_private_account_stays_out_of_the_directory_when_it_comes_back(village):
    user = village.sign_up("anna", private=True)
    village.run(user, Suspend(user))
    village.run(user, Unsuspend(user))
    assert account(village, user).private
    assert not listed(village, user)


def test_roles(village):
    user = village.sign_up("anna")
    village.run(user, SetRole(user, "admin"))
    assert user_view(village.rows, user, 0, avatar_url).role == "admin"
    refused("invalid_field", village.run, user, SetRole(user, "owner"))
    village.run(user, SetRole(user, "user"))
    assert account(village, user).role == "user"


@pytest.mark.parametrize("command", [Suspend, Unsuspend, lambda user: SetRole(user, "admin")])
def test_nobody_who_is_gone(village, command):
    user = village.sign_up("anna")
    refused("not_found", village.run, user, command(user + 1))
    village.run(user, DeleteAccount(user))
    refused("not_found", village.run, user, command(user))
    village.settle()
    refused("not_found", village.run, user, command(user))
    assert not COUNTS.has(village.rows, CountsKey(user))
