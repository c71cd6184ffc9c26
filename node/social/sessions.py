"""Sessions: one row each at the user's home, which every request with a token checks.

A refresh token is used once and replaced. The one before works once more within 30 s, because an answer may
be lost on its way; so may the one that the first answer carried. Any other use means that a token was copied,
and ends the session with all its tokens: this is a result and no refusal, for a refusal would change nothing.
Commands carry hashes of tokens, never tokens (RFC 9700 §4.14 on rotation).
"""

from typing import Final

import msgspec

from cluster.commands import Refused
from cluster.partition import Apply
from node.social.follows import acting
from node.social.keys import CredentialKey, SessionKey, UserKey
from node.social.records import CREDENTIALS, SESSIONS, USERS, Credential, Session

SESSIONS_PER_USER_MAX: Final = 50  # more devices than anyone has; the oldest goes
REPEAT_MS: Final = 30_000  # within this time the token before works once more; the command may say another


class _Command(msgspec.Struct, array_like=True, frozen=True):
    pass


class OpenSession(_Command, frozen=True, tag=10):
    """After the password was checked against the credential of `changed_ms`. → `Opened`.
    Refused: unauthenticated (no such account, or the password changed meanwhile), forbidden (suspended)."""

    user: int
    changed_ms: int
    refresh_hash: bytes
    expires_ms: int


class RefreshSession(_Command, frozen=True, tag=11):
    """→ `Refreshed`. Refused: unauthenticated (no such session, or expired, or account not active)."""

    user: int
    session: int
    refresh_hash: bytes  # of the token presented
    next_hash: bytes  # of the token to be given
    expires_ms: int
    repeat_ms: int = REPEAT_MS


class EndSession(_Command, frozen=True, tag=12):
    """→ None, also where there is none."""

    user: int
    session: int


class ChangePassword(_Command, frozen=True, tag=13):
    """Ends all sessions but `session`. → None. Refused: unauthenticated (also if the password that was
    checked, that of `changed_ms`, is no longer the password)."""

    user: int
    session: int
    changed_ms: int
    password_hash: str


class ResetPassword(_Command, frozen=True, tag=14):
    """By an admin: ends all sessions. → None. Refused: not_found."""

    user: int
    password_hash: str


class Opened(msgspec.Struct, array_like=True, frozen=True):
    session: int


class Refreshed(msgspec.Struct, array_like=True, frozen=True):
    revoked: bool  # True: the token was used before, the session is at an end


def open_session(apply: Apply, command: OpenSession) -> Opened:
    user = command.user
    account = USERS.get(apply, UserKey(user))
    credential = CREDENTIALS.get(apply, CredentialKey(user))
    if account is None or credential is None or credential.changed_ms != command.changed_ms:
        raise Refused("unauthenticated", "username or password is wrong")
    if account.state != "active":
        raise Refused("forbidden", "this account is suspended")
    return Opened(begin(apply, user, command.refresh_hash, command.expires_ms))


def begin(apply: Apply, user: int, refresh_hash: bytes, expires_ms: int) -> int:
    """A new session's id; expired ones are swept, and the oldest beyond the bound."""
    known = list(SESSIONS.scan(apply, user))
    living = [key for key, session in known if session.expires_ms > apply.now]
    kept = set(living[-(SESSIONS_PER_USER_MAX - 1) :])  # ids grow, so the oldest come first
    for key, _ in known:
        if key not in kept:
            SESSIONS.delete(apply, key)
    session = apply.mint()
    record = Session(refresh_hash, b"", apply.now, apply.now, expires_ms)
    SESSIONS.put(apply, SessionKey(user, session), record)
    return session


def refresh_session(apply: Apply, command: RefreshSession) -> Refreshed:
    acting(apply, command.user)
    key = SessionKey(command.user, command.session)
    session = SESSIONS.get(apply, key)
    if session is None or session.expires_ms <= apply.now:
        raise Refused("unauthenticated", "this session is at an end; sign in again")
    newest = command.refresh_hash == session.refresh_hash
    repeated = (
        session.previous_hash != b""
        and command.refresh_hash == session.previous_hash
        and apply.now - session.rotated_ms <= command.repeat_ms
    )
    if not newest and not repeated:
        SESSIONS.delete(apply, key)
        return Refreshed(True)
    # After a repetition the token of the lost answer takes the place of the one before.
    rotated = Session(
        command.next_hash, session.refresh_hash, apply.now, session.opened_ms, command.expires_ms
    )
    SESSIONS.put(apply, key, rotated)
    return Refreshed(False)


def end_session(apply: Apply, command: EndSession) -> None:
    SESSIONS.delete(apply, SessionKey(command.user, command.session))


def end_all(apply: Apply, user: int, *, but: int = 0) -> None:
    """At most SESSIONS_PER_USER_MAX rows."""
    for key in [key for key, _ in SESSIONS.scan(apply, user)]:
        if key.session != but:
            SESSIONS.delete(apply, key)


def change_password(apply: Apply, command: ChangePassword) -> None:
    acting(apply, command.user)
    credential = CREDENTIALS.get(apply, CredentialKey(command.user))
    if credential is None or credential.changed_ms != command.changed_ms:
        raise Refused("unauthenticated", "the current password is wrong")
    _set_password(apply, command.user, command.password_hash, credential)
    end_all(apply, command.user, but=command.session)


def reset_password(apply: Apply, command: ResetPassword) -> None:
    account = USERS.get(apply, UserKey(command.user))
    credential = CREDENTIALS.get(apply, CredentialKey(command.user))
    if account is None or credential is None:
        raise Refused("not_found", f"there is no user {command.user}")
    _set_password(apply, command.user, command.password_hash, credential)
    end_all(apply, command.user)


def _set_password(apply: Apply, user: int, password_hash: str, before: Credential) -> None:
    # The time names the password, so two changes within a millisecond must still differ.
    changed_ms = max(apply.now, before.changed_ms + 1)
    CREDENTIALS.put(apply, CredentialKey(user), Credential(password_hash, changed_ms))


COMMANDS = {
    OpenSession: open_session,
    RefreshSession: refresh_session,
    EndSession: end_session,
    ChangePassword: change_password,
    ResetPassword: reset_password,
}
