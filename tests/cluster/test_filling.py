"""A node that joins late gets the state of every partition from its leader, while others go on writing."""

from contextlib import asynccontextmanager
from functools import partial

import trio

from cluster import journal_writer
from cluster.keys import HEADS, HEADS_PARTITION, HeadKey
from cluster.peers.errors import PeerRefused, PeerSilent, PeerUnreachable
from cluster.raft.effects import AddLearner, Promote
from cluster.snapshots.exchange import Snapshots
from cluster.snapshots.spool import finish_installs
from storage.keys import partition_range
from storage.shard import Shard
from tests.cluster.clusters import MAP_BYTES, PARTITIONS, Cluster, Network, add, make_node
from tests.cluster.toy import encode

WITHIN_S = 30
NOTE = b"n" * 8000
NOTES = 160  # 1.3 MB of entries for each partition that gets them


def attach(node, folder):
    """What a node does with snapshots, as its composition does it."""
    replicas = node.replicas
    snapshots = Snapshots(node.me, range(PARTITIONS), replicas, node.links, node.shards, folder)
    replicas.pieces = snapshots.pieces
    node.snapshots = snapshots

    async def send(number, need):
        try:
            index = await snapshots.send(need.node, number, need.term)
        except (PeerUnreachable, PeerSilent, PeerRefused):
            replicas.snapshot_failed(number, need.node)
        else:
            replicas.snapshot_sent(number, need.node, index)

    return send


@asynccontextmanager
async def late(path, nodes=2):
    """A founder whose journal has forgotten its beginning, and others that have not joined yet."""
    network = Network()
    made = [make_node(path, number, network, founder=number == 0) for number in range(nodes)]
    async with trio.open_nursery() as nursery:
        for node in made:
            send = attach(node, path / f"spools-{node.number}")
            node.replicas.on_need_snapshot = partial(nursery.start_soon, send)
            await nursery.start(run_until_it_dies, node)
        members = {node.me: node.address for node in made}
        network.addresses = {address: me for me, address in members.items()}
        founder = made[0]
        for number in range(PARTITIONS):
            await founder.router.execute(number, encode(["tell", number, "note", b"hello"]))
        for _ in range(NOTES):
            await founder.router.execute(2, encode(["tell", 3, "note", NOTE]))
        await founder.replicas.at_rest()
        with trio.fail_after(WITHIN_S):
            while founder.journal.read(2, 1, 1):
                founder.replicas._journal_writer.release_soon()
                await trio.sleep(0.01)
        for node in made:
            node.replicas.set_peers(members)
            node.links.connect_to(members)
        cluster = Cluster(made, network)
        yield cluster
        for node in cluster.living:
            await cluster.stop(node)
        nursery.cancel_scope.cancel()


class Died(Exception):
    """A process is killed."""


async def run_until_it_dies(node, task_status):
    try:
        await node.run(task_status)
    except* Died:
        pass


def state(node, partition):
    """Rows and applied index, as last committed."""
    with node.shards[partition % 2].reading() as rows:
        head = HEADS.get(rows, HeadKey(HEADS_PARTITION, partition))
        return head, dict(rows.scan(*partition_range(partition)))


async def test_a_node_that_joins_late_is_filled_and_keeps_up(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_writer, "SEGMENTS_KEPT", 0)
    monkeypatch.setattr("cluster.snapshots.installing.INSTALL_ROWS", 50)  # so that an install has many steps
    async with late(tmp_path) as cluster:
        founder, joiner = cluster.nodes
        with trio.fail_after(WITHIN_S):
            async with trio.open_nursery() as nursery:
                for number in range(PARTITIONS):
                    nursery.start_soon(cluster.change, number, AddLearner(joiner.me))
                for _ in range(100):  # others go on meanwhile
                    await founder.router.execute(2, add())
            await founder.replicas.at_rest()
            await cluster.level()
        for number in range(PARTITIONS):
            await joiner.replicas.visible(number)
            assert state(joiner, number) == state(founder, number)
        assert joiner.balance(2) == 100
        assert joiner.snapshots.statistics().taken >= 2
        assert not list((tmp_path / "spools-1").iterdir())
        for number in range(PARTITIONS):
            await cluster.change(number, Promote(joiner.me))
        await cluster.level()
        await cluster.hand_over(2, joiner)
        await joiner.router.execute(2, add())
        await cluster.level()
        assert founder.balance(2) == 101


class Held:
    """Replicas that install nothing before they are told to."""

    def __init__(self, replicas, begun, go_on):
        self.replicas, self.begun, self.go_on = replicas, begun, go_on

    async def install(self, sender, install, spool):
        self.begun.set()
        await self.go_on.wait()
        await self.replicas.install(sender, install, spool)

    def committed_index(self, partition):
        return self.replicas.committed_index(partition)


async def test_a_leader_that_loses_its_lead_while_it_sends_harms_nobody(tmp_path, monkeypatch):
    """The state that arrives is committed state; what its old term says is refused, and asked for again."""
    monkeypatch.setattr(journal_writer, "SEGMENTS_KEPT", 0)
    async with late(tmp_path, 3) as cluster:
        founder, second, third = cluster.nodes
        for number in range(PARTITIONS):
            await cluster.change(number, AddLearner(second.me))
            await cluster.change(number, Promote(second.me))
        await cluster.until(
            lambda: all(
                founder.replicas.committed_index(number) == second.replicas.committed_index(number)
                for number in range(PARTITIONS)
            )
        )
        begun, go_on = trio.Event(), trio.Event()
        third.snapshots._replicas = Held(third.replicas, begun, go_on)
        await cluster.change(2, AddLearner(third.me))
        with trio.fail_after(WITHIN_S):
            await begun.wait()
        await cluster.hand_over(2, second)
        go_on.set()
        await second.router.execute(2, add())
        with trio.fail_after(WITHIN_S):
            while state(third, 2) != state(second, 2):
                await trio.sleep(0.01)


async def test_a_node_that_dies_while_it_installs_goes_on_after_its_start(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_writer, "SEGMENTS_KEPT", 0)
    monkeypatch.setattr("cluster.snapshots.installing.INSTALL_ROWS", 20)

    def cut(number, install, spool):
        for step, changed in enumerate(joiner.snapshots.pieces(number, install, spool)):
            yield changed
            if step == 2:
                raise Died

    async with late(tmp_path) as cluster, trio.open_nursery() as nursery:
        founder, joiner = cluster.nodes
        joiner.replicas.pieces = cut
        await cluster.change(3, AddLearner(joiner.me))
        with trio.fail_after(WITHIN_S):
            await joiner.ended.wait()
        shards = [Shard(tmp_path / "1" / f"shard-{number}", map_bytes=MAP_BYTES) for number in range(2)]
        assert finish_installs(shards, tmp_path / "spools-1") == [3]
        for shard in shards:
            shard.close()
        again = make_node(tmp_path, 1, cluster.network, founder=False)
        assert 0 < again.replicas.committed_index(3) <= founder.replicas.committed_index(3)
        attach(again, tmp_path / "spools-1")
        await nursery.start(again.run)
        cluster.nodes[1] = again
        members = {node.me: node.address for node in cluster.nodes}
        cluster.network.addresses = {address: me for me, address in members.items()}
        for node in cluster.nodes:
            node.replicas.set_peers(members)
            node.links.connect_to(members)
        await founder.router.execute(3, add())
        with trio.fail_after(WITHIN_S):
            while state(again, 3) != state(founder, 3):
                await trio.sleep(0.01)
        await cluster.stop(again)
