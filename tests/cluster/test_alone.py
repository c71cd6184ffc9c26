"""Going on with one node: all that it has is applied and kept, others are out, messages go on."""

import json
import os
import shutil
from contextlib import asynccontextmanager, closing, contextmanager

import pytest
import trio

from cluster import commands
from cluster.commands import Deliver, Delivery, Execute, Trim
from cluster.keys import (
    GROUPS,
    HEADS,
    HEADS_PARTITION,
    META_PARTITION,
    GroupKey,
    GroupRow,
    HeadKey,
)
from cluster.mailbox import INCARNATION_SHIFT
from cluster.members import meta, meta_rows
from cluster.members.meta import MetaMachine
from cluster.members.meta_rows import (
    CLUSTERS,
    MEMBERS,
    PUBLIC_KEYS,
    Cluster,
    ClusterKey,
    Member,
    MemberKey,
    PublicKey,
    PublicKeyKey,
    Revoked,
)
from cluster.members.recovery import begin_anew, plan, recover
from cluster.partition import Partition
from cluster.raft.messages import NO_OP, Configuration, encode_configuration
from cluster.replicas import Replicas
from cluster.snapshots.installing import install_pieces
from cluster.snapshots.spool import FOLDER
from cluster.starts import Starts
from storage.directory import DataDirectory, DirectoryDamaged, DirectoryInUse
from storage.entries import Entry, HardState, Truncation
from storage.journal import Journal
from storage.memory import MemoryRows
from storage.rows import Overlay
from storage.shard import Shard, ShardDamaged
from tests.cluster.states import contents, fill, some_notes, spooled
from tests.cluster.toy import Bank, balance, encode, notes

NOW = 1_800_000_000.0
AT_MS = 1_700_000_000_000
PARTITION_COUNT = 8
X, Y = (bytes([letter]) * 16 for letter in b"xy")
WITHIN_S = 20
SEGMENT_BYTES = 256 << 10


def silent(_what, _done, _total):
    pass


def machines(count):
    return {**dict.fromkeys(range(count), Bank()), META_PARTITION: MetaMachine()}


def execute(*body, at=AT_MS):
    return commands.encode(Execute(at, 1, os.urandom(16), 0, os.urandom(16), b"", encode(body)))


@contextmanager
def opened(path, *, journal=True):
    """The stores of a data directory, as whoever writes them has them: directory, shards, journal."""
    with DataDirectory.open(path, now=NOW, shard_count=2, partition_count=PARTITION_COUNT) as directory:
        shards = [Shard(directory.shards / f"{number:02}", map_bytes=64 << 20) for number in range(2)]
        log = Journal.open(directory.journal, segment_bytes=SEGMENT_BYTES) if journal else None
        try:
            yield directory, shards, log
        finally:
            for store in (*shards, log):
                if store is not None:
                    store.close()


class Written:
    """A node's logs, written and applied as far as a test says."""

    def __init__(self, path, me, shards, journal):
        self.path, self.me, self.shards, self.journal = path, me, shards, journal
        self.last = dict.fromkeys((*range(PARTITION_COUNT), META_PARTITION), 0)

    def log(self, partition, *entries, term=1, applied=None):
        """Append entries; apply all of them, or the first few."""
        first = self.last[partition] + 1
        records = [Entry(partition, term, first + at, entry) for at, entry in enumerate(entries)]
        self.journal.write(records)
        self.last[partition] += len(records)
        shard = self.shards[partition & 1]
        transaction = shard.begin()
        overlay = Overlay(transaction)
        replica = Partition.load(partition, machines(PARTITION_COUNT)[partition], overlay)
        for record in records[: len(records) if applied is None else applied]:
            if record.command == NO_OP:
                replica.pass_by(record.index, term)
            else:
                replica.apply(overlay, record.index, term, record.command)
        replica.store_head(overlay)
        overlay.flush()
        transaction.commit()

    def group(self, voters, learners=(), partitions=None):
        for partition in self.last if partitions is None else partitions:
            self.write(partition, GROUPS, GroupKey(HEADS_PARTITION, partition), GroupRow(voters, learners, 0))

    def write(self, partition, table, key, value):
        transaction = self.shards[partition & 1].begin()
        overlay = Overlay(transaction)
        table.put(overlay, key, value)
        overlay.flush()
        transaction.commit()


