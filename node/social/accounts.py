"""Accounts: sign-up, profile, private or public, role, suspension.

Sign-up is one command to the partition of the name's keyed hash: name, user, credential, counts and first
session in one apply, so the name is unique and the user lives where the name does. The directory has a row
for each account that is public and active, whatever made it so.
"""

from typing import Final

import msgspec

from cluster.commands import Refused
from cluster.partition import Apply
from node.social import changes, follows, media, sessions, texts
from node.social.follows import acting
from node.social.keys import CountsKey, CredentialKey, DirectoryKey, NameKey, RestingNameKey, UserKey
from node.social.records import (
    COUNTS,
    CREDENTIALS,
    DIRECTORY,
    NAMES,
    RESTING_NAMES,
    USERS,
    Counts,
    Credential,
    Name,
    User,
)
from storage.rows import PRESENT, Reader

ROLES: Final = ("user", "admin")
NAMES_SWEPT_MAX: Final = 500  # per command; two rows each

AVATAR_KEPT: Final = -1
AVATAR_NONE: Final = 0


class _Command(msgspec.Struct, array_like=True, frozen=True):
    pass


class SignUp(_Command, frozen=True, tag=1):
    """For the partition of the name's keyed hash. → `SignedUp`. Refused: username_taken, invalid_field."""

    username: str
    display_name: str
    password_hash: str
    refresh_hash: bytes  # of the first session's token; empty: no session
    expires_ms: int  # of the first session


class UpdateProfile(_Command, frozen=True, tag=2):
    """→ None. Refused: unauthenticated, invalid_field, conflict (a medium that is not ready)."""

    user: int
    display_name: str | None = None  # None: as it is
    bio: str | None = None
    avatar_media: int = AVATAR_KEPT  # AVATAR_NONE takes it away
    private: bool | None = None


class SetRole(_Command, frozen=True, tag=3):
    """→ None. Refused: not_found, invalid_field."""

    user: int
    role: str


class Suspend(_Command, frozen=True, tag=4):
    """Hides the account and ends its sessions; what it made stays. → None. Refused: not_found."""

    user: int


class Unsuspend(_Command, frozen=True, tag=5):
    user: int


class SweepNames(_Command, frozen=True, tag=6):
    """Frees names whose rest is over, up to NAMES_SWEPT_MAX. → `SweptNames`."""


class SignedUp(msgspec.Struct, array_like=True, frozen=True):
    user: int
    session: int  # 0 without one


class SweptNames(msgspec.Struct, array_like=True, frozen=True):
    count: int


def sign_up(apply: Apply, command: SignUp) -> SignedUp:
    texts.check_username(command.username)
    texts.check_display_name(command.display_name)
    key = NameKey(apply.partition, texts.folded(command.username))
    name = NAMES.get(apply, key)
    if name is not None:
        if not name.rests_until_ms or name.rests_until_ms > apply.now:
            raise Refused("username_taken", f"the username {command.username} is taken")
        RESTING_NAMES.delete(apply, RestingNameKey(apply.partition, name.rests_until_ms, key.name))
    user = apply.mint()
    account = User(command.username, command.display_name, "", None, False, "user", "active", apply.now)
    NAMES.put(apply, key, Name(user, 0))
    USERS.put(apply, UserKey(user), account)
    COUNTS.put(apply, CountsKey(user), Counts(0, 0, 0, 0, 0))
    CREDENTIALS.put(apply, CredentialKey(user), Credential(command.password_hash, apply.now))
    DIRECTORY.put(apply, DirectoryKey(apply.partition, user), PRESENT)
    if not command.refresh_hash:
        return SignedUp(user, 0)
    return SignedUp(user, sessions.begin(apply, user, command.refresh_hash, command.expires_ms))


def update_profile(apply: Apply, command: UpdateProfile) -> None:
    before = acting(apply, command.user)
    after = before
    if command.display_name is not None:
        texts.check_display_name(command.display_name)
        after = msgspec.structs.replace(after, display_name=command.display_name)
    if command.bio is not None:
        texts.check_bio(command.bio)
        after = msgspec.structs.replace(after, bio=command.bio)
    if command.avatar_media != AVATAR_KEPT:
        avatar = media.set_avatar(apply, command.user, command.avatar_media)
        after = msgspec.structs.replace(after, avatar=avatar)
    if command.private is not None:
        after = msgspec.structs.replace(after, private=command.private)
    put(apply, command.user, before, after)


def set_role(apply: Apply, command: SetRole) -> None:
    if command.role not in ROLES:
        raise Refused("invalid_field", f"role: want one of {', '.join(ROLES)}")
    before = living(apply, command.user)
    put(apply, command.user, before, msgspec.structs.replace(before, role=command.role))


def suspend(apply: Apply, command: Suspend) -> None:
    before = living(apply, command.user)
    sessions.end_all(apply, command.user)
    put(apply, command.user, before, msgspec.structs.replace(before, state="suspended"))


def unsuspend(apply: Apply, command: Unsuspend) -> None:
    before = living(apply, command.user)
    put(apply, command.user, before, msgspec.structs.replace(before, state="active"))


def living(apply: Apply, user: int) -> User:
    """The account, active or suspended; Refused `not_found` otherwise."""
    account = USERS.get(apply, UserKey(user))
    if account is None or account.state == "deleted":
        raise Refused("not_found", f"there is no user {user}")
    return account


def put(apply: Apply, user: int, before: User, after: User) -> None:
    """Write a changed account, and tell those who depend on what changed."""
    if after == before:
        return
    USERS.put(apply, UserKey(user), after)
    if (after.private, after.state) == (before.private, before.state):
        return
    directory = DirectoryKey(apply.partition, user)
    if media.is_open(after):
        DIRECTORY.put(apply, directory, PRESENT)
    else:
        DIRECTORY.delete(apply, directory)
    apply.publish(changes.encode(changes.Restricted(user)))
    if after.state == "deleted":
        return  # its work row takes everything
    media.set_visibility(apply, user)
    if before.private and not after.private:
        follows.became_public(apply, user)


def sweep_names(apply: Apply, command: SweepNames) -> SweptNames:
    over: list[RestingNameKey] = []
    for key, _ in RESTING_NAMES.scan(apply, apply.partition):
        if key.until_ms > apply.now or len(over) == NAMES_SWEPT_MAX:
            break
        over.append(key)
    for key in over:
        RESTING_NAMES.delete(apply, key)
        NAMES.delete(apply, NameKey(apply.partition, key.name))
    return SweptNames(len(over))


def names_rested(rows: Reader, partition: int, now: int) -> bool:
    """Whether `SweepNames` has something to do."""
    first = next(RESTING_NAMES.scan(rows, partition), None)
    return first is not None and first[0].until_ms <= now


COMMANDS = {
    SignUp: sign_up,
    UpdateProfile: update_profile,
    SetRole: set_role,
    Suspend: suspend,
    Unsuspend: unsuspend,
    SweepNames: sweep_names,
}
