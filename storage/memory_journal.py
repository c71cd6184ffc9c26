"""The journal's in-memory twin: the same calls and promises, and crashes that forget what was not synced.

It stands in for `storage.journal.Journal` in simulations and tests of what is built on it. A torn write
leaves, after recovery, some of the records it began with; so tearing here works on whole records.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random

from storage.journal import (
    SEGMENT_BYTES,
    VOTE_BYTES,
    Entry,
    HardState,
    JournalFailed,
    JournalFull,
    JournalStatistics,
    Record,
    Truncation,
    check_record,
)
from storage.segments import PREFIX_BYTES, SALT_BYTES

_MARK_BYTES = PREFIX_BYTES + SALT_BYTES
_Checkpoint = tuple[HardState, ...]


class MemoryJournal:
    """See `storage.journal.Journal` for what the calls mean that are not described here."""

    def __init__(self, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._segment_bytes = segment_bytes
        self._segments: list[list[Record | _Checkpoint]] = [[]]
        self._sizes = [0]
        self._rooms = [segment_bytes]
        self._unsynced: list[Record] = []
        self._closed = False
        self._failing = False
        self.disk_full = False  # no room for another segment
        self._records = self._written_bytes = self._syncs = 0

    def recovered(self) -> Iterator[Record]:
        rows = [row for segment in self._segments for row in segment]
        checkpoint = max((at for at, row in enumerate(rows) if _is_checkpoint(row)), default=-1)
        if checkpoint >= 0:
            yield from _checkpointed(rows[checkpoint])
        for at, row in enumerate(rows):
            if isinstance(row, Entry | Truncation) or (isinstance(row, HardState) and at > checkpoint):
                yield row

    def write(self, records: Sequence[Record]) -> int:
        written = self.append(records)
        self.sync()
        return written

    def append(self, records: Sequence[Record]) -> int:
        """The first half of `write`: what is appended is lost or torn by a crash that comes before `sync`."""
        self._check_alive()
        for record in records:
            check_record(record)
        size = _MARK_BYTES + sum(map(_size, records))
        if self.disk_full:
            self._want(size + sum(map(_size, self._unsynced)))
        self._unsynced.extend(records)
        return size

    def sync(self) -> None:
        """The second half of `write`. Raises JournalFailed if `fail` was called."""
        self._check_alive()
        if self._failing:
            self._closed = True
            raise JournalFailed("the sync failed and the process must exit")
        size = _MARK_BYTES + sum(map(_size, self._unsynced))
        if self._sizes[-1] + size > self._rooms[-1] and self._segments[-1]:
            self._rotate(size)
        self._segments[-1].extend(self._unsynced)
        self._sizes[-1] += size
        self._records += len(self._unsynced)
        self._written_bytes += size
        self._syncs += 1
        self._unsynced = []

    def mark(self) -> int:
        self._check_alive()
        return 0

    def fail(self) -> None:
        """Let the next sync fail, as a broken disk would."""
        self._failing = True

    def crash(self, rng: Random) -> None:
        """The process dies and starts again: what was not synced is gone, or its first records are there."""
        kept = self._unsynced[: rng.randint(0, len(self._unsynced))]
        self._segments[-1].extend(kept)
        self._sizes[-1] += sum(map(_size, kept))
        self._unsynced = []
        self._closed = self._failing = False
        self._records = self._written_bytes = self._syncs = 0
        if self._segments[-1]:
            self._rotate(0)

    def make_room(self, records: int, size: int) -> None:
        self._check_alive()
        wanted = _MARK_BYTES + records * (PREFIX_BYTES + VOTE_BYTES) + size
        self._want(wanted)
        if self._sizes[-1] + wanted > self._rooms[-1]:
            self._rotate(wanted)

    def read(self, partition: int, first: int, last: int, *, bytes_max: int | None = None) -> list[Entry]:
        found: dict[int, Entry] = {}
        for row in (row for segment in self._segments for row in segment):
            if isinstance(row, Entry) and row.partition == partition and first <= row.index <= last:
                found[row.index] = row
            elif isinstance(row, Truncation) and row.partition == partition:
                found = {index: entry for index, entry in found.items() if index < row.index}
        entries: list[Entry] = []
        size = 0
        while (entry := found.get(first + len(entries))) is not None:
            size += len(entry.command)
            if entries and bytes_max is not None and size > bytes_max:
                break
            entries.append(entry)
        return entries

    def release(
        self, passed: Callable[[int], int], hard_states: Iterable[HardState], *, keep: int = 0
    ) -> dict[int, int]:
        self._check_alive()
        count, gone = 0, dict[int, int]()
        for segment in self._segments[: -1 - keep]:
            entries = [row for row in segment if isinstance(row, Entry)]
            if any(entry.index > passed(entry.partition) for entry in entries):
                break
            count += 1
            for entry in entries:
                gone[entry.partition] = max(entry.index, gone.get(entry.partition, entry.index))
        if count:
            self._segments[-1].append(tuple(hard_states))
            del self._segments[:count], self._sizes[:count], self._rooms[:count]
        return gone

    def statistics(self) -> JournalStatistics:
        return JournalStatistics(
            segments=len(self._segments),
            bytes=sum(self._sizes),
            spares=0,
            records=self._records,
            written_bytes=self._written_bytes,
            syncs=self._syncs,
            last_sync_s=0.0,
            sync_s_total=0.0,
        )

    def close(self) -> None:
        self._closed = True

    def _rotate(self, wanted: int) -> None:
        self._segments.append([])
        self._sizes.append(0)
        self._rooms.append(max(self._segment_bytes, wanted))

    def _want(self, size: int) -> None:
        if self.disk_full and self._sizes[-1] + size > self._rooms[-1]:
            raise JournalFull(f"no room for a segment of {max(size, self._segment_bytes)} bytes in memory")

    def _check_alive(self) -> None:
        if self._closed:
            raise JournalFailed("the journal is closed")


def _is_checkpoint(row: Record | _Checkpoint) -> bool:
    return not isinstance(row, Entry | HardState | Truncation)


def _checkpointed(row: Record | _Checkpoint) -> Iterator[HardState]:
    if not isinstance(row, Entry | HardState | Truncation):
        yield from row


def _size(record: Record) -> int:
    match record:
        case Entry():
            return PREFIX_BYTES + len(record.command)
        case HardState():
            return PREFIX_BYTES + len(record.vote)
        case _:
            return PREFIX_BYTES