@contextmanager
def written(path):
    with opened(path) as (directory, shards, journal):
        yield Written(path, directory.node_id, shards, journal)


@pytest.fixture
def lost(tmp_path):
    """One of three nodes, whose other two are lost; partition 3 has more in the journal than is applied."""
    with written(tmp_path / "n") as node:
        node.group((node.me, X, Y))
        node.log(3, NO_OP, execute("add", 10), term=4)
        node.log(3, execute("add", 5), execute("add", 7, at=AT_MS + 9), NO_OP, term=5, applied=1)
        members = {node.me: Member(3, 1, 1, b"s" * 8, "here:1"), X: Member(7, 2, 1, b"", "x:1", "zone")}
        for who, member in (members | {Y: Member(1, 3, 1)}).items():
            node.write(META_PARTITION, MEMBERS, MemberKey(META_PARTITION, who), member)
        for kid, who in {"mine": node.me, "of x": X}.items():
            key = PublicKey(who, b"k" * 32, 1, 0)
            node.write(META_PARTITION, PUBLIC_KEYS, PublicKeyKey(META_PARTITION, kid), key)
        node.journal.write([HardState(3, 6, X, 3)])
    return tmp_path / "n"


def rows_of(path, partition):
    with opened(path, journal=False) as (_, shards, _), shards[partition & 1].reading() as rows:
        copy = MemoryRows()
        copy.write(contents(rows, partition))
        return copy


def everything(path):
    with opened(path, journal=False) as (_, shards, _):
        found = {}
        for shard in shards:
            with shard.reading() as rows:
                found.update(rows.scan(b"", b"\xff" * 20))
        return found


def test_the_plan_says_what_there_is_and_changes_nothing(lost):
    before = everything(lost)
    said = plan(lost)
    assert everything(lost) == before and plan(lost) == said
    assert [(other.node, other.address, other.zone) for other in said.others] == [
        (X.hex(), "x:1", "zone"),
        (Y.hex(), "", ""),
    ]
    assert said.needed and said.last_at_ms == AT_MS + 9
    three = said.partitions[3]
    assert (three.applied, three.term, three.committed, three.last, three.last_term) == (3, 5, 3, 5, 5)
    assert (three.voters, three.learners) == ((said.node, X.hex(), Y.hex()), ())
    assert (three.last_at_ms, three.alone, three.installing) == (AT_MS + 9, False, False)
    empty = said.partitions[0]
    assert (empty.applied, empty.last, empty.last_at_ms) == (0, 0, None)
    assert [standing.partition for standing in said.partitions] == [*range(8), META_PARTITION]


def test_all_that_the_journal_has_is_applied(lost):
    done = recover(lost, machines, now=NOW, tell=silent)
    assert (done.partitions, done.entries, done.removed, done.cursors) == (9, 2, 2, 0)
    rows = rows_of(lost, 3)
    assert balance(rows, 3) == 22
    head = HEADS.get(rows, HeadKey(HEADS_PARTITION, 3))
    assert (head.applied, head.term, head.incarnation) == (6, 7, 2)  # above the term in which it voted
    group = GROUPS.get(rows, GroupKey(HEADS_PARTITION, 3))
    assert group == GroupRow((bytes.fromhex(done.node),), (), 6, 6, 7)


def test_the_others_are_out_for_good(lost):
    done = recover(lost, machines, now=NOW, tell=silent)
    rows = rows_of(lost, META_PARTITION)
    assert set(meta_rows.members(rows)) == {bytes.fromhex(done.node)}
    assert meta_rows.revoked(rows) == {X: Revoked(int(NOW * 1000), 7), Y: Revoked(int(NOW * 1000), 1)}
    assert set(meta_rows.public_keys(rows)) == {"mine"}
    assert meta_rows.layout_version(rows) == 1


