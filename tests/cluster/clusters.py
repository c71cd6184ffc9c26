"""Several nodes in one process: real journals, shards and threads, TLS over loopback, and the toy machine.

    async with formed(tmp_path, 3) as cluster:
        await cluster.nodes[0].router.execute(5, encode(["add", 1]))
        await cluster.stop(cluster.leader(5))

The first node founds the groups, the others become learners and then voters. What nodes say to each other
goes over wires that a test may cut (connections break, and cannot be made) or freeze (nothing arrives, and
nothing breaks).
"""

from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio

from cluster.peers.links import Links, introduction, tcp
from cluster.raft.effects import AddLearner, ChangeRefused, NotLeader, Promote
from cluster.replicas import Overloaded, Replicas
from cluster.router import Router
from storage.journal import Journal
from storage.shard import Shard
from tests.cluster.peers.cluster import CLUSTER, authority, credentials
from tests.cluster.toy import Bank, balance, encode

PARTITIONS = 8
SHARDS = 2
MAP_BYTES = 64 << 20
WITHIN_S = 30  # for what takes a second: a hang becomes a failure
LOOK_S = 0.01  # between two looks at what nobody tells of


class Wire(trio.abc.Stream):
    """One connection, as the dialling node has it."""

    def __init__(self, network, ends, stream):
        self.network, self.ends, self.stream = network, ends, stream

    async def send_all(self, data):
        await self.network.thawed(self.ends)
        try:
            await self.stream.send_all(data)
        except trio.ClosedResourceError:  # the test did it, as a network would
            raise trio.BrokenResourceError("the test has cut this wire") from None

    async def wait_send_all_might_not_block(self):
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes=None):
        try:
            data = await self.stream.receive_some(max_bytes)
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError("the test has cut this wire") from None
        await self.network.thawed(self.ends)
        return data

    async def aclose(self):
        self.network.wires.discard(self)
        await self.stream.aclose()


class Network:
    def __init__(self):
        self.addresses = {}  # host:port → node id
        self.wires = set()
        self.down = set()  # {a, b} whose connections break
        self.frozen = {}  # {a, b} → the event that ends it

    def transport(self, sender):
        async def dial(address):
            ends = frozenset((sender, self.addresses[address]))
            if ends in self.down:
                raise OSError("the test has cut this wire")
            wire = Wire(self, ends, await tcp(address))
            self.wires.add(wire)
            return wire

        return dial

    async def thawed(self, ends):
        while ends in self.frozen:
            await self.frozen[ends].wait()

    async def cut(self, a, b):
        ends = frozenset((a.me, b.me))
        self.down.add(ends)
        for wire in [wire for wire in self.wires if wire.ends == ends]:
            await trio.aclose_forcefully(wire)

    def join(self, a, b):
        self.down.discard(frozenset((a.me, b.me)))

    def freeze(self, a, b):
        self.frozen[frozenset((a.me, b.me))] = trio.Event()

    def thaw(self, a, b):
        self.frozen.pop(frozenset((a.me, b.me))).set()


@dataclass
class Node:
    number: int
    me: bytes
    replicas: Replicas
    links: Links
    router: Router
    journal: Journal
    shards: list
    address: str = ""
    full: bool = False  # what the router is told of the disk
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)

    def balance(self, partition):
        with self.router.read() as rows:
            return balance(rows, partition)

    def balances(self):
        return [self.balance(partition) for partition in range(PARTITIONS)]

    async def run(self, task_status):
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
                    self.address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
                    await nursery.start(self.replicas.run)
                    await nursery.start(self.links.run, listeners)
                    task_status.started()
        finally:
            self.journal.close()
            for shard in self.shards:
                shard.close()
            self.ended.set()


