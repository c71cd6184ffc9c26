"""Sessions: what each token may do and when, the bound on their number, and how passwords end them."""

import pytest

from node.social.accounts import SetRole, SignedUp, SignUp, Suspend, Unsuspend
from node.social.deletion import DeleteAccount
from node.social.people import check_session, credential
from node.social.records import SESSIONS
from node.social.sessions import (
    REPEAT_MS,
    SESSIONS_PER_USER_MAX,
    ChangePassword,
    EndSession,
    Opened,
    OpenSession,
    Refreshed,
    RefreshSession,
    ResetPassword,
)
from tests.node.social.village import DAY_MS, Village, refused

MONTH_MS = 30 * DAY_MS


@pytest.fixture
def village():
    return Village()


@pytest.fixture
def user(village):
    return village.sign_up("anna")


def token(number):
    return number.to_bytes(32, "big")


def open_session(village, user, first=1, lives_ms=MONTH_MS):
    changed_ms = credential(village.rows, user).changed_ms
    command = OpenSession(user, changed_ms, token(first), village.now + lives_ms)
    return village.run(user, command, Opened).session


def refresh(village, user, session, old, new):
    """True where the session went on."""
    command = RefreshSession(user, session, token(old), token(new), village.now + MONTH_MS)
    return not village.run(user, command, Refreshed).revoked


def valid(village, user, session):
    return check_session(village.rows, user, session, village.now) is not None


def test_a_session_says_who_holds_it(village, user):
    session = open_session(village, user)
    village.run(user, SetRole(user, "admin"))
    signed = check_session(village.rows, user, session, village.now)
    assert (signed.user, signed.session, signed.role) == (user, session, "admin")
    assert signed.opened_ms < village.now
    assert not valid(village, user, session + 1)
    assert not valid(village, user + 1, session)


def test_sign_up_opens_the_first(village):
    signed_up = village.run_in(3, SignUp("ben", "", "$", token(1), village.now + MONTH_MS), SignedUp)
    assert valid(village, signed_up.user, signed_up.session)
    assert refresh(village, signed_up.user, signed_up.session, 1, 2)


def test_an_expired_session_is_none(village, user):
    session = open_session(village, user, lives_ms=1000)
    assert valid(village, user, session)
    village.now += 1000
    assert not valid(village, user, session)
    refused("unauthenticated", refresh, village, user, session, 1, 2)


def test_refreshing_prolongs_and_keeps_when_the_password_was_given(village, user):
    session = open_session(village, user, lives_ms=1000)
    opened_ms = check_session(village.rows, user, session, village.now).opened_ms
    assert refresh(village, user, session, 1, 2)
    village.now += DAY_MS
    assert check_session(village.rows, user, session, village.now).opened_ms == opened_ms


# Tokens presented one after the other, with the time waited before each; each one that works gives the next
# number. What comes of it: "ok", "revoked" (the session ends by it), "ended" (there is none any more).
CHAINS = {
    "in turn": [(1, 0, "ok"), (2, 0, "ok"), (3, 0, "ok")],
    "old once more": [(1, 0, "ok"), (1, REPEAT_MS - 10, "ok"), (3, 0, "ok")],
    "old a third time": [(1, 0, "ok"), (1, 0, "ok"), (1, 0, "revoked"), (3, 0, "ended")],
    "old too late": [(1, 0, "ok"), (1, REPEAT_MS + 10, "revoked"), (2, 0, "ended")],
    "two holders of the old": [(1, 0, "ok"), (1, 0, "ok"), (2, 0, "ok"), (3, 0, "ok")],
    "lost answer's token too late": [(1, 0, "ok"), (1, 0, "ok"), (2, REPEAT_MS + 10, "revoked")],
    "older than old": [(1, 0, "ok"), (2, 0, "ok"), (1, 0, "revoked"), (3, 0, "ended")],
    "never given": [(9, 0, "revoked"), (1, 0, "ended")],
    "empty": [(0, 0, "revoked")],
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_rotation(village, user, chain):
    session = open_session(village, user, 1)
    other = open_session(village, user, 50)
    given = 1
    for presented, waited_ms, wanted in chain:
        village.now += waited_ms
        if wanted == "ended":
            refused("unauthenticated", refresh, village, user, session, presented, 99)
            continue
        works = refresh(village, user, session, presented, given + 1)
        assert works == (wanted == "ok"), (presented, wanted)
        given += works
        assert valid(village, user, session) == works
    assert valid(village, user, other)


def test_the_hash_before_the_first_rotation_is_no_token(village, user):
    session = open_session(village, user)
    command = RefreshSession(user, session, b"", token(2), village.now + MONTH_MS)
    assert village.run(user, command, Refreshed).revoked


def test_ending_is_idempotent(village, user):
    session = open_session(village, user)
    other = open_session(village, user)
    for _ in range(2):
        village.run(user, EndSession(user, session))
        assert not valid(village, user, session)
    assert valid(village, user, other)


def test_the_oldest_goes_and_expired_ones_first(village, user):
    opened = [open_session(village, user, lives_ms=1000 if i == 5 else MONTH_MS) for i in range(50)]
    village.now += 1000
    newest = open_session(village, user)
    assert not valid(village, user, opened[5])
    assert valid(village, user, opened[0])
    another = open_session(village, user)
    assert not valid(village, user, opened[0])
    assert all(valid(village, user, session) for session in (opened[1], newest, another))
    assert len(list(SESSIONS.scan(village.rows, user))) == SESSIONS_PER_USER_MAX


def test_a_changed_password_ends_the_other_sessions(village, user):
    mine, other = open_session(village, user), open_session(village, user)
    before = credential(village.rows, user)
    village.run(user, ChangePassword(user, mine, before.changed_ms, "$new"))
    assert valid(village, user, mine)
    assert not valid(village, user, other)
    after = credential(village.rows, user)
    assert after.password_hash == "$new"
    assert after.changed_ms > before.changed_ms
    # What was checked against the old password no longer counts.
    refused("unauthenticated", village.run, user, ChangePassword(user, mine, before.changed_ms, "$again"))
    refused("unauthenticated", village.run, user, OpenSession(user, before.changed_ms, token(1), 0))
    assert credential(village.rows, user) == after


def test_passwords_of_one_millisecond_differ(village, user):
    village.run(user, ResetPassword(user, "$1"))
    first = credential(village.rows, user).changed_ms
    village.now -= 10
    village.run(user, ResetPassword(user, "$2"))
    assert credential(village.rows, user).changed_ms > first


def test_a_reset_password_ends_all(village, user):
    session = open_session(village, user)
    village.run(user, ResetPassword(user, "$new"))
    assert not valid(village, user, session)
    refused("not_found", village.run, user + 1, ResetPassword(user + 1, "$new"))


def test_a_suspended_account_has_no_sessions(village, user):
    session = open_session(village, user)
    village.run(user, Suspend(user))
    refused("forbidden", open_session, village, user)
    refused("unauthenticated", refresh, village, user, session, 1, 2)
    village.run(user, Unsuspend(user))
    assert not valid(village, user, session)
    assert valid(village, user, open_session(village, user))


def test_a_deleted_account_has_no_sessions(village, user):
    session = open_session(village, user)
    changed_ms = credential(village.rows, user).changed_ms
    village.run(user, DeleteAccount(user))
    for _ in range(2):
        assert not valid(village, user, session)
        refused("unauthenticated", village.run, user, OpenSession(user, changed_ms, token(1), 0))
        refused("unauthenticated", refresh, village, user, session, 1, 2)
        refused("unauthenticated", village.run, user, ChangePassword(user, session, changed_ms, "$"))
        village.settle()