def test_a_second_recovery_changes_nothing(lost):
    recover(lost, machines, now=NOW, tell=silent)
    before = everything(lost)
    done = recover(lost, machines, now=NOW + 9, tell=silent)
    assert (done.partitions, done.entries, done.removed) == (0, 0, 0)
    assert everything(lost) == before
    said = plan(lost)
    assert not said.needed and said.others == () and all(standing.alone for standing in said.partitions)


@pytest.mark.parametrize("moment", [("journal", 0), ("journal", 1), ("shards", 0), ("shards", 1)])
def test_cut_anywhere_it_is_begun_again_and_ends_the_same(lost, tmp_path, moment):
    class Cut(Exception):
        pass

    def tell(what, done, _total):
        if (what, done) == moment:
            raise Cut

    shutil.copytree(lost, tmp_path / "whole")
    recover(tmp_path / "whole", machines, now=NOW, tell=silent)
    with pytest.raises(Cut):
        recover(lost, machines, now=NOW, tell=tell)
    recover(lost, machines, now=NOW, tell=silent)
    assert everything(lost) == everything(tmp_path / "whole")


def test_large_logs_are_applied_in_pieces(lost, monkeypatch):
    monkeypatch.setattr("cluster.members.recovery.COMMIT_ROWS", 10)
    with written(lost) as node:
        node.last[5] = 0
        node.log(5, *(execute("rows", 7) for _ in range(20)), execute("add", 3), applied=0)
    assert recover(lost, machines, now=NOW, tell=silent).entries == 23
    assert balance(rows_of(lost, 5), 5) == 3


def test_entries_that_another_leader_replaced_are_not_applied(lost):
    with written(lost) as node:
        node.log(6, execute("add", 1), execute("add", 10), execute("add", 100), applied=1)
        node.journal.write([Truncation(6, 3), Entry(6, 2, 2, execute("add", 1000)), HardState(6, 2, b"", 1)])
    recover(lost, machines, now=NOW, tell=silent)
    assert balance(rows_of(lost, 6), 6) == 1001


def test_configurations_in_the_journal_do_not_bring_others_back(lost):
    with written(lost) as node:
        node.log(1, encode_configuration(Configuration((node.me, X))), execute("add", 1), applied=0)
    recover(lost, machines, now=NOW, tell=silent)
    rows = rows_of(lost, 1)
    assert balance(rows, 1) == 1
    assert GROUPS.get(rows, GroupKey(HEADS_PARTITION, 1)).voters == (plan_node(lost),)


def plan_node(path):
    return bytes.fromhex(plan(path).node)


def test_nobody_who_joins_can_be_given_the_old_log(lost):
    recover(lost, machines, now=NOW, tell=silent)
    with opened(lost) as (directory, shards, journal):
        heads, groups = {}, {}
        for shard in shards:
            with shard.reading() as rows:
                heads |= {key.of: head for key, head in HEADS.scan(rows, HEADS_PARTITION)}
                groups |= {key.of: group for key, group in GROUPS.scan(rows, HEADS_PARTITION)}
        starts = Starts([*range(8), META_PARTITION], heads, groups, Configuration(()))
        for record in journal.recovered():
            starts.take(record)
        for start in starts.starts().values():
            assert start.base == start.applied == start.last and start.recent == ()
            assert start.configuration == Configuration((directory.node_id,))


# --- messages ------------------------------------------------------------------------------------------
def messages(source, destination, *sequences):
    """A Deliver of notes that bear their numbers."""
    deliveries = [
        Delivery(source, sequence - 1, sequence, encode(["note", b"%d" % sequence])) for sequence in sequences
    ]
    return commands.encode(Deliver(AT_MS, 1, os.urandom(16), deliveries))


def tell(destination, *numbers):
    return [execute("tell", destination, "note", b"%d" % number) for number in numbers]


