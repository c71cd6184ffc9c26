"""Snapshots between two nodes over real links: what arrives is installed, what does not leaves nothing."""

from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from cluster.keys import HEADS_PARTITION, META_PARTITION, HeadKey
from cluster.peers.errors import PeerRefused, PeerUnreachable
from cluster.peers.messages import FetchSnapshot
from cluster.raft.messages import Configuration, Install
from cluster.snapshots import exchange as snapshots
from cluster.snapshots import state_stream
from cluster.snapshots.exchange import Snapshots
from cluster.snapshots.installing import install_pieces
from cluster.snapshots.spool import Spooled
from storage.shard import Shard
from tests.cluster.peers.cluster import A, B, C, pair
from tests.cluster.states import PARTITION, contents, fill, some_notes
from tests.cluster.toy import NOTES, NoteKey

MAP_BYTES = 64 << 20
WITHIN_S = 20
PARTITIONS = (*range(8), META_PARTITION)


class Replica:
    """The state of a node, and what is done with a state that came: installed at once, in this thread."""

    def __init__(self, path, links):
        path.mkdir()
        self.shards = [Shard(path / f"shard-{number}", map_bytes=MAP_BYTES) for number in range(2)]
        self.folder = path / "snapshots"
        self.installs = []
        self.steps = 0
        self.applied = {}
        self.before_install = trio.lowlevel.checkpoint
        self.snapshots = Snapshots(path.name.encode() * 16, PARTITIONS, self, links, self.shards, self.folder)

    async def install(self, sender, install, spool):
        await self.before_install()
        for _ in self.snapshots.pieces(install.group, install, spool):
            self.steps += 1
            await trio.lowlevel.checkpoint()
        self.installs.append((sender, install))

    def committed_index(self, partition):
        return self.applied.get(partition, 0)

    def fill(self, partition, notes, **more):
        transaction = self.shards[partition & 1].begin()
        fill(transaction, partition, notes, **more)
        transaction.commit()

    def contents(self, partition):
        with self.shards[partition & 1].reading() as rows:
            return contents(rows, partition)

    def state(self, partition):
        """The partition's rows and its head."""
        own = (partition.to_bytes(2, "big"), HeadKey(HEADS_PARTITION, partition).encode())
        return {key: value for key, value in self.contents(partition).items() if key.startswith(own)}

    def spools(self):
        return list(self.folder.iterdir()) if self.folder.is_dir() else []

    def close(self):
        for shard in self.shards:
            shard.close()


@asynccontextmanager
async def nodes(path):
    with trio.fail_after(WITHIN_S):
        async with pair(path) as (a, b):
            replicas = Replica(path / "a", a.links), Replica(path / "b", b.links)
            yield replicas
    for replica in replicas:
        replica.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(snapshots, "PAUSE_S", 0.01)


async def test_a_state_is_brought_to_another_node(tmp_path):
    async with nodes(tmp_path) as (a, b):
        for partition in (PARTITION, META_PARTITION):
            a.fill(partition, some_notes(10_000, 1), index=90, term=4)
            b.fill(partition, some_notes(10_000, 2), index=20, term=2)
            assert await a.snapshots.send(B, partition, 6) == 90
            assert b.state(partition) == a.state(partition)
            assert b.installs[-1] == (A, Install(partition, 6, 90, 4, Configuration((A,))))
        assert b.spools() == [] and b.steps > 2
        sent, taken = a.snapshots.statistics(), b.snapshots.statistics()
        assert (sent.sent, sent.sending, sent.giving, sent.failed) == (2, 0, 0, 0)
        assert (taken.taken, taken.taking, taken.failed) == (2, 0, 0)
        assert sent.given_bytes == taken.taken_bytes > 700_000


async def test_what_is_there_already_is_not_sent(tmp_path):
    async with nodes(tmp_path) as (a, b):
        a.fill(PARTITION, some_notes(100_000, 1), index=90, term=4)
        b.applied[PARTITION] = 90
        assert await a.snapshots.send(B, PARTITION, 6) == 90
        assert b.installs == [] and b.spools() == []
        assert b.snapshots.statistics().taken_bytes < 2_000_000
        b.applied[PARTITION] = 89
        assert await a.snapshots.send(B, PARTITION, 6) == 90
        assert len(b.installs) == 1


async def test_many_at_once_all_arrive(tmp_path):
    async with nodes(tmp_path) as (a, b):
        for partition in range(8):
            a.fill(partition, some_notes(500, partition), index=partition + 1)
        async with trio.open_nursery() as nursery:
            for partition in range(8):
                nursery.start_soon(a.snapshots.send, B, partition, 1)
        assert sorted(install.group for _, install in b.installs) == list(range(8))
        for partition in range(8):
            assert b.state(partition) == a.state(partition) != {}


async def test_no_more_streams_than_the_bound_run_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "SENDS_OF_NODE_MAX", 2)
    async with nodes(tmp_path) as (a, b):
        for partition in range(8):
            a.fill(partition, {1: b"x"})
        together, most = 0, 0

        async def install_slowly():
            nonlocal together, most
            together += 1
            most = max(most, together)
            await trio.testing.wait_all_tasks_blocked(0.01)
            together -= 1

        b.before_install = install_slowly
        async with trio.open_nursery() as nursery:
            for partition in range(8):
                nursery.start_soon(a.snapshots.send, B, partition, 1)
        assert most == 2 and len(b.installs) == 8


