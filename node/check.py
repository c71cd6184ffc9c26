"""`heliograph node check`: whether all that a stopped node keeps is whole; reads only.

Every record of the journal and of the shards against its checksum and its type, counts against rows, ends of
edges against each other, every blob that somebody refers to against its name. What a start would mend by
itself (the torn end of the journal, commands not yet applied, blobs nobody refers to) is no damage.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import msgspec

from cluster import commands
from cluster.keys import HEADS_PARTITION, META_PARTITION, InstallRow
from cluster.raft.messages import is_configuration
from cluster.snapshots.installing import unfinished_installs, want_same
from cluster.snapshots.spool import FOLDER, Spooled
from cluster.snapshots.state_stream import StateDamaged
from node import check_rows
from node.backup import hash_file
from node.check_rows import Finding
from node.social.blobs import BLOB_PARTITIONS
from node.social.keys import PostKey, UserKey
from node.social.records import BLOBS, POSTS, USERS
from storage.directory import DataDirectory, DirectoryDamaged
from storage.keys import partition_range
from storage.records import RecordDamaged, RecordTooNew
from storage.segments import CHECKPOINT, ENTRY, Header, JournalDamaged, Row, Scan, mark_after, read_header
from storage.shard import Shard, ShardDamaged, Snapshot

DAMAGE_NAMED_MAX: Final = 1000  # findings in a report; more are counted only

Tell = Callable[[str, int, int], None]  # what, done, total


class Report(msgspec.Struct, frozen=True):
    """The node is whole if `damage_count` is 0."""

    path: str
    node_id: str
    rows: dict[str, int]  # by table
    journal_entries: int
    journal_ahead: int  # of them not applied yet: the next start does it
    blobs: int  # that somebody refers to
    blob_bytes: int
    at_rest: bool  # nothing was under way, so ends in different partitions were compared
    damage: tuple[str, ...]
    damage_count: int


class _Check:
    """One run: what was found so far."""

    def __init__(self, directory: DataDirectory, tell: Tell) -> None:
        self.directory = directory
        self.tell = tell
        self.damage: list[str] = []
        self.damage_count = 0
        self.seen: Counter[str] = Counter()
        self.journal_entries = self.journal_ahead = self.blobs = self.blob_bytes = 0
        self.at_rest = True

    def add(self, findings: Iterator[Finding]) -> None:
        for finding in findings:
            self.damage_count += 1
            if len(self.damage) < DAMAGE_NAMED_MAX:
                self.damage.append(finding)


def check(data: Path, tell: Tell) -> Report:
    """Read all of a stopped node's data. Raises DirectoryInUse if a node runs on it, and what opening a data
    directory raises."""
    if not (data / "node.json").is_file():
        raise DirectoryDamaged(f"{data} is no data directory: it has no node.json")
    with DataDirectory.open(data, now=0, boot=False) as directory, ExitStack() as opened:
        this = _Check(directory, tell)
        shards: list[Shard] = []
        for number in range(directory.identity.shard_count):
            path = directory.shards / f"{number:02}"
            if not (path / "data.mdb").is_file():
                this.add(iter([f"{path}: the shard is missing"]))
                continue
            try:
                shards.append(opened.enter_context(closing(Shard(path))))
            except ShardDamaged as wrong:
                this.add(iter([str(wrong)]))
        if len(shards) == directory.identity.shard_count:
            _stores(this, shards)
        else:
            this.at_rest = False  # nobody can say
        return _report(this)


def _report(this: _Check) -> Report:
    return Report(
        path=str(this.directory.path),
        node_id=this.directory.identity.node_id,
        rows=dict(sorted(this.seen.items())),
        journal_entries=this.journal_entries,
        journal_ahead=this.journal_ahead,
        blobs=this.blobs,
        blob_bytes=this.blob_bytes,
        at_rest=this.at_rest,
        damage=tuple(this.damage),
        damage_count=this.damage_count,
    )


def _stores(this: _Check, shards: Sequence[Shard]) -> None:
    partitions = [*range(this.directory.identity.partition_count), META_PARTITION]
    installs: dict[int, InstallRow] = {}
    with Snapshot(shards) as rows:
        this.add(_guarded("installs", _installs(this, shards, installs)))
        this.add(_guarded("shards", _rows(this, rows, shards, partitions, installs)))
        applied: dict[int, int] = {}
        found = dict.fromkeys(partitions, 0)
        this.add(_guarded("heads", _heads(this, rows, shards, installs, found, applied)))
        if applied:
            this.add(_guarded("journal", _journal(this, applied)))
        else:
            this.at_rest = False  # nobody can say
        this.add(_guarded("blobs", _blobs(this, rows)))
        if this.at_rest and not this.journal_ahead:
            this.add(_guarded("ends", _ends(this, rows, partitions)))
        else:
            this.at_rest = False


def _guarded(what: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Damage to a shard's pages shows as an error of LMDB, anywhere: it is told, and the rest goes on."""
    try:
        yield from findings
    except (RecordDamaged, RecordTooNew, JournalDamaged) as wrong:
        yield str(wrong)
    except Exception as wrong:  # noqa: BLE001  # LMDB's own, or what a damaged page made of a row
        yield f"{what}: cannot be read on: {type(wrong).__name__}: {wrong}"


