"""The two ends of a follow: the edge at its author's home, which decides, and the viewer's copy of it.

The author's end is a follower edge or a request; every change mints a version and is told to the viewer
(`Granted`, `Requested`, `Revoked`). The viewer's end is written by nothing but these messages and a few ends
that the viewer alone decides (a block, the account's deletion), and takes no message older than what it has.
A viewer who cannot take a grant (7,500 follows, account gone, author blocked) answers `Left` with its
version, which ends exactly that edge and no later one.

A user without a `Counts` row is gone: it is the first thing that a deletion takes.
"""

from enum import Enum
from typing import Final

import msgspec

from cluster.partition import Apply
from node.social import packs
from node.social.keys import (
    BlockKey,
    CountsKey,
    FollowerKey,
    FollowerListKey,
    FollowingKey,
    FollowingListKey,
    FollowRequestKey,
    FollowRequestListKey,
)
from node.social.machine import encode
from node.social.records import (
    BLOCKS,
    COUNTS,
    FOLLOW_REQUEST_LIST,
    FOLLOW_REQUESTS,
    FOLLOWER_LIST,
    FOLLOWERS,
    FOLLOWING,
    FOLLOWING_LIST,
    Counts,
    Edge,
    EdgeEnd,
    FollowingEdge,
)
from storage.ids import partition_of

FOLLOWS_MAX: Final = 7500  # granted and requested together; bounds a feed's merge (API.md)


class _Message(msgspec.Struct, array_like=True, frozen=True):
    pass


class Granted(_Message, frozen=True, tag=20):
    viewer: int
    author: int
    version: int
    since_ms: int


class Requested(_Message, frozen=True, tag=21):
    viewer: int
    author: int
    version: int
    since_ms: int


class Revoked(_Message, frozen=True, tag=22):
    viewer: int
    author: int
    version: int


class Left(_Message, frozen=True, tag=23):
    """From the viewer's home: the edge of this version, or an older one, is at an end there."""

    author: int
    viewer: int
    version: int


class End(Enum):
    """What the author's home holds of one pair."""

    NOTHING = "nothing"
    REQUESTED = "requested"
    GRANTED = "granted"


# --- the author's end ----------------------------------------------------------------------------------
def end_of(apply: Apply, author: int, viewer: int) -> End:
    if FOLLOWERS.has(apply, FollowerKey(author, viewer)):
        return End.GRANTED
    if FOLLOW_REQUESTS.has(apply, FollowRequestKey(author, viewer)):
        return End.REQUESTED
    return End.NOTHING


def grant(apply: Apply, author: int, viewer: int) -> None:
    """Make the viewer a follower; the caller knows that there is neither edge nor request."""
    version = apply.mint()
    FOLLOWERS.put(apply, FollowerKey(author, viewer), Edge(version, apply.now))
    FOLLOWER_LIST.put(apply, FollowerListKey(author, version), EdgeEnd(viewer))
    _count_followers(apply, author, 1)
    apply.send(partition_of(viewer), encode(Granted(viewer, author, version, apply.now)))


def request(apply: Apply, author: int, viewer: int) -> None:
    version = apply.mint()
    FOLLOW_REQUESTS.put(apply, FollowRequestKey(author, viewer), Edge(version, apply.now))
    FOLLOW_REQUEST_LIST.put(apply, FollowRequestListKey(author, version), EdgeEnd(viewer))
    apply.send(partition_of(viewer), encode(Requested(viewer, author, version, apply.now)))


def drop_request(apply: Apply, author: int, viewer: int, up_to: int | None = None) -> bool:
    """Remove a request and tell nobody; False where there is none, or none as old as `up_to`."""
    key = FollowRequestKey(author, viewer)
    edge = FOLLOW_REQUESTS.get(apply, key)
    if edge is None or (up_to is not None and edge.version > up_to):
        return False
    FOLLOW_REQUESTS.delete(apply, key)
    FOLLOW_REQUEST_LIST.delete(apply, FollowRequestListKey(author, edge.version))
    return True


