"""Backups: one cut of a running node (law 11), written so that a crash leaves a whole backup or none.

A destination holds many backups and each blob once:

    DEST/heliograph-backups.json      says what this is
    DEST/blobs/ab/cd/<hash>           shared by all backups here, named by their bytes
    DEST/<time>-<node>/shards/00.mdb  each shard as of the cut, compacted
                       blobs.txt      the blobs that the cut refers to: hash and size, a line each
                       cluster.secret sealed with a passphrase
                       manifest.json  what there must be, with sizes and hashes; written last

The cut: all writers pause between commits, one read transaction per shard opens, writers go on. Blobs are
immutable, so they are copied after it, those that this node lacks fetched from another; their collection
waits until the copying ends. A folder gets its name
when all in it is synced. The journal is not in it (a cut has all that was committed), nor are the node's own
keys: whoever restores a backup starts under a new identity.
"""

import fcntl
import os
import shutil
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Final

import msgspec
import trio
from blake3 import blake3

from cluster.copies.fetching import BlobUnavailable, Fetching
from cluster.keys import HEADS, HEADS_PARTITION, INSTALLS
from cluster.replicas import Replicas
from node.http.tokens import derive
from node.media.collection import Collector
from node.seal import Sealed, seal
from node.social.blobs import BLOB_PARTITIONS
from node.social.records import BLOBS
from storage.blobs import BlobDamaged, BlobMissing, Blobs
from storage.directory import DataDirectory, sync_directory, write_durably
from storage.keys import after
from storage.shard import Frozen

FORMAT_VERSION: Final = 1
MARKER: Final = "heliograph-backups.json"
MANIFEST: Final = "manifest.json"
BLOB_LIST: Final = "blobs.txt"
SECRET: Final = "cluster.secret"
UNFINISHED: Final = ".new"  # suffix of a backup that is being made
CHUNK_BYTES: Final = 1 << 20
BLOBS_AT_ONCE: Final = 32  # copied between two looks at whether somebody still wants the backup
MISSING_NAMED_MAX: Final = 1000  # of blobs that were not there; more are counted only


class BackupError(Exception):
    """The world's fault: a place that cannot be used, a backup that is damaged, a wrong passphrase."""


class FileEntry(msgspec.Struct, frozen=True):
    path: str  # within the backup's folder
    size: int
    blake3: str


class Manifest(msgspec.Struct, frozen=True):
    format: int
    node_id: str
    cluster: str  # tells clusters apart; says nothing of the secret
    began: str  # RFC 3339, UTC
    ended: str
    shard_count: int
    partition_count: int
    applied: dict[str, int]  # partition → index of the last command in the cut
    blobs: int
    blob_bytes: int
    missing: tuple[str, ...]  # blobs that the cut refers to and no node had whole
    missing_count: int
    files: tuple[FileEntry, ...]


class Advance(msgspec.Struct, frozen=True, tag="advance"):
    """How far it is."""

    what: str  # "shards" | "blobs"
    done: int
    total: int


class Made(msgspec.Struct, frozen=True, tag="made"):
    """The backup is there, whole and synced."""

    path: str
    blobs: int
    blobs_new: int
    bytes_new: int  # written by this backup
    missing_count: int
    seconds: float


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """It could not be made; nothing of it is left but blobs, for the next one."""

    reason: str


BackupLine = Advance | Made | Failed  # what a node answers while it makes a backup


class _Blob(msgspec.Struct, frozen=True):
    digest: bytes
    size: int


async def create(
    replicas: Replicas,
    blobs: Blobs,
    collector: Collector,
    fetching: Fetching,
    directory: DataDirectory,
    destination: Path,
    secret: bytes,
    passphrase: str,
) -> AsyncGenerator[Advance | Made, None]:
    """Make a backup in `destination`; to be iterated to its end, and closed wherever one leaves it.

    Memory is bounded, whatever the node holds. Raises BackupError, OSError.
    """
    began = time.time()
    with ExitStack() as held:
        place = await trio.to_thread.run_sync(_open_destination, destination, directory)
        held.callback(place.close)
        folder = await trio.to_thread.run_sync(place.begin, directory.identity.node_id, began)
        held.callback(shutil.rmtree, folder, ignore_errors=True)  # after the end it has another name
        collector.pause()
        held.callback(collector.resume)
        frozen = await replicas.freeze()
        with _closing(frozen):
            want_whole(frozen)
            files = []
            for number, shard in enumerate(frozen):
                yield Advance("shards", number, len(frozen))
                files.append(await trio.to_thread.run_sync(_copy_shard, shard, folder, number))
            applied = await trio.to_thread.run_sync(_applied, frozen)
            total = await trio.to_thread.run_sync(_list_blobs, frozen, folder)
        copied = _Copied(place.blobs)
        for batch in _batches(folder):
            yield Advance("blobs", copied.count, total)
            absent = await trio.to_thread.run_sync(copied.add, blobs, batch)
            fetched = [blob for blob in absent if await _fetched(fetching, blob)]
            lacking = await trio.to_thread.run_sync(copied.add, blobs, fetched) if fetched else []
            copied.lack([*lacking, *(blob for blob in absent if blob not in fetched)])
        await trio.to_thread.run_sync(copied.sync)
        files += [await trio.to_thread.run_sync(_hashed, folder, BLOB_LIST)]
        sealed = await trio.to_thread.run_sync(seal, secret, passphrase)
        write_durably(folder / SECRET, msgspec.json.encode(sealed))
        files += [_hashed(folder, SECRET)]
        identity = directory.identity
        manifest = Manifest(
            format=FORMAT_VERSION,
            node_id=identity.node_id,
            cluster=derive(secret, "backup").hex()[:16],
            began=_when(began),
            ended=_when(time.time()),
            shard_count=identity.shard_count,
            partition_count=identity.partition_count,
            applied={str(partition): index for partition, index in sorted(applied.items())},
            blobs=copied.count - copied.missing_count,
            blob_bytes=copied.bytes,
            missing=tuple(copied.missing),
            missing_count=copied.missing_count,
            files=tuple(files),
        )
        final = await trio.to_thread.run_sync(place.finish, folder, manifest)
        yield Made(
            str(final),
            manifest.blobs,
            copied.new,
            copied.bytes_new + sum(file.size for file in files),
            copied.missing_count,
            time.time() - began,
        )


