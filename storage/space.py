"""Room on disk: when to refuse writes, so that reads and deletes go on whatever happens.

Two soft limits: a quota on what the node itself uses, and a reserve of free disk that it leaves alone. Past
either, commands that add data are refused before they enter the log. Deleting needs room too (a journal
segment, pages of an LMDB commit), so the node also holds a reserve file, which it gives up when others have
filled the disk to the brim, and takes back later.
"""

import errno
import os
from pathlib import Path

import msgspec

RESUME_SHARE = 0.02  # a limit once passed counts as passed until there is this share of it to spare
RESERVE_FILE_BYTES = 256 << 20  # two journal segments and some large LMDB commits
BRIM_BYTES = 32 << 20  # with less free than this the reserve file is given up


class SpaceLimits(msgspec.Struct, frozen=True):
    quota_bytes: int | None  # what the node may use; None: as much as there is
    reserve_bytes: int  # disk to be left free


class Room(msgspec.Struct, frozen=True, tag=True):
    """Writes are welcome."""


class Full(msgspec.Struct, frozen=True, tag=True):
    """Writes are refused."""

    reason: str


Verdict = Room | Full


class DiskSpace(msgspec.Struct, frozen=True):
    total_bytes: int
    free_bytes: int  # to a user without privileges


def judge(before: Verdict, used_bytes: int, free_bytes: int, limits: SpaceLimits) -> Verdict:
    """The verdict that follows `before`. Once full, more than the limit itself must be free again."""
    slack = RESUME_SHARE if isinstance(before, Full) else 0.0
    if limits.quota_bytes is not None and used_bytes >= limits.quota_bytes * (1 - slack):
        return Full(f"{used_bytes} bytes used of a quota of {limits.quota_bytes}")
    if free_bytes < limits.reserve_bytes * (1 + slack):
        return Full(
            f"{free_bytes} bytes free on the disk, of which {limits.reserve_bytes} are kept in reserve"
        )
    return Room()


def measure(path: Path) -> DiskSpace:
    """What the file system under `path` has."""
    found = os.statvfs(path)
    return DiskSpace(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def give_up_reserve(path: Path, wanted_bytes: int) -> None:
    """Remove the reserve file where less is free than wanted: at a start, which needs room before anybody
    watches."""
    if path.exists() and measure(path.parent).free_bytes < wanted_bytes:
        path.unlink()


class ReserveFile:
    """A file that only takes up room. Owned by one thread; blocking."""

    def __init__(self, path: Path, size: int = RESERVE_FILE_BYTES) -> None:
        self._path = path
        self._size = size

    @property
    def held(self) -> bool:
        try:
            return self._path.stat().st_size >= self._size
        except FileNotFoundError:
            return False

    def available(self, free_bytes: int) -> int:
        """What `judge` should count as free: not the room that the file gave up and should take back."""
        return free_bytes if self.held else max(0, free_bytes - self._size)

    def tend(self, free_bytes: int) -> bool:
        """Give the file up if the disk is full to the brim, take it back if there is room. Returns `held`."""
        held = self.held
        if held and free_bytes < BRIM_BYTES:
            self._path.unlink()
            return False
        if not held and free_bytes >= self._size + 2 * BRIM_BYTES:
            return self._take()
        return held

    def _take(self) -> bool:
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self._size)
        except OSError as wrong:
            self._path.unlink()
            if wrong.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return False
        finally:
            os.close(fd)
        return True
