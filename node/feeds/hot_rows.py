"""Hot rows: rows that feed pages read again and again, kept in memory between pages; pure.

A page asks for some sixty rows that lie all over the shards; finding one in LMDB costs a microsecond, here a
tenth of that. A kept row is as its partition was last committed and told: whoever commits tells which keys it
wrote (`changed`), in the same step in which results are handed out, so nobody who was answered reads what was
before. A page runs in one synchronous block in the task that also takes in `changed`; so what it keeps from
its snapshot cannot be older than what was told.

Bounded in bytes, in two generations: what is asked for moves to the young one; when that holds half of the
bytes it becomes the old one, and what was old is forgotten. Absent rows are not kept.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from storage.rows import Reader

ROW_BYTES: Final = 150  # of a kept row beside key and value: two objects' heads and a place in a dictionary


class HotStatistics(msgspec.Struct, frozen=True):
    rows: int
    bytes: int
    hits: int
    misses: int
    forgotten: int  # because they were written


class HotRows:
    """`over(snapshot)` is a Reader; one task owns it. With `bytes_max` 0 nothing is kept."""

    def __init__(self, bytes_max: int) -> None:
        self._half = bytes_max // 2
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}
        self._young_bytes = self._old_bytes = 0
        self._hits = self._misses = self._forgotten = 0

    def over(self, rows: Reader) -> "HotReader":
        return HotReader(self, rows)

    def changed(self, keys: Iterable[bytes]) -> None:
        """These rows were written by a commit that the next snapshot sees."""
        young, old = self._young, self._old
        for key in keys:
            if young.pop(key, None) is not None or old.pop(key, None) is not None:
                self._forgotten += 1

    def get_many(self, rows: Reader, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        if not self._half:
            return rows.get_many(keys)
        young = self._young
        found: dict[bytes, bytes] = {}
        absent: list[bytes] = []
        for key in keys:
            value = young.get(key)
            if value is None:
                absent.append(key)
            else:
                found[key] = value
        self._hits += len(found)
        if absent:
            self._fetch(rows, absent, found)
        return found

    def _fetch(self, rows: Reader, absent: list[bytes], found: dict[bytes, bytes]) -> None:
        old = self._old
        elsewhere: list[bytes] = []
        for key in absent:
            value = old.pop(key, None)
            if value is None:
                elsewhere.append(key)
            else:
                self._keep(key, value)
                found[key] = value
        self._hits += len(absent) - len(elsewhere)
        self._misses += len(elsewhere)
        if elsewhere:
            read = rows.get_many(elsewhere)
            found.update(read)
            for key, value in read.items():
                self._keep(key, value)

    def _keep(self, key: bytes, value: bytes) -> None:
        self._young[key] = value
        self._young_bytes += ROW_BYTES + len(key) + len(value)
        if self._young_bytes > self._half:
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = {}, 0

    def statistics(self) -> HotStatistics:
        return HotStatistics(
            len(self._young) + len(self._old),
            self._young_bytes + self._old_bytes,
            self._hits,
            self._misses,
            self._forgotten,
        )


class HotReader:
    """Reads in bulk go by the hot rows, all others to the snapshot below. For one synchronous block."""

    __slots__ = ("_hot", "_rows", "get", "scan")

    def __init__(self, hot: HotRows, rows: Reader) -> None:
        self._hot = hot
        self._rows = rows
        self.get = rows.get
        self.scan = rows.scan

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        return self._hot.get_many(self._rows, keys)
