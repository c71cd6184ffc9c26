"""The data directory: what a node owns on disk, who it is, and that nobody else is in it.

    node.json     format version, node id, shard and partition count, when it was made; never changes
    cluster.json  which cluster it belongs to, or is joining; a node alone has none
    boots         how often a node was started here, raised durably by each start
    lock          held (flock) while a node runs; names its process
    reserve       room to delete in on a full disk, see storage/space.py
    journal/ shards/ blobs/ staging/ keys/ quarantine/

A node restored from a copy is told by its count of starts, which is lower than the one its peers remember.
The lock dies with the process that holds it, however that ends; it must not be handed on to forked children
that live longer (it is closed on exec).
"""

import fcntl
import json
import os
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import msgspec

from storage.space import give_up_reserve

FORMAT_VERSION = 1
START_BYTES = 192 << 20  # free disk that a start may need: a segment of the journal, and commits
NODE_ID_BYTES = 16
SHARD_COUNT = 2  # more environments made commits slower on two cores
PARTITION_COUNT = 256
PARTITION_COUNT_MAX = 8192  # 13 bits of an id
FOLDERS = ("journal", "shards", "blobs", "staging", "keys", "quarantine", "work")

_IDENTITY, _BOOTS, _LOCK, _RESERVE, _NEW_SUFFIX = "node.json", "boots", "lock", "reserve", ".new"
_CLUSTER = "cluster.json"
_REPLACED = (_IDENTITY, _BOOTS, _CLUSTER)  # a crash may leave each with its suffix, too
_OURS = {*_REPLACED, *(name + _NEW_SUFFIX for name in _REPLACED), _LOCK, _RESERVE, *FOLDERS}
_IGNORED = {"lost+found"}  # the root of a freshly made file system has it


class DirectoryInUse(Exception):
    """Another node runs on this directory."""


class DirectoryForeign(Exception):
    """The directory holds something else; nothing in it was touched."""


class DirectoryTooNew(Exception):
    """The directory was made by a version of the program that this one does not understand."""


class DirectoryDamaged(Exception):
    """What identifies the directory is missing or unreadable though there is data in it."""


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is fixed when a data directory is made."""

    format: int
    node_id: str  # NODE_ID_BYTES in hex
    shard_count: int
    partition_count: int
    created: str  # RFC 3339, UTC


class DataDirectory:
    """A locked data directory. Made by `open`; `close` gives the lock back. Also a context manager."""

    def __init__(self, path: Path, identity: Identity, boots: int, lock: int) -> None:
        self.path = path
        self.identity = identity
        self.boots = boots  # starts so far, this one included
        self.journal, self.shards, self.blobs, self.staging, self.keys, self.quarantine, self.work = (
            path / folder for folder in FOLDERS
        )
        self.reserve = path / _RESERVE
        self.cluster_file = path / _CLUSTER
        self._lock = lock

    @property
    def node_id(self) -> bytes:
        return bytes.fromhex(self.identity.node_id)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        now: float,
        shard_count: int = SHARD_COUNT,
        partition_count: int = PARTITION_COUNT,
        boot: bool = True,
        cluster: bytes = b"",
    ) -> "DataDirectory":
        """Lock the directory at `path`, and make it first if there is none or it is empty.

        `now` is Unix time in seconds. The counts matter only to a new directory; an existing one keeps its
        own. So does `cluster`, what cluster.json holds from the first moment: a directory that is made for
        a cluster is never taken for that of a lone node. `boot` raises the count of starts; work on a
        stopped node's data does without. Raises DirectoryInUse, DirectoryForeign, DirectoryTooNew or
        DirectoryDamaged.
        """
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        strangers = sorted({entry.name for entry in os.scandir(path)} - _OURS - _IGNORED)
        if strangers and not (path / _IDENTITY).exists():
            raise DirectoryForeign(f"{path} is not a data directory: it holds {', '.join(strangers[:5])}")
        lock = _lock(path)
        try:
            give_up_reserve(path / _RESERVE, START_BYTES)
            identity = _read_identity(path)
            if identity is None:
                if cluster:
                    write_durably(path / _CLUSTER, cluster)
                identity = _make(path, now, shard_count, partition_count)
            boots = _read_boots(path)
            if boot:
                boots += 1
                write_durably(path / _BOOTS, b"%d\n" % boots)
            _make_folders(path)
        except BaseException:
            os.close(lock)
            raise
        return cls(path, identity, boots, lock)

    def take_back_boot(self) -> None:
        """This start was refused: it does not count. Else a copy that is started often enough would pass."""
        self.boots -= 1
        write_durably(self.path / _BOOTS, b"%d\n" % self.boots)

    def close(self) -> None:
        """Give the lock back. May be called twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> "DataDirectory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def has_identity(path: Path) -> bool:
    """Whether a data directory was made at `path`. Takes no lock and changes nothing."""
    return (path / _IDENTITY).exists()


