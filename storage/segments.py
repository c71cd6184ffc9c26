"""One file of the journal: its header, its records as bytes, and the scan that tells whole from torn ones.

A segment is written once, front to back, by one run of one node. It starts with a header that nothing changes
afterwards; records follow without gaps:

    checksum u32 | length of the tail u32 | kind u8 | partition u16 | a u64 | b u64 | tail

All numbers are little-endian. The checksum is a CRC-32 over all that follows it, started from a seed that is
drawn anew for each segment, so that bytes left over from the file's earlier life (files are recycled) never
pass for records: CRC-32 is a bijection of its start value. What `a`, `b` and the tail mean depends on the
kind.

A disk may write the sectors of an unsynced write in any order and leave out any of them, but it does not
damage the neighbouring bytes that a partly rewritten sector held before (SQLite calls this powersafe
overwrite).
"""

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple
from zlib import crc32

from storage.entries import PREFIX_BYTES as PREFIX_BYTES

HEADER_BYTES = 4096  # a page of its own: no batch ever rewrites the sectors of the header
RECORD_BYTES_MAX = 16 << 20  # the tail of one record; commands are bounded far below this
WINDOW_BYTES = 1 << 20  # what a scan holds in memory at once, unless one record is longer
FORMAT_VERSION = 1

ENTRY, HARD_STATE, TRUNCATION, CHECKPOINT, MARK = 1, 2, 3, 4, 5

_MAGIC = b"HELIOJNL"
_HEADER = struct.Struct("<8sIQ8sQQ")  # magic, version, and the fields of Header
_HEADER_SUM = struct.Struct("<I")
_HEAD = struct.Struct("<IBHQQ")  # length, kind, partition, a, b
_PREFIX = struct.Struct("<IIBHQQ")  # the same with the checksum before it
assert _PREFIX.size == PREFIX_BYTES
SALT_BYTES = 8

pack_head = _HEAD.pack


class JournalDamaged(Exception):
    """Bytes that were synced are not what was written. The message names file, offset and finding."""


class Header(NamedTuple):
    sequence: int  # 1, 2, 3, … without gaps
    salt: bytes  # SALT_BYTES random bytes
    oldest: int  # the oldest segment that was still needed when this one was made
    previous_end: int  # bytes of the previous segment that are law; 0 if there is none

    @property
    def seed(self) -> int:
        return crc32(self.salt)

    def encode(self) -> bytes:
        packed = _HEADER.pack(_MAGIC, FORMAT_VERSION, *self)
        return (packed + _HEADER_SUM.pack(crc32(packed))).ljust(HEADER_BYTES, b"\0")


class Row(NamedTuple):
    """One record as it stands in a segment, its meaning not yet read."""

    offset: int
    kind: int
    partition: int
    a: int
    b: int
    tail: bytes


def read_header(fd: int, name: str) -> Header:
    """Headers are synced before the file gets its name, so a bad one is damage. Raises JournalDamaged."""
    raw = os.pread(fd, _HEADER.size + _HEADER_SUM.size, 0)
    packed = raw[: _HEADER.size]
    if len(raw) < _HEADER.size + _HEADER_SUM.size or raw[_HEADER.size :] != _HEADER_SUM.pack(crc32(packed)):
        raise JournalDamaged(f"{name}, offset 0: the segment's header does not match its checksum")
    magic, version, sequence, salt, oldest, previous_end = _HEADER.unpack(packed)
    if magic != _MAGIC or version != FORMAT_VERSION:
        raise JournalDamaged(f"{name}, offset 0: magic {magic!r} version {version}, not one we can read")
    return Header(sequence, salt, oldest, previous_end)


def encode_row(seed: int, kind: int, partition: int, a: int, b: int, tail: bytes) -> bytes:
    if len(tail) > RECORD_BYTES_MAX:
        raise ValueError(f"a record of {len(tail)} bytes; at most {RECORD_BYTES_MAX} are allowed")
    head = pack_head(len(tail), kind, partition, a, b)
    return crc32(tail, crc32(head, seed)).to_bytes(4, "little") + head + tail


class Scan:
    """Iterates over the whole records of one segment between two offsets, in bounded memory.

    It ends at the first byte sequence that is no record. Then `position` is where that starts, and `finding`
    says what is wrong with it (empty if the scan ended exactly at `end`).
    """

    def __init__(
        self, fd: int, seed: int, *, start: int = HEADER_BYTES, end: int, window_bytes: int = 0
    ) -> None:
        self._fd = fd
        self._window_bytes = window_bytes or WINDOW_BYTES
        self._seed = seed
        self._end = end
        self.position = start
        self.finding = ""

    def __iter__(self) -> Iterator[Row]:
        window, base = b"", self.position
        unpack, seed = _PREFIX.unpack_from, self._seed
        while self.position < self._end:
            at = self.position - base
            if len(window) - at < PREFIX_BYTES:
                window, base, at = self._load(self._window_bytes), self.position, 0
                if len(window) < PREFIX_BYTES:
                    self.finding = f"{len(window)} bytes left, too few for a record"
                    return
            checksum, length, kind, partition, a, b = unpack(window, at)
            if not ENTRY <= kind <= MARK or length > RECORD_BYTES_MAX:
                self.finding = f"no record: kind {kind}, length {length}"
                return
            whole = PREFIX_BYTES + length
            if len(window) - at < whole:
                window, base, at = self._load(max(whole, self._window_bytes)), self.position, 0
                if len(window) < whole:
                    self.finding = f"a record of {whole} bytes where {len(window)} are left"
                    return
            if crc32(window[at + 4 : at + whole], seed) != checksum:
                self.finding = f"a record of kind {kind} and {whole} bytes does not match its checksum"
                return
            row = Row(self.position, kind, partition, a, b, window[at + PREFIX_BYTES : at + whole])
            self.position += whole
            yield row

    def _load(self, length: int) -> bytes:
        return os.pread(self._fd, min(length, self._end - self.position), self.position)


def mark_after(fd: int, header: Header, *, start: int, end: int) -> int | None:
    """The offset of a synced mark of this segment at or after `start`, or None.

    A mark is written only when all before it is synced, so one that stands behind a bad record proves that
    the bad record was good once. It carries the segment's salt and its own offset, and so can be found
    without the records that lead to it.
    """
    whole = PREFIX_BYTES + SALT_BYTES
    at = start
    while at < end:
        window = os.pread(fd, min(WINDOW_BYTES, end - at), at)
        found = window.find(header.salt)
        while found >= 0:
            offset = at + found - PREFIX_BYTES
            if offset >= start:
                for row in Scan(fd, header.seed, start=offset, end=min(offset + whole, end)):
                    if row.kind == MARK and row.a == offset:
                        return offset
            found = window.find(header.salt, found + 1)
        if len(window) < WINDOW_BYTES:
            return None
        at += len(window) - SALT_BYTES + 1  # a salt across the edge is whole in the next window
    return None
