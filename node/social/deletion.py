"""The end of an account: everything that it is and made goes.

The command itself takes at once what lets the account act or be seen: state, name, credential, sessions,
counts, packs. The rest is one work row that goes through STAGES in their order, a bounded piece at a time;
the last is the account's row. From then on, and already before, a message that arrives for the account finds
no counts and is answered so that its sender takes back what it told.
"""

from collections.abc import Callable
from itertools import islice
from typing import Final

import msgspec

from cluster import memory
from cluster.partition import Apply
from node.social import accounts, comments, likes, media, packs, posts, sessions, texts
from node.social.blocks import BlockGone
from node.social.edges import Left, Revoked
from node.social.keys import (
    BlockKey,
    BlockListKey,
    CountsKey,
    CredentialKey,
    FollowerKey,
    FollowerListKey,
    FollowingKey,
    FollowingListKey,
    FollowRequestKey,
    FollowRequestListKey,
    NameKey,
    RestingNameKey,
    UserKey,
)
from node.social.machine import encode
from node.social.records import (
    BLOCK_LIST,
    BLOCKS,
    COUNTS,
    CREDENTIALS,
    FOLLOW_REQUEST_LIST,
    FOLLOW_REQUESTS,
    FOLLOWER_LIST,
    FOLLOWERS,
    FOLLOWING,
    FOLLOWING_LIST,
    NAMES,
    RESTING_NAMES,
    USERS,
    Name,
    User,
)
from storage.ids import partition_of
from storage.rows import PRESENT

NAME_RESTS_MS: Final = 30 * 24 * 3600 * 1000  # so nobody takes a name to be mistaken for who had it
OBJECTS_PER_PIECE: Final = 200  # up to five rows each with its message, below ROWS_PER_APPLY_MAX


class DeleteAccount(msgspec.Struct, array_like=True, frozen=True, tag=50):
    """After the password was checked, or by an admin. → None, also where the account is gone."""

    user: int


class Deleting(msgspec.Struct, array_like=True, frozen=True, tag=50):
    """Work: the stages from `stage` on are still to be done."""

    user: int
    stage: str


def delete_account(apply: Apply, command: DeleteAccount) -> None:
    user = command.user
    account = USERS.get(apply, UserKey(user))
    if account is None or account.state == "deleted":
        return
    name = texts.folded(account.username)
    until_ms = apply.now + NAME_RESTS_MS
    NAMES.put(apply, NameKey(apply.partition, name), Name(0, until_ms))
    RESTING_NAMES.put(apply, RestingNameKey(apply.partition, until_ms, name), PRESENT)
    accounts.put(apply, user, account, User("", "", "", None, True, "user", "deleted", account.created_ms))
    CREDENTIALS.delete(apply, CredentialKey(user))
    sessions.end_all(apply, user)
    COUNTS.delete(apply, CountsKey(user))
    packs.clear(apply, user)
    apply.later(encode(Deleting(user, _FIRST)))


def proceed(apply: Apply, work: Deleting) -> Deleting | None:
    if not STAGES[work.stage](apply, work.user, OBJECTS_PER_PIECE):
        return work
    following = _NEXT[work.stage]
    return Deleting(work.user, following) if following else None


# --- the stages: each takes up to `most` objects and says whether none is left -------------------------
def _followers(apply: Apply, user: int, most: int) -> bool:
    found = list(islice(FOLLOWERS.scan(apply, user), most))
    for key, edge in found:
        FOLLOWERS.delete(apply, FollowerKey(user, key.viewer))
        FOLLOWER_LIST.delete(apply, FollowerListKey(user, edge.version))
        apply.send(partition_of(key.viewer), encode(Revoked(key.viewer, user, apply.mint())))
    return len(found) < most


def _requests(apply: Apply, user: int, most: int) -> bool:
    found = list(islice(FOLLOW_REQUESTS.scan(apply, user), most))
    for key, edge in found:
        FOLLOW_REQUESTS.delete(apply, FollowRequestKey(user, key.viewer))
        FOLLOW_REQUEST_LIST.delete(apply, FollowRequestListKey(user, edge.version))
        apply.send(partition_of(key.viewer), encode(Revoked(key.viewer, user, apply.mint())))
    return len(found) < most


def _following(apply: Apply, user: int, most: int) -> bool:
    found = list(islice(FOLLOWING.scan(apply, user), most))
    for key, edge in found:
        FOLLOWING.delete(apply, FollowingKey(user, key.author))
        if edge.granted:
            FOLLOWING_LIST.delete(apply, FollowingListKey(user, edge.version))
        apply.send(partition_of(key.author), encode(Left(key.author, user, edge.version)))
    return len(found) < most


def _blocks(apply: Apply, user: int, most: int) -> bool:
    found = list(islice(BLOCKS.scan(apply, user), most))
    for key, block in found:
        BLOCKS.delete(apply, BlockKey(user, key.other))
        if block.by_user:
            BLOCK_LIST.delete(apply, BlockListKey(user, block.version))
        apply.send(partition_of(key.other), encode(BlockGone(key.other, user)))
    return len(found) < most


def _remembered(apply: Apply, user: int, most: int) -> bool:
    return memory.forget_scope(apply, user, most)


def _account(apply: Apply, user: int, most: int) -> bool:
    USERS.delete(apply, UserKey(user))
    return True


STAGES: Final[dict[str, Callable[[Apply, int, int], bool]]] = {
    "followers": _followers,
    "requests": _requests,
    "following": _following,
    "blocks": _blocks,
    "likes": likes.delete_likes_piece,
    "comments": comments.delete_comments_piece,
    "posts": posts.delete_posts_piece,
    "media": media.delete_media_piece,
    "remembered": _remembered,
    "account": _account,
}
_FIRST: Final = next(iter(STAGES))
_NEXT: Final = dict(zip(STAGES, [*list(STAGES)[1:], ""], strict=True))

COMMANDS = {DeleteAccount: delete_account}
WORK = {Deleting: proceed}
