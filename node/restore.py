"""Verifying and restoring backups: blocking work on files, without a running node.

A restored data directory has the data of the cut under a new identity (law 5): its node remembers no vote and
no promise of the one that was backed up. It is the only member of its cluster, whoever else was one when the
cut was made. Its journal starts empty; the heads of its partitions carry on, so that indexes and ids go on
above all that the cut has.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from cluster.members.recovery import begin_anew
from node.backup import (
    BackupError,
    Manifest,
    backups_in,
    blob_path,
    hash_file,
    listed,
    read_manifest,
    read_sealed,
)
from node.seal import WrongPassphrase, unseal
from node.social.blobs import blob_partition
from storage.blobs import BlobMismatch, Blobs
from storage.directory import DataDirectory, sync_directory, write_durably
from storage.shard import ShardDamaged

CHUNK_BYTES: Final = 1 << 20
DAMAGE_NAMED_MAX: Final = 1000  # findings in a report; more are counted only
RESTORING: Final = ".restoring"  # suffix of a data directory until all is in it

Tell = Callable[[str, int, int], None]  # what, done, total


class Verified(msgspec.Struct, frozen=True):
    """What a backup was found to be. It is good if `damage_count` is 0."""

    path: str
    files: int
    blobs: int
    bytes: int
    damage: tuple[str, ...]
    damage_count: int
    missing_count: int  # blobs that the node itself did not have when the backup was made


class Restored(msgspec.Struct, frozen=True):
    data: str
    node_id: str
    blobs: int
    bytes: int
    missing: tuple[str, ...]  # blobs that the backup names and has not, or not whole
    missing_count: int


class _Findings:
    def __init__(self) -> None:
        self.count = 0
        self.named: list[str] = []

    def add(self, finding: str) -> None:
        self.count += 1
        if len(self.named) < DAMAGE_NAMED_MAX:
            self.named.append(finding)


def choose(path: Path) -> Path:
    """The backup that a path means: itself, or the newest in a destination. Raises BackupError."""
    if (path / "manifest.json").is_file():
        return path
    if not path.is_dir():
        raise BackupError(f"there is no {path}")
    found = backups_in(path)
    if not found:
        raise BackupError(f"{path} holds no backup")
    return found[-1]


def verify(backup: Path, tell: Tell) -> Verified:
    """Read everything that the manifest names and compare hashes. Raises BackupError, OSError."""
    manifest = read_manifest(backup)
    findings, size = _Findings(), 0
    for number, file in enumerate(manifest.files):
        tell("files", number, len(manifest.files))
        if finding := _differs(backup / file.path, bytes.fromhex(file.blake3)):
            findings.add(f"{file.path}: {finding}")
        size += file.size
    missing = set(manifest.missing)
    blobs = 0
    for digest, expected in listed(backup):
        if blobs % 16 == 0:
            tell("blobs", blobs, manifest.blobs)
        if digest.hex() in missing:
            continue
        if finding := _differs(blob_path(backup.parent / "blobs", digest), digest):
            findings.add(f"blob {digest.hex()}: {finding}")
        blobs += 1
        size += expected
    return Verified(
        str(backup),
        len(manifest.files),
        blobs,
        size,
        tuple(findings.named),
        findings.count,
        manifest.missing_count,
    )


def restore(backup: Path, data: Path, passphrase: str, *, now: float, tell: Tell) -> Restored:
    """Make the data directory `data` (absent or empty) from a backup. `now` in Unix seconds.

    All or nothing, but for blobs that are missing or damaged in the backup: those are counted. Raises
    BackupError, OSError.
    """
    manifest = read_manifest(backup)
    if data.exists() and (not data.is_dir() or any(data.iterdir())):
        raise BackupError(f"{data} is not empty: restore into a new directory")
    half = data.with_name(data.name + RESTORING)
    if half.exists():
        raise BackupError(f"{half} is left from a restore that did not end: remove it first")
    try:
        secret = unseal(read_sealed(backup), passphrase)
    except (WrongPassphrase, ValueError) as wrong:
        raise BackupError(str(wrong)) from wrong
    try:
        restored = _fill(backup, manifest, half, secret, now, tell)
        half.rename(data)
        sync_directory(data.absolute().parent)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    return msgspec.structs.replace(restored, data=str(data))


def _fill(backup: Path, manifest: Manifest, half: Path, secret: bytes, now: float, tell: Tell) -> Restored:
    findings, blobs, size = _Findings(), 0, 0
    with DataDirectory.open(
        half, now=now, shard_count=manifest.shard_count, partition_count=manifest.partition_count, boot=False
    ) as directory:
        hashes = {file.path: bytes.fromhex(file.blake3) for file in manifest.files}
        for number in range(manifest.shard_count):
            tell("shards", number, manifest.shard_count)
            name = f"shards/{number:02}.mdb"
            shard = directory.shards / f"{number:02}"
            shard.mkdir(mode=0o700)
            _copy(backup / name, shard / "data.mdb")
            if finding := _differs(shard / "data.mdb", hashes.get(name, b"")):
                raise BackupError(f"{backup / name}: {finding}")
            sync_directory(shard)
        if finding := _differs(backup / "blobs.txt", hashes.get("blobs.txt", b"")):
            raise BackupError(f"{backup / 'blobs.txt'}: {finding}")
        store = Blobs(directory.blobs, directory.staging, directory.quarantine)
        for digest, expected in listed(backup):
            if blobs % 16 == 0:
                tell("blobs", blobs, manifest.blobs)
            # Any index up to the cut's will do: no `Collect` of the new node comes below it.
            index = manifest.applied.get(str(blob_partition(digest)), 0)
            staged = directory.staging / digest.hex()
            try:
                _copy(blob_path(backup.parent / "blobs", digest), staged)
                store.place(staged, digest, index)
                blobs += 1
                size += expected
            except (FileNotFoundError, BlobMismatch):
                staged.unlink(missing_ok=True)
                findings.add(digest.hex())
        try:
            begin_anew(directory, now=now)
        except ShardDamaged as wrong:
            raise BackupError(f"{backup}: {wrong}") from wrong
        write_durably(directory.keys / "cluster.secret", secret)
        sync_directory(directory.shards)
        node_id = directory.identity.node_id
    return Restored(str(half), node_id, blobs, size, tuple(findings.named), findings.count)


def _copy(source: Path, target: Path) -> None:
    with open(source, "rb") as reading, open(target, "xb") as writing:
        os.fchmod(writing.fileno(), 0o600)
        shutil.copyfileobj(reading, writing, CHUNK_BYTES)
        writing.flush()
        os.fsync(writing.fileno())


def _differs(path: Path, digest: bytes) -> str:
    """What is wrong with a file; empty if its bytes have the hash."""
    try:
        actual, size = hash_file(path)
    except FileNotFoundError:
        return "it is missing"
    except OSError as wrong:
        return f"it cannot be read: {wrong.strerror}"
    return "" if actual == digest else f"its {size} bytes have the hash {actual.hex()}, not {digest.hex()}"
