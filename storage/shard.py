"""A shard: one LMDB environment, which holds the state of many partitions. The only import of lmdb.

Write transactions belong to the shard's writer thread alone: `begin`, the writes and `commit` are called
from there. Reads may come from any thread, each through transactions of its own, and never outlive a
synchronous block: a read transaction kept across an await would let the file grow without end.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec

# 0.9 and 1.0 write files that the other cannot read; an environment stays with the one that made it.
LMDB_ENGINE: Final = 0
MAP_BYTES: Final = 256 << 30  # sparse address space, not disk: what is used is bounded by the quota
READERS_MAX: Final = 256  # slots of the reader table: threads that read at once
_DATA: Final = "data.mdb"  # as LMDB names them
_LOCK: Final = "lock.mdb"
CUT_SHORT_BYTES: Final = 1 << 20  # with less free, a commit that met EIO was cut short
META_PAGES: Final = 2  # at the start of each file
IDLE_READS_MAX: Final = 8  # read transactions that LMDB keeps for reuse


class ShardFull(Exception):
    """A commit found no room on the disk. Nothing changed; `WriteTransaction.again` is the same once more."""


class ShardDamaged(Exception):
    """The file is not, or no longer, what this node's commits left: a backup must be restored."""


# What reading and writing raise where the pages of a file make no sense.
UNREADABLE: Final = (
    *(ShardDamaged, lmdb.CorruptedError, lmdb.InvalidError),
    *(lmdb.PageNotFoundError, lmdb.VersionMismatchError),
)


def want_shards(paths: Iterable[Path], journal: Path) -> None:
    """Raise ShardDamaged if a shard is missing though there is a journal, which is made after all shards:
    a start would go on with an empty one."""
    if any(journal.glob("*.log")):
        for path in paths:
            if not (path / _DATA).exists():
                raise ShardDamaged(f"{path / _DATA} is missing")


def _make(path: Path) -> None:
    """Make an empty environment, durable under its name: LMDB itself syncs neither its first pages nor the
    names, so a power failure could leave a file that it cannot read, or none where there were commits."""
    new = path / (_DATA + ".new")
    new.unlink(missing_ok=True)
    lmdb.open(os.fspath(new), subdir=False, lock=False, lib_version=LMDB_ENGINE, mode=0o600).close()
    for name in (new, path):
        _sync(name)
    new.rename(path / _DATA)
    for name in (path, path.parent):
        _sync(name)


def _cut_short(wrong: lmdb.Error, path: Path) -> bool:
    """Whether an I/O error was a write that the full disk took in part: LMDB calls both EIO.

    A failed sync on a disk that happens to be full passes for one too. That is safe: `again` writes every
    page of the transaction anew, and those before it were synced by commits of their own.
    """
    disk = os.statvfs(path)
    return str(wrong).endswith(os.strerror(errno.EIO)) and disk.f_bavail * disk.f_frsize < CUT_SHORT_BYTES


def _fill_holes(path: Path) -> None:
    """Give a file all blocks of its size. LMDB writes to its lock file through a map: where that needs a new
    block and the disk is full, the process would die of SIGBUS."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class ShardStatistics(msgspec.Struct, frozen=True):
    map_bytes: int
    used_bytes: int  # pages ever used, times the page size
    entries: int
    commits: int


class Shard:
    """One environment. Raises lmdb.Error for what LMDB refuses: the shard must stop then, never skip."""

    def __init__(self, path: Path, *, map_bytes: int = MAP_BYTES) -> None:
        """Open the environment, or make it where there is none. Raises ShardDamaged."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (path / _DATA).exists():
            _make(path)
        elif not (path / _DATA).stat().st_size:  # LMDB would begin anew in it
            raise ShardDamaged(f"{path / _DATA} is empty")
        self.path = path
        try:
            self._environment = lmdb.open(
                os.fspath(path),
                map_size=map_bytes,
                max_readers=READERS_MAX,
                readahead=False,
                meminit=False,
                max_spare_txns=IDLE_READS_MAX,
                lib_version=LMDB_ENGINE,
                mode=0o600,
            )
        except UNREADABLE as wrong:
            raise ShardDamaged(str(wrong)) from wrong
        try:
            self._want_all_pages()
        except ShardDamaged:
            self._environment.close()
            raise
        _fill_holes(path / _LOCK)
        self._environment.reader_check()  # slots of a process that was killed
        self._rows = self._environment.open_db(None)
        self.commits = 0

    def _want_all_pages(self) -> None:
        """Refuse a file that is shorter than the pages in use: reading past its end would be a SIGBUS. One
        that lacks a few pages among many free ones passes: LMDB itself leaves pages at the end unwritten."""
        stat = self._environment.stat()
        pages = META_PAGES + stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        there = (self.path / _DATA).stat().st_size
        if there < pages * stat["psize"]:
            raise ShardDamaged(
                f"{self.path / _DATA} is cut short: {there} bytes, {pages * stat['psize']} are in use"
            )

    def begin(self) -> "WriteTransaction":
        return WriteTransaction(self, self._environment.begin(write=True, db=self._rows))

    @contextmanager
    def reading(self) -> Iterator["_Read"]:
        """A Reader of the last commit. For one synchronous block only."""
        read = self.read()
        try:
            yield read
        finally:
            read.close()

    def read(self) -> "_Read":
        return _Read(self._environment.begin(db=self._rows))

    def freeze(self) -> "Frozen":
        """A read transaction that stays open while the shard is copied: for backups, in another thread."""
        return Frozen(self._environment, self._environment.begin())

    def statistics(self) -> ShardStatistics:
        info, stat = self._environment.info(), self._environment.stat()
        used = (info["last_pgno"] + 1) * stat["psize"]
        return ShardStatistics(info["map_size"], used, stat["entries"], self.commits)

    def compact_into(self, path: Path) -> None:
        """Write a copy without free pages; `path` is an existing empty folder."""
        self._environment.copy(os.fspath(path), compact=True)

    def close(self) -> None:
        self._environment.close()


