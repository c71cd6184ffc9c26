"""The journal: what makes a command durable, one for all partitions of a node.

A batch of records is written in one piece and synced once (group commit). Each batch begins with a mark that
says: all before me is synced. So start-up can tell two kinds of bad bytes apart. Before the last mark they
are damage to what was promised, and start-up stops (`JournalDamaged`). After it they are the tail of a write
that never finished, and are cut. A clean `close` ends with a mark, and each start begins a new segment, whose
header is a mark for all that came before it; a file is thus written by one run only, and bytes that were cut
cannot come back.

Segments are allocated whole before they are used. Those no longer needed are kept, up to `SPARES_MAX`, and
written over: a sync of blocks that were written before costs half of one that must also record fresh blocks
(measured on ext4: 130 µs and 250 µs for 80 KB).

Blocking code, owned by one thread; `statistics` may be called from any.
"""

import errno
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import msgspec

from storage.entries import Entry as Entry  # the names by which those who write know them
from storage.entries import HardState as HardState
from storage.entries import Record as Record
from storage.entries import Truncation as Truncation
from storage.places import Places, find
from storage.segments import (
    CHECKPOINT,
    ENTRY,
    HARD_STATE,
    HEADER_BYTES,
    MARK,
    PREFIX_BYTES,
    RECORD_BYTES_MAX,
    SALT_BYTES,
    TRUNCATION,
    Header,
    Row,
    Scan,
    encode_row,
    mark_after,
    pack_head,
    read_header,
)
from storage.segments import JournalDamaged as JournalDamaged  # the name by which others know it

SEGMENT_BYTES = 64 << 20  # some 200,000 commands; a start reads a few of these
CHECKPOINT_ROOM_BYTES = (
    512 << 10
)  # kept free at a segment's end: 8,192 hard states, so a full disk can release
LEFT_FREE_BYTES_MAX = 16 << 20  # disk that a new segment leaves to commits of shards, at most
SPARES_MAX = 2  # released segments kept for use again
VOTE_BYTES = 16  # a node id
ENTRY_BYTES_USUAL = 2 << 10  # read at once where one entry is wanted; a longer one is read twice
_MARK_BYTES = PREFIX_BYTES + SALT_BYTES
_CHECKPOINTED = struct.Struct("<HQQB16s")  # partition, term, commit, 1 if there is a vote, vote
_SUFFIX, _NEW_SUFFIX, _SPARE_SUFFIX = ".log", ".new", ".spare"


class JournalFailed(Exception):
    """A write or sync failed: nobody knows what the disk holds. The process must exit; no call works now."""


class JournalFull(Exception):
    """No room for another segment. Nothing was written; the journal works on once there is room."""


class JournalStatistics(msgspec.Struct, frozen=True):
    segments: int
    bytes: int  # size of all segments, spares not counted
    spares: int
    records: int  # written by this run
    written_bytes: int  # by this run, marks included
    syncs: int  # of batches, by this run
    last_sync_s: float
    sync_s_total: float


@dataclass(slots=True)
class _Segment:
    path: Path
    header: Header
    end: int  # bytes from the start of the file that hold header and records
    size: int  # bytes of the file
    places: Places = field(default_factory=Places)


