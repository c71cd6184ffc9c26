"""Posts: made in three ways, edited, deleted. All in p(author), which decides.

    PromisePost   the bytes are still to come: `pending` until they do
    CreatePost    an album of media that are there already, or on their way
    CreatePhoto   the bytes are stored already: post, medium and job in one command

A deleted post is hidden by the command itself; its likes and comments go as work, then its row.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from cluster.commands import Refused
from cluster.partition import Apply
from node.social import media as media_rows
from node.social.comments import end_comments
from node.social.follows import acting
from node.social.hashtags import HASHTAG_MAX, HASHTAGS_MAX
from node.social.keys import PostKey
from node.social.likes import end_likes
from node.social.machine import encode
from node.social.media import (
    ALT_MAX,
    FAILED,
    MEDIA_PER_PIECE,
    POSTS_PER_MEDIUM_MAX,
    READY,
    UNFINISHED_POSTS_PER_MEDIUM_MAX,
    check_text,
    leave_post,
    replace,
)
from node.social.publication import PENDING, Album, enter, withdraw
from node.social.records import POSTS, TIMELINES, UNFINISHED, Post
from node.social.sight import own
from node.social.uploads import UPLOAD_PROMISE_MS, Promised, promise, store

CAPTION_MAX: Final = 2200  # characters
LOCATION_MAX: Final = 100
ALBUM_MAX: Final = 10  # media of a post
OBJECTS_PER_PIECE: Final = 200  # likes or comments that one piece of work takes away


class PromisePost(msgspec.Struct, array_like=True, frozen=True, tag=100):
    """Answers `Promised` with the post's id."""

    author: int
    caption: str
    location: str
    hashtags: tuple[str, ...]  # of the caption: `hashtags.hashtags`
    alt: str
    mime: str  # type, declared
    size: int  # bytes, declared
    lives_ms: int = UPLOAD_PROMISE_MS  # of the promise


class CreatePost(msgspec.Struct, array_like=True, frozen=True, tag=101):
    """Answers `Created`. Refused `invalid_field` for media that are not the author's or come twice,
    `conflict` for failed ones."""

    author: int
    caption: str
    location: str
    hashtags: tuple[str, ...]
    media: tuple[int, ...]  # 1 to ALBUM_MAX, in order


class CreatePhoto(msgspec.Struct, array_like=True, frozen=True, tag=102):
    """The bytes are stored, and `Reference`d under a provisional number; answers `Created`."""

    author: int
    caption: str
    location: str
    hashtags: tuple[str, ...]
    alt: str
    hash: bytes
    mime: str  # type, by content
    size: int
    provisional: int


class Created(msgspec.Struct, array_like=True, frozen=True):
    post: int
    media: tuple[int, ...]
    status: str


class EditPost(msgspec.Struct, array_like=True, frozen=True, tag=103):
    """None leaves a field as it is. Refused `not_found`, `forbidden`, `invalid_field`."""

    actor: int
    post: int
    caption: str | None
    hashtags: tuple[str, ...]  # of the new caption
    location: str | None
    alts: tuple[tuple[int, str], ...]  # (medium, its alt in this post)


class DeletePost(msgspec.Struct, array_like=True, frozen=True, tag=104):
    """Refused `not_found`, `forbidden`."""

    actor: int
    post: int


class EndPost(msgspec.Struct, array_like=True, frozen=True, tag=100):
    """Work: take away the likes and comments of a deleted post, then its row."""

    post: int


# --- making --------------------------------------------------------------------------------------------
def _draft(apply: Apply, author: int, caption: str, location: str, hashtags: tuple[str, ...]) -> Post:
    check_text("caption", caption, CAPTION_MAX)
    check_text("location", location, LOCATION_MAX)
    _check_hashtags(hashtags)
    return Post(author, caption, location, hashtags, (), PENDING, "", 0, 0, apply.now, 0, 0, False)


def _check_hashtags(tags: tuple[str, ...]) -> None:
    if len(tags) > HASHTAGS_MAX or any(len(tag) > 3 * HASHTAG_MAX for tag in tags):
        raise Refused("invalid_field", "hashtags: not such as the rule makes of a caption")


def _make(apply: Apply, draft: Post, album: Album) -> tuple[int, Post]:
    user = acting(apply, draft.author)
    post_id = apply.mint()
    return post_id, enter(apply, user, post_id, draft, album)


def _write_media(apply: Apply, owner: int, album: Album, provisional: int = 0) -> None:
    for media_id, (before, after) in album.items():
        media_rows.put(apply, owner, media_id, before, after, provisional)


def promise_post(apply: Apply, command: PromisePost) -> Promised:
    author = command.author
    draft = _draft(apply, author, command.caption, command.location, command.hashtags)
    lives_ms = command.lives_ms
    media_id, medium = promise(apply, author, command.mime, command.size, command.alt, lives_ms)
    album: Album = {media_id: (None, medium)}
    post_id, _ = _make(apply, draft, album)
    _write_media(apply, author, album)
    return Promised(media_id, medium.expires_ms, post_id)


