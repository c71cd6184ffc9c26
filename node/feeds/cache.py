"""The feed cache: the merged heads of active readers' feeds, kept fresh by pushing new posts into them; pure.

An entry holds places only (merge.py), newest few hundred, and the pack rows from which it was merged: a page
compares those with the rows it reads, so any change of the reader's follows ends the entry. Rights are not
its business; what it names and the reader may not see falls out of the page. It may vanish at any time.

Why nothing is lost between a fill and the pushes. Changes come after their commit, a partition's in the order
of its offsets, and a page reads a snapshot that was opened after the last change that came. So the snapshot
of a fill holds all changes that came before, and those that it holds and that are still to come are put in
again, which changes nothing. Both halves are checked: a partition whose offsets do not follow each other
empties the cache, and a fill from a snapshot that lacks a change seen before (`behind`) is not kept.

Authors with more than `pull_above` cached followers are not pushed: their timelines are merged in when a page
is read, so a push costs at most `pull_above` entries. Such an author stays so until the last of those readers
is gone, since until then some entry lacks what was not pushed.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import msgspec

from cluster.keys import StreamKey
from cluster.streams import Published as StreamRecord
from node.feeds.merge import PLACE_BYTES, Merge, Places, Timelines, place
from node.feeds.pages import Viewer
from node.social.changes import Published, Restricted, decode
from storage.rows import Reader

PLACES_KEPT: Final = 150  # of a feed: seven pages of 20; cut back to these when there are twice as many
FRESH_MAX: Final = 200  # pushed places that wait in an entry for its next page: so a push is an append
ENTRY_SHARE: Final = 8  # an entry may have this part of the cache: a reader of thousands does not empty it
SEEN_MS: Final = 60_000  # no snapshot lives as long as that: it ends with its synchronous block
ASKED_MAX: Final = 10_000  # readers remembered for having asked once
_NOWHERE: Final = b"\xff" * PLACE_BYTES  # after every place
_FRESH_BYTES: Final = 10  # of a waiting place: a pointer, and its part of the bytes that many entries share
_ENTRY_BYTES: Final = 1500  # objects, dictionary slots, keys of packs
_FOLLOWED_BYTES: Final = 60  # of one reader in one author's set
_AUTHOR_BYTES: Final = 400  # of an author's set


class CacheStatistics(msgspec.Struct, frozen=True):
    entries: int
    bytes: int
    pulled_authors: int
    hits: int
    misses: int  # of first pages
    fills: int
    refused_fills: int  # too large, or from a snapshot behind what was seen
    evictions: int
    pushes: int  # places put into entries
    resets: int  # times that a gap in a stream emptied the cache


class Entry:
    """One reader's merged head."""

    __slots__ = (
        "authors",
        "counts",
        "ended",
        "fresh",
        "full",
        "kept",
        "keys",
        "newest",
        "packs",
        "places",
        "pulled",
        "pulled_of",
        "size",
        "viewer",
    )

    def __init__(
        self,
        viewer: Viewer,
        counts: bytes,
        keys: list[bytes],
        packs: dict[bytes, bytes],
        authors: bytes,
        places: list[bytes],
        kept: int,
    ) -> None:
        """`places` are the newest `kept` of the feed, or all, newest first."""
        self.viewer = viewer
        self.counts = counts  # the row of the reader's counts that `viewer` was made from
        self.keys = keys  # of the counts, then of the packs, that of the one still to come too
        self.packs = packs  # rows as they were read
        self.authors = authors  # 8 bytes each, the reader among them
        self.places = bytearray(b"".join(reversed(places)))  # oldest first, so that a push is an append
        self.newest = places[0] if places else _NOWHERE
        self.fresh: list[bytes] = []  # pushed and not yet among the places: in any order
        self.full = 2 * kept * PLACE_BYTES
        self.kept = kept
        self.ended = len(places) < kept  # older than the oldest place there is nothing
        self.pulled = b""  # those of the authors that are merged at read
        self.pulled_of = -1  # which state of the cache's pulled authors that was
        followed = len(authors) // 8
        held = sum(len(value) for value in packs.values()) + len(authors)
        waiting = FRESH_MAX * _FRESH_BYTES
        self.size = _ENTRY_BYTES + held + followed * _FOLLOWED_BYTES + 2 * kept * PLACE_BYTES + waiting

    def settle(self) -> None:
        """Bring the fresh places to where they belong: mostly behind the newest, and all at once."""
        places, fresh = self.places, sorted(set(self.fresh), reverse=True)
        self.fresh.clear()
        at = len(places)
        if fresh[0] >= self.newest:
            at = self.below(fresh[0])
            if at == 0 and not self.ended:
                edge = bytes(places[:PLACE_BYTES])  # the entry covers nothing older
                fresh = [place for place in fresh if place <= edge]
            fresh = sorted({*fresh, *_places_in(bytes(places[at:]))}, reverse=True)
        places[at:] = b"".join(fresh)
        if len(places) > self.full:
            del places[: -self.kept * PLACE_BYTES]
            self.ended = False
        self.newest = bytes(places[-PLACE_BYTES:]) or _NOWHERE

    def remove(self, gone: bytes) -> None:
        if self.fresh:
            self.settle()
        at = self.below(gone)
        # The oldest place is the edge of what the entry covers: it stays, and falls out of the page.
        if self.places[at : at + PLACE_BYTES] == gone and (at > 0 or self.ended):
            del self.places[at : at + PLACE_BYTES]
            self.newest = bytes(self.places[-PLACE_BYTES:]) or _NOWHERE

    def below(self, bound: bytes) -> int:
        """Where, in bytes, the places begin that are not greater (older) than the bound."""
        low, high = 0, len(self.places) // PLACE_BYTES
        while low < high:
            middle = (low + high) // 2
            if self.places[middle * PLACE_BYTES : (middle + 1) * PLACE_BYTES] > bound:
                low = middle + 1
            else:
                high = middle
        return low * PLACE_BYTES