def make_node(path, number, network, *, founder, machine=None):
    me = bytes([number + 1]) * 16
    folder = path / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal.open(folder / "journal", segment_bytes=1 << 20)
    shards = [Shard(folder / f"shard-{one}", map_bytes=MAP_BYTES) for one in range(SHARDS)]
    machines = dict.fromkeys(range(PARTITIONS), machine or Bank())
    replicas = Replicas(journal, shards, machines, me=me, founder=founder)
    replicas.recover()
    links = Links(
        introduction(CLUSTER, me, 1, me[:8], 1),
        credentials(folder, me, ca=authority()),
        lambda hello: None,
        transport=network.transport(me),
    )
    links.on_raft = replicas.frame
    links.on_connected = replicas.connected
    replicas.send_frame = links.send_raft
    router = Router(replicas, lambda: node.full)
    router.join(links)
    replicas.carry = router.deliver
    node = Node(number, me, replicas, links, router, journal, shards)
    return node


class Cluster:
    def __init__(self, nodes, network):
        self.nodes, self.network = nodes, network

    @property
    def living(self):
        return [node for node in self.nodes if not node.ended.is_set()]

    def leader(self, partition):
        """The node that is in charge of it; None for the moment."""
        return next((node for node in self.living if node.replicas.leads(partition)), None)

    def follower(self, partition):
        return next(node for node in self.living if not node.replicas.leads(partition))

    async def until(self, true):
        """For what is not told: looked at again and again."""
        with trio.fail_after(WITHIN_S):
            while not true():
                await trio.sleep(LOOK_S)

    async def agreed(self, *partitions):
        """Return when the living know who leads, and that one is in charge."""

        def known():
            for partition in partitions or range(PARTITIONS):
                leader = self.leader(partition)
                if leader is None or any(
                    node.replicas.standing(partition).leader != leader.me for node in self.living
                ):
                    return False
            return True

        await self.until(known)

    async def level(self):
        """Return when the living have applied the same everywhere."""

        def is_level():
            return all(
                len({node.replicas.committed_index(partition) for node in self.living}) == 1
                for partition in range(PARTITIONS)
            )

        await self.until(is_level)

    async def hand_over(self, partition, node):
        """Make `node` the leader."""
        with trio.fail_after(WITHIN_S):
            while not node.replicas.leads(partition):
                leader = self.leader(partition)
                if leader is not None and leader is not node:
                    with suppress(NotLeader, ChangeRefused):
                        await leader.replicas.transfer(partition, node.me)
                await trio.sleep(LOOK_S)
        await self.agreed(partition)

    async def stop(self, node):
        node.scope.cancel()
        await node.ended.wait()

    async def change(self, partition, change):
        """Have the leader make it, as soon as it can be made."""
        with trio.fail_after(WITHIN_S):
            while True:
                leader = self.leader(partition)
                if leader is not None:
                    with suppress(ChangeRefused, NotLeader, Overloaded):
                        await leader.replicas.change(partition, change)
                        return
                await trio.sleep(LOOK_S)

    async def grow(self, partition, voters):
        for node in self.nodes[1:]:
            await self.change(partition, AddLearner(node.me))
            if node.number < voters:
                await self.change(partition, Promote(node.me))


@asynccontextmanager
async def formed(path, nodes=3, voters=None, machine=None):
    """A running cluster, each group with `voters` voters (where not told: all nodes) and else learners."""
    network = Network()
    made = [make_node(path, number, network, founder=number == 0, machine=machine) for number in range(nodes)]
    cluster = Cluster(made, network)
    async with trio.open_nursery() as nursery:
        for node in made:
            await nursery.start(node.run)
        members = {node.me: node.address for node in made}
        network.addresses = {address: me for me, address in members.items()}
        for node in made:
            node.replicas.set_peers(members)
            node.links.connect_to(members)
        with trio.fail_after(WITHIN_S):
            async with trio.open_nursery() as growing:
                for partition in range(PARTITIONS):
                    growing.start_soon(cluster.grow, partition, nodes if voters is None else voters)
        await cluster.agreed()
        await cluster.level()
        yield cluster
        for node in cluster.living:
            await cluster.stop(node)


def add(amount=1):
    return encode(["add", amount])
