"""Blobs: immutable files named by their BLAKE3 hash, `ab/cd/<hash>.<index>`.

The index is that of the `Reserve` command that put the file there. A later `Collect` may remove only a file
with a lower index, so a file put there again after the collection was decided stays. The index stands in the
name, not in an extended attribute or a file beside it: raising it is one atomic rename, and it survives every
crash, every kind of backup and every file system. (The price is a look into a directory, a few entries long,
to find a file whose index is not remembered.)

A file is durable when `place` returns: bytes synced, renamed from the staging area, and its directories
synced, the newly made ones too. No bytes are handed out before this process has read them and found that they
match their hash.

Thread-safe, blocking. Names come from 32-byte digests only, so no input can point elsewhere.
"""

import errno
import math
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import msgspec
from blake3 import blake3

DIGEST_BYTES = 32
READ_BYTES = 1 << 20  # per read while verifying
VERIFIED_MAX = 65_536  # digests remembered as verified: some 15 MB
LEAVES = 1 << 16  # directories ab/cd
_LOCKS = 256  # leaves share locks; more threads than this never work on blobs at once


class BlobMissing(Exception):
    """There is no such blob here."""


class BlobDamaged(Exception):
    """The file's bytes did not match its name. It was moved to quarantine; another copy must be fetched."""


class BlobMismatch(Exception):
    """The bytes to be placed do not have the hash that was named: the sender's fault. Nothing was placed."""


class BlobTooLarge(Exception):
    """More bytes than the upload was allowed."""


class BlobsFull(Exception):
    """The disk or quota of the file system has no room. Nothing was placed."""


class BlobsFailed(Exception):
    """A sync failed: nobody knows what the disk holds. The process must exit; nothing more is placed."""


class BlobEntry(NamedTuple):
    digest: bytes  # DIGEST_BYTES
    size: int  # bytes
    reserve_index: int


class BlobStatistics(msgspec.Struct, frozen=True):
    blobs: int  # in the leaves that are counted, see `Blobs.count`
    bytes: int
    counted: bool  # whether all leaves are
    staged: int  # uploads begun and neither placed nor abandoned, by this process
    verified: int  # digests remembered as verified
    damaged: int  # files found damaged, by this process
    foreign: int  # names found that are no blob's, by this process