class FeedCache:
    """The entries, and who of them follows whom. One task owns it."""

    def __init__(self, bytes_max: int, pull_above: int, shards: int) -> None:
        """`shards` is a power of two: changes of one shard come in the order of its commits."""
        self._bytes_max = bytes_max
        self._pull_above = pull_above
        self._mask = shards - 1
        self._entries: OrderedDict[int, Entry] = OrderedDict()  # the longest unread first
        self._followers: dict[bytes, set[Entry]] = {}
        self._pulled: set[bytes] = set()
        self._pulled_changes = 0
        self._entry_bytes = 0
        self._asked: OrderedDict[int, None] = OrderedDict()
        self._offsets: dict[int, int] = {}  # by partition: of the last change
        self._last: dict[int, tuple[bytes, int]] = {}  # by shard: key of the last change's row, when it came
        self._hits = self._misses = self._fills = self._refused = 0
        self._evictions = self._pushes = self._resets = 0

    # --- reading ---------------------------------------------------------------------------------------
    def get(self, reader: int) -> Entry | None:
        """The reader's entry, to be compared with the packs as they are: then a `hit` or `stale`."""
        return self._entries.get(reader)

    def hit(self, entry: Entry) -> None:
        self._hits += 1
        self._entries.move_to_end(entry.viewer.id)

    def stale(self, entry: Entry) -> None:
        """The reader's follows changed: forget the entry, and fill a new one at once."""
        self.drop(entry.viewer.id)
        self._asked[entry.viewer.id] = None

    def places(self, rows: Reader, timelines: Timelines, entry: Entry, start: bytes) -> Places:
        """The feed of an entry from `start` on: its places, then a merge below them; `start` as in Merge."""
        if entry.fresh:
            entry.settle()
        held = _Held(rows, timelines, entry, start)
        if entry.pulled_of != self._pulled_changes:
            followers = self._followers
            entry.pulled = b"".join([author for author in self._pulled if entry in followers[author]])
            entry.pulled_of = self._pulled_changes
        if not entry.pulled:
            return held
        return _Both(held, Merge(rows, timelines, entry.pulled, start))

    # --- filling ---------------------------------------------------------------------------------------
    def miss(self, reader: int) -> bool:
        """Whether to fill an entry for the reader: not at the first page asked for, since many ask once."""
        self._misses += 1
        if not self._bytes_max:
            return False
        if self._asked.pop(reader, 0) is None:
            return True
        self._asked[reader] = None
        if len(self._asked) > ASKED_MAX:
            self._asked.popitem(last=False)
        return False

    def fill(self, rows: Reader, entry: Entry, now_ms: int) -> None:
        """Keep an entry merged from `rows`, unless they are behind the changes that came."""
        if entry.size > self._bytes_max // ENTRY_SHARE or self._behind(rows, now_ms):
            self._refused += 1
            return
        self.drop(entry.viewer.id)
        self._fills += 1
        self._entries[entry.viewer.id] = entry
        self._entry_bytes += entry.size
        followers = self._followers
        for author in _each(entry.authors):
            readers = followers.get(author)
            if readers is None:
                followers[author] = {entry}
                continue
            readers.add(entry)
            if len(readers) > self._pull_above and author not in self._pulled:
                self._pulled.add(author)
                self._pulled_changes += 1
        while self.bytes > self._bytes_max and self._entries:
            self._evictions += 1
            self.drop(next(iter(self._entries)))

    def drop(self, reader: int) -> None:
        """Forget a reader's entry, if there is one."""
        entry = self._entries.pop(reader, None)
        if entry is None:
            return
        self._entry_bytes -= entry.size
        for author in _each(entry.authors):
            readers = self._followers[author]
            readers.discard(entry)
            if not readers:
                del self._followers[author]
                if author in self._pulled:
                    self._pulled.discard(author)
                    self._pulled_changes += 1

    def _behind(self, rows: Reader, now_ms: int) -> bool:
        keys = [key for key, at_ms in self._last.values() if at_ms > now_ms - SEEN_MS]
        return len(rows.get_many(keys)) < len(keys)

    # --- pushing ---------------------------------------------------------------------------------------
    def changed(self, records: Iterable[StreamRecord], now_ms: int) -> None:
        """Take in what the change streams got, after its commit, each partition's in order."""
        for partition, offset, body in records:
            if self._offsets.get(partition, offset - 1) != offset - 1:
                self.reset()
            self._offsets[partition] = offset
            self._last[partition & self._mask] = (StreamKey(partition, offset).encode(), now_ms)
            change = decode(body)
            if isinstance(change, Restricted):
                continue  # rights are asked at every page
            author = change.author.to_bytes(8, "big")
            readers = self._followers.get(author)
            if readers is None or author in self._pulled:
                continue
            where = place(change.published, change.post, change.author)
            if isinstance(change, Published):
                self._pushes += len(readers)
                for entry in readers:
                    fresh = entry.fresh
                    fresh.append(where)
                    if len(fresh) == FRESH_MAX:
                        entry.settle()
            else:
                for entry in readers:
                    entry.remove(where)

    def reset(self) -> None:
        """Forget all entries: changes were missed."""
        self._resets += 1
        self._entries.clear()
        self._followers.clear()
        self._pulled.clear()
        self._pulled_changes += 1
        self._entry_bytes = 0

    # --- figures ---------------------------------------------------------------------------------------
    @property
    def bytes(self) -> int:
        return self._entry_bytes + len(self._followers) * _AUTHOR_BYTES

    def statistics(self) -> CacheStatistics:
        return CacheStatistics(
            entries=len(self._entries),
            bytes=self.bytes,
            pulled_authors=len(self._pulled),
            hits=self._hits,
            misses=self._misses,
            fills=self._fills,
            refused_fills=self._refused,
            evictions=self._evictions,
            pushes=self._pushes,
            resets=self._resets,
        )


