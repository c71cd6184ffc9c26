"""Feeds for the routes: a page from the cache where it can be, merged where not, and posts as JSON.

    feeds = Feeds(settings.feed, Renderer(sign), shards=2, rows_bytes=settings.feed.rows_bytes)
    replicas.on_rows(feeds.hot.changed)
    replicas.on_changes(lambda records: feeds.changed(records, now_ms()))   # before the first page
    with service.read() as rows:
        page = feeds.page(rows, viewer, None, 20, now_ms)

Pure: rows and time come in, bytes go out. One task owns it; `rows` is a snapshot opened in the same
synchronous block as the call.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from cluster.streams import Published as StreamRecord
from node.feeds.cache import PLACES_KEPT, CacheStatistics, Entry, FeedCache
from node.feeds.hot_rows import HotRows, HotStatistics
from node.feeds.merge import Merge, Places, Timelines, authors_in, pack_keys, place_after
from node.feeds.pages import LIMIT_MAX, Page, Viewer, fill, likes
from node.feeds.rendering import Renderer, joined
from node.social.keys import CountsKey, PostKey
from node.social.packs import PACK_AUTHORS_MAX
from node.social.records import COUNTS, POSTS
from storage.rows import Reader

_EMPTY = Page(b"[]", 0, None)


class FeedSettings(Protocol):
    @property
    def cache_bytes(self) -> int: ...

    @property
    def pull_above(self) -> int: ...


class FeedStatistics(msgspec.Struct, frozen=True):
    pages: int
    cached_pages: int
    cache: CacheStatistics
    hot: HotStatistics


class Feeds:
    """Pages of feeds, and single posts in the same rendering."""

    def __init__(
        self,
        settings: FeedSettings,
        renderer: Renderer,
        *,
        shards: int,
        kept: int = PLACES_KEPT,
        rows_bytes: int = 0,
    ) -> None:
        """`shards` of the node, a power of two; `kept` places in a cached feed; `rows_bytes` of rows kept
        between pages, which only who tells of every commit (`hot.changed`) may ask for."""
        self.renderer = renderer
        self.hot = HotRows(rows_bytes)
        self._kept = kept
        self._timelines = Timelines()
        self._cache = FeedCache(settings.cache_bytes, settings.pull_above, shards)
        self._pages = 0
        self._cached = 0

    def changed(self, records: Iterable[StreamRecord], now_ms: int) -> None:
        """What the change streams got, after its commit, each partition's in order."""
        self._cache.changed(records, now_ms)

    def replaced(self) -> None:
        """A snapshot has replaced rows, without a word in the change stream: no merged feed is known."""
        self._cache.reset()

    def page(self, rows: Reader, viewer: int, published: int | None, limit: int, now_ms: int) -> Page:
        """Up to `limit` posts that come after the cursor `published`. Raises RecordDamaged."""
        self._pages += 1
        limit = max(1, min(limit, LIMIT_MAX))
        rows = self.hot.over(rows)
        start = place_after(published)
        entry = self._cache.get(viewer)
        if entry is not None:
            found = rows.get_many(entry.keys)
            counts = found.pop(entry.keys[0], None)
            if counts is not None and found == entry.packs:
                self._cached += 1
                self._cache.hit(entry)
                if counts != entry.counts:
                    blocks = COUNTS.codec.decode(entry.keys[0], counts).blocks > 0
                    entry.counts, entry.viewer = counts, Viewer(viewer, blocks)
                places = self._cache.places(rows, self._timelines, entry, start)
                return fill(rows, places, entry.viewer, limit, self.renderer, now_ms)
            self._cache.stale(entry)
        return self._merged(rows, viewer, start, limit, now_ms)

    def _merged(self, rows: Reader, viewer: int, start: bytes, limit: int, now_ms: int) -> Page:
        counts_key = CountsKey(viewer).encode()
        keys = pack_keys(viewer, 0)
        packs = rows.get_many([counts_key, *keys])
        value = packs.pop(counts_key, None)
        if value is None:
            return _EMPTY  # the account is gone
        counts = COUNTS.codec.decode(counts_key, value)
        if counts.following >= PACK_AUTHORS_MAX:
            keys = pack_keys(viewer, counts.following)
            packs = rows.get_many(keys)
        authors = authors_in(packs) + viewer.to_bytes(8, "big")
        reader = Viewer(viewer, counts.blocks > 0)
        places: Places = Merge(rows, self._timelines, authors, start)
        if not start and self._cache.miss(viewer):
            held = places.take(self._kept)
            entry = Entry(reader, value, [counts_key, *keys], packs, authors, held, self._kept)
            self._cache.fill(rows, entry, now_ms)
            places = self._cache.places(rows, self._timelines, entry, start)
        return fill(rows, places, reader, limit, self.renderer, now_ms)

    def render(self, rows: Reader, viewer: int, posts: Sequence[int], now_ms: int) -> list[bytes]:
        """Those of the posts that exist as JSON, in the order given, whatever their status: for grids and
        post pages, whose callers have seen to the viewer's rights. `viewer` is 0 for nobody."""
        found = POSTS.get_many(rows, [PostKey(post) for post in posts])
        raw = rows.get_many([key.encode() for key in found])
        who = {post.author.to_bytes(8, "big") for post in found.values()}
        authors = {author: self.renderer.authors[author] for author in who}
        users = rows.get_many([author.user_key for author in authors.values()])
        for author in authors.values():
            if users.get(author.user_key) != author.value:
                author.see(users.get(author.user_key), self.renderer)
        seen = Viewer(viewer, False)
        liked = likes(rows, seen, [key.post.to_bytes(8, "big") for key in found]) if viewer else set()
        bodies = []
        for post in posts:
            key = PostKey(post)
            record = found.get(key)
            if record is None or record.deleting:
                continue
            author = authors[record.author.to_bytes(8, "big")]
            if author.value is None:
                continue
            post_bytes, raw_key = post.to_bytes(8, "big"), key.encode()
            rendered = self.renderer.pieces(post_bytes, raw_key, raw[raw_key], viewer, author, now_ms)
            bodies.append(joined(rendered, author.face, post_bytes in liked))
        return bodies

    def statistics(self) -> FeedStatistics:
        return FeedStatistics(self._pages, self._cached, self._cache.statistics(), self.hot.statistics())
