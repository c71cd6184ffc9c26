"""`heliograph node compact`: give disk back that a stopped node's data no longer needs.

LMDB keeps the pages of deleted rows for use again; a compacted copy has only what is used. The journal's
segments that all shards have passed go, and those kept for use again too. Each shard is swapped by one
rename, so a crash leaves it as it was or compacted.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import msgspec

from cluster.keys import META_PARTITION
from cluster.members.meta import MetaMachine
from cluster.partition import StateMachine
from cluster.replicas import Replicas
from cluster.snapshots.spool import FOLDER, finish_installs
from node.social.application import social_machine
from storage.directory import DataDirectory, DirectoryDamaged, sync_directory
from storage.journal import Journal
from storage.shard import Shard, want_shards
from storage.space import measure

COMPACTING: Final = "compact.new"  # a folder in the shard's own
SEGMENT_BYTES: Final = 1 << 20  # of the journal's one new segment, which holds a checkpoint and no more
SLACK_BYTES: Final = 64 << 20  # free disk to leave beside the largest shard's copy

Tell = Callable[[str, int, int], None]  # what, done, total


class NoRoom(Exception):
    """The copy would not fit."""


class Compacted(msgspec.Struct, frozen=True):
    path: str
    shards_before: int  # bytes on disk
    shards_after: int
    journal_before: int
    journal_after: int


def compact(data: Path, tell: Tell) -> Compacted:
    """Raises DirectoryInUse if a node runs on the data, NoRoom, and what a start raises for damaged data."""
    if not (data / "node.json").is_file():
        raise DirectoryDamaged(f"{data} is no data directory: it has no node.json")
    with DataDirectory.open(data, now=0, boot=False) as directory:
        paths = [directory.shards / f"{number:02}" for number in range(directory.identity.shard_count)]
        want_shards(paths, directory.journal)
        shards_before, journal_before = _allocated(directory.shards), _allocated(directory.journal)
        _want_room(data, paths)
        tell("journal", 0, 1)
        _pass_journal(directory, paths)
        for number, path in enumerate(paths):
            tell("shards", number, len(paths))
            _swap(path)
        return Compacted(
            str(data),
            shards_before,
            _allocated(directory.shards),
            journal_before,
            _allocated(directory.journal),
        )


def _want_room(data: Path, paths: list[Path]) -> None:
    largest = max((_allocated(path) for path in paths), default=0)
    free = measure(data).free_bytes
    if free < largest + SLACK_BYTES:
        raise NoRoom(f"{free} bytes free on the disk: the copy of a shard may need {largest + SLACK_BYTES}")


def _pass_journal(directory: DataDirectory, paths: list[Path]) -> None:
    """Apply what the journal has beyond the shards, as a start does; then no segment is needed any more."""
    machine = social_machine()
    machines: dict[int, StateMachine] = dict.fromkeys(range(directory.identity.partition_count), machine)
    machines[META_PARTITION] = MetaMachine()
    with ExitStack() as opened:
        shards = [opened.enter_context(closing(Shard(path))) for path in paths]
        finish_installs(shards, directory.staging / FOLDER)
        journal = opened.enter_context(closing(Journal.open(directory.journal, segment_bytes=SEGMENT_BYTES)))
        replicas = Replicas(journal, shards, machines, me=directory.node_id, boot=directory.boots)
        replicas.recover()
        replicas.settle()
    for spare in directory.journal.glob("*.spare"):
        spare.unlink()
    sync_directory(directory.journal)


def _swap(path: Path) -> None:
    copy = path / COMPACTING
    if copy.exists():  # of a compaction that was killed
        shutil.rmtree(copy)
    copy.mkdir(mode=0o700)
    try:
        with closing(Shard(path)) as shard:
            shard.compact_into(copy)
        fd = os.open(copy / "data.mdb", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fchmod(fd, 0o600)
            os.fsync(fd)
        finally:
            os.close(fd)
        (copy / "data.mdb").rename(path / "data.mdb")
        sync_directory(path)
    finally:
        shutil.rmtree(copy)


def _allocated(folder: Path) -> int:
    """Bytes of disk under a folder: a sparse or preallocated file counts as the blocks that it has."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