class WriteTransaction:
    """The base of an overlay. Dropped without `commit`, it changed nothing."""

    __slots__ = ("_shard", "_transaction", "_written", "get")

    def __init__(self, shard: Shard, transaction: Any) -> None:
        self._shard = shard
        self._transaction = transaction
        self._written: dict[bytes, bytes | None] = {}  # kept until the commit, for `again`
        self.get = transaction.get

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        with self._transaction.cursor() as cursor:
            return dict(cursor.getmulti(keys))

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        return _scan(self._transaction, start, stop, reverse)

    def write(self, rows: dict[bytes, bytes | None]) -> None:
        """Sorted, so that neighbours are put while their page is at hand."""
        self._written.update(rows)
        puts = []
        for key in sorted(rows):
            value = rows[key]
            if value is None:
                self._transaction.delete(key)
            else:
                puts.append((key, value))
        if puts:
            with self._transaction.cursor() as cursor:
                cursor.putmulti(puts)

    def commit(self) -> None:
        """Raises ShardFull where the disk has no room; lmdb.Error for what nobody can go on after."""
        try:
            self._transaction.commit()
        except lmdb.Error as wrong:
            if isinstance(wrong, lmdb.DiskError) or _cut_short(wrong, self._shard.path):
                raise ShardFull(f"{self._shard.path}: {wrong}") from wrong
            raise
        self._shard.commits += 1

    def again(self) -> "WriteTransaction":
        """A new transaction with all rows of this one, whose commit raised ShardFull."""
        renewed = self._shard.begin()
        renewed.write(self._written)
        return renewed

    def abort(self) -> None:
        self._transaction.abort()


class _Read:
    """A read transaction with its cursor; see `Reader` in storage/rows.py."""

    __slots__ = ("_cursor", "_transaction", "get")

    def __init__(self, transaction: Any) -> None:
        self._transaction = transaction
        self._cursor: Any = None
        self.get = transaction.get

    def close(self) -> None:
        if self._cursor is not None:
            self._cursor.close()
        self._transaction.abort()

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        return dict(self.pairs(keys))

    def pairs(self, keys: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        """The rows that exist, in the order of the keys; in order they are found a third faster."""
        if self._cursor is None:
            self._cursor = self._transaction.cursor()
        found: list[tuple[bytes, bytes]] = self._cursor.getmulti(keys)
        return found

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        return _scan(self._transaction, start, stop, reverse)


def _scan(transaction: Any, start: bytes, stop: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
    with transaction.cursor() as cursor:
        if not reverse:
            if cursor.set_range(start):
                for key, value in cursor.iternext():
                    if key >= stop:
                        return
                    yield key, value
            return
        found = cursor.prev() if cursor.set_range(stop) else cursor.last()
        if found:
            for key, value in cursor.iterprev():
                if key < start:
                    return
                yield key, value


class Frozen:
    """One commit of a shard, held while it is copied."""

    def __init__(self, environment: Any, transaction: Any) -> None:
        self._environment = environment
        self._transaction = transaction

    def copy_to(self, descriptor: int) -> None:
        self._environment.copyfd(descriptor, compact=True, txn=self._transaction)

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        return _scan(self._transaction, start, stop, False)

    def close(self) -> None:
        self._transaction.abort()


class Snapshot:
    """A Reader over all shards of a node: the key's partition says which.

    The number of shards is a power of two, so that the low byte of the partition decides. Each shard's view
    is one commit; the shards' commits are independent, as partitions are. A context manager for one
    synchronous block: no await may come between.
    """

    __slots__ = ("_mask", "_reads", "_shards")

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._mask = len(shards) - 1
        self._reads: list[_Read | None] = [None] * len(shards)

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, key: bytes) -> _Read:
        number = key[1] & self._mask
        read = self._reads[number]
        if read is None:
            read = self._reads[number] = self._shards[number].read()
        return read

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._read(key).get(key)
        return value

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        mask = self._mask
        keys = list(keys)
        found: list[tuple[bytes, bytes]] = []
        for number in range(mask + 1):
            part = [key for key in keys if key[1] & mask == number] if mask else keys
            if part:
                found += self._read(part[0]).pairs(part)
        return dict(found)

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        return self._read(start).scan(start, stop, reverse=reverse)

    def close(self) -> None:
        for read in self._reads:
            if read is not None:
                read.close()
        self._reads = [None] * len(self._shards)
