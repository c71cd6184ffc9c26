"""From media to posts: what an unfinished post waits for, and the moment at which it is published.

A post's status is a function of its media's states alone. When the last becomes ready the post is published:
it gets its place in the order of feeds then, not when its upload began.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from cluster.partition import Apply
from node.social import media as media_rows
from node.social.changes import Published, Withdrawn
from node.social.keys import PostKey, TimelineHeadKey, TimelineKey, UnfinishedKey, UserKey
from node.social.machine import encode
from node.social.media import AWAITING, FAILED, READY, STORED, inlined, is_open, replace
from node.social.records import (
    POSTS,
    TIMELINE_HEADS,
    TIMELINES,
    UNFINISHED,
    USERS,
    Media,
    Post,
    PostMedia,
    TimelineEntry,
    TimelineHead,
    User,
)
from storage.rows import PRESENT

PENDING: Final = "pending"
PROCESSING: Final = "processing"
COMPLETE: Final = "complete"

# A medium's state → what its post is while of all its media none is in a state further up.
STATUS: Final[Mapping[str, str]] = {FAILED: FAILED, AWAITING: PENDING, STORED: PROCESSING, READY: COMPLETE}

Album = dict[int, tuple[Media | None, Media]]  # media under change by id: as their rows are, as they become


def status_of(states: Iterable[str]) -> str:
    """What a post is whose media are in these states: failed if any is, complete when all are ready."""
    present = set(states)
    return next(status for state, status in STATUS.items() if state in present)


def failure_of(album: Mapping[int, Media]) -> str:
    return "; ".join(f"medium {i}: {m.failure}" for i, m in album.items() if m.state == FAILED)


def enter(apply: Apply, user: User, post_id: int, draft: Post, album: Album) -> Post:
    """Write a new post that shows the album's media, and those; publish it if all of them are ready."""
    entries = []
    for media_id, (before, medium) in album.items():
        album[media_id] = (before, replace(medium, posts=(*medium.posts, post_id)))
        entries.append(inlined(media_id, medium, medium.alt))
    post = _settle(apply, user, post_id, draft, tuple(entries), album)
    if post.status != COMPLETE:
        UNFINISHED.put(apply, UnfinishedKey(post.author, post_id), PRESENT)
    return post


def advance(apply: Apply, owner: int, media_id: int, before: Media, after: Media) -> None:
    """Write a medium's new state and bring on the unfinished posts that show it."""
    user = USERS.get(apply, UserKey(owner))
    album: Album = {media_id: (before, after)}
    for post_id in after.posts:
        post = POSTS.get(apply, PostKey(post_id))
        if post is None or post.published or post.deleting:
            continue
        entries = tuple(_refreshed(apply, owner, entry, album) for entry in post.media)
        if _settle(apply, user, post_id, post, entries, album).status == COMPLETE:
            UNFINISHED.delete(apply, UnfinishedKey(owner, post_id))
    for other, (was, becomes) in album.items():
        media_rows.put(apply, owner, other, was, becomes)


def _refreshed(apply: Apply, owner: int, entry: PostMedia, album: Album) -> PostMedia:
    if entry.media not in album:
        medium = media_rows.get(apply, owner, entry.media)
        if medium is None:
            raise AssertionError(f"medium {entry.media} of an unfinished post has no row")
        album[entry.media] = (medium, medium)
    return inlined(entry.media, album[entry.media][1], entry.alt)


def _settle(
    apply: Apply,
    user: User | None,
    post_id: int,
    post: Post,
    entries: tuple[PostMedia, ...],
    album: Album,
) -> Post:
    """Write the post with its media and the status that they give it; if that publishes it, show them."""
    mine = {entry.media: album[entry.media][1] for entry in entries}
    status = status_of([medium.state for medium in mine.values()])
    if status != COMPLETE:
        post = replace(post, media=entries, status=status, failure=failure_of(mine))
        POSTS.put(apply, PostKey(post_id), post)
        return post
    shown = is_open(user)
    for media_id, medium in mine.items():
        if medium.shown != shown:
            album[media_id] = (album[media_id][0], replace(medium, shown=shown))
    published = apply.mint()
    post = replace(post, media=entries, status=COMPLETE, failure="", published=published)
    POSTS.put(apply, PostKey(post_id), post)
    TIMELINES.put(apply, TimelineKey(post.author, published), TimelineEntry(post_id))
    head = TIMELINE_HEADS.get(apply, TimelineHeadKey(post.author))
    newest = TimelineHead(published, post_id, head.posts + 1 if head else 1)
    TIMELINE_HEADS.put(apply, TimelineHeadKey(post.author), newest)
    apply.publish(encode(Published(post.author, post_id, published)))
    return post


def withdraw(apply: Apply, post_id: int, post: Post) -> None:
    """Take a post out of its author's timeline, or from among the unfinished."""
    author = post.author
    if not post.published:
        UNFINISHED.delete(apply, UnfinishedKey(author, post_id))
        return
    TIMELINES.delete(apply, TimelineKey(author, post.published))
    head = TIMELINE_HEADS.get(apply, TimelineHeadKey(author))
    if head is None:
        raise AssertionError(f"author {author} has a published post and no timeline head")
    if head.posts == 1:
        TIMELINE_HEADS.delete(apply, TimelineHeadKey(author))
    else:
        published, newest = head.published, head.post
        if newest == post_id:
            key, entry = next(TIMELINES.scan(apply, author))
            published, newest = key.published, entry.post
        TIMELINE_HEADS.put(apply, TimelineHeadKey(author), TimelineHead(published, newest, head.posts - 1))
    apply.publish(encode(Withdrawn(author, post_id, post.published)))