# --- rows ----------------------------------------------------------------------------------------------
def _installs(this: _Check, shards: Sequence[Shard], found: dict[int, InstallRow]) -> Iterator[Finding]:
    """Partitions whose rows are being replaced by a snapshot: a start does the rest, if that is there."""
    for shard in shards:
        with shard.reading() as rows:
            found.update(unfinished_installs(rows))
    this.at_rest = not found
    for partition, row in found.items():
        try:
            want_same(Spooled.open(this.directory.staging / FOLDER / row.spool, partition), row)
        except (FileNotFoundError, StateDamaged) as wrong:
            yield f"partition {partition}: its snapshot, half installed, is missing or damaged: {wrong}"


def _rows(
    this: _Check,
    rows: Snapshot,
    shards: Sequence[Shard],
    partitions: Sequence[int],
    installs: Mapping[int, InstallRow],
) -> Iterator[Finding]:
    kinds = check_rows.every_kind()
    counted = 0
    for done, partition in enumerate(partitions):
        this.tell("rows", done, len(partitions))
        if partition in installs:  # of two states
            counted += sum(1 for _ in rows.scan(*partition_range(partition)))
        else:
            yield from check_rows.check_partition(rows, kinds, partition, this.seen)
    for shard in shards:
        with shard.reading() as own:
            yield from check_rows.check_partition(own, kinds, HEADS_PARTITION, this.seen)
    counted += sum(this.seen.values())
    there = sum(shard.statistics().entries for shard in shards)
    if there != counted:
        yield f"{there - counted} rows lie where no partition of this node is"


def _heads(
    this: _Check,
    all_rows: Snapshot,
    shards: Sequence[Shard],
    installs: Mapping[int, InstallRow],
    found: dict[int, int],
    applied: dict[int, int],
) -> Iterator[Finding]:
    """The heads of all partitions. Once all could be read, `applied` has the last index of each: those of
    `found`, unless a head says more."""
    for shard in shards:
        with shard.reading() as rows:
            for partition, head in check_rows.heads(rows).items():
                found[partition] = head.applied
                if partition in installs:
                    continue
                if head.work_rows or (head.outbox_rows and check_rows.under_way(all_rows, partition)):
                    this.at_rest = False
                yield from check_rows.undamaged(check_rows.check_head(rows, partition, head))
    found.update({partition: row.index for partition, row in installs.items()})
    applied.update(found)


def _ends(this: _Check, rows: Snapshot, partitions: Sequence[int]) -> Iterator[Finding]:
    kinds = check_rows.every_kind()
    for done, partition in enumerate(partitions):
        this.tell("ends", done, len(partitions))
        if partition in (META_PARTITION, HEADS_PARTITION):
            continue
        for key, _ in rows.scan(*partition_range(partition)):
            table = kinds.of(key)
            if table is USERS:
                yield from check_rows.undamaged(check_rows.check_ends(rows, UserKey.decode(key).user))
            elif table is POSTS:
                post = PostKey.decode(key).post
                yield from check_rows.undamaged(check_rows.check_ends_of_post(rows, post))