class Staged:
    """An upload on its way in: bytes are counted and hashed as they are written. For one thread at a time."""

    def __init__(self, blobs: "Blobs", path: Path, bytes_max: int) -> None:
        self.path = path
        self._blobs = blobs
        self._bytes_max = bytes_max
        self._hash = blake3()
        self._size = 0
        self._digest: bytes | None = None
        self._file: FileIO | None = FileIO(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w"
        )

    def write(self, chunk: bytes | bytearray | memoryview) -> int:
        """Append a chunk. Returns the size so far. Raises BlobTooLarge or BlobsFull; then `abandon`."""
        if self._file is None:
            raise ValueError("the upload is finished or abandoned")
        if self._size + len(chunk) > self._bytes_max:
            raise BlobTooLarge(f"more than {self._bytes_max} bytes")
        view = memoryview(chunk)
        with _room():
            while view:
                view = view[self._file.write(view) :]
        self._hash.update(chunk)
        self._size += len(chunk)
        return self._size

    def finish(self) -> tuple[bytes, int]:
        """No more bytes follow: sync them. Returns digest and size in bytes. May be called again.

        Raises BlobsFull, and the bytes are gone; BlobsFailed.
        """
        if self._file is not None:
            file, self._file = self._file, None
            with file:
                self._blobs._sync_file(file, self.path)
            self._digest = self._hash.digest()
        if self._digest is None:
            raise ValueError("the upload was abandoned")
        return self._digest, self._size

    def abandon(self) -> None:
        """Forget the upload and its bytes. Does nothing once it was placed. May be called again."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._digest = None
        self._blobs._forget_staged(self.path)


class Blobs:
    """The blobs of one node. `root`, `staging` and `quarantine` exist, on one file system."""

    def __init__(self, root: Path, staging: Path, quarantine: Path) -> None:
        self._root = root
        self._root_name = str(
            root
        )  # for the one path that is asked for often: a Path costs as much as its file
        self._staging = staging
        self._quarantine = quarantine
        self._locks = tuple(threading.Lock() for _ in range(_LOCKS))
        self._state = threading.Lock()  # guards all that follows; held for moments
        self._durable_leaves = bytearray(LEAVES)  # 1: the leaf's name is synced in its parents
        self._durable_parents = bytearray(256)  # 1: the name of ab is synced in the root
        self._counted_leaves = bytearray(LEAVES)
        self._verified: OrderedDict[bytes, int] = OrderedDict()  # with the index their file had
        self._staged: set[Path] = set()
        self._blobs = self._bytes = self._damaged = self._foreign = 0
        self._counted = False
        self._failed = ""
        self.sweep_staging(before=math.inf)

    # --- coming in ---

    def stage(self, bytes_max: int) -> Staged:
        """Begin an upload of at most `bytes_max` bytes. Raises BlobsFull."""
        path = self._staging / secrets.token_hex(16)
        with _room():
            staged = Staged(self, path, bytes_max)
        with self._state:
            self._staged.add(path)
        return staged

    def sweep_staging(self, *, before: float) -> int:
        """Remove what nobody wrote to since `before` (Unix time, seconds). Returns how many files went.
        Folders belong to others, who sweep them."""
        swept = 0
        for entry in [entry for entry in os.scandir(self._staging) if not entry.is_dir()]:
            with suppress(FileNotFoundError):  # placed or abandoned meanwhile
                if entry.stat(follow_symlinks=False).st_mtime < before:
                    os.unlink(entry.path)
                    swept += 1
        return swept

    def place(self, source: Staged | Path, digest: bytes, reserve_index: int) -> int:
        """Put bytes in their place, durably, for the `Reserve` at that index. Returns their size.

        `source` is consumed: an upload, or a file on the same file system that nobody writes to. If the blob
        is there already and right, its index is raised to `reserve_index` if that is higher; if it is there
        and damaged, it is quarantined first. Raises BlobMismatch, BlobsFull, BlobsFailed.
        """
        path = source.path if isinstance(source, Staged) else source
        actual, size = source.finish() if isinstance(source, Staged) else self._hash_and_sync(source)
        if actual != digest:
            raise BlobMismatch(f"the bytes have the hash {actual.hex()}, not {digest.hex()}")
        intact = self._intact(digest)
        with self._locked(digest):
            leaf = self._make_leaf(digest)
            there = self._all(digest)
            index = max([reserve_index, *map(_index, there)])
            target = leaf / _name(digest, index)
            if there and intact:
                max(there, key=_index).rename(target)
            else:
                sizes = [other.stat().st_size for other in there]
                with _room():
                    path.rename(target)
                for other in there:  # appeared since, unread; these bytes are right
                    if other != target:
                        other.unlink()
                self._count_change(digest, 1 - len(there), size - sum(sizes))
            self._sync_directory(leaf)
        self._forget_staged(path)
        return size

    def raise_index(self, digest: bytes, reserve_index: int) -> bool:
        """Whether the blob is here and right. Then its index is at least `reserve_index`, durably, as if it
        had been put there again. Raises BlobsFull, BlobsFailed.
        """
        if not self._intact(digest):
            return False
        with self._locked(digest):
            found = self._find(digest)
            if found is None:
                return False
            leaf = self._make_leaf(digest)
            if _index(found) < reserve_index:
                found.rename(leaf / _name(digest, reserve_index))
            self._sync_directory(leaf)  # whoever gave it its name may have died before this
        return True

    def _hash_and_sync(self, path: Path) -> tuple[bytes, int]:
        with _opened(path) as file:
            self._sync_file(file, path)
            return _hash(file)

    def _intact(self, digest: bytes) -> bool:
        """Whether the blob is there and right; a damaged one is quarantined on the way."""
        try:
            self.open(digest).close()
        except (BlobMissing, BlobDamaged):
            return False
        return True

    def _make_leaf(self, digest: bytes) -> Path:
        """The directory ab/cd, durable under its name whoever made it."""
        leaf = self._leaf(digest)
        number = _leaf_number(digest)
        if not self._durable_leaves[number]:
            with _room():
                leaf.parent.mkdir(mode=0o700, exist_ok=True)
                if not leaf.is_dir():
                    leaf.mkdir(mode=0o700)
                    self._counted_leaves[number] = 1  # it is empty, and from here on each change is counted
            self._sync_directory(leaf.parent)
            if not self._durable_parents[digest[0]]:
                self._sync_directory(self._root)
                self._durable_parents[digest[0]] = 1
            self._durable_leaves[number] = 1
        return leaf

    def _forget_staged(self, path: Path) -> None:
        with suppress(FileNotFoundError):  # placed, or swept
            path.unlink()
        with self._state:
            self._staged.discard(path)

    # --- going out ---

    def open(self, digest: bytes) -> FileIO:
        """The blob's bytes, verified by this process, at their start. The caller closes the file.

        The first open of a blob reads it whole (1.5 ms for 8 MB). Raises BlobMissing, or BlobDamaged after
        moving the file to quarantine.
        """
        file = self._open_remembered(digest)
        if file is not None:
            return file
        file, index = self._open_unverified(digest)
        try:
            with self._state:
                known = digest in self._verified
                if known:
                    self._verified[digest] = index
            if not known:
                self._verify_open(digest, file, index)
                file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def _open_remembered(self, digest: bytes) -> FileIO | None:
        """The file under the name it had when it was verified: no lock and no search, for no other bytes than
        those that were verified or placed ever get that name."""
        with self._state:
            index = self._verified.get(digest)
            if index is None:
                return None
            self._verified.move_to_end(digest)
        try:
            name = _name(digest, index)
            return _opened(f"{self._root_name}/{name[:2]}/{name[2:4]}/{name}")
        except FileNotFoundError:  # its index was raised since, or it is gone
            return None

    def known_good(self, digest: bytes) -> bool:
        """Whether `open` would spare itself the reading, since this process has verified the bytes."""
        with self._state:
            return digest in self._verified

    def link(self, digest: bytes, target: Path) -> None:
        """Give the verified blob a second name, `target`, for a process that reads it by path. The caller
        unlinks it. Raises BlobMissing, or BlobDamaged after moving the file to quarantine.
        """
        self.open(digest).close()
        with self._locked(digest):
            path = self._find(digest)
            if path is None:
                raise BlobMissing(f"blob {digest.hex()} is not here")
            os.link(path, target)

    def size(self, digest: bytes) -> int:
        """In bytes. Raises BlobMissing."""
        with self._open_unverified(digest)[0] as file:
            return os.fstat(file.fileno()).st_size

    def reserve_index(self, digest: bytes) -> int:
        """Raises BlobMissing."""
        with self._locked(digest):
            found = self._find(digest)
        if found is None:
            raise BlobMissing(f"no blob {digest.hex()}")
        return _index(found)

    def verify(self, digest: bytes) -> int:
        """Read the blob again whatever is remembered of it (the scrub). Returns its size in bytes. It is not
        remembered as verified for it, or a scrub would push out those that are asked for.

        Raises BlobMissing, or BlobDamaged after moving the file to quarantine.
        """
        file, _ = self._open_unverified(digest)
        with file:
            return self._want_intact(digest, file)

    def _open_unverified(self, digest: bytes) -> tuple[FileIO, int]:
        """The file and its index."""
        with self._locked(digest):
            found = self._find(digest)
            if found is None:
                raise BlobMissing(f"no blob {digest.hex()}")
            return _opened(found), _index(found)

    def _verify_open(self, digest: bytes, file: FileIO, index: int) -> None:
        self._want_intact(digest, file)
        with self._state:
            self._verified[digest] = index
            self._verified.move_to_end(digest)
            if len(self._verified) > VERIFIED_MAX:
                self._verified.popitem(last=False)

    def _want_intact(self, digest: bytes, file: FileIO) -> int:
        """Read all of it; its size. Raises BlobDamaged after moving the file to quarantine."""
        try:
            actual, size = _hash(file)
            found = f"its {size} bytes have the hash {actual.hex()}"
        except OSError as wrong:
            if wrong.errno != errno.EIO:
                raise
            actual, found = b"", f"it cannot be read: {wrong}"  # the disk has lost a part of it
        if actual != digest:
            with self._state:
                self._damaged += 1
            with suppress(BlobMissing):  # another thread found the same
                self._quarantine_file(digest, os.fstat(file.fileno()).st_ino)
            raise BlobDamaged(f"blob {digest.hex()}: {found}")
        return size

    # --- going away ---

    def quarantine(self, digest: bytes) -> Path:
        """Take the file out of service and keep it for inspection. Returns where. Raises BlobMissing."""
        return self._quarantine_file(digest, None)

    def _quarantine_file(self, digest: bytes, inode: int | None) -> Path:
        with self._locked(digest):
            found = self._find(digest)
            if found is None or inode not in (None, found.stat().st_ino):
                raise BlobMissing(f"no blob {digest.hex()}, or another file by now")
            target = self._quarantine / f"{found.name}.{secrets.token_hex(4)}"
            self._count_change(digest, -1, -found.stat().st_size)
            self._forget_verified(digest)
            found.rename(target)
            self._sync_directory(self._quarantine)
            self._sync_directory(found.parent)
        return target

    def unlink(self, digest: bytes, collect_index: int) -> bool:
        """Remove the blob if its `Reserve` came before the `Collect` at that index. Returns if it did."""
        with self._locked(digest):
            found = self._find(digest)
            if found is None or _index(found) >= collect_index:
                return False
            self._count_change(digest, -1, -found.stat().st_size)
            self._forget_verified(digest)
            found.unlink()
            self._sync_directory(found.parent)
        return True

    # --- what is there ---

    def iterate(self, after: bytes = b"") -> Iterator[BlobEntry]:
        """All blobs with a digest above `after`, in order. One that is placed meanwhile may be missed."""
        for leaf in self._leaves(after):
            names = [entry.name for entry in os.scandir(leaf)]
            digests = {digest for name in names if (digest := _digest(name))}
            with self._state:
                self._foreign += sum(not _digest(name) for name in names)
            for digest in sorted(digests):
                if digest > after and (entry := self._entry(digest)):
                    yield entry

    def indexes(self, digests: Sequence[bytes]) -> list[int]:
        """The index of each of these blobs, 0 where there is none. Cheapest for digests in order: one look
        into each directory. One that is placed or raised meanwhile may be missed."""
        found: dict[bytes, int] = {}
        looked: Path | None = None
        for digest in digests:
            leaf = self._leaf(digest)
            if leaf != looked:
                looked = leaf
                with suppress(FileNotFoundError):
                    for entry in os.scandir(leaf):
                        if there := _digest(entry.name):
                            found[there] = max(found.get(there, 0), int(entry.name.rpartition(".")[2], 16))
        return [found.get(digest, 0) for digest in digests]

    def _entry(self, digest: bytes) -> BlobEntry | None:
        with self._locked(digest):
            found = self._find(digest)
            return BlobEntry(digest, found.stat().st_size, _index(found)) if found else None

    def count(self) -> None:
        """Bring `statistics` up to what the disk holds. Walks all files: for a thread, after start."""
        for leaf in self._leaves(b""):
            prefix = bytes.fromhex(leaf.parent.name + leaf.name)
            with self._locked(prefix):
                sizes = [path.stat().st_size for path in leaf.iterdir() if _digest(path.name)]
                with self._state:
                    if not self._counted_leaves[_leaf_number(prefix)]:
                        self._counted_leaves[_leaf_number(prefix)] = 1
                        self._blobs += len(sizes)
                        self._bytes += sum(sizes)
        self._counted = True

    def statistics(self) -> BlobStatistics:
        with self._state:
            return BlobStatistics(
                blobs=self._blobs,
                bytes=self._bytes,
                counted=self._counted,
                staged=len(self._staged),
                verified=len(self._verified),
                damaged=self._damaged,
                foreign=self._foreign,
            )

    def _count_change(self, digest: bytes, blobs: int, size: int) -> None:
        with self._state:
            if self._counted_leaves[_leaf_number(digest)]:
                self._blobs += blobs
                self._bytes += size

    def _forget_verified(self, digest: bytes) -> None:
        with self._state:
            self._verified.pop(digest, None)

    # --- where it is ---

    def _leaf(self, digest: bytes) -> Path:
        if len(digest) != DIGEST_BYTES:
            raise ValueError(f"a digest of {len(digest)} bytes; it has {DIGEST_BYTES}")
        name = digest.hex()
        return self._root / name[:2] / name[2:4]

    def _all(self, digest: bytes) -> list[Path]:
        start = digest.hex() + "."
        try:
            return [
                Path(entry.path) for entry in os.scandir(self._leaf(digest)) if entry.name.startswith(start)
            ]
        except FileNotFoundError:
            return []

    def _find(self, digest: bytes) -> Path | None:
        """The blob's file. The caller holds the lock of its leaf."""
        return max(self._all(digest), key=_index, default=None)

    def _leaves(self, after: bytes) -> Iterator[Path]:
        name = after.hex()
        for middle in sorted(self._root.iterdir()):
            if _is_hex(middle.name, 2) and middle.name >= name[:2]:
                for leaf in sorted(middle.iterdir()):
                    if _is_hex(leaf.name, 2) and middle.name + leaf.name >= name[:4]:
                        yield leaf

    @contextmanager
    def _locked(self, digest: bytes) -> Iterator[None]:
        with self._locks[_leaf_number(digest) % _LOCKS]:
            yield

    # --- syncing: one that failed may claim success the next time, so the first failure is the last ---

    def _sync_file(self, file: FileIO, path: Path) -> None:
        try:
            self._sync(file.fileno())
        except BlobsFull:
            path.unlink()  # the kernel has dropped bytes of it: nobody may try again with this file
            raise

    def _sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._sync(fd)
        finally:
            os.close(fd)

    def check(self) -> None:
        """Raises BlobsFailed once a sync has failed."""
        if self._failed:
            raise BlobsFailed(self._failed)

    def _sync(self, fd: int) -> None:
        self.check()
        try:
            with _room():
                os.fsync(fd)
        except OSError as wrong:
            self._failed = f"a sync of blobs failed and the process must exit: {wrong}"
            raise BlobsFailed(self._failed) from wrong


def _leaf_number(digest: bytes) -> int:
    return digest[0] << 8 | digest[1]


def _name(digest: bytes, reserve_index: int) -> str:
    return f"{digest.hex()}.{reserve_index:016x}"


def _index(path: Path) -> int:
    return int(path.name.rpartition(".")[2], 16)


def _digest(name: str) -> bytes | None:
    digest, dot, index = name.partition(".")
    if dot and _is_hex(digest, 2 * DIGEST_BYTES) and _is_hex(index, 16):
        return bytes.fromhex(digest)
    return None


def _is_hex(text: str, length: int) -> bool:
    return len(text) == length and all(letter in "0123456789abcdef" for letter in text)


def _hash(file: FileIO) -> tuple[bytes, int]:
    digest, size = blake3(), 0
    while chunk := file.read(READ_BYTES):
        digest.update(chunk)
        size += len(chunk)
    return digest.digest(), size


def _opened(path: Path | str) -> FileIO:
    return FileIO(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "r")


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as wrong:
        if wrong.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BlobsFull(str(wrong)) from wrong
        raise
