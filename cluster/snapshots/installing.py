"""Putting a snapshot's rows in the place of a partition's, piece by piece; pure.

    for changed in install_pieces(shard.begin, spool): …      # in the thread of the shard's writer

Each step is one short transaction, so that others on the shard wait for a few milliseconds; their own
transactions come between the steps. Old rows and new ones are walked side by side in the order of their keys,
and only what differs is written: a follower that was away for an hour has most rows already.

The first transaction also writes an `InstallRow`, which names the spool; the last writes head and members,
and removes it. Between them the partition's rows are of two states and nothing may be applied to it or read
from it. A start that finds an `InstallRow` begins the same install again (`unfinished_installs`); it ends the
same, however often it is cut. What fits into one transaction is done by one, without that row.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Final, Protocol, TypeVar

from cluster.keys import (
    GROUPS,
    HEADS_PARTITION,
    INSTALLS,
    GroupKey,
    GroupRow,
    HeadKey,
    InstallKey,
    InstallRow,
)
from cluster.snapshots.state_stream import Begin, Piece, Rows, StateDamaged, read_state
from storage.keys import partition_range
from storage.rows import Base, Reader

INSTALL_ROWS: Final = 4000  # old ones walked, and new ones, in a transaction: some 5 ms
INSTALL_BYTES: Final = 1 << 20  # of new rows in a transaction; a piece of the stream more may be in it


class Transaction(Base, Protocol):
    """What `storage.shard.WriteTransaction` and `storage.memory.MemoryRows` share."""

    def commit(self) -> None: ...

    def abort(self) -> None: ...


T = TypeVar("T", bound=Transaction)


class Kept(Protocol):
    """A whole state that was received and is durable: `cluster.snapshots.spool.Spooled`, or
    `MemorySpooled` here."""

    @property
    def name(self) -> str:
        """By which a start finds it again."""
        ...

    @property
    def begin(self) -> Begin: ...

    def pieces(self) -> Iterator[Piece]:
        """From the first. Raises StateDamaged."""
        ...

    def remove(self) -> None: ...


class MemorySpooled:
    """A kept state in memory: the twin of `cluster.snapshots.spool.Spooled`, for simulations and tests."""

    def __init__(self, name: str, partition: int, data: list[bytes]) -> None:
        """Raises StateDamaged where the data are not a whole state of the partition."""
        self.name = name
        self._partition = partition
        self._data = data
        (self.begin,) = (piece for piece in self.pieces() if isinstance(piece, Begin))

    def pieces(self) -> Iterator[Piece]:
        return read_state(self._partition, self._data)

    def remove(self) -> None:
        self._data = []


def unfinished_installs(rows: Reader) -> dict[int, InstallRow]:
    """Installs of a shard's partitions that began and have not ended."""
    return {key.of: row for key, row in INSTALLS.scan(rows, HEADS_PARTITION)}


def install_pieces(
    begin: Callable[[], T],
    kept: Kept,
    commit: Callable[[T], bool] | None = None,
    rows_max: int | None = None,
) -> Iterator[list[bytes]]:
    """Each step commits one transaction and gives the keys of the rows that it changed. After the last the
    kept state is removed.

    `begin` opens a write transaction where none is open. `commit` ends it, by its own `commit` where none is
    given; it says False where the disk has no room, and the next step tries the same again. `rows_max` stands
    for INSTALL_ROWS where the whole is small. Raises StateDamaged.
    """
    partition = kept.begin.partition
    install = InstallKey(HEADS_PARTITION, partition).encode()
    started, finished = _started(install, kept), _finished(install, kept.begin)
    walk = _Walk(partition, kept.pieces(), rows_max or INSTALL_ROWS)
    over = False
    while not over:
        walk.gather()
        with _aborted_on_error(begin()) as transaction:
            changed, over = walk.step(transaction)
            rows = dict(changed)
            if over:
                rows.update(finished)
            elif transaction.get(install) is None:
                rows.update(started)
            transaction.write(rows)
        while not _committed(transaction, commit):
            yield []
            with _aborted_on_error(begin()) as transaction:  # others' rows may have changed, not these
                transaction.write(rows)
        if over:
            kept.remove()
        yield list(changed)


@contextmanager
def _aborted_on_error(transaction: T) -> Iterator[T]:
    try:
        yield transaction
    except BaseException:
        transaction.abort()
        raise


def _committed(transaction: T, commit: Callable[[T], bool] | None) -> bool:
    if commit is not None:
        return commit(transaction)
    transaction.commit()
    return True


def _started(key: bytes, kept: Kept) -> dict[bytes, bytes]:
    state = kept.begin
    row = InstallRow(kept.name, state.index, state.term, state.voters, state.learners)
    return {key: INSTALLS.codec.encode(key, row)}


def _finished(key: bytes, state: Begin) -> dict[bytes, bytes | None]:
    group = GroupKey(HEADS_PARTITION, state.partition).encode()
    row = GroupRow(state.voters, state.learners, state.members_since, state.index, state.term)
    return {
        HeadKey(HEADS_PARTITION, state.partition).encode(): state.head,
        group: GROUPS.codec.encode(group, row),
        key: None,
    }


class _Walk:
    """Through old rows and new ones, side by side."""

    def __init__(self, partition: int, pieces: Iterator[Piece], rows_max: int) -> None:
        self._pieces = pieces
        self._rows_max = rows_max
        self._lower, self._end = partition_range(partition)
        self._new: list[tuple[bytes, bytes]] = []  # read, and not yet written
        self._bytes = 0
        self._all_read = False

    def gather(self) -> None:
        """Read new rows for one step: before its transaction is opened."""
        while not self._all_read and len(self._new) < self._rows_max and self._bytes < INSTALL_BYTES:
            piece = next(self._pieces, None)
            if piece is None:
                self._all_read = True
            elif isinstance(piece, Rows):
                self._new += zip(piece.flat[::2], piece.flat[1::2], strict=True)
                self._bytes += sum(map(len, piece.flat))

    def step(self, old_rows: Reader) -> tuple[dict[bytes, bytes | None], bool]:
        """What differs in the next stretch of keys (values to put, None to delete), and whether that was the
        last."""
        if len(self._new) > self._rows_max:
            upper = self._new[self._rows_max][0]
        elif self._all_read:
            upper = self._end
        else:
            upper = self._new[-1][0] + b"\x00"
        found = list(islice(old_rows.scan(self._lower, upper), self._rows_max + 1))
        if len(found) > self._rows_max:
            upper = found.pop()[0]
        place = bisect_left(self._new, (upper,))
        new, self._new = self._new[:place], self._new[place:]
        self._bytes = sum(len(key) + len(value) for key, value in self._new)
        old = dict(found)
        changed: dict[bytes, bytes | None] = {key: value for key, value in new if old.pop(key, None) != value}
        changed.update(dict.fromkeys(old))
        self._lower = upper
        return changed, upper == self._end


def want_same(kept: Kept, row: InstallRow) -> None:
    """Raises StateDamaged where a kept state is not the one whose install began."""
    if (kept.begin.index, kept.begin.term) != (row.index, row.term):
        raise StateDamaged(f"{kept.name} is as of {kept.begin.index}, the install began as of {row.index}")
