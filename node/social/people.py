"""Who may see whom, and a user as the API shows one: pure reads over the rows of any partition.

The facts of one pair lie at both homes, so each question is asked where the object lives: `may_see` reads the
owner's rows, what a viewer is to a user is read among the viewer's own. What a viewer may not see answers
like what does not exist. `viewer` is 0 for a reader without a token.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from cluster.commands import Refused
from node.social import edges
from node.social.keys import (
    BlockKey,
    CountsKey,
    CredentialKey,
    FollowerKey,
    FollowingKey,
    NameKey,
    SessionKey,
    TimelineHeadKey,
    UserKey,
)
from node.social.records import (
    BLOCKS,
    COUNTS,
    CREDENTIALS,
    FOLLOWERS,
    FOLLOWING,
    NAMES,
    SESSIONS,
    TIMELINE_HEADS,
    USERS,
    Avatar,
    Counts,
    Credential,
    FollowingEdge,
    TimelineHead,
    User,
)
from node.social.texts import folded
from storage.rows import Reader

NOBODY = 0

AvatarUrl = Callable[[int, Avatar], str]  # (user id, avatar) → its URL


class Sight(NamedTuple):
    exists: bool  # False: absent, or hidden from the viewer; answer both alike
    allowed: bool  # may see what the account publishes


class Signed(msgspec.Struct, frozen=True):
    """Who is behind a valid session."""

    user: int
    session: int
    role: str  # "user" | "admin"
    opened_ms: int


class UserView(msgspec.Struct, frozen=True):
    """The `user` of the API."""

    id: str
    username: str
    display_name: str
    bio: str
    avatar_url: str | None
    private: bool
    role: str
    follower_count: int
    following_count: int
    post_count: int
    created_at: str
    followed_by_me: bool
    follows_me: bool
    requested_by_me: bool


class ShortUser(msgspec.Struct, frozen=True):
    """A user inside something else: a post, a comment."""

    id: str
    username: str
    display_name: str
    avatar_url: str | None


_HIDDEN = Sight(False, False)
_NO_COUNTS = Counts(0, 0, 0, 0, 0)


def rfc3339(at_ms: int) -> str:
    """`2027-01-15T08:00:00.000Z`; of Unix milliseconds, without a float on the way."""
    seconds, milliseconds = divmod(at_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"


def absent(user: int) -> Refused:
    return Refused("not_found", f"there is no user {user}")


# --- who may see whom ----------------------------------------------------------------------------------
def hidden_between(rows: Reader, owner: int, viewer: int) -> bool:
    """Whether one of the two blocks the other, as the owner's home knows it."""
    return viewer != NOBODY and BLOCKS.has(rows, BlockKey(owner, viewer))


def may_see(rows: Reader, owner: int, viewer: int) -> Sight:
    """What the viewer may see of the owner: reads the owner's rows only, so it also serves while applying."""
    user = USERS.get(rows, UserKey(owner))
    if user is None or user.state != "active":
        return _HIDDEN
    if owner == viewer:
        return Sight(True, True)
    if hidden_between(rows, owner, viewer):
        return _HIDDEN
    follows = user.private and viewer != NOBODY and FOLLOWERS.has(rows, FollowerKey(owner, viewer))
    return Sight(True, not user.private or follows)


def require_sight(rows: Reader, owner: int, viewer: int) -> None:
    """Raises Refused `not_found` (absent or hidden) or `forbidden` (a private account, not followed)."""
    sight = may_see(rows, owner, viewer)
    if not sight.exists:
        raise absent(owner)
    if not sight.allowed:
        raise Refused("forbidden", "this account is private: only its followers see this")


def blockable(rows: Reader, user: int, actor: int) -> bool:
    """Whether the actor may know of the user, or has blocked them already (then a block says so again)."""
    held = BLOCKS.get(rows, BlockKey(actor, user))
    return (held is not None and held.by_user) or may_see(rows, user, actor).exists


# --- signing in ----------------------------------------------------------------------------------------
def check_session(rows: Reader, user: int, session: int, now: int) -> Signed | None:
    """Who holds the session, or None if it ended or the account is not active. Two rows in one read."""
    session_key, user_key = SessionKey(user, session).encode(), UserKey(user).encode()
    found = rows.get_many((session_key, user_key))
    if len(found) != 2:
        return None
    held = SESSIONS.codec.decode(session_key, found[session_key])
    account = USERS.codec.decode(user_key, found[user_key])
    if held.expires_ms <= now or account.state != "active":
        return None
    return Signed(user, session, account.role, held.opened_ms)