async def _fetched(fetching: Fetching, blob: _Blob) -> bool:
    """Whether it came from another node."""
    try:
        await fetching.fetch(blob.digest)
    except (BlobMissing, BlobUnavailable):
        return False
    return True


class _Destination:
    """A locked destination."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.blobs = path / "blobs"
        self._lock = lock

    def close(self) -> None:
        os.close(self._lock)

    def begin(self, node_id: str, now: float) -> Path:
        """The folder of a new backup, without its final name."""
        for left_over in self.path.glob("*" + UNFINISHED):
            if left_over.is_dir():
                shutil.rmtree(left_over)
        stem = f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}-{node_id[:8]}"
        names = [stem, *(f"{stem}-{number}" for number in range(2, 100))]
        name = next(name for name in names if not (self.path / name).exists())
        folder = self.path / (name + UNFINISHED)
        (folder / "shards").mkdir(mode=0o700, parents=True)
        folder.chmod(0o700)
        return folder

    def finish(self, folder: Path, manifest: Manifest) -> Path:
        sync_directory(folder / "shards")
        write_durably(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        final = folder.with_name(folder.name.removesuffix(UNFINISHED))
        folder.rename(final)
        sync_directory(self.path)
        return final


def _open_destination(path: Path, directory: DataDirectory) -> _Destination:
    """Raises BackupError, OSError."""
    if not path.is_absolute():
        raise BackupError(f"{path}: a destination is an absolute path")
    if path.resolve().is_relative_to(directory.path.resolve()):
        raise BackupError(f"{path} lies in the node's data directory: what takes one would take the other")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    marker = path / MARKER
    if not marker.exists():
        strangers = sorted(entry.name for entry in path.iterdir() if entry.name not in ("lock", "lost+found"))
        if strangers:
            raise BackupError(f"{path} holds {strangers[0]} and no backups: give an empty folder")
    lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not marker.exists():
            write_durably(marker, msgspec.json.encode({"format": FORMAT_VERSION}) + b"\n")
        (path / "blobs").mkdir(mode=0o700, exist_ok=True)
    except BlockingIOError:
        os.close(lock)
        raise BackupError(f"another backup is being made in {path}") from None
    except OSError:
        os.close(lock)
        raise
    return _Destination(path, lock)


# --- shards --------------------------------------------------------------------------------------------
@contextmanager
def _closing(frozen: Sequence[Frozen]) -> Iterator[None]:
    try:
        yield
    finally:
        for shard in frozen:
            shard.close()


def _copy_shard(shard: Frozen, folder: Path, number: int) -> FileEntry:
    name = f"shards/{number:02}.mdb"
    with open(folder / name, "xb", opener=_private) as file:
        shard.copy_to(file.fileno())
        os.fsync(file.fileno())
    return _hashed(folder, name)


def want_whole(frozen: Sequence[Frozen]) -> None:
    """Raises BackupError while a snapshot replaces the rows of a partition: the cut would have half of it."""
    prefix = INSTALLS.key.prefix(HEADS_PARTITION)
    for shard in frozen:
        for key, _ in shard.scan(prefix, after(prefix)):
            number = INSTALLS.key.decode(key).of
            raise BackupError(
                f"partition {number} is getting its state from another node: try again in a while"
            )


def _applied(frozen: Sequence[Frozen]) -> dict[int, int]:
    """The index of each partition's last command in the cut."""
    prefix = HEADS.key.prefix(HEADS_PARTITION)
    return {
        HEADS.key.decode(key).of: HEADS.codec.decode(key, value).applied
        for shard in frozen
        for key, value in shard.scan(prefix, after(prefix))
    }