class Journal:
    """See the module. Made by `open`."""

    def __init__(self, path: Path, segment_bytes: int) -> None:
        self._path = path
        self._segment_bytes = segment_bytes
        self._room = min(CHECKPOINT_ROOM_BYTES, segment_bytes // 8)
        self._segments: list[_Segment] = []
        self._checkpoint: tuple[int, int] | None = None  # sequence and offset of the last one found at start
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._fd = -1  # of the last segment
        self._failed = ""
        self._marked = True  # nothing was written since the last mark
        self._spares: list[Path] = []
        self._records = self._written_bytes = self._syncs = 0
        self._last_sync_s = self._sync_s_total = 0.0

    @classmethod
    def open(cls, path: Path, *, segment_bytes: int = SEGMENT_BYTES) -> "Journal":
        """Make a journal in the directory `path`, or recover the one that is there.

        Reads and checks every record; cuts the tail; syncs what it found. Raises JournalDamaged if anything
        before the last mark is not as it was written, JournalFull if there is no room for a segment.
        """
        if segment_bytes < 2 * HEADER_BYTES:
            raise ValueError(f"segments of {segment_bytes} bytes; at least {2 * HEADER_BYTES} are needed")
        path.mkdir(mode=0o700, exist_ok=True)
        with _opened(path.parent) as parent:
            os.fsync(parent)
        journal = cls(path, segment_bytes)
        try:
            journal._recover()
            journal._add_segment(segment_bytes)
        except BaseException:
            journal._close_files()
            raise
        return journal

    def recovered(self) -> Iterator[Record]:
        """Every record found at start, in order; the hard states of the last checkpoint come first.

        Hard states older than that checkpoint are left out, so that for each partition the last one holds.
        To be called once, before the first write; reads the files again while it is iterated.
        """
        segments = list(self._segments[:-1])
        checkpoint = self._checkpoint or (0, 0)
        for segment in segments:
            if segment.header.sequence == checkpoint[0]:
                with _opened(segment.path) as fd:
                    row = next(iter(Scan(fd, segment.header.seed, start=checkpoint[1], end=segment.end)))
                yield from _checkpointed(row)
        for segment in segments:
            for row in _rows(segment):
                if row.kind == ENTRY:
                    yield Entry(row.partition, row.a, row.b, row.tail)
                elif row.kind == TRUNCATION:
                    yield Truncation(row.partition, row.a)
                elif row.kind == HARD_STATE and (segment.header.sequence, row.offset) > checkpoint:
                    yield HardState(row.partition, row.a, row.tail, row.b)

    def write(self, records: Sequence[Record]) -> int:
        """Append the records in one piece and sync them. Returns bytes written.

        Raises JournalFull, before anything is written, if a new segment is needed and does not fit on the
        disk; JournalFailed if the write or the sync failed, or one did earlier.
        """
        written = self._append(lambda seed: _encode(records, seed))
        self._marked = False
        segment = self._segments[-1]
        segment.places.note(records, segment.end - written + _MARK_BYTES)
        self._records += len(records)
        return written

    def make_room(self, records: int, size: int) -> None:
        """See to it that one batch of up to so many records with so many bytes of commands is not refused
        for want of room: what has been promised to others cannot be refused any more.

        Raises JournalFull, and nothing has changed; JournalFailed.
        """
        self._check_alive()
        segment = self._segments[-1]
        wanted = _MARK_BYTES + records * (PREFIX_BYTES + VOTE_BYTES) + size + self._room
        if segment.end + wanted > segment.size:
            self._add_segment(max(self._segment_bytes, HEADER_BYTES + wanted))

    def mark(self) -> int:
        """Record that all written so far is synced, so that damage to the last batch too is told from a tail.

        Worth its sync when the node has been idle for a while; `close` does the same. Returns bytes written:
        0 if nothing came since the last mark.
        """
        if self._marked:
            return 0
        written = self._append(lambda seed: b"", room=0)
        self._marked = True
        return written

    def read(self, partition: int, first: int, last: int, *, bytes_max: int | None = None) -> list[Entry]:
        """The entries of one partition that are still held, from index `first` to `last` at most.

        Ends before the first gap, so it is empty if `first` itself is gone; and before more than `bytes_max`
        of commands, but for the first entry, which comes in any case.
        """
        entries: list[Entry] = []
        size = 0
        places = [segment.places for segment in self._segments]
        with ExitStack() as opened:
            files: dict[int, int] = {}
            for number, offset in find(places, partition, first, last):
                segment = self._segments[number]
                if number not in files:
                    files[number] = opened.enter_context(_opened(segment.path))
                entry = _entry_at(segment, files[number], offset)
                size += len(entry.command)
                if entries and bytes_max is not None and size > bytes_max:
                    break
                entries.append(entry)
        return entries

    def release(
        self, passed: Callable[[int], int], hard_states: Iterable[HardState], *, keep: int = 0
    ) -> dict[int, int]:
        """Remove segments, oldest first, whose every entry has an index of at most `passed(partition)`.

        Before that, `hard_states` (all that are to be remembered) are written and synced as a checkpoint.
        The segment being written stays, and the newest `keep` of the others. Returns the partitions that had
        entries in what was removed, with the greatest index of each.
        """
        count, gone = 0, dict[int, int]()
        for segment in self._segments[: -1 - keep]:
            greatest = segment.places.greatest()
            if any(index > passed(partition) for partition, index in greatest.items()):
                break
            count += 1
            for partition, index in greatest.items():
                gone[partition] = max(index, gone.get(partition, index))
        if not count:
            return {}
        oldest = self._segments[count].header.sequence
        tail = b"".join(
            _CHECKPOINTED.pack(state.partition, state.term, state.commit, bool(state.vote), state.vote)
            for state in hard_states
        )
        states = len(tail) // _CHECKPOINTED.size
        self._append(lambda seed: encode_row(seed, CHECKPOINT, 0, oldest, states, tail), room=0)
        self._marked = False
        try:
            for segment in self._segments[:count]:
                self._remove(segment)
            os.fsync(self._directory)
        except OSError as wrong:
            raise self._fail(f"{self._path}: {wrong}") from wrong
        del self._segments[:count]
        return gone

    def statistics(self) -> JournalStatistics:
        segments = list(self._segments)
        return JournalStatistics(
            segments=len(segments),
            bytes=sum(segment.size for segment in segments),
            spares=len(self._spares),
            records=self._records,
            written_bytes=self._written_bytes,
            syncs=self._syncs,
            last_sync_s=self._last_sync_s,
            sync_s_total=self._sync_s_total,
        )

    def close(self) -> None:
        """Write a last mark, unless the journal failed, and close. May be called twice."""
        try:
            if self._fd >= 0 and not self._failed:
                with suppress(JournalFull):  # no room even for the mark: the last batch stays a tail
                    self.mark()
        finally:
            self._close_files()

    # --- writing ---

    def _append(self, encode: Callable[[int], bytes], *, room: int | None = None) -> int:
        """Write one batch, a mark and what `encode` makes with the segment's seed, and sync it.

        Takes a new segment if less than `room` bytes would be left in this one.
        """
        room = self._room if room is None else room
        self._check_alive()
        segment = self._segments[-1]
        batch = self._mark_row(segment) + encode(segment.header.seed)
        if segment.end + len(batch) + room > segment.size:
            segment = self._add_segment(max(self._segment_bytes, HEADER_BYTES + len(batch) + room))
            batch = self._mark_row(segment) + encode(segment.header.seed)
        try:
            if os.pwrite(self._fd, batch, segment.end) != len(batch):
                raise OSError(errno.ENOSPC, "a batch was written in part")
            started = time.perf_counter()
            os.fdatasync(self._fd)
        except OSError as wrong:
            raise self._fail(f"{segment.path}, offset {segment.end}: {wrong}") from wrong
        self._last_sync_s = time.perf_counter() - started
        self._sync_s_total += self._last_sync_s
        self._syncs += 1
        segment.end += len(batch)
        self._written_bytes += len(batch)
        return len(batch)

    def _check_alive(self) -> None:
        if self._failed or self._fd < 0:
            raise JournalFailed(self._failed or "the journal is closed")

    def _mark_row(self, segment: _Segment) -> bytes:
        return encode_row(segment.header.seed, MARK, 0, segment.end, self._syncs, segment.header.salt)

    def _add_segment(self, size: int) -> _Segment:
        """Make the next segment, durable under its name, and write there from now on. Raises JournalFull."""
        previous = self._segments[-1] if self._segments else None
        sequence = previous.header.sequence + 1 if previous else 1
        oldest = self._segments[0].header.sequence if previous else 1
        header = Header(sequence, os.urandom(SALT_BYTES), oldest, previous.end if previous else 0)
        path = self._path / f"{sequence:012d}{_SUFFIX}"
        spare = self._spares[-1] if self._spares and size == self._segment_bytes else None
        blank = spare or path.with_suffix(_NEW_SUFFIX)
        fd = -1
        if spare is None:
            self._want_room(size)
        try:
            fd = os.open(blank, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.posix_fallocate(fd, 0, size)
        except OSError as wrong:
            if fd >= 0:
                os.close(fd)
            if spare is None:
                blank.unlink(missing_ok=True)
            if wrong.errno in (errno.ENOSPC, errno.EDQUOT):
                raise JournalFull(f"no room for a segment of {size} bytes in {self._path}") from wrong
            raise
        try:
            os.pwrite(fd, header.encode(), 0)
            os.fsync(fd)
            os.rename(blank, path)
            os.fsync(self._directory)
        except OSError as wrong:
            os.close(fd)
            raise self._fail(f"{path}: {wrong}") from wrong
        if spare:
            self._spares.pop()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        segment = _Segment(path, header, HEADER_BYTES, size)
        self._segments.append(segment)
        return segment

    def _want_room(self, size: int) -> None:
        """Ask first: to allocate what does not fit takes, for a moment, all room that others have.

        Raises JournalFull.
        """
        disk = os.statvfs(self._directory)
        wanted = size + min(LEFT_FREE_BYTES_MAX, size // 4)
        free = disk.f_bavail * disk.f_frsize
        if free < wanted:
            raise JournalFull(
                f"{free} bytes free: no room for a segment of {size} bytes in {self._path}, and for commits"
            )

    def _remove(self, segment: _Segment) -> None:
        """Take a segment out of the journal; its blocks serve again if it has the usual size."""
        if segment.size == self._segment_bytes and len(self._spares) < SPARES_MAX:
            spare = segment.path.with_suffix(_SPARE_SUFFIX)
            segment.path.rename(spare)
            self._spares.append(spare)
        else:
            segment.path.unlink()

    def _fail(self, why: str) -> JournalFailed:
        self._failed = f"the journal failed and the process must exit: {why}"
        return JournalFailed(self._failed)

    def _close_files(self) -> None:
        for fd in (self._fd, self._directory):
            if fd >= 0:
                os.close(fd)
        self._fd = self._directory = -1

    # --- starting ---

    def _recover(self) -> None:
        for left_over in self._path.glob("*" + _NEW_SUFFIX):
            left_over.unlink()
        self._spares = sorted(self._path.glob("*" + _SPARE_SUFFIX))
        self._segments = [_read_segment(path) for path in sorted(self._path.glob("*" + _SUFFIX))]
        for before, after in zip(self._segments, self._segments[1:], strict=False):
            if after.header.sequence != before.header.sequence + 1:
                raise JournalDamaged(f"{self._path}: a gap from {before.path.name} to {after.path.name}")
        oldest = max((segment.header.oldest for segment in self._segments), default=1)
        for position, segment in enumerate(self._segments):
            followed_by = self._segments[position + 1] if position + 1 < len(self._segments) else None
            oldest = max(oldest, self._check(segment, followed_by))
        if self._segments:
            if self._segments[0].header.sequence > oldest:
                raise JournalDamaged(f"{self._path}: segment {oldest} is missing")
            self._cut_tail(self._segments[-1])
            self._finish_release(oldest)

    def _check(self, segment: _Segment, followed_by: _Segment | None) -> int:
        """Read a segment whole; set its end and spans. Raises JournalDamaged.

        Returns the oldest segment that was needed after the last checkpoint in this one, or 0.
        """
        oldest = 0
        law = followed_by.header.previous_end if followed_by else 0
        with _opened(segment.path) as fd:
            scan = Scan(fd, segment.header.seed, end=law or segment.size)
            for row in scan:
                if row.kind == ENTRY:
                    segment.places.note((Entry(row.partition, row.a, row.b, b""),), row.offset)
                elif row.kind == TRUNCATION:
                    segment.places.note((Truncation(row.partition, row.a),), row.offset)
                elif row.kind == CHECKPOINT:
                    self._checkpoint = (segment.header.sequence, row.offset)
                    oldest = row.a
            segment.end = scan.position
            if not followed_by:
                law = mark_after(fd, segment.header, start=scan.position, end=segment.size) or 0
        if law > scan.position:
            raise JournalDamaged(
                f"{segment.path}, offset {scan.position}: {scan.finding or 'the file ends'}, "
                f"though all before offset {law} was synced"
            )
        return oldest

    def _finish_release(self, oldest: int) -> None:
        """Remove the segments that a release, interrupted after its checkpoint, left behind."""
        while self._segments and self._segments[0].header.sequence < oldest:
            self._remove(self._segments.pop(0))
        os.fsync(self._directory)

    def _cut_tail(self, last: _Segment) -> None:
        """Cut the last segment behind its last whole record. One without a record makes way for a new one."""
        if last.end == HEADER_BYTES:
            self._segments.pop()
            return
        with _opened(last.path, os.O_RDWR) as fd:
            os.ftruncate(fd, last.end)
            os.fsync(fd)
        last.size = last.end


def check_record(record: Record) -> None:
    """Raises ValueError for a record that a journal does not take."""
    if isinstance(record, Entry) and len(record.command) > RECORD_BYTES_MAX:
        raise ValueError(f"a command of {len(record.command)} bytes; at most {RECORD_BYTES_MAX} are allowed")
    if isinstance(record, HardState) and len(record.vote) not in (0, VOTE_BYTES):
        raise ValueError(f"a vote of {len(record.vote)} bytes; it has {VOTE_BYTES} or none")


def _encode(records: Sequence[Record], seed: int) -> bytes:
    """The hot path: no call per record but the packing and the checksum."""
    parts: list[bytes] = []
    append, pack, checksum = parts.append, pack_head, crc32
    for record in records:
        if type(record) is Entry:
            partition, term, index, tail = record
            if len(tail) > RECORD_BYTES_MAX:
                check_record(record)
            body = pack(len(tail), ENTRY, partition, term, index) + tail
            append(checksum(body, seed).to_bytes(4, "little"))
            append(body)
        elif isinstance(record, HardState):
            check_record(record)
            append(encode_row(seed, HARD_STATE, record.partition, record.term, record.commit, record.vote))
        elif isinstance(record, Truncation):
            append(encode_row(seed, TRUNCATION, record.partition, record.index, 0, b""))
        else:
            raise TypeError(f"{type(record).__name__} is no record of a journal")
    return b"".join(parts)


def _checkpointed(row: Row) -> Iterator[HardState]:
    for partition, term, commit, voted, vote in _CHECKPOINTED.iter_unpack(row.tail):
        yield HardState(partition, term, vote if voted else b"", commit)


def _read_segment(path: Path) -> _Segment:
    with _opened(path) as fd:
        header = read_header(fd, str(path))
        size = os.fstat(fd).st_size
    if path.name != f"{header.sequence:012d}{_SUFFIX}":
        raise JournalDamaged(f"{path}, offset 0: the header belongs to segment {header.sequence}")
    return _Segment(path, header, HEADER_BYTES, size)


def _rows(segment: _Segment) -> Iterator[Row]:
    """All records of a segment. Raises JournalDamaged if one that was whole is so no more."""
    with _opened(segment.path) as fd:
        scan = Scan(fd, segment.header.seed, end=segment.end)
        yield from scan
    if scan.position != segment.end:
        raise JournalDamaged(f"{segment.path}, offset {scan.position}: {scan.finding}; it was whole before")


def _entry_at(segment: _Segment, fd: int, offset: int) -> Entry:
    """Raises JournalDamaged."""
    scan = Scan(fd, segment.header.seed, start=offset, end=segment.end, window_bytes=ENTRY_BYTES_USUAL)
    for row in scan:
        if row.kind == ENTRY:
            return Entry(row.partition, row.a, row.b, row.tail)
        break
    raise JournalDamaged(
        f"{segment.path}, offset {offset}: {scan.finding or 'no entry'}; there was one before"
    )


@contextmanager
def _opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