def cluster_file(path: Path) -> bytes:
    """What cluster.json of the data directory holds; empty if there is none. Takes no lock."""
    try:
        return (path / _CLUSTER).read_bytes()
    except FileNotFoundError:
        return b""


def write_durably(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file whole: a crash leaves either what it held or `data`, one after the return `data`."""
    new = path.with_name(path.name + _NEW_SUFFIX)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)
        file.write(data)
        file.flush()
        os.fsync(fd)
    new.rename(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _lock(path: Path) -> int:
    fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise DirectoryInUse(f"{path} is in use by the node with process id {holder}") from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def _read_identity(path: Path) -> Identity | None:
    """None if the directory holds nothing yet; an interrupted first start leaves empty folders at most."""
    try:
        raw = (path / _IDENTITY).read_bytes()
    except FileNotFoundError:
        filled = [folder for folder in FOLDERS if (path / folder).is_dir() and any((path / folder).iterdir())]
        if filled:
            raise DirectoryDamaged(f"{path} has data in {filled[0]}/ but no {_IDENTITY}") from None
        return None
    try:
        fields = json.loads(raw)
        version = fields["format"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise DirectoryTooNew(
                f"{path} has format {version}; this program knows formats up to {FORMAT_VERSION}"
            )
        identity = msgspec.convert(fields, Identity)
        whole = identity.format == FORMAT_VERSION and len(bytes.fromhex(identity.node_id)) == NODE_ID_BYTES
    except (ValueError, KeyError, TypeError) as wrong:
        raise DirectoryDamaged(f"{path / _IDENTITY} cannot be read: {wrong!r}") from wrong
    if not whole:
        raise DirectoryDamaged(
            f"{path / _IDENTITY} has format {identity.format}, node id {identity.node_id!r}"
        )
    return identity


def _read_boots(path: Path) -> int:
    """0 before the first start. Raises DirectoryDamaged: a count that was lost would pass for an old copy."""
    try:
        text = (path / _BOOTS).read_text("ascii").strip()
    except FileNotFoundError:
        return 0
    except UnicodeDecodeError:
        text = ""
    if not text.isdecimal():
        raise DirectoryDamaged(f"{path / _BOOTS} holds no number")
    return int(text)


def _make(path: Path, now: float, shard_count: int, partition_count: int) -> Identity:
    if not 1 <= shard_count <= partition_count <= PARTITION_COUNT_MAX:
        raise ValueError(
            f"{shard_count} shards, {partition_count} partitions: 1 <= shards <= partitions <= 8192"
        )
    os.chmod(path, 0o700)
    _make_folders(path)
    identity = Identity(
        FORMAT_VERSION,
        secrets.token_hex(NODE_ID_BYTES),
        shard_count,
        partition_count,
        datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    )
    write_durably(path / _IDENTITY, msgspec.json.format(msgspec.json.encode(identity)) + b"\n")
    sync_directory(path.parent)
    return identity


def _make_folders(path: Path) -> None:
    for folder in FOLDERS:
        with suppress(FileExistsError):
            (path / folder).mkdir(mode=0o700)
    sync_directory(path)
