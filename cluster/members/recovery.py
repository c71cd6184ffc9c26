"""Going on with one node when the majority is lost for good: offline work on a stopped node's data.

    plan(data)              what there is and what may be lost; changes nothing that a start would not
    recover(data, …)        makes this node the only member of every group

What this node's journal has is applied first, committed or not: it may have been acknowledged. Then each
shard is changed in one transaction (`cluster.members.alone`). Cut at any point, it is simply begun again:
what is applied is applied, and a group that is this node's alone is left as it is.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from cluster import commands
from cluster.commands import Execute
from cluster.keys import GROUPS, HEADS, HEADS_PARTITION, META_PARTITION, GroupRow, Head
from cluster.members import meta_rows
from cluster.members.alone import begin_alone, cursors_behind, is_alone
from cluster.partition import Partition, StateMachine
from cluster.raft.effects import Start
from cluster.raft.messages import Configuration, is_configuration
from cluster.snapshots.installing import unfinished_installs
from cluster.snapshots.spool import FOLDER, finish_installs
from cluster.starts import LogGap, Starts
from storage.directory import DataDirectory, DirectoryDamaged
from storage.entries import Entry, Record
from storage.journal import Journal
from storage.rows import Overlay, Reader
from storage.shard import Shard, ShardDamaged, Snapshot, want_shards

SEGMENT_BYTES: Final = 1 << 20  # of the segment that opening the journal makes, which gets no entry
COMMIT_ROWS: Final = 20_000
MAX_TERM: Final = 2**64

Tell = Callable[[str, int, int], None]  # what, done, total


class OtherMember(msgspec.Struct, frozen=True):
    node: str
    address: str
    zone: str


class Standing(msgspec.Struct, frozen=True):
    """One partition, as this node has it. Beyond `last` others may have had more: that is lost."""

    partition: int
    applied: int
    term: int  # of the entry there
    committed: int  # known to be
    last: int  # of this node's journal: what lies beyond `committed` may have been acknowledged, or not
    last_term: int
    last_at_ms: int | None  # when the newest command in the journal was proposed (Unix); None: it has none
    voters: tuple[str, ...]
    learners: tuple[str, ...]
    alone: bool  # this node is the only member, and that is written down: nothing is lost
    installing: bool  # a snapshot is half installed: it is finished first


class RecoveryPlan(msgspec.Struct, frozen=True):
    data: str
    node: str
    others: tuple[OtherMember, ...]  # who would be removed, for good
    partitions: tuple[Standing, ...]
    last_at_ms: int | None  # of all partitions
    needed: bool  # others are members: there is something to recover from


class Recovered(msgspec.Struct, frozen=True):
    node: str
    partitions: int  # that were made this node's alone; 0: all were
    entries: int  # of the journal, applied
    removed: int  # members
    cursors: int  # pairs of partitions between which messages are lost


def plan(data: Path) -> RecoveryPlan:
    """Raises DirectoryInUse if a node runs on the data, and what a start raises for damaged data."""
    with _opened(data) as (directory, shards, journal):
        numbers, me, mask = _partitions(directory), directory.node_id, len(shards) - 1
        newest: dict[int, int] = {}
        starts = _starts(shards, _noting(journal.recovered(), newest), numbers)
        with Snapshot(shards) as rows:
            others = _others(rows, me)
        standings: list[Standing] = []
        for number, shard in enumerate(shards):
            own = [partition for partition in numbers if partition & mask == number]
            standings += _standings(shard, own, starts, newest, me)
        return RecoveryPlan(
            data=str(data),
            node=me.hex(),
            others=others,
            partitions=tuple(sorted(standings, key=lambda standing: standing.partition)),
            last_at_ms=max(newest.values(), default=None),
            needed=bool(others)
            or any(set(standing.voters + standing.learners) - {me.hex()} for standing in standings),
        )


def recover(
    data: Path, machines: Callable[[int], Mapping[int, StateMachine]], *, now: float, tell: Tell
) -> Recovered:
    """`machines` gives the state machine of each partition, by the number of partitions; `now` is Unix time
    in seconds. Raises what `plan` does, and what applying raises."""
    with _opened(data) as (directory, shards, journal):
        me, mask = directory.node_id, len(shards) - 1
        finish_installs(shards, directory.staging / FOLDER)
        starts = _starts(shards, journal.recovered(), _partitions(directory))
        of_all = machines(directory.identity.partition_count)
        entries = 0
        for number, shard in enumerate(shards):
            tell("journal", number, len(shards))
            own = {partition: start for partition, start in starts.items() if partition & mask == number}
            entries += _apply(shard, own, of_all)
        terms = {
            number: max(start.hard_state.term, _term_at(start, start.last))
            for number, start in starts.items()
        }
        with Snapshot(shards) as rows:
            removed = len(_others(rows, me))
        made, cursors = make_alone(shards, terms, me, now_ms=int(now * 1000), tell=tell)
        return Recovered(me.hex(), made, entries, removed, cursors)


def begin_anew(directory: DataDirectory, *, now: float) -> None:
    """Make the data of a restored backup, under its new identity, that of a cluster of one node. There is no
    journal yet. Raises ShardDamaged where a snapshot was half installed when the backup was made."""
    paths = [directory.shards / f"{number:02}" for number in range(directory.identity.shard_count)]
    terms = dict.fromkeys(_partitions(directory), 0)
    with ExitStack() as opened:
        shards = [opened.enter_context(closing(Shard(path))) for path in paths]
        for shard in shards:
            with shard.reading() as rows:
                for partition in unfinished_installs(rows):
                    raise ShardDamaged(f"partition {partition} was being replaced by a snapshot")
                terms.update({key.of: head.term for key, head in HEADS.scan(rows, HEADS_PARTITION)})
        make_alone(shards, terms, directory.node_id, now_ms=int(now * 1000), tell=_untold)


def _untold(_what: str, _done: int, _total: int) -> None:
    """Nobody wants to hear."""


def make_alone(
    shards: Sequence[Shard], terms: Mapping[int, int], me: bytes, *, now_ms: int, tell: Tell
) -> tuple[int, int]:
    """Make `me` the only member of all groups whose rows do not say so. `terms` are the greatest that were
    seen, by partition. Returns how many groups, and how many inbox cursors, were changed."""
    mask = len(shards) - 1
    made = moved = 0
    with Snapshot(shards) as rows:
        behind = cursors_behind(lambda _: rows, sorted(terms))
    for number, shard in enumerate(shards):
        tell("shards", number, len(shards))
        transaction = shard.begin()
        overlay = Overlay(transaction)
        try:
            for partition in (p for p in sorted(terms) if p & mask == number):
                if is_alone(overlay, partition, me):
                    continue
                cursors = behind.get(partition, {})
                begin_alone(overlay, partition, me, terms[partition] + 1, cursors, now_ms)
                made += 1
                moved += len(cursors)
            overlay.flush()
        except BaseException:
            transaction.abort()
            raise
        transaction.commit()
    return made, moved


# --- what there is -------------------------------------------------------------------------------------
@contextmanager
def _opened(data: Path) -> Iterator[tuple[DataDirectory, list[Shard], Journal]]:
    """The stores of a stopped node."""
    if not (data / "node.json").is_file():
        raise DirectoryDamaged(f"{data} is no data directory: it has no node.json")
    with DataDirectory.open(data, now=0, boot=False) as directory, ExitStack() as opened:
        paths = [directory.shards / f"{number:02}" for number in range(directory.identity.shard_count)]
        want_shards(paths, directory.journal)
        shards = [opened.enter_context(closing(Shard(path))) for path in paths]
        journal = opened.enter_context(closing(Journal.open(directory.journal, segment_bytes=SEGMENT_BYTES)))
        yield directory, shards, journal


def _partitions(directory: DataDirectory) -> list[int]:
    return [*range(directory.identity.partition_count), META_PARTITION]


def _starts(
    shards: Sequence[Shard], records: Iterable[Record], partitions: Sequence[int]
) -> dict[int, Start]:
    """Where each group would begin."""
    heads: dict[int, Head] = {}
    groups: dict[int, GroupRow] = {}
    for shard in shards:
        with shard.reading() as rows:
            heads.update({key.of: head for key, head in HEADS.scan(rows, HEADS_PARTITION)})
            groups.update({key.of: group for key, group in GROUPS.scan(rows, HEADS_PARTITION)})
    starts = Starts(partitions, heads, groups, Configuration(()))
    try:
        for record in records:
            starts.take(record)
        return starts.starts()
    except LogGap as wrong:
        raise ShardDamaged(str(wrong)) from wrong


def _noting(records: Iterable[Record], newest: dict[int, int]) -> Iterator[Record]:
    """Passes records on, and notes when the last command of an application was proposed: ms, Unix."""
    for record in records:
        if isinstance(record, Entry) and record.command and not is_configuration(record.command):
            command = commands.decode(record.command)
            if isinstance(command, Execute):
                newest[record.partition] = command.now
        yield record


def _others(rows: Reader, me: bytes) -> tuple[OtherMember, ...]:
    return tuple(
        OtherMember(node.hex(), member.address, member.zone)
        for node, member in sorted(meta_rows.members(rows).items())
        if node != me
    )


def _standings(
    shard: Shard, partitions: Sequence[int], starts: Mapping[int, Start], newest: Mapping[int, int], me: bytes
) -> Iterator[Standing]:
    with shard.reading() as rows:
        unfinished = unfinished_installs(rows)
        for number in partitions:
            start = starts[number]
            yield Standing(
                partition=number,
                applied=start.applied,
                term=_term_at(start, start.applied),
                committed=min(max(start.hard_state.commit, start.applied), start.last),
                last=start.last,
                last_term=_term_at(start, start.last),
                last_at_ms=newest.get(number),
                voters=tuple(node.hex() for node in start.configuration.voters),
                learners=tuple(node.hex() for node in start.configuration.learners),
                alone=is_alone(rows, number, me),
                installing=number in unfinished,
            )


def _with_others(standing: Standing, me: bytes) -> bool:
    return bool({*standing.voters, *standing.learners} - {me.hex()})


def _term_at(start: Start, index: int) -> int:
    """Of an entry of its log; 0 before the first."""
    place = bisect_right(start.terms, (index, MAX_TERM))
    return start.terms[place - 1][1] if place else start.base_term


# --- what the journal has beyond the shards ------------------------------------------------------------
def _apply(shard: Shard, starts: Mapping[int, Start], machines: Mapping[int, StateMachine]) -> int:
    """Returns how many entries."""
    count = 0
    for number, start in starts.items():
        if not start.recent:
            continue
        count += len(start.recent)
        with shard.reading() as rows:
            replica = Partition.load(number, machines[number], rows)
        waiting = list(enumerate(start.recent, start.applied + 1))
        while waiting:
            waiting = _apply_some(shard, replica, start, waiting)
    return count


def _apply_some(
    shard: Shard, replica: Partition, start: Start, waiting: list[tuple[int, bytes]]
) -> list[tuple[int, bytes]]:
    """One transaction; returns what is left."""
    transaction = shard.begin()
    overlay = Overlay(transaction)
    try:
        done = 0
        while done < len(waiting) and len(overlay) < COMMIT_ROWS:
            index, entry = waiting[done]
            if not entry or is_configuration(entry):
                replica.pass_by(index, _term_at(start, index))
            else:
                replica.apply(overlay, index, _term_at(start, index), entry)
            done += 1
        replica.store_head(overlay)
        overlay.flush()
    except BaseException:
        transaction.abort()
        raise
    transaction.commit()
    return waiting[done:]
