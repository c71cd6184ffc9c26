"""The feed merged from timelines: the newest posts of those whom a viewer follows, newest first; pure.

A feed page takes the viewer's packs of followed authors, the heads of all those timelines in one read, and
goes down: a head that is not among the newest needs no further look. `published` is minted and unique, so the
order is total and a cursor is the last `published` of a page. Nothing here checks rights: pages.py does.

A place in a feed is 24 bytes, `complement of published | post | author`, all big-endian, so that the order of
bytes is the order of the feed. The complement is also what a timeline's key holds.
"""

from collections.abc import Sequence
from heapq import heappop, heappush, heapreplace, nlargest
from itertools import islice
from typing import Final, NamedTuple, Protocol

from node.feeds.memo import Memo
from node.social.keys import FollowingPackKey, TimelineHeadKey, TimelineKey
from node.social.packs import PACK_AUTHORS_MAX
from node.social.records import FOLLOWING_PACKS, TIMELINE_HEADS, TIMELINES
from storage.ids import ID_MAX, PARTITIONS_MAX, SEQUENCE_BITS
from storage.keys import after
from storage.rows import Reader

TAIL_PLACES: Final = 4  # of a timeline, read at once: a page of 20 seldom takes more of one author
TAILS_BYTES_MAX: Final = 16 << 20  # about 28,000 authors

KEYS_BYTES_MAX: Final = 16 << 20  # heads' keys of about 4,500 readers who follow 50, or 130 of 2,000
_TAIL_BYTES: Final = 300
_HELD_KEY_BYTES: Final = 55
_HELD_PLACE_BYTES: Final = 70
PLACE_BYTES: Final = 24
_COMPLEMENT: Final = bytes(range(255, -1, -1))  # for bytes.translate
_PUBLISHED: Final = slice(5, 13)  # of a TimelineHead's record, behind checksum and version
_POST: Final = slice(13, 21)
_PLACE_AUTHOR: Final = slice(16, 24)
_TOP: Final = b"\xff" * 9  # above every `published`
_GUESSED_TIMES_MAX: Final = 8  # a guess that lets in more than so many times too much is made anew
_SORTED_AT_ONCE: Final = 200  # heads: sorting so few costs no more than picking the newest
_KEY_AUTHOR: Final = slice(3, 11)  # of a TimelineHeadKey
_KEY_PUBLISHED: Final = slice(-8, None)  # of a TimelineKey, complemented
_HEAD_KIND: Final = bytes((TimelineHeadKey.KIND,))
_HEAD_KEY_BYTES: Final = 11
_LANE_MASK: Final = (PARTITIONS_MAX - 1).to_bytes(8, "big")


def place(published: int, post: int, author: int) -> bytes:
    return (ID_MAX - published).to_bytes(8, "big") + post.to_bytes(8, "big") + author.to_bytes(8, "big")


def published_of(place: bytes) -> int:
    return ID_MAX - int.from_bytes(place[:8], "big")


def place_after(published: int | None) -> bytes:
    """The bound below which places come before a cursor, or are its own; none without a cursor."""
    return b"" if published is None else (ID_MAX - max(published, 1) + 1).to_bytes(8, "big")


class Places(Protocol):
    """A source of places in a feed."""

    def take(self, most: int) -> list[bytes]:
        """The next places in order, each once; fewer than `most` only at the end."""
        ...