def create_photo(apply: Apply, command: CreatePhoto) -> Created:
    author = command.author
    draft = _draft(apply, author, command.caption, command.location, command.hashtags)
    media_id, medium = store(apply, author, command.hash, command.mime, command.size, command.alt)
    album: Album = {media_id: (None, medium)}
    post_id, post = _make(apply, draft, album)
    _write_media(apply, author, album, command.provisional)
    return Created(post_id, (media_id,), post.status)


def create_post(apply: Apply, command: CreatePost) -> Created:
    author = command.author
    draft = _draft(apply, author, command.caption, command.location, command.hashtags)
    if not 1 <= len(command.media) <= ALBUM_MAX:
        raise Refused("invalid_field", f"media_ids: {len(command.media)}, want 1 to {ALBUM_MAX}")
    album: Album = {}
    for media_id in command.media:
        medium = media_rows.get(apply, author, media_id)
        if medium is None or media_id in album:
            why = "comes twice" if media_id in album else "is not one of yours"
            raise Refused("invalid_field", f"media_ids: {media_id} {why}")
        if medium.state == FAILED:
            raise Refused("conflict", f"medium {media_id} failed: {medium.failure}")
        most = POSTS_PER_MEDIUM_MAX if medium.state == READY else UNFINISHED_POSTS_PER_MEDIUM_MAX
        if len(medium.posts) >= most:
            raise Refused("conflict", f"medium {media_id} is {medium.state} and in {most} posts already")
        album[media_id] = (medium, medium)
    post_id, post = _make(apply, draft, album)
    _write_media(apply, author, album)
    return Created(post_id, command.media, post.status)


# --- changing ------------------------------------------------------------------------------------------
def edit_post(apply: Apply, command: EditPost) -> None:
    post = own(apply, command.post, command.actor)
    edited = post
    if command.caption is not None:
        check_text("caption", command.caption, CAPTION_MAX)
        _check_hashtags(command.hashtags)
        edited = replace(edited, caption=command.caption, hashtags=command.hashtags)
    if command.location is not None:
        check_text("location", command.location, LOCATION_MAX)
        edited = replace(edited, location=command.location)
    if command.alts:
        alts = dict(command.alts)
        for media_id, alt in command.alts:
            check_text("alt", alt, ALT_MAX)
            if all(entry.media != media_id for entry in post.media):
                raise Refused("invalid_field", f"alts: post {command.post} does not show medium {media_id}")
        entries = tuple(replace(entry, alt=alts.get(entry.media, entry.alt)) for entry in post.media)
        edited = replace(edited, media=entries)
    if edited != post:
        POSTS.put(apply, PostKey(command.post), replace(edited, edited_ms=apply.now))


def delete_post(apply: Apply, command: DeletePost) -> None:
    post = own(apply, command.post, command.actor)
    _delete(apply, command.post, post)


def _delete(apply: Apply, post_id: int, post: Post) -> None:
    POSTS.put(apply, PostKey(post_id), replace(post, deleting=True))
    withdraw(apply, post_id, post)
    leave_post(apply, post.author, post_id, [entry.media for entry in post.media])
    apply.later(encode(EndPost(post_id)))


def end_post(apply: Apply, work: EndPost) -> EndPost | None:
    room = end_likes(apply, work.post, OBJECTS_PER_PIECE)
    if room and end_comments(apply, work.post, room):
        POSTS.delete(apply, PostKey(work.post))
        return None
    return work


# --- the end of an account -----------------------------------------------------------------------------
def delete_posts_piece(apply: Apply, owner: int, most: int) -> bool:
    """Delete posts of an account that is gone, oldest first, up to `most` and MEDIA_PER_PIECE media in all;
    True when none is left."""
    room = MEDIA_PER_PIECE
    found: list[int] = []
    for _, entry in TIMELINES.scan(apply, owner, reverse=True):
        found.append(entry.post)
        if len(found) == most:
            break
    if len(found) < most:
        for key, _present in UNFINISHED.scan(apply, owner, reverse=True):
            found.append(key.post)
            if len(found) == most:
                break
    for number, post_id in enumerate(found):
        post = POSTS.get(apply, PostKey(post_id))
        if post is None:
            raise AssertionError(f"post {post_id} of author {owner} has a place and no row")
        if number and len(post.media) > room:
            return False
        room -= len(post.media)
        _delete(apply, post_id, post)
    return len(found) < most


_Functions = dict[type, Callable[..., Any]]
COMMANDS: Final[_Functions] = {
    PromisePost: promise_post,
    CreatePost: create_post,
    CreatePhoto: create_photo,
    EditPost: edit_post,
    DeletePost: delete_post,
}
WORK: Final[_Functions] = {EndPost: end_post}
