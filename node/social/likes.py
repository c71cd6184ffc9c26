"""Likes: decided at the post's home, which counts them; the liker's home is told.

Every like mints a version. `Liked` and `Unliked` come to the liker's partition in the order in which they
were sent, so its row agrees with the post's once they have arrived. A liker who is gone answers
`TakeBackLike`, which ends exactly the like of that version.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from cluster.partition import Apply
from node.social.keys import CountsKey, LikeGivenKey, LikeKey, LikeListKey, PostKey
from node.social.machine import encode
from node.social.records import COUNTS, LIKE_LIST, LIKES, LIKES_GIVEN, POSTS, EdgeEnd, Post
from node.social.records import Like as LikeRow
from node.social.sight import published, seen
from storage.ids import partition_of


class Like(msgspec.Struct, array_like=True, frozen=True, tag=160):
    """For the post's partition; answers `Likes`, also where the like was there.
    Refused `not_found`, `conflict` (an unfinished post of one's own)."""

    viewer: int
    post: int


class Unlike(msgspec.Struct, array_like=True, frozen=True, tag=161):
    """Answers `Likes`, also where there was no like. Refused `not_found`."""

    viewer: int
    post: int


class Likes(msgspec.Struct, array_like=True, frozen=True):
    like_count: int
    liked_by_me: bool


class Liked(msgspec.Struct, array_like=True, frozen=True, tag=160):
    viewer: int
    post: int
    version: int
    since_ms: int


class Unliked(msgspec.Struct, array_like=True, frozen=True, tag=161):
    viewer: int
    post: int
    version: int  # of the like that ended


class TakeBackLike(msgspec.Struct, array_like=True, frozen=True, tag=162):
    """From the home of a liker who is gone: the like of this version is at an end."""

    post: int
    viewer: int
    version: int


def like(apply: Apply, command: Like) -> Likes:
    viewer, post_id = command.viewer, command.post
    post = published(apply, post_id, viewer)
    if LIKES.has(apply, LikeKey(post_id, viewer)):
        return Likes(post.likes, True)
    version = apply.mint()
    LIKES.put(apply, LikeKey(post_id, viewer), LikeRow(version, apply.now))
    LIKE_LIST.put(apply, LikeListKey(post_id, version), EdgeEnd(viewer))
    count = _count(apply, post_id, post, 1)
    apply.send(partition_of(viewer), encode(Liked(viewer, post_id, version, apply.now)))
    return Likes(count, True)


def unlike(apply: Apply, command: Unlike) -> Likes:
    viewer, post_id = command.viewer, command.post
    post = seen(apply, post_id, viewer)
    row = LIKES.get(apply, LikeKey(post_id, viewer))
    if row is None:
        return Likes(post.likes, False)
    _remove(apply, post_id, viewer, row.version)
    count = _count(apply, post_id, post, -1)
    apply.send(partition_of(viewer), encode(Unliked(viewer, post_id, row.version)))
    return Likes(count, False)


def _remove(apply: Apply, post_id: int, viewer: int, version: int) -> None:
    LIKES.delete(apply, LikeKey(post_id, viewer))
    LIKE_LIST.delete(apply, LikeListKey(post_id, version))


def _count(apply: Apply, post_id: int, post: Post, more: int) -> int:
    count = post.likes + more
    POSTS.put(apply, PostKey(post_id), msgspec.structs.replace(post, likes=count))
    return count


# --- the liker's end -----------------------------------------------------------------------------------
def liked(apply: Apply, _: int, message: Liked) -> None:
    viewer, post_id = message.viewer, message.post
    if COUNTS.has(apply, CountsKey(viewer)):
        row = LikeRow(message.version, message.since_ms)
        LIKES_GIVEN.put(apply, LikeGivenKey(viewer, post_id), row)
    else:
        apply.send(partition_of(post_id), encode(TakeBackLike(post_id, viewer, message.version)))


def unliked(apply: Apply, _: int, message: Unliked) -> None:
    key = LikeGivenKey(message.viewer, message.post)
    row = LIKES_GIVEN.get(apply, key)
    if row is not None and row.version <= message.version:
        LIKES_GIVEN.delete(apply, key)


def take_back_like(apply: Apply, _: int, message: TakeBackLike) -> None:
    post = POSTS.get(apply, PostKey(message.post))
    row = LIKES.get(apply, LikeKey(message.post, message.viewer))
    if post is not None and row is not None and row.version <= message.version:
        _remove(apply, message.post, message.viewer, row.version)
        _count(apply, message.post, post, -1)


# --- the end of a post, and of an account --------------------------------------------------------------
def end_likes(apply: Apply, post_id: int, most: int) -> int:
    """Take up to `most` likes from a post that is being deleted; how many more there was room for."""
    scan = LIKE_LIST.scan(apply, post_id)
    found = [row for _, row in zip(range(most), scan, strict=False)]
    for key, end in found:
        _remove(apply, post_id, end.user, key.version)
        apply.send(partition_of(end.user), encode(Unliked(end.user, post_id, key.version)))
    return most - len(found)


def delete_likes_piece(apply: Apply, viewer: int, most: int) -> bool:
    """Take back up to `most` likes of an account that is gone; True when none is left."""
    found = [row for _, row in zip(range(most), LIKES_GIVEN.scan(apply, viewer), strict=False)]
    for key, row in found:
        LIKES_GIVEN.delete(apply, key)
        apply.send(partition_of(key.post), encode(TakeBackLike(key.post, viewer, row.version)))
    return len(found) < most


_Functions = dict[type, Callable[..., Any]]
COMMANDS: Final[_Functions] = {Like: like, Unlike: unlike}
MESSAGES: Final[_Functions] = {Liked: liked, Unliked: unliked, TakeBackLike: take_back_like}
