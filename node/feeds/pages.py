"""A page of a feed: places become posts, as JSON, if the viewer may see them; pure.

Rights are asked at the homes, on every page, whatever the places came from: the follower's edge at the author
(it goes with an unfollow, a block and a private account that says no), the author's account, the post itself,
and the viewer's own blocks. What a page loses to rights is made up from further down.
"""

from typing import Final

import msgspec

from node.feeds.merge import Places, published_of
from node.feeds.rendering import LIKED, Author, Renderer
from node.social.keys import BlockKey, LikeGivenKey
from storage.rows import Reader

LIMIT_MAX: Final = 100  # posts in a page
LOOKED_AT_MAX: Final = 1000  # places looked at for one page; then it ends short, with a cursor
LIKES_SCANNED_MAX: Final = 48  # between a page's oldest post and its newest; if there are more, ask each


class Page(msgspec.Struct, frozen=True):
    posts: bytes  # a JSON array
    count: int
    next: int | None  # `published` of the last place that the page went past; None at the end


class Viewer:
    """The reader of a page, with the leading bytes of the keys that are asked for each post."""

    __slots__ = ("blocks", "id", "id_bytes", "likes")

    def __init__(self, viewer: int, blocks: bool) -> None:
        self.id = viewer
        self.id_bytes = viewer.to_bytes(8, "big")
        self.blocks = blocks  # blocks somebody
        self.likes = LikeGivenKey.prefix(viewer)


def fill(rows: Reader, places: Places, viewer: Viewer, limit: int, renderer: Renderer, now_ms: int) -> Page:
    """Raises RecordDamaged."""
    filling = _Filling(rows, viewer, renderer, now_ms)
    count = looked_at = 0
    batch = places.take(limit + 1)  # the one more only says whether there is more
    while True:
        wanted = batch[: limit - count]
        count += filling.append(wanted)
        looked_at += len(wanted)
        rest = batch[len(wanted) :]
        if not rest or count == limit or looked_at >= LOOKED_AT_MAX:
            following = published_of(wanted[-1]) if rest else None
            return Page(filling.body(), count, following)
        batch = rest + places.take(limit + 1 - count - len(rest))


class _Filling:
    """A page under way. One `append` is one read of all that a batch of places needs, and one of likes."""

    def __init__(self, rows: Reader, viewer: Viewer, renderer: Renderer, now_ms: int) -> None:
        self.parts: list[bytes] = []  # each post begins with a comma
        self._rows = rows
        self._viewer = viewer
        self._renderer = renderer
        self._now_ms = now_ms
        self._denied: set[Author] = set()

    def body(self) -> bytes:
        """The posts as one JSON array: bytes of a page are copied once."""
        parts = self.parts
        if not parts:
            return b"[]"
        parts[0] = b"["
        parts.append(b"]")
        return b"".join(parts)

    def append(self, batch: list[bytes]) -> int:
        """Append the posts of the batch that the viewer may see; how many."""
        viewer, memo, denied = self._viewer, self._renderer.authors, self._denied
        viewer_id = viewer.id_bytes
        keys: list[bytes] = []
        edges: dict[Author, bytes] = {}
        posts: list[tuple[bytes, bytes, Author]] = []
        for place in batch:
            author = memo[place[16:]]
            if author not in edges:
                edges[author] = edge = author.followers + viewer_id
                keys += (author.user_key, edge)
            post = place[8:16]
            key = author.posts + post
            keys.append(key)
            posts.append((post, key, author))
        if viewer.blocks:
            keys += [BlockKey(viewer.id, author.id).encode() for author in edges]
        found = self._rows.get_many(keys)
        for author, edge in edges.items():
            user = found.get(author.user_key)
            if user != author.value:
                author.see(user, self._renderer)
            if not (author.active and edge in found) or viewer.blocks:
                self._judge(author, edge in found, found)
        if denied:
            posts = [one for one in posts if one[2] not in denied]
        return self._join(posts, found)

    def _judge(self, author: Author, follows: bool, found: dict[bytes, bytes]) -> None:
        viewer = self._viewer
        blocked = viewer.blocks and BlockKey(viewer.id, author.id).encode() in found
        if not author.active or blocked or not (follows or author.id == viewer.id):
            self._denied.add(author)

    def _join(self, posts: list[tuple[bytes, bytes, Author]], found: dict[bytes, bytes]) -> int:
        viewer, renderer, parts, count = self._viewer, self._renderer, self.parts, 0
        known = renderer.posts
        liked = likes(self._rows, viewer, [post for post, _, _ in posts])
        for post, key, author in posts:
            value = found.get(key)
            if value is None:
                continue
            rendered = known.get(post)
            if rendered is None or author.private or author.id == viewer.id or rendered[0] != value:
                rendered = renderer.pieces(post, key, value, viewer.id, author, self._now_ms)
            _, shown, before, after, _ = rendered
            if shown:
                count += 1
                parts += (b",", before, author.face, LIKED[post in liked], after)
        return count


def likes(rows: Reader, viewer: Viewer, posts: list[bytes]) -> set[bytes]:
    """Those of the posts that the viewer likes. Posts of a page are close in time and ids go by time, so one
    short scan of the likes between them mostly answers for all."""
    if not posts:
        return set()
    prefix = viewer.likes
    liked: set[bytes] = set()
    for key, _ in rows.scan(prefix + min(posts), prefix + max(posts) + b"\x00"):
        liked.add(key[-8:])
        if len(liked) > LIKES_SCANNED_MAX:
            found = rows.get_many([prefix + post for post in posts])
            return {key[-8:] for key in found}
    return liked