async def test_a_damaged_row_goes_nowhere(tmp_path):
    async with nodes(tmp_path) as (a, b):
        a.fill(PARTITION, some_notes(20_000, 1))
        key = NoteKey(PARTITION, 19_999).encode()
        transaction = a.shards[PARTITION & 1].begin()
        transaction.write({key: NOTES.codec.encode(key, b"text")[:-1] + b"!"})
        transaction.commit()
        b.fill(PARTITION, some_notes(10, 2))
        before = b.contents(PARTITION)
        with pytest.raises(PeerRefused):
            await a.snapshots.send(B, PARTITION, 1)
        assert b.contents(PARTITION) == before and b.spools() == [] and b.installs == []
        assert a.snapshots.statistics().failed == b.snapshots.statistics().failed == 1


async def test_a_state_that_is_bent_on_the_way_is_refused(tmp_path, monkeypatch):
    def bent(rows, partition, founder):
        *most, last = state_pieces(rows, partition, founder)
        yield from most
        yield last[:-1] + bytes([last[-1] ^ 1])

    state_pieces = state_stream.state_pieces
    async with nodes(tmp_path) as (a, b):
        a.fill(PARTITION, some_notes(100, 1))
        monkeypatch.setattr(snapshots, "state_pieces", bent)
        with pytest.raises(PeerRefused, match="damaged"):
            await a.snapshots.send(B, PARTITION, 1)
        monkeypatch.setattr(snapshots, "state_pieces", state_pieces)
        assert b.spools() == [] and b.installs == []
        assert await a.snapshots.send(B, PARTITION, 1) == 7


async def test_rows_of_two_states_are_given_to_nobody(tmp_path):
    """A node offered its state as the leader; before it is pulled, another leader replaces it, piece by
    piece, and the head is still the old one."""
    async with nodes(tmp_path) as (a, b):
        a.fill(PARTITION, some_notes(20_000, 1), index=90, term=4)
        b.fill(PARTITION, some_notes(20_000, 2), index=20, term=2)
        spool = a.folder / "spool"
        a.folder.mkdir(exist_ok=True)
        with b.shards[PARTITION & 1].reading() as rows:
            spool.write_bytes(b"".join(state_stream.state_pieces(rows, PARTITION, Configuration((B,)))))
        pieces = install_pieces(a.shards[PARTITION & 1].begin, Spooled.open(spool, PARTITION))
        next(pieces)
        with pytest.raises(PeerRefused, match="replaced"):
            await a.snapshots.send(B, PARTITION, 1)
        for _ in pieces:
            pass
        assert await a.snapshots.send(B, PARTITION, 1) == 20


async def test_a_stream_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "STREAM_S_MAX", 0.0)
    async with nodes(tmp_path) as (a, b):
        a.fill(PARTITION, some_notes(100, 1))
        with pytest.raises(PeerRefused, match="not taken within"):
            await a.snapshots.send(B, PARTITION, 1)
        assert b.spools() == [] and a.snapshots.statistics().giving == 0


async def test_a_disk_without_room_is_said_to_be_full(tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.snapshots.spool.LEFT_BYTES", 1 << 60)
    async with nodes(tmp_path) as (a, b):
        a.fill(PARTITION, {1: b"x"})
        with pytest.raises(PeerRefused, match="storage_full"):
            await a.snapshots.send(B, PARTITION, 1)
        assert b.spools() == []


async def test_more_than_is_taken_is_refused(tmp_path):
    async with nodes(tmp_path) as (a, b):
        a.fill(PARTITION, some_notes(10_000, 1))
        b.snapshots._bytes_max = 1 << 16
        with pytest.raises(PeerRefused, match="over 65536 bytes"):
            await a.snapshots.send(B, PARTITION, 1)
        assert b.spools() == []


async def test_one_state_of_a_partition_at_a_time(tmp_path):
    async with nodes(tmp_path) as (a, b):
        a.fill(PARTITION, {1: b"x"})
        begun, go_on = trio.Event(), trio.Event()

        async def hold():
            begun.set()
            await go_on.wait()

        b.before_install = hold
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.snapshots.send, B, PARTITION, 1)
            await begun.wait()
            with pytest.raises(PeerRefused, match="busy"):
                await a.snapshots.send(B, PARTITION, 1)
            go_on.set()
        assert len(b.installs) == 1


async def test_what_nobody_has_is_not_offered(tmp_path):
    async with nodes(tmp_path) as (a, b):
        with pytest.raises(PeerRefused, match="no partition 77"):
            await a.snapshots.send(B, 77, 1)
        with pytest.raises(PeerUnreachable):
            await a.snapshots.send(C, PARTITION, 1)
        with pytest.raises(PeerRefused, match="no partition 77"):
            async with b.snapshots._links.stream(A, FetchSnapshot(77), idle_s=1) as chunks:
                async for _ in chunks:
                    raise AssertionError("bytes of a partition that there is not")


async def test_a_puller_that_goes_away_leaves_no_reader_behind(tmp_path):
    async with nodes(tmp_path) as (a, b):
        a.fill(PARTITION, some_notes(50_000, 1))
        links = b.snapshots._links
        with trio.CancelScope() as scope:
            async with links.stream(A, FetchSnapshot(PARTITION), idle_s=1) as chunks:
                async for _ in chunks:
                    scope.cancel()
        while a.snapshots.statistics().giving:
            await trio.sleep(0.001)
        transaction = a.shards[PARTITION & 1].begin()
        transaction.abort()


async def test_one_that_is_cancelled_while_it_pulls_keeps_no_spool(tmp_path):
    async with nodes(tmp_path) as (a, b):
        a.fill(PARTITION, some_notes(50_000, 1))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(b.snapshots._pull, A, PARTITION))
                while not b.spools():
                    await trio.sleep(0)
                scope.cancel()
        assert b.spools() == []
