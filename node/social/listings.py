"""Pages of people: the directory, followers and following, requests, blocks.

A list is ordered by the versions at which its entries came in, newest first, and a page's cursor is the last
version it went past (in the directory: the last user's id). So what stands in the list throughout appears
exactly once, while newer entries come in above. Users whom the reader may not know of are passed over.
"""

import heapq
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec

from node.social.keys import (
    BlockListKey,
    DirectoryKey,
    FollowerListKey,
    FollowingListKey,
    FollowRequestListKey,
)
from node.social.people import AvatarUrl, UserView, require_sight, user_views
from node.social.records import (
    BLOCK_LIST,
    DIRECTORY,
    FOLLOW_REQUEST_LIST,
    FOLLOWER_LIST,
    FOLLOWING_LIST,
    EdgeEnd,
)
from storage.keys import Key
from storage.rows import Reader, Table

LIMIT_MAX: Final = 100  # users in a page
PASSED_OVER_MAX: Final = 1000  # entries looked at for one page; then it ends short, with a cursor


class PeoplePage(msgspec.Struct, frozen=True):
    users: tuple[UserView, ...]
    after: int | None  # the cursor for the next page; None at the end


class _Entry(NamedTuple):
    place: int  # version, or user id in the directory
    user: int


def followers(
    rows: Reader, owner: int, viewer: int, after: int | None, limit: int, avatar_url: AvatarUrl
) -> PeoplePage:
    """Raises Refused `not_found` or `forbidden` as `people.require_sight` does."""
    require_sight(rows, owner, viewer)
    beyond = None if after is None else FollowerListKey(owner, after)
    return _page(rows, _entries(rows, FOLLOWER_LIST, owner, beyond), viewer, limit, avatar_url)


def following(
    rows: Reader, owner: int, viewer: int, after: int | None, limit: int, avatar_url: AvatarUrl
) -> PeoplePage:
    """Raises Refused `not_found` or `forbidden` as `people.require_sight` does."""
    require_sight(rows, owner, viewer)
    beyond = None if after is None else FollowingListKey(owner, after)
    return _page(rows, _entries(rows, FOLLOWING_LIST, owner, beyond), viewer, limit, avatar_url)


def follow_requests(
    rows: Reader, user: int, after: int | None, limit: int, avatar_url: AvatarUrl
) -> PeoplePage:
    """Who asks to follow the user, for the user alone."""
    beyond = None if after is None else FollowRequestListKey(user, after)
    return _page(rows, _entries(rows, FOLLOW_REQUEST_LIST, user, beyond), user, limit, avatar_url)


def blocks(rows: Reader, user: int, after: int | None, limit: int, avatar_url: AvatarUrl) -> PeoplePage:
    """Whom the user blocks, for the user alone: the one list in which a block does not hide."""
    beyond = None if after is None else BlockListKey(user, after)
    return _page(rows, _entries(rows, BLOCK_LIST, user, beyond), 0, limit, avatar_url)


def directory(
    rows: Reader, partitions: int, viewer: int, after: int | None, limit: int, avatar_url: AvatarUrl
) -> PeoplePage:
    """Public accounts of all `partitions`, newest first."""
    return _page(rows, _directory(rows, partitions, after), viewer, limit, avatar_url)


def _entries(rows: Reader, table: Table[Any, EdgeEnd], owner: int, beyond: Key | None) -> Iterator[_Entry]:
    for key, end in table.scan(rows, owner, beyond=beyond):
        yield _Entry(key[1], end.user)


def _directory(rows: Reader, partitions: int, after: int | None) -> Iterator[_Entry]:
    """The newest of each partition in a heap; a short scan for each entry taken, so no cursor stays open."""

    def next_of(partition: int, beyond: int | None) -> int | None:
        key = None if beyond is None else DirectoryKey(partition, beyond)
        found = next(DIRECTORY.scan(rows, partition, beyond=key), None)
        return None if found is None else found[0].user

    heads = [(-user, p) for p in range(partitions) if (user := next_of(p, after)) is not None]
    heapq.heapify(heads)
    while heads:
        negative, partition = heads[0]
        yield _Entry(-negative, -negative)
        following_one = next_of(partition, -negative)
        if following_one is None:
            heapq.heappop(heads)
        else:
            heapq.heapreplace(heads, (-following_one, partition))


def _page(
    rows: Reader, entries: Iterator[_Entry], viewer: int, limit: int, avatar_url: AvatarUrl
) -> PeoplePage:
    """Users are looked up a page's worth at a time, until the page is full or the list ends."""
    limit = max(1, min(limit, LIMIT_MAX))
    users: list[UserView] = []
    looked_at, last = 0, 0
    while looked_at < PASSED_OVER_MAX:
        batch = list(islice(entries, limit))
        views = {view.id: view for view in user_views(rows, [e.user for e in batch], viewer, avatar_url)}
        for entry in batch:
            if len(users) == limit:
                return PeoplePage(tuple(users), last)
            last = entry.place
            if (view := views.get(str(entry.user))) is not None:
                users.append(view)
        if len(batch) < limit:
            return PeoplePage(tuple(users), None)
        looked_at += len(batch)
    return PeoplePage(tuple(users), last)