def drop_follower(apply: Apply, author: int, viewer: int, up_to: int | None = None) -> bool:
    """Remove a follower edge and tell nobody; False where there is none, or none as old as `up_to`."""
    key = FollowerKey(author, viewer)
    edge = FOLLOWERS.get(apply, key)
    if edge is None or (up_to is not None and edge.version > up_to):
        return False
    FOLLOWERS.delete(apply, key)
    FOLLOWER_LIST.delete(apply, FollowerListKey(author, edge.version))
    _count_followers(apply, author, -1)
    return True


def revoke(apply: Apply, author: int, viewer: int) -> bool:
    """End an edge or a request and tell the viewer; False where there is neither."""
    if not (drop_follower(apply, author, viewer) or drop_request(apply, author, viewer)):
        return False
    apply.send(partition_of(viewer), encode(Revoked(viewer, author, apply.mint())))
    return True


def _count_followers(apply: Apply, author: int, more: int) -> None:
    key = CountsKey(author)
    counts = COUNTS.get(apply, key)
    if counts is not None:  # else the account is being deleted, and its counts are gone
        COUNTS.put(apply, key, msgspec.structs.replace(counts, followers=counts.followers + more))


def left(apply: Apply, source: int, message: Left) -> None:
    if not drop_follower(apply, message.author, message.viewer, message.version):
        drop_request(apply, message.author, message.viewer, message.version)


# --- the viewer's end ----------------------------------------------------------------------------------
def granted(apply: Apply, source: int, message: Granted) -> None:
    _take(apply, message, granted=True)


def requested(apply: Apply, source: int, message: Requested) -> None:
    _take(apply, message, granted=False)


def _take(apply: Apply, message: Granted | Requested, *, granted: bool) -> None:
    viewer, author = message.viewer, message.author
    counts = COUNTS.get(apply, CountsKey(viewer))
    known = FOLLOWING.get(apply, FollowingKey(viewer, author))
    if known is not None and known.version >= message.version:
        return
    if counts is None or _full(counts, known) or _blocks(apply, counts, viewer, author):
        apply.send(partition_of(author), encode(Left(author, viewer, message.version)))
        return
    if known is not None:
        counts = _forget(apply, counts, viewer, author, known)
    if granted:
        packs.add(apply, viewer, author, counts.following)
        counts = msgspec.structs.replace(counts, following=counts.following + 1)
    else:
        counts = msgspec.structs.replace(counts, requested=counts.requested + 1)
    edge = FollowingEdge(message.version, message.since_ms, granted)
    FOLLOWING.put(apply, FollowingKey(viewer, author), edge)
    if granted:
        FOLLOWING_LIST.put(apply, FollowingListKey(viewer, message.version), EdgeEnd(author))
    COUNTS.put(apply, CountsKey(viewer), counts)


def _full(counts: Counts, known: FollowingEdge | None) -> bool:
    return known is None and counts.following + counts.requested >= FOLLOWS_MAX


def _blocks(apply: Apply, counts: Counts, viewer: int, author: int) -> bool:
    """Whether the viewer blocked the author, whose home does not know it yet."""
    if not counts.blocks:
        return False
    block = BLOCKS.get(apply, BlockKey(viewer, author))
    return block is not None and block.by_user


def revoked(apply: Apply, source: int, message: Revoked) -> None:
    forget_following(apply, message.viewer, message.author, message.version)


def forget_following(apply: Apply, viewer: int, author: int, up_to: int | None = None) -> None:
    """End the viewer's copy of an edge, unless it is newer than `up_to`."""
    known = FOLLOWING.get(apply, FollowingKey(viewer, author))
    counts = COUNTS.get(apply, CountsKey(viewer))
    if known is None or counts is None or (up_to is not None and known.version > up_to):
        return  # without counts the account is being deleted, which takes the row and answers `Left`
    FOLLOWING.delete(apply, FollowingKey(viewer, author))
    COUNTS.put(apply, CountsKey(viewer), _forget(apply, counts, viewer, author, known))


def _forget(apply: Apply, counts: Counts, viewer: int, author: int, known: FollowingEdge) -> Counts:
    """Take a copy's edge out of pack, list and counts; its own row is left to the caller."""
    if not known.granted:
        return msgspec.structs.replace(counts, requested=counts.requested - 1)
    FOLLOWING_LIST.delete(apply, FollowingListKey(viewer, known.version))
    packs.remove(apply, viewer, author, counts.following)
    return msgspec.structs.replace(counts, following=counts.following - 1)