def _places_in(joined: bytes) -> list[bytes]:
    return [joined[i : i + PLACE_BYTES] for i in range(0, len(joined), PLACE_BYTES)]


def _each(authors: bytes) -> list[bytes]:
    return [authors[i : i + 8] for i in range(0, len(authors), 8)]


class _Held:
    """The places of an entry, then those of a merge below its oldest."""

    __slots__ = ("_end", "_entry", "_merge", "_rows", "_start", "_timelines")

    def __init__(self, rows: Reader, timelines: Timelines, entry: Entry, start: bytes) -> None:
        self._rows = rows
        self._timelines = timelines
        self._entry = entry
        self._start = start
        self._end = entry.below(start) if start else len(entry.places)
        self._merge: Merge | None = None

    def take(self, most: int) -> list[bytes]:
        end, entry = self._end, self._entry
        self._end = begin = max(0, end - most * PLACE_BYTES)
        held = bytes(entry.places[begin:end])
        taken = [held[i - PLACE_BYTES : i] for i in range(end - begin, 0, -PLACE_BYTES)]
        if len(taken) < most and not entry.ended:
            if self._merge is None:
                edge = (int.from_bytes(entry.places[:8], "big") + 1).to_bytes(8, "big")
                self._merge = Merge(self._rows, self._timelines, entry.authors, max(edge, self._start))
            taken += self._merge.take(most - len(taken))
        return taken


class _Both:
    """Two sources as one; a place that both have comes once."""

    __slots__ = ("_buffers", "_sources")

    def __init__(self, first: Places, second: Places) -> None:
        self._sources = (first, second)
        self._buffers: list[list[bytes]] = [[], []]

    def take(self, most: int) -> list[bytes]:
        for source, buffer in zip(self._sources, self._buffers, strict=True):
            if len(buffer) < most:
                buffer += source.take(most - len(buffer))
        taken = sorted({*self._buffers[0], *self._buffers[1]})[:most]
        if taken:
            last = taken[-1]
            self._buffers = [[one for one in buffer if one > last] for buffer in self._buffers]
        return taken