def _list_blobs(frozen: Sequence[Frozen], folder: Path) -> int:
    """Write the list of blobs that some medium refers to; their number. Read first and copied later, so that
    no read transaction stays open for hours."""
    count = 0
    with open(folder / BLOB_LIST, "x", opener=_private) as file:
        for partition in range(BLOB_PARTITIONS):
            prefix = BLOBS.key.prefix(partition)
            for key, value in frozen[partition & (len(frozen) - 1)].scan(prefix, after(prefix)):
                blob = BLOBS.codec.decode(key, value)
                if blob.references:
                    file.write(f"{BLOBS.key.decode(key).hash.hex()} {blob.size}\n")
                    count += 1
        file.flush()
        os.fsync(file.fileno())
    return count


# --- blobs ---------------------------------------------------------------------------------------------
def listed(folder: Path) -> Iterator[tuple[bytes, int]]:
    """Hash and size of each blob of a backup. Raises BackupError."""
    with open(folder / BLOB_LIST, encoding="ascii") as file:
        for line in file:
            name, _, size = line.strip().partition(" ")
            if len(name) != 64 or not size.isdecimal():
                raise BackupError(f"{folder / BLOB_LIST}: {line[:80]!r} is no hash and size")
            yield bytes.fromhex(name), int(size)


def blob_path(blobs: Path, digest: bytes) -> Path:
    name = digest.hex()
    return blobs / name[:2] / name[2:4] / name


def _batches(folder: Path) -> Iterator[list[_Blob]]:
    batch: list[_Blob] = []
    for digest, size in listed(folder):
        batch.append(_Blob(digest, size))
        if len(batch) == BLOBS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


class _Copied:
    """The blobs of the destination, while a backup adds what is not there yet."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: set[Path] = set()  # to be synced; at most 65,793
        self.count = self.bytes = self.new = self.bytes_new = self.missing_count = 0
        self.missing: list[str] = []

    def add(self, blobs: Blobs, batch: list[_Blob]) -> list[_Blob]:
        """Those that are not here, or not whole."""
        absent: list[_Blob] = []
        for blob in batch:
            target = blob_path(self._root, blob.digest)
            try:
                if not _has(target, blob.size):
                    size = self._copy(blobs, blob.digest, target)
                    self.new += 1
                    self.bytes_new += size
                self.bytes += blob.size
                self.count += 1
            except (BlobMissing, BlobDamaged):
                absent.append(blob)
        return absent

    def lack(self, absent: list[_Blob]) -> None:
        """No node gave these."""
        self.count += len(absent)
        self.missing_count += len(absent)
        names = [blob.digest.hex() for blob in absent]
        self.missing += names[: MISSING_NAMED_MAX - len(self.missing)]

    def _copy(self, blobs: Blobs, digest: bytes, target: Path) -> int:
        """The bytes are hashed again on their way out: what is written is what its name says."""
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = target.with_name(target.name + UNFINISHED)
        with blobs.open(digest) as source, open(new, "wb", opener=_private) as copy:
            actual, size = _pass_on(source, copy.write)
            copy.flush()
            os.fsync(copy.fileno())
        if actual != digest:
            raise BlobDamaged(f"blob {digest.hex()} changed while it was read")
        new.rename(target)
        self._folders |= {target.parent, target.parent.parent, self._root}
        return size

    def sync(self) -> None:
        for folder in sorted(self._folders):
            sync_directory(folder)


def _has(path: Path, size: int) -> bool:
    """Whether an earlier backup has copied the blob: it got its name when all its bytes were synced. Whether
    they still are as they were is what `verify` asks."""
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


# --- files ---------------------------------------------------------------------------------------------
def read_manifest(folder: Path) -> Manifest:
    """Raises BackupError for what is no backup of a known format."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise BackupError(f"{folder} is no backup: it has no {MANIFEST}") from None
    except msgspec.DecodeError as wrong:
        raise BackupError(f"{folder / MANIFEST} cannot be read: {wrong}") from wrong
    if manifest.format > FORMAT_VERSION:
        raise BackupError(f"{folder} has format {manifest.format}; this program knows up to {FORMAT_VERSION}")
    return manifest


def read_sealed(folder: Path) -> Sealed:
    """Raises BackupError."""
    try:
        return msgspec.json.decode((folder / SECRET).read_bytes(), type=Sealed)
    except (OSError, msgspec.DecodeError) as wrong:
        raise BackupError(f"{folder / SECRET} cannot be read: {wrong}") from wrong


def backups_in(destination: Path) -> list[Path]:
    """The folders of all whole backups there, oldest first."""
    return sorted(entry for entry in destination.iterdir() if (entry / MANIFEST).is_file())


def hash_file(path: Path) -> tuple[bytes, int]:
    """BLAKE3 and size. Raises OSError."""
    with FileIO(path) as file:
        return _pass_on(file, None)


def _pass_on(source: FileIO, write: object) -> tuple[bytes, int]:
    state, size = blake3(), 0
    while chunk := source.read(CHUNK_BYTES):
        if callable(write):
            write(chunk)
        state.update(chunk)
        size += len(chunk)
    return state.digest(), size


def _hashed(folder: Path, name: str) -> FileEntry:
    digest, size = hash_file(folder / name)
    return FileEntry(name, size, digest.hex())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