# --- whom the viewer follows ---------------------------------------------------------------------------
def pack_keys(viewer: int, following: int) -> list[bytes]:
    """The keys of all the viewer's packs; the last is that of the pack which the next author enters."""
    return [FollowingPackKey(viewer, n).encode() for n in range(following // PACK_AUTHORS_MAX + 1)]


def authors_in(packs: dict[bytes, bytes]) -> bytes:
    """The authors in pack rows: 8 bytes each, in no order. Raises RecordDamaged."""
    return b"".join([FOLLOWING_PACKS.codec.decode(key, value) for key, value in packs.items()])


def head_keys(authors: bytes) -> list[bytes]:
    """The keys of the authors' timeline heads, all made in one sweep.

    A thousand calls of TimelineHeadKey would cost more than reading the rows: the whole pack is one number,
    in which all the ids' partitions are shifted and masked at once.
    """
    count = len(authors) // 8
    mask = int.from_bytes(_LANE_MASK * count, "big")
    partitions = (int.from_bytes(authors, "big") >> SEQUENCE_BITS & mask).to_bytes(8 * count, "big")
    keys = bytearray(_HEAD_KIND) * (_HEAD_KEY_BYTES * count)
    keys[0::_HEAD_KEY_BYTES] = partitions[6::8]
    keys[1::_HEAD_KEY_BYTES] = partitions[7::8]
    for i in range(8):
        keys[3 + i :: _HEAD_KEY_BYTES] = authors[i::8]
    joined = bytes(keys)
    return [joined[i : i + _HEAD_KEY_BYTES] for i in range(0, len(joined), _HEAD_KEY_BYTES)]


# --- timelines -----------------------------------------------------------------------------------------
class Tail(NamedTuple):
    """The newest places of one timeline, as they were under this value of its head."""

    head: bytes  # the head's record
    places: tuple[bytes, ...]
    ended: bool  # the timeline has no more


class Followed:
    """The keys of the heads of those whom a reader follows, in order, so that LMDB finds neighbours on the
    page at hand; and a guess above which `published` the newest few stand, which only saves work."""

    __slots__ = ("guess", "keys")

    def __init__(self, authors: bytes) -> None:
        self.keys = sorted(head_keys(authors))
        self.guess = b""

    def newest(self, heads: dict[bytes, bytes], likely: int) -> tuple[dict[bytes, bytes], bytes]:
        """All heads down to some `published`, at least `likely` or all, `published` → key; and that one."""
        found = self._above(heads) if self.guess else {}
        if not likely <= len(found) <= _GUESSED_TIMES_MAX * likely:
            self.guess = nlargest(likely, [value[_PUBLISHED] for value in heads.values()])[-1]
            found = self._above(heads)
        return found, self.guess

    def _above(self, heads: dict[bytes, bytes]) -> dict[bytes, bytes]:
        guess = self.guess
        return {value[_PUBLISHED]: key for key, value in heads.items() if value[_PUBLISHED] >= guess}


class Timelines:
    """Reads timelines downwards, and remembers their newest places while their heads stay equal.

    That is exact: publications only ever grow, so under one newest post a timeline can only lose posts, and
    the head counts those that are left.
    """

    def __init__(self, tails_bytes: int = TAILS_BYTES_MAX, keys_bytes: int = KEYS_BYTES_MAX) -> None:
        self._tails: Memo[Tail] = Memo(tails_bytes)
        self._followed: Memo[Followed] = Memo(keys_bytes)

    def followed(self, authors: bytes) -> Followed:
        followed = self._followed.find(authors)
        if followed is None:
            followed = Followed(authors)
            size = _TAIL_BYTES + len(authors) + _HELD_KEY_BYTES * len(followed.keys)
            self._followed.keep(authors, followed, size)
        return followed

    def tail(self, rows: Reader, author: bytes, key: bytes, value: bytes) -> Tail:
        """`key` and `value` are the row of the author's head. Raises RecordDamaged."""
        tail = self._tails.get(author) or self._tails.find(author)
        if tail is None or tail[0] != value:
            head = TIMELINE_HEADS.codec.decode(key, value)
            newest = value[_PUBLISHED].translate(_COMPLEMENT) + value[_POST] + author
            places = [newest, *scan(rows, author, newest, min(head.posts, TAIL_PLACES) - 1)]
            tail = Tail(value, tuple(places), len(places) >= head.posts)
            self._tails.keep(author, tail, _TAIL_BYTES + _HELD_PLACE_BYTES * len(places))
        return tail


def scan(rows: Reader, author: bytes, beyond: bytes, most: int) -> list[bytes]:
    """Up to `most` places of a timeline after the place `beyond`."""
    if most <= 0:
        return []
    prefix = TimelineKey.prefix(int.from_bytes(author, "big"))
    found = rows.scan(prefix + (int.from_bytes(beyond[:8], "big") + 1).to_bytes(8, "big"), after(prefix))
    decode = TIMELINES.codec.decode
    return [
        key[_KEY_PUBLISHED] + decode(key, value).post.to_bytes(8, "big") + author
        for key, value in islice(found, most)
    ]


class Merge:
    """The places of many timelines together. For one synchronous block, like the rows it reads."""

    def __init__(self, rows: Reader, timelines: Timelines, authors: bytes, start: bytes = b"") -> None:
        """`authors` has 8 bytes each, none twice; places before `start` are passed over."""
        self._rows = rows
        self._timelines = timelines
        self._start = start
        self._followed = timelines.followed(authors)
        self._heads = rows.get_many(self._followed.keys)
        # Heads that take no part yet, `published` → key, and the same in order, ascending. Of thousands most
        # are never asked for: those below `_below` are not in the queue yet.
        self._keys: dict[bytes, bytes] = {}
        self._queue: list[bytes] = []
        self._below = _TOP
        # Of each timeline that takes part: its next place, the tail that holds it, where in that, and whether
        # the timeline ends with it.
        self._heap: list[tuple[bytes, Sequence[bytes], int, bool]] = []
        self._replace = False  # the heap's first was taken, its timeline has not moved on yet
        if start or len(self._heads) < _SORTED_AT_ONCE:
            self._line_up_all()
            top = start.translate(_COMPLEMENT)
            while start and self._queue and self._queue[-1] > top:
                self._enter(self._queue.pop())

    def take(self, most: int) -> list[bytes]:
        taken: list[bytes] = []
        heap = self._heap
        newest = self._newest(most)
        while len(taken) < most:
            if self._replace:
                self._move_on()
            if newest is not None and (not heap or newest < heap[0][0]):
                self._enter(self._queue.pop())
                newest = self._newest(most)
            if not heap:
                break
            taken.append(heap[0][0])
            self._replace = True
        return taken

    def _newest(self, likely: int) -> bytes | None:
        """Where the newest unused head stands. Of many, only about as many are put in order at first as a
        page is likely to take, and all the others if that was too few."""
        if not self._queue and self._below:
            if self._below == _TOP:
                self._keys, self._below = self._followed.newest(self._heads, likely + 1)
                self._queue = sorted(self._keys)
            else:
                self._line_up_all()
        return self._queue[-1].translate(_COMPLEMENT) if self._queue else None

    def _line_up_all(self) -> None:
        below, heads = self._below, self._heads
        self._keys = {value[_PUBLISHED]: key for key, value in heads.items() if value[_PUBLISHED] < below}
        self._queue = sorted(self._keys)
        self._below = b""

    def _enter(self, published: bytes) -> None:
        """Let the timeline with this head take part."""
        key = self._keys[published]
        _, places, ended = self._timelines.tail(self._rows, key[_KEY_AUTHOR], key, self._heads[key])
        start = self._start
        at = 0
        if start:
            while at < len(places) and places[at] < start:
                at += 1
        if at < len(places):
            heappush(self._heap, (places[at], places, at, ended))
        elif not ended:  # the cursor lies below what the tail holds: go there at once
            self._descend(places[0][_PLACE_AUTHOR], (int.from_bytes(start, "big") - 1).to_bytes(8, "big"))

    def _move_on(self) -> None:
        self._replace = False
        place, places, at, ended = self._heap[0]
        at += 1
        if at < len(places):
            heapreplace(self._heap, (places[at], places, at, ended))
            return
        heappop(self._heap)
        if not ended:
            self._descend(place[_PLACE_AUTHOR], place)

    def _descend(self, author: bytes, beyond: bytes) -> None:
        places = scan(self._rows, author, beyond, TAIL_PLACES)
        if places:
            heappush(self._heap, (places[0], places, 0, len(places) < TAIL_PLACES))
