"""Rows: what a shard holds, how they are read, and the overlay in which a batch of commands changes them.

`Reader` is the one face of stored rows, whether they lie in LMDB, in memory or in an overlay. `Table` binds
a key type to its record type, so code above speaks of keys and records and never of bytes.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from storage.keys import Key, after
from storage.records import Codec

K = TypeVar("K", bound=Key)
V = TypeVar("V")


class Reader(Protocol):
    def get(self, key: bytes) -> bytes | None: ...

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The rows that exist, by key; absent keys are absent."""
        ...

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < stop in key order, or from the last to the first."""
        ...


class Writer(Reader, Protocol):
    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None: ...


class Base(Reader, Protocol):
    """What an overlay lies over: a write transaction that takes rows in bulk."""

    def write(self, rows: dict[bytes, bytes | None]) -> None:
        """Put the rows, and delete those whose value is None."""
        ...


_ABSENT: Final = object()


class Overlay:
    """Rows that a batch of commands has changed but not yet written, over those of a write transaction.

    A row that twenty commands of a batch change is written once. `savepoint()` begins a command; `rollback()`
    takes back all that was put since. Not thread-safe: it belongs to its shard's writer thread.
    """

    def __init__(self, base: Base) -> None:
        self._base = base
        self._rows: dict[bytes, bytes | None] = {}
        self._undo: list[tuple[bytes, object]] = []
        self.get_base = base.get
        self._written: list[dict[bytes, bytes | None]] = []  # what went to the base, a piece each time

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def changed(self) -> int:
        """Rows put or deleted since the savepoint, counting a row each time."""
        return len(self._undo)

    def savepoint(self) -> None:
        self._undo.clear()

    def rollback(self) -> None:
        rows = self._rows
        for key, before in reversed(self._undo):
            if before is _ABSENT:
                del rows[key]
            else:
                rows[key] = before  # type: ignore[assignment]
        self._undo.clear()

    def get(self, key: bytes) -> bytes | None:
        value = self._rows.get(key, _ABSENT)
        return self.get_base(key) if value is _ABSENT else value  # type: ignore[return-value]

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        found = {key: self.get(key) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    def put(self, key: bytes, value: bytes) -> None:
        rows = self._rows
        self._undo.append((key, rows.get(key, _ABSENT)))
        rows[key] = value

    def delete(self, key: bytes) -> None:
        rows = self._rows
        self._undo.append((key, rows.get(key, _ABSENT)))
        rows[key] = None

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Earlier commands' rows go to the base first, so only this command's few are merged by hand.

        What is put or deleted while the scan runs may or may not be seen: collect first, change after.
        """
        own = {key: self._rows[key] for key, _ in self._undo}
        self._write_all_but(own)
        mine = sorted((key for key in own if start <= key < stop), reverse=reverse)
        if not mine:
            yield from self._base.scan(start, stop, reverse=reverse)
            return
        waiting = iter(mine)
        next_own = next(waiting, None)
        for key, value in self._base.scan(start, stop, reverse=reverse):
            while next_own is not None and (next_own > key if reverse else next_own < key):
                if (put := own[next_own]) is not None:
                    yield next_own, put
                next_own = next(waiting, None)
            if next_own == key:
                if (put := own[key]) is not None:
                    yield key, put
                next_own = next(waiting, None)
            else:
                yield key, value
        while next_own is not None:
            if (put := own[next_own]) is not None:
                yield next_own, put
            next_own = next(waiting, None)

    def _write_all_but(self, own: dict[bytes, bytes | None]) -> None:
        if len(self._rows) == len(own):
            return
        # What an own row was before this command belongs to the base as well, so a rollback finds it there.
        earlier = {key: value for key, value in self._rows.items() if key not in own}
        restored: set[bytes] = set()
        for i, (key, before) in enumerate(self._undo):
            if before is not _ABSENT and key not in restored:
                earlier[key] = before  # type: ignore[assignment]
                self._undo[i] = (key, _ABSENT)
            restored.add(key)
        self._write(earlier)
        self._rows = dict(own)

    def flush(self) -> None:
        """Write everything to the base: at commit, between commands."""
        if self._rows:
            self._write(self._rows)
            self._rows = {}
        self._undo.clear()

    def _write(self, rows: dict[bytes, bytes | None]) -> None:
        self._base.write(rows)
        self._written.append(rows)

    @property
    def written(self) -> Sequence[Iterable[bytes]]:
        """The keys of all rows that were written to the base, in pieces."""
        return self._written


class Present(msgspec.Struct, array_like=True, frozen=True):
    """The value of a row whose key says all."""


PRESENT: Final = Present()


class Table(Generic[K, V]):
    """A key type and its record type."""

    __slots__ = ("codec", "key")

    def __init__(self, key: type[K], codec: Codec[V]) -> None:
        self.key = key
        self.codec = codec

    def get(self, rows: Reader, key: K) -> V | None:
        encoded = key.encode()
        value = rows.get(encoded)
        return None if value is None else self.codec.decode(encoded, value)

    def has(self, rows: Reader, key: K) -> bool:
        return rows.get(key.encode()) is not None

    def put(self, rows: Writer, key: K, value: V) -> None:
        encoded = key.encode()
        rows.put(encoded, self.codec.encode(encoded, value))

    def delete(self, rows: Writer, key: K) -> None:
        rows.delete(key.encode())

    def get_many(self, rows: Reader, keys: Iterable[K]) -> dict[K, V]:
        encoded = {key.encode(): key for key in keys}
        decode = self.codec.decode
        return {encoded[raw]: decode(raw, value) for raw, value in rows.get_many(encoded).items()}

    def scan(
        self, rows: Reader, *leading: int | bytes, beyond: K | None = None, reverse: bool = False
    ) -> Iterator[tuple[K, V]]:
        """Rows whose key begins with the leading fields, in key order; `beyond` starts after that key
        (before it in reverse). Close or exhaust it at once: it holds a cursor."""
        prefix = self.key.prefix(*leading)
        start, stop = prefix, after(prefix)
        if beyond is not None:
            if reverse:
                stop = beyond.encode()
            else:
                start = beyond.encode() + b"\x00"
        decode_key, decode = self.key.decode, self.codec.decode
        for key, value in rows.scan(start, stop, reverse=reverse):
            yield decode_key(key), decode(key, value)
