"""Pages around a post: the post itself, a user's grid, its likes, its comments. Pure reads.

Each asks at the home of what it shows who may see it. A page's cursor names the last place it went past, so
what stands in a list throughout appears exactly once while new things come in above.
"""

from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import Final, NamedTuple, TypeVar

import msgspec

from node.social.keys import (
    BlockKey,
    CommentKey,
    LikeKey,
    LikeListKey,
    PostKey,
    TimelineHeadKey,
    TimelineKey,
    UnfinishedKey,
    UserKey,
)
from node.social.listings import PeoplePage
from node.social.people import NOBODY, AvatarUrl, ShortUser, require_sight, rfc3339, short_users, user_views
from node.social.records import (
    BLOCKS,
    COMMENTS,
    LIKE_LIST,
    LIKES,
    POSTS,
    TIMELINE_HEADS,
    TIMELINES,
    UNFINISHED,
    USERS,
    Comment,
    Post,
)
from node.social.sight import seen
from storage.rows import Reader

LIMIT_MAX: Final = 100  # things in a page
PASSED_OVER_MAX: Final = 1000  # entries looked at for one page; then it ends short, with a cursor
_TOP: Final = (1 << 64) - 1

T = TypeVar("T")


class SeenPost(NamedTuple):
    id: int
    post: Post
    liked: bool  # by the viewer


class GridCursor(msgspec.Struct, array_like=True, frozen=True):
    """A grid's places are those of its first page's moment: what was published later keeps, for this reader,
    the place that it had unfinished."""

    anchor: int  # the newest id of the grid at the first page
    place: int  # of the last post seen


class GridPage(NamedTuple):
    posts: tuple[SeenPost, ...]
    after: GridCursor | None  # None at the end


class CommentView(msgspec.Struct, frozen=True):
    """The `comment` of the API."""

    id: str
    post_id: str
    user: ShortUser
    text: str
    created_at: str


class CommentPage(NamedTuple):
    comments: tuple[CommentView, ...]
    after: int | None  # id of the last comment gone past; None at the end


# --- posts ---------------------------------------------------------------------------------------------
def post_page(rows: Reader, post_id: int, viewer: int) -> SeenPost:
    """Raises Refused `not_found` for a post that is absent or hidden from the viewer (0: nobody)."""
    post = seen(rows, post_id, viewer)
    liked = viewer != NOBODY and LIKES.has(rows, LikeKey(post_id, viewer))
    return SeenPost(post_id, post, liked)


def grid_page(rows: Reader, author: int, viewer: int, after: GridCursor | None, limit: int) -> GridPage:
    """The author's published posts, newest first; to the author also the unfinished ones, each at the place
    where its making began. Raises Refused `not_found` or `forbidden` as `people.require_sight` does."""
    require_sight(rows, author, viewer)
    limit = max(1, min(limit, LIMIT_MAX))
    cursor = after or GridCursor(_anchor(rows, author, viewer == author), _TOP)
    places: Iterator[tuple[int, int]] = _published(rows, author, cursor)
    if viewer == author:
        places = merge(places, _unfinished(rows, author, cursor), _moved(rows, author, cursor), reverse=True)
    taken = list(islice(places, limit + 1))
    page = taken[:limit]
    following = GridCursor(cursor.anchor, page[-1][0]) if len(taken) > limit else None
    return GridPage(hydrated(rows, [post for _, post in page], viewer), following)


def hydrated(rows: Reader, posts: Iterable[int], viewer: int) -> tuple[SeenPost, ...]:
    """The posts in the order given with what the viewer is to them; what is gone is left out. The caller has
    checked that the viewer may see them."""
    wanted = [PostKey(post) for post in posts]
    found = POSTS.get_many(rows, wanted)
    likes = [LikeKey(key.post, viewer) for key in wanted] if viewer != NOBODY else []
    liked = {key.post for key in LIKES.get_many(rows, likes)}
    return tuple(
        SeenPost(key.post, found[key], key.post in liked)
        for key in wanted
        if key in found and not found[key].deleting
    )


def _anchor(rows: Reader, author: int, own: bool) -> int:
    head = TIMELINE_HEADS.get(rows, TimelineHeadKey(author))
    newest = head.published if head else 0
    if own:
        first = next(UNFINISHED.scan(rows, author), None)
        newest = max(newest, first[0].post if first else 0)
    return newest


