"""Rows in memory: the twin of an LMDB environment, for tests and for the simulation.

It obeys the same contract (`tests/storage/test_shard.py` runs over both) and can crash: what was written
but not committed is gone.
"""

from collections.abc import Iterable, Iterator

from sortedcontainers import SortedDict


class MemoryRows:
    """Committed rows and, over them, those of one open write transaction."""

    def __init__(self) -> None:
        self._rows: SortedDict[bytes, bytes] = SortedDict()
        self._before: dict[bytes, bytes | None] = {}  # of rows that the open transaction changed

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._rows.get(key)
        return value

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        rows = self._rows
        return {key: rows[key] for key in keys if key in rows}

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        rows = self._rows
        for key in list(rows.irange(start, stop, inclusive=(True, False), reverse=reverse)):
            yield key, rows[key]

    def write(self, rows: dict[bytes, bytes | None]) -> None:
        for key, value in rows.items():
            if key not in self._before:
                self._before[key] = self._rows.get(key)
            self._set(key, value)

    def commit(self) -> None:
        self._before.clear()

    def abort(self) -> None:
        """Take back what was not committed."""
        self.crash()

    def crash(self) -> None:
        """Lose what was not committed."""
        for key, value in self._before.items():
            self._set(key, value)
        self._before.clear()

    def _set(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self._rows.pop(key, None)
        else:
            self._rows[key] = value