# --- the journal ---------------------------------------------------------------------------------------
def _journal(this: _Check, applied: dict[int, int]) -> Iterator[Finding]:
    """The rules of a start (storage/journal.py), without its repairs."""
    paths = sorted(this.directory.journal.glob("*.log"))
    headers: list[Header] = []
    for path in paths:
        with open(path, "rb") as file:
            headers.append(read_header(file.fileno(), str(path)))
    following = dict(applied)
    oldest = max((header.oldest for header in headers), default=1)
    for place, (path, header) in enumerate(zip(paths, headers, strict=True)):
        this.tell("journal", place, len(paths))
        after = headers[place + 1] if place + 1 < len(headers) else None
        if after is not None and after.sequence != header.sequence + 1:
            yield f"{this.directory.journal}: a gap from {path.name} to {paths[place + 1].name}"
        segment = _Segment(path, header, after)
        yield from segment.read(this, following)
        oldest = max(oldest, segment.oldest)
    if headers and headers[0].sequence > oldest:
        yield f"{this.directory.journal}: segment {oldest} is missing"


class _Segment:
    """One file of the journal; `after` is the header of the next, which says how much of this one is law."""

    def __init__(self, path: Path, header: Header, after: Header | None) -> None:
        self.path = path
        self.oldest = 0  # the oldest segment that its last checkpoint leaves
        self._header = header
        self._after = after

    def read(self, this: _Check, last: dict[int, int]) -> Iterator[Finding]:
        """`last` is the last index of each partition that is applied or was read before; it is carried on."""
        header, after = self._header, self._after
        with open(self.path, "rb") as file:
            descriptor, size = file.fileno(), os.fstat(file.fileno()).st_size
            law = after.previous_end if after else 0
            scan = Scan(descriptor, header.seed, end=law or size)
            for row in scan:
                if row.kind == CHECKPOINT:
                    self.oldest = row.a
                elif row.kind == ENTRY:
                    this.journal_entries += 1
                    yield from self._entry(this, row, last)
            if after is None:
                law = mark_after(descriptor, header, start=scan.position, end=size) or 0
            if law > scan.position:
                reason = f"{scan.finding or 'the file ends'}, though all before offset {law} was synced"
                yield f"{self.path}, offset {scan.position}: {reason}"

    def _entry(self, this: _Check, row: Row, last: dict[int, int]) -> Iterator[Finding]:
        where = f"{self.path}, offset {row.offset}"
        try:
            if row.tail and not is_configuration(row.tail):  # those are Raft's own
                commands.decode(row.tail)
        except msgspec.DecodeError as wrong:
            yield f"{where}: the command cannot be read: {wrong}"
        if row.partition not in last:
            yield f"{where}: a command for partition {row.partition}, which is none"
        elif row.b == last[row.partition] + 1:
            last[row.partition] = row.b
            this.journal_ahead += 1
        elif row.b > last[row.partition]:
            yield f"{where}: entry {row.b} of partition {row.partition} after a gap"
            last[row.partition] = row.b


# --- blobs ---------------------------------------------------------------------------------------------
def _blobs(this: _Check, rows: Snapshot) -> Iterator[Finding]:
    """Every blob that somebody refers to: is it there, and is it what its name says?"""
    total = sum(1 for partition in range(BLOB_PARTITIONS) for _ in BLOBS.scan(rows, partition))
    done = 0
    for partition in range(BLOB_PARTITIONS):
        for key, blob in BLOBS.scan(rows, partition):
            this.tell("blobs", done, total)
            done += 1
            if not blob.references:
                continue
            this.blobs += 1
            path = _file_of(this.directory.blobs, key.hash)
            if path is None:
                yield f"blob {key.hash.hex()}: {blob.references} media refer to it, but it is missing"
                continue
            digest, size = hash_file(path)
            this.blob_bytes += size
            if digest != key.hash:
                yield f"{path}: its {size} bytes have the hash {digest.hex()}"


def _file_of(root: Path, digest: bytes) -> Path | None:
    name = digest.hex()
    return max((root / name[:2] / name[2:4]).glob(name + ".*"), default=None)
