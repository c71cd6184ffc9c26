"""Recorded commands replayed into an empty store give equal digests: in memory, in LMDB, in any batches."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import commands
from cluster.commands import Deliver, Delivery, Digest, Execute, ForgetChanges
from cluster.partition import Partition
from storage.ids import compose
from storage.rows import Overlay
from storage.shard import Shard
from tests.cluster.toy import Bank, encode
from tests.world import World

PARTITIONS = 3
MAP_BYTES = 16 << 20
ADA = compose(9, 1, 1)

BODIES = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 9)),
    st.tuples(st.just("give"), st.integers(0, PARTITIONS - 1), st.integers(0, 12)),
    st.tuples(st.just("tell"), st.integers(0, PARTITIONS - 1), st.sampled_from(["unless_rich", "unknown"])),
    st.tuples(st.just("tell"), st.integers(0, PARTITIONS - 1), st.just("note"), st.binary(max_size=9)),
    st.tuples(st.just("mint"), st.integers(0, 3)),
    st.tuples(st.just("random"), st.integers(0, 40)),
    st.tuples(st.just("say"), st.text(max_size=5)),
    st.tuples(st.just("work"), st.sampled_from(["work", "refuse"]), st.integers(1, 3)),
    st.just(("refuse",)),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("do"), st.integers(0, PARTITIONS - 1), BODIES, st.integers(0, 3)),
        st.tuples(st.just("wait"), st.integers(-1000, 90_000_000)),
        st.just(("settle",)),
        st.tuples(st.just("forget"), st.integers(0, PARTITIONS - 1), st.integers(0, 9)),
        st.tuples(st.just("digest"), st.integers(0, PARTITIONS - 1)),
    ),
    max_size=30,
)


def record(steps):
    """A world after the steps; its log is what is replayed."""
    world = World(Bank(), partitions=PARTITIONS)
    for number, step in enumerate(steps):
        match step:
            case ("do", partition, body, command_id):
                scope = ADA if partition == 1 and command_id else 0  # few ids: some are retries
                identity = (command_id if scope else number).to_bytes(16, "big")
                random = number.to_bytes(16, "big")
                world.apply(partition, Execute(world.now, 1, random, scope, identity, b"", encode(body)))
            case ("wait", ms):
                world.now += ms
            case ("settle",):
                world.settle()
            case ("forget", partition, below):
                world.apply(partition, ForgetChanges(below))
            case ("digest", partition):
                world.apply(partition, Digest())
    return world


class InLmdb:
    """Partitions over shards, committed when told, with heads loaded anew after each commit."""

    def __init__(self, path):
        self._shard = Shard(path, map_bytes=MAP_BYTES)
        self._begin()

    def _begin(self):
        self._transaction = self._shard.begin()
        self._overlay = Overlay(self._transaction)
        self._partitions = {n: Partition.load(n, Bank(), self._overlay) for n in range(PARTITIONS)}

    def replay(self, partition, data):
        replica = self._partitions[partition]
        return replica.apply(self._overlay, replica.head.applied + 1, 1, data)

    def commit(self):
        for replica in self._partitions.values():
            replica.store_head(self._overlay)
        self._overlay.flush()
        self._transaction.commit()
        self._begin()

    def digest(self, partition):
        return self._partitions[partition].digest(self._overlay)

    def close(self):
        self._transaction.abort()
        self._shard.close()


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(1, 12))
def test_a_replayed_log_gives_the_same_state(steps, batch):
    world = record(steps)
    again = World(Bank(), partitions=PARTITIONS)
    with TemporaryDirectory() as scratch:
        in_lmdb = InLmdb(Path(scratch))
        for number, (partition, data) in enumerate(world.log):
            one, other = again.replay(partition, data), in_lmdb.replay(partition, data)
            assert one == other
            if number % batch == 0:
                in_lmdb.commit()
        in_lmdb.commit()
        for partition in range(PARTITIONS):
            assert world.digest(partition) == again.digest(partition) == in_lmdb.digest(partition)
        in_lmdb.close()


def test_a_digest_of_a_replay_equals_the_recorded_one():
    steps = [("do", 1, ("give", 2, 0), 0), ("do", 1, ("mint", 2), 1), ("settle",)]
    world = record([*steps, ("digest", 1), ("digest", 2)])
    again = World(Bank(), partitions=PARTITIONS)
    outcomes = [again.replay(partition, data).outcome for partition, data in world.log]
    assert outcomes[-2].result != outcomes[-1].result
    assert len(outcomes[-1].result) == 32


@pytest.mark.parametrize("changed", ["now", "random", "order"])
def test_digests_differ_where_logs_do(changed):
    first = Execute(1_800_000_000_000, 1, b"r" * 16, ADA, b"a" * 16, b"", encode(["mint", 1]))
    second = Deliver(1_800_000_000_000, 1, b"r" * 16, (Delivery(7, 0, 1, encode(["note", b"n"])),))
    logs = {
        "now": [Execute(first.now + 1, 1, first.random, ADA, first.id, b"", first.body), second],
        "random": [first, Execute(first.now, 1, b"s" * 16, ADA, b"b" * 16, b"", encode(["random", 8]))],
        "order": [second, first],
    }
    digests = set()
    for log in ([first, second], logs[changed]):
        world = World(Bank(), partitions=PARTITIONS)
        for command in log:
            world.replay(1, commands.encode(command))
        digests.add(world.digest(1))
    assert len(digests) == 2