@asynccontextmanager
async def running(path):
    """The node, started again alone."""
    with opened(path) as (directory, shards, journal), trio.fail_after(WITHIN_S):
        replicas = Replicas(journal, shards, machines(PARTITION_COUNT), me=directory.node_id)
        replicas.recover()
        async with trio.open_nursery() as nursery:
            await nursery.start(replicas.run)
            yield replicas
            nursery.cancel_scope.cancel()


async def say(replicas, source, destination, number):
    (command,) = (commands.decode(data) for data in tell(destination, number))
    await replicas.propose(source, command)
    await replicas.at_rest()


async def test_a_destination_that_lost_what_its_source_has_forgotten_hears_it_again(lost):
    """Partition 2 sent three messages to 5 and was told that they were taken; here 5 has but the first."""
    with written(lost) as node:
        node.log(2, *tell(5, 1, 2, 3), commands.encode(Trim(((5, 1), (5, 2), (5, 3)))))
        node.log(5, messages(2, 5, 1))
    assert recover(lost, machines, now=NOW, tell=silent).cursors == 1
    async with running(lost) as replicas:
        await say(replicas, 2, 5, 4)
        with replicas.snapshot() as rows:
            assert notes(rows, 5) == [b"1", b"4"]


async def test_what_still_waits_in_the_outbox_comes_once(lost):
    """The first is forgotten and lost, the second and third wait; of those the second is taken."""
    with written(lost) as node:
        node.log(2, *tell(5, 1, 2, 3), commands.encode(Trim(((5, 1),))))
        node.log(5, messages(2, 5, 1, 2))
        node.log(4, *tell(7, 1, 2), commands.encode(Trim(((7, 1),))))
    assert recover(lost, machines, now=NOW, tell=silent).cursors == 1
    async with running(lost) as replicas:
        await replicas.at_rest()
        with replicas.snapshot() as rows:
            assert notes(rows, 5) == [b"1", b"2", b"3"]
            assert notes(rows, 7) == [b"2"]


async def test_a_source_that_lost_what_its_destination_took_is_heard_again(lost):
    """Partition 5 took 1 to 3 from partition 2, which knows of 1 only."""
    with written(lost) as node:
        node.log(2, *tell(5, 1))
        node.log(5, messages(2, 5, 1, 2, 3))
    assert recover(lost, machines, now=NOW, tell=silent).cursors == 0
    async with running(lost) as replicas:
        await say(replicas, 2, 5, 4)
        await say(replicas, 2, 5, 5)
        with replicas.snapshot() as rows:
            assert notes(rows, 5) == [b"1", b"2", b"3", b"4", b"5"]
    assert HEADS.get(rows_of(lost, 2), HeadKey(HEADS_PARTITION, 2)).sent == (1 << INCARNATION_SHIFT) + 2


async def test_a_node_that_went_on_alone_starts_again_and_again(lost):
    recover(lost, machines, now=NOW, tell=silent)
    for round_ in range(3):
        async with running(lost) as replicas:
            applied = await replicas.propose(3, commands.decode(execute("add", 1)))
            assert applied.index > 6
            await replicas.at_rest()
        assert balance(rows_of(lost, 3), 3) == 23 + round_


# --- what stands in the way ----------------------------------------------------------------------------
def test_an_install_that_was_cut_is_finished_first(lost, monkeypatch):
    source = MemoryRows()
    fill(source, 5, some_notes(200, 1), index=40, term=9)
    monkeypatch.setattr("cluster.snapshots.installing.INSTALL_ROWS", 20)
    with opened(lost, journal=False) as (directory, shards, _):
        folder = directory.staging / FOLDER
        next(install_pieces(shards[1].begin, spooled(source, folder)))
    assert plan(lost).partitions[5].installing
    recover(lost, machines, now=NOW, tell=silent)
    assert len(notes(rows_of(lost, 5), 5)) == len(some_notes(200, 1))
    head = HEADS.get(rows_of(lost, 5), HeadKey(HEADS_PARTITION, 5))
    assert (head.applied, head.term) == (41, 10)


