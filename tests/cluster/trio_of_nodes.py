"""Several nodes' replicas in one process, over real files; frames between them pass through memory.

What goes over the wire is tested where the wire is (`tests/cluster/peers`); here it is about the engine.
"""

from contextlib import asynccontextmanager

import trio

from cluster.raft.effects import AddLearner, ChangeRefused, Promote
from tests.cluster.lone import Node

WITHIN_S = 30  # a bound for what takes a second: a hang becomes a failure


def identity(number):
    return bytes([number + 1]) * 16


class Trio:
    """Nodes by number. `cut` holds the pairs (from, to) whose frames are dropped."""

    def __init__(self, path, count=3, **settings):
        self.path = path
        self.cut = set()
        self.settings = settings
        self.nodes = {}
        self.scopes = {}
        self.nursery = None
        self.boots = dict.fromkeys(range(count), 0)

    @property
    def replicas(self):
        return {number: node.replicas for number, node in self.nodes.items()}

    async def start(self, number):
        self.boots[number] += 1
        node = Node(
            self.path / f"n{number}",
            me=identity(number),
            boot=self.boots[number],
            founder=number == 0,
            **self.settings,
        )
        node.replicas.send_frame = lambda to, frame: self.send(number, to, frame)
        self.nodes[number] = node
        await self.nursery.start(self._run, number, node)
        node.replicas.set_peers([identity(other) for other in self.boots])
        for other, peer in self.replicas.items():
            if other != number:
                peer.connected(identity(number), True)

    async def _run(self, number, node, *, task_status):
        with trio.CancelScope() as scope:
            self.scopes[number] = scope
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(node.replicas.run)
                    task_status.started()
            finally:
                node.close()

    def send(self, sender, to, frame):
        number = to[0] - 1
        if number in self.nodes and (sender, number) not in self.cut:
            self.nodes[number].replicas.frame(identity(sender), frame)

    def stop(self, number):
        """As a kill: peers hear that the link broke."""
        del self.nodes[number]
        self.scopes[number].cancel()
        for peer in self.replicas.values():
            peer.connected(identity(number), False)

    async def grow(self):
        """Make all nodes voters of all groups."""
        for number in self.boots:
            if number:
                for partition in self.nodes[0].replicas.partitions:
                    await self.change(partition, AddLearner(identity(number)))
                    await self.change(partition, Promote(identity(number)))

    async def change(self, partition, change):
        while True:
            leader = await self.leader(partition)
            try:
                return await leader.change(partition, change)
            except ChangeRefused:
                await trio.sleep(0.005)

    async def leader(self, partition):
        """The replicas of a node that is in charge of the partition."""
        while True:
            for replicas in self.replicas.values():
                if replicas.leads(partition):
                    return replicas
            await trio.sleep(0.005)

    async def do(self, partition, *body):
        """Propose wherever the leader is; the result. For what may be tried again."""
        from cluster.raft.effects import Lost, NotLeader
        from tests.cluster.toy import decode

        node = next(iter(self.nodes.values()))
        while True:
            leader = await self.leader(partition)
            try:
                applied = await leader.propose(partition, node.command(*body))
            except (NotLeader, Lost):
                await trio.sleep(0.005)
                continue
            return decode(applied.outcome.result)

    async def level(self):
        """Return when all nodes have applied and can read the same."""
        while True:
            heads = {
                tuple(replicas.committed_index(p) for p in replicas.partitions)
                for replicas in self.replicas.values()
            }
            if len(heads) == 1:
                return
            await trio.sleep(0.01)


@asynccontextmanager
async def together(path, count=3, **settings):
    world = Trio(path, count, **settings)
    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            world.nursery = nursery
            for number in range(count):
                await world.start(number)
            await world.grow()
            yield world
            nursery.cancel_scope.cancel()
