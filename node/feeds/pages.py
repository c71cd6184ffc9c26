"""A page of a feed: places become posts, as JSON, if the viewer may see them; pure.

Rights are asked at the homes, on every page, whatever the places came from: the follower's edge at the author
(it goes with an unfollow, a block and a private account that says no), the author's account, the post itself,
and the viewer's own blocks. What a page loses to rights is made up from further down.
"""

from typing import Final

import msgspec

from node.feeds.merge import Places, published_of
from node.feeds.rendering import Author, Renderer
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
    parts: list[bytes] = []
    denied: set[bytes] = set()
    count = looked_at = 0
    batch = places.take(limit + 1)  # the one more only says whether there is more
    while True:
        wanted = batch[: limit - count]
        count += _append(rows, wanted, viewer, renderer, now_ms, denied, parts)
        looked_at += len(wanted)
        rest = batch[len(wanted) :]
        if not rest or count == limit or looked_at >= LOOKED_AT_MAX:
            following = published_of(wanted[-1]) if rest else None
            return Page(b"[" + b"".join(parts)[1:] + b"]", count, following)
        batch = rest + places.take(limit + 1 - count - len(rest))


def _append(
    rows: Reader,
    batch: list[bytes],
    viewer: Viewer,
    renderer: Renderer,
    now_ms: int,
    denied: set[bytes],
    parts: list[bytes],
) -> int:
    """Append the posts of the batch that the viewer may see, each after a comma; how many."""
    keys: list[bytes] = []
    posts: list[tuple[bytes, bytes, bytes]] = []
    authors: dict[bytes, Author] = {}
    for place in batch:
        author_id = place[16:]
        if author_id in denied:
            continue
        author = authors.get(author_id)
        if author is None:
            author = authors[author_id] = renderer.author(author_id)
            keys.append(author.user_key)
            keys.append(author.followers + viewer.id_bytes)
        post = place[8:16]
        key = author.posts + post
        keys.append(key)
        posts.append((post, key, author_id))
    if viewer.blocks:
        keys += [BlockKey(viewer.id, author.id).encode() for author in authors.values()]
    found = rows.get_many(keys)
    for author_id, author in authors.items():
        renderer.see(author, found.get(author.user_key))
        if not _allowed(found, viewer, author):
            denied.add(author_id)
    liked = likes(rows, viewer, [post for post, _, _ in posts])
    pieces, count = renderer.pieces, 0
    for post, key, author_id in posts:
        value = found.get(key)
        if value is None or author_id in denied:
            continue
        author = authors[author_id]
        rendered = pieces(post, key, value, viewer.id, author, now_ms)
        if rendered.shown and rendered.author == author.id:
            count += 1
            middle = b"true" if post in liked else b"false"
            parts += (b",", rendered.before, author.face, rendered.between, middle, rendered.after)
    return count


def _allowed(found: dict[bytes, bytes], viewer: Viewer, author: Author) -> bool:
    if not author.active:
        return False
    if author.id == viewer.id:
        return True
    if viewer.blocks and BlockKey(viewer.id, author.id).encode() in found:
        return False
    return author.followers + viewer.id_bytes in found


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
