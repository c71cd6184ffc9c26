"""Snapshots that were received, as files: `staging/snapshots/<partition>-<random>`.

A spool is checked while it is written and synced before anything is done with it. What a start finds there
belongs to an install that was cut, which it finishes, or to nobody: then it goes. Blocking code.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cluster.keys import InstallRow
from cluster.snapshots.installing import install_pieces, unfinished_installs, want_same
from cluster.snapshots.state_stream import STATE_BYTES_MAX, Begin, Piece, StateCheck, StateDamaged, read_state
from storage.directory import sync_directory
from storage.shard import Shard, ShardDamaged

FOLDER: Final = "snapshots"  # under staging/
READ_BYTES: Final = 1 << 20  # read at once from a spool
LEFT_BYTES: Final = 64 << 20  # of disk that a spool leaves to the journal and to commits
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class SpoolFull(Exception):
    """The disk has no room for the state."""


class Spool:
    """A state on its way in. One thread at a time; ends with `finish` or `abandon`."""

    def __init__(self, folder: Path, partition: int, *, bytes_max: int = STATE_BYTES_MAX) -> None:
        """`folder` is made where there is none. Raises OSError."""
        folder.mkdir(mode=0o700, exist_ok=True)
        self._path = folder / f"{partition:05}-{os.urandom(8).hex()}"
        self._check = StateCheck(partition, bytes_max=bytes_max)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    @property
    def begin(self) -> Begin | None:
        """What the state is, as soon as it is known."""
        return self._check.begin

    @property
    def received_bytes(self) -> int:
        return self._check.received_bytes

    def write(self, data: bytes) -> None:
        """Raises StateDamaged, StateTooLarge, StateTooNew, SpoolFull; nothing but `abandon` follows."""
        self._check.feed(data)
        view = memoryview(data)
        try:
            disk = os.fstatvfs(self._fd)
            if (free := disk.f_bavail * disk.f_frsize) < LEFT_BYTES + len(data):
                raise SpoolFull(
                    f"{free} bytes free: no room for a snapshot of over {self.received_bytes} bytes"
                )
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as wrong:
            raise _named(wrong) from wrong

    def finish(self) -> "Spooled":
        """The state is whole and durable. Raises StateDamaged, SpoolFull."""
        begin = self._check.finish()
        try:
            os.fsync(self._fd)
        except OSError as wrong:
            raise _named(wrong) from wrong
        os.close(self._fd)
        self._fd = -1
        sync_directory(self._path.parent)
        return Spooled(self._path, begin)

    def abandon(self) -> None:
        """Remove the file, unless it was finished. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._path.unlink()


def _named(wrong: OSError) -> Exception:
    return SpoolFull(f"no room for a snapshot: {wrong}") if wrong.errno in _FULL else wrong


class Spooled:
    """A whole state in a file (`cluster.snapshots.installing.Kept`)."""

    def __init__(self, path: Path, begin: Begin) -> None:
        self.path = path
        self.begin = begin

    @classmethod
    def open(cls, path: Path, partition: int) -> "Spooled":
        """Raises FileNotFoundError, StateDamaged: reads all of it."""
        begin: Begin | None = None
        for piece in read_state(partition, _portions(path)):
            begin = piece if isinstance(piece, Begin) else begin
        if begin is None:
            raise StateDamaged(f"{path} is empty")
        return cls(path, begin)

    @property
    def name(self) -> str:
        return self.path.name

    def pieces(self) -> Iterator[Piece]:
        return read_state(self.begin.partition, _portions(self.path))

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _portions(path: Path) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while data := file.read(READ_BYTES):
            yield data


def finish_installs(shards: Iterable[Shard], folder: Path) -> list[int]:
    """What a start does before anything is applied: finish the installs that were cut, and remove spools that
    belong to none. Returns the partitions. Raises ShardDamaged where a spool that is needed is missing or
    damaged: then the partition's rows are of two states, and the node must be wiped and join anew."""
    finished = []
    for shard in shards:
        with shard.reading() as rows:
            unfinished = unfinished_installs(rows)
        for partition, row in sorted(unfinished.items()):
            kept = _needed(folder / row.spool, partition, row, shard)
            for _ in install_pieces(shard.begin, kept):
                continue
            finished.append(partition)
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink()
    return finished


def _needed(path: Path, partition: int, row: InstallRow, shard: Shard) -> Spooled:
    try:
        kept = Spooled.open(path, partition)
        want_same(kept, row)
    except (FileNotFoundError, StateDamaged) as wrong:
        raise ShardDamaged(
            f"{shard.path}: the rows of partition {partition} were being replaced by those of a snapshot, "
            f"which is missing or damaged: {wrong}"
        ) from wrong
    return kept