# Each yields (place, post) downwards from the cursor's place.
def _published(rows: Reader, author: int, cursor: GridCursor) -> Iterator[tuple[int, int]]:
    """What was published by the first page's moment."""
    start = min(cursor.place, cursor.anchor + 1)
    for key, entry in TIMELINES.scan(rows, author, beyond=TimelineKey(author, start)):
        yield key.published, entry.post


def _unfinished(rows: Reader, author: int, cursor: GridCursor) -> Iterator[tuple[int, int]]:
    start = min(cursor.place, cursor.anchor + 1)
    for key, _ in UNFINISHED.scan(rows, author, beyond=UnfinishedKey(author, start)):
        yield key.post, key.post


def _moved(rows: Reader, author: int, cursor: GridCursor) -> list[tuple[int, int]]:
    """What was unfinished at the first page's moment and has been published since."""
    found: list[tuple[int, int]] = []
    for key, entry in TIMELINES.scan(rows, author):
        if key.published <= cursor.anchor or len(found) == PASSED_OVER_MAX:
            break
        if entry.post < cursor.place:  # the first page has no such: its anchor is the newest
            found.append((entry.post, entry.post))
    return sorted(found, reverse=True)


# --- likes and comments --------------------------------------------------------------------------------
def likes_page(
    rows: Reader, post_id: int, viewer: int, after: int | None, limit: int, avatar_url: AvatarUrl
) -> PeoplePage:
    """Who likes the post, the newest first, without those whom the viewer may not know of. Raises Refused
    `not_found`."""
    seen(rows, post_id, viewer)
    beyond = None if after is None else LikeListKey(post_id, after)
    entries = ((key.version, end.user, end) for key, end in LIKE_LIST.scan(rows, post_id, beyond=beyond))
    page, last = _known(rows, viewer, entries, limit)
    users = user_views(rows, [user for _, user, _ in page], viewer, avatar_url)
    return PeoplePage(tuple(users), last)


def comments_page(
    rows: Reader, post_id: int, viewer: int, after: int | None, limit: int, avatar_url: AvatarUrl
) -> CommentPage:
    """The post's comments, the newest first, without those of users whom the viewer may not know of. Raises
    Refused `not_found`."""
    seen(rows, post_id, viewer)
    beyond = None if after is None else CommentKey(post_id, after)
    entries = ((key.comment, c.author, c) for key, c in COMMENTS.scan(rows, post_id, beyond=beyond))
    page, last = _known(rows, viewer, entries, limit)
    users = short_users(rows, [user for _, user, _ in page], avatar_url)
    comments = [comment_view(place, post_id, comment, users[user]) for place, user, comment in page]
    return CommentPage(tuple(comments), last)


def comment_view(comment_id: int, post_id: int, comment: Comment, user: ShortUser) -> CommentView:
    return CommentView(str(comment_id), str(post_id), user, comment.text, rfc3339(comment.created_ms))


def _known(
    rows: Reader, viewer: int, entries: Iterator[tuple[int, int, T]], limit: int
) -> tuple[list[tuple[int, int, T]], int | None]:
    """Entries (place, user, what) of users whom the viewer may know of, up to `limit`, and the last place
    gone past, or None where the list ended."""
    limit = max(1, min(limit, LIMIT_MAX))
    found: list[tuple[int, int, T]] = []
    looked_at, last = 0, 0
    while looked_at < PASSED_OVER_MAX:
        batch = list(islice(entries, limit))
        known = _who_is_known(rows, viewer, {user for _, user, _ in batch})
        for entry in batch:
            if len(found) == limit:
                return found, last
            last = entry[0]
            if entry[1] in known:
                found.append(entry)
        if len(batch) < limit:
            return found, None
        looked_at += len(batch)
    return found, last


def _who_is_known(rows: Reader, viewer: int, users: set[int]) -> set[int]:
    """The active ones among the users without those that the viewer blocks or is blocked by."""
    accounts = USERS.get_many(rows, [UserKey(user) for user in users])
    known = {key.user for key, account in accounts.items() if account.state == "active"}
    if viewer == NOBODY:
        return known
    return known - {key.user for key in BLOCKS.get_many(rows, [BlockKey(user, viewer) for user in known])}