def user_named(rows: Reader, partition: int, username: str) -> int | None:
    """The id of the account with this name; `partition` is that of the name's keyed hash."""
    name = NAMES.get(rows, NameKey(partition, folded(username)))
    return name.user if name is not None and not name.rests_until_ms else None


def credential(rows: Reader, user: int) -> Credential | None:
    """What a password is checked against; its `changed_ms` goes with the command that the check allows."""
    return CREDENTIALS.get(rows, CredentialKey(user))


def counts(rows: Reader, user: int) -> Counts:
    """The user's counts; zeros for an account that is gone."""
    return COUNTS.get(rows, CountsKey(user)) or _NO_COUNTS


def following_edge(rows: Reader, viewer: int, author: int) -> FollowingEdge | None:
    """The viewer's end of a follow: after the message of a follow was taken, None means that it was
    declined because the viewer follows FOLLOWS_MAX already (or blocks the author)."""
    return FOLLOWING.get(rows, FollowingKey(viewer, author))


def may_follow_more(rows: Reader, viewer: int) -> bool:
    """Whether one more follow has room: for a clear word before the command. What holds the bound is the
    viewer's home, which declines a grant too many."""
    held = counts(rows, viewer)
    return held.following + held.requested < edges.FOLLOWS_MAX


# --- users as the API shows them -----------------------------------------------------------------------
def user_view(rows: Reader, user: int, viewer: int, avatar_url: AvatarUrl) -> UserView:
    """One user. Raises Refused `not_found` for one who is absent, not active or hidden from the viewer."""
    views = user_views(rows, [user], viewer, avatar_url)
    if not views:
        raise absent(user)
    return views[0]


def user_views(rows: Reader, users: Iterable[int], viewer: int, avatar_url: AvatarUrl) -> list[UserView]:
    """The users whom the viewer may know of, in the order given; five or six reads in bulk."""
    users = list(users)
    accounts = USERS.get_many(rows, [UserKey(user) for user in users])  # in any order: shard by shard
    alive = [user for user in users if _active(accounts.get(UserKey(user)))]
    blocked: set[int] = set()
    mine: dict[FollowingKey, FollowingEdge] = {}
    to_me: set[int] = set()
    if viewer != NOBODY:
        blocked = {key.user for key in BLOCKS.get_many(rows, [BlockKey(user, viewer) for user in alive])}
    seen = [user for user in alive if user not in blocked]
    numbers = COUNTS.get_many(rows, [CountsKey(user) for user in seen])
    heads = TIMELINE_HEADS.get_many(rows, [TimelineHeadKey(user) for user in seen])
    if viewer != NOBODY:
        mine = FOLLOWING.get_many(rows, [FollowingKey(viewer, user) for user in seen])
        followers = FOLLOWERS.get_many(rows, [FollowerKey(viewer, user) for user in seen])
        to_me = {key.viewer for key in followers}
    return [
        _view(
            user,
            accounts[UserKey(user)],
            numbers.get(CountsKey(user), _NO_COUNTS),
            heads.get(TimelineHeadKey(user)),
            mine.get(FollowingKey(viewer, user)),
            user in to_me,
            avatar_url,
        )
        for user in seen
    ]


def _active(account: User | None) -> bool:
    return account is not None and account.state == "active"


def _view(
    user: int,
    account: User,
    numbers: Counts,
    head: TimelineHead | None,
    edge: FollowingEdge | None,
    follows_me: bool,
    avatar_url: AvatarUrl,
) -> UserView:
    return UserView(
        id=str(user),
        username=account.username,
        display_name=account.display_name,
        bio=account.bio,
        avatar_url=avatar_url(user, account.avatar) if account.avatar else None,
        private=account.private,
        role=account.role,
        follower_count=numbers.followers,
        following_count=numbers.following,
        post_count=head.posts if head else 0,
        created_at=rfc3339(account.created_ms),
        followed_by_me=edge is not None and edge.granted,
        follows_me=follows_me,
        requested_by_me=edge is not None and not edge.granted,
    )


def short_users(rows: Reader, users: Iterable[int], avatar_url: AvatarUrl) -> dict[int, ShortUser]:
    """Those of the users who are active, by id. Blocks are the caller's to see to."""
    found = USERS.get_many(rows, [UserKey(user) for user in users])
    return {
        key.user: ShortUser(
            str(key.user),
            account.username,
            account.display_name,
            avatar_url(key.user, account.avatar) if account.avatar else None,
        )
        for key, account in found.items()
        if account.state == "active"
    }