def test_nothing_is_done_to_a_node_that_runs_or_is_none(lost, tmp_path):
    with DataDirectory.open(lost, now=NOW):
        for work in (plan, lambda data: recover(data, machines, now=NOW, tell=silent)):
            with pytest.raises(DirectoryInUse):
                work(lost)
    with pytest.raises(DirectoryDamaged, match="no data directory"):
        plan(tmp_path)


def test_a_gap_between_shard_and_journal_is_named(lost):
    with opened(lost, journal=False) as (directory, _, _):
        shutil.rmtree(directory.journal)
        with closing(Journal.open(directory.journal, segment_bytes=SEGMENT_BYTES)) as journal:
            journal.write([Entry(3, 5, 9, execute("add", 1))])
    with pytest.raises(ShardDamaged, match="ends at 3, its journal begins at 9"):
        plan(lost)


def test_a_node_that_was_always_alone_needs_nothing(tmp_path):
    with written(tmp_path / "n") as node:
        node.log(3, execute("add", 10))
    assert not plan(tmp_path / "n").needed


# --- a restored backup ---------------------------------------------------------------------------------
def restored(path, *, cluster=True):
    """A copy of `lost` under a new identity, as a restore leaves it; its node id."""
    with written(path) as node:
        shutil.rmtree(node.path / "journal")
        (node.path / "journal").mkdir()
        if cluster:
            key, row = ClusterKey(META_PARTITION), Cluster(b"c" * 16, b"ca", b"key", X, 1)
            node.write(META_PARTITION, CLUSTERS, key, row)
    identity = json.loads((path / "node.json").read_bytes())
    (path / "node.json").write_text(json.dumps(identity | {"node_id": "ab" * 16}))
    return b"\xab" * 16


async def test_a_restored_node_is_the_only_member_under_its_new_identity(lost):
    me = restored(lost)
    with DataDirectory.open(lost, now=NOW, boot=False) as directory:
        begin_anew(directory, now=NOW)
    rows = rows_of(lost, META_PARTITION)
    assert meta_rows.members(rows) == {me: Member(0, int(NOW * 1000), commands.FEATURE_LEVEL)}
    assert len(meta_rows.revoked(rows)) == 3 and meta_rows.public_keys(rows) == {}
    group = GROUPS.get(rows_of(lost, 3), GroupKey(HEADS_PARTITION, 3))
    assert group == GroupRow((me,), (), 4, 4, 6)
    async with running(lost) as replicas:
        command = meta.Boot(me, 1, start=b"12345678")
        start = Execute(AT_MS, 1, os.urandom(16), 0, os.urandom(16), b"", meta.encode(command))
        applied = await replicas.propose(META_PARTITION, start)
        assert isinstance(applied.outcome, commands.Accepted)
        await replicas.propose(3, commands.decode(execute("add", 1)))
        await replicas.at_rest()
    assert balance(rows_of(lost, 3), 3) == 16


def test_a_restored_node_that_was_never_in_a_cluster_registers_itself(lost):
    restored(lost, cluster=False)
    with DataDirectory.open(lost, now=NOW, boot=False) as directory:
        begin_anew(directory, now=NOW)
    assert meta_rows.members(rows_of(lost, META_PARTITION)) == {}


def test_half_a_snapshot_is_not_restored(lost, monkeypatch):
    source = MemoryRows()
    fill(source, 5, some_notes(200, 1), index=40, term=9)
    monkeypatch.setattr("cluster.snapshots.installing.INSTALL_ROWS", 20)
    with opened(lost, journal=False) as (directory, shards, _):
        next(install_pieces(shards[1].begin, spooled(source, directory.staging / FOLDER)))
    with (
        DataDirectory.open(lost, now=NOW, boot=False) as directory,
        pytest.raises(ShardDamaged, match="partition 5 was being replaced"),
    ):
        begin_anew(directory, now=NOW)
