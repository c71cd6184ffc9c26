"""One history: nodes, network, clients and faults from one seed; and what must hold when all has healed."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from cluster import commands
from cluster.commands import Digest
from cluster.keys import HEADS, HEADS_PARTITION, META_PARTITION, HeadKey
from cluster.meta import MetaMachine
from cluster.partition import StateMachine
from cluster.raft_messages import Configuration
from cluster.raft_roles import Role
from cluster.simulation.build import PRODUCTION, Build
from cluster.simulation.checks import Checks
from cluster.simulation.disk import SHARDS, Disk
from cluster.simulation.faults import Faults
from cluster.simulation.history import History, Violation
from cluster.simulation.kernel import MS, SECOND, Kernel, Trace
from cluster.simulation.network import FAIR, Network
from cluster.simulation.node import Node
from cluster.simulation.sessions import Session
from cluster.simulation.traffic import Application

REPLICATION_FACTOR: Final = 3
SETTLE_S_MAX: Final = 40  # after all has healed, until everything is at rest
DIGEST_MS: Final = 2_500


class Options(msgspec.Struct, frozen=True):
    nodes: int = 5
    seconds: int = 60  # of faults and traffic; healing comes after
    partitions: int = 16
    clients: int = 6
    pause_ms: int = 800  # of a client between two steps, on average


class World:
    def __init__(
        self,
        seed: int,
        application: Application,
        options: Options | None = None,
        build: Build = PRODUCTION,
        trace: Trace | None = None,
    ) -> None:
        self.options = options = options or Options()
        self.build = build
        self.kernel = Kernel(seed, trace)
        self.network = Network(self.kernel)
        self.history = History()
        self.checks = Checks(self)
        self.partitions = (*range(options.partitions), META_PARTITION)
        self.is_ending = False
        self.lost: list[bytes] = []  # identities whose disks are gone
        self._machine = application.machine()
        self._meta = MetaMachine()
        self.nodes: list[Node] = []
        for number in range(options.nodes):
            self.nodes.append(build.node(self, number, Disk(self.kernel.draw_bytes(16), founder=number == 0)))
        self._by_id = {node.id: node for node in self.nodes}
        self.traffic = application.traffic(self.kernel.random, options.partitions, options.clients)
        self.faults = Faults(self)
        for node in self.nodes:
            node.start()
        self.sessions = [Session(self, client, options.pause_ms) for client in self.traffic.clients]
        self.kernel.after(DIGEST_MS * MS, self._digest)

    # --- who is who ----------------------------------------------------------------------------------------
    def node(self, id_: bytes) -> Node | None:
        return self._by_id.get(id_)

    def name(self, id_: bytes) -> str:
        node = self._by_id.get(id_)
        return repr(node) if node is not None else id_.hex()[:8]

    def machine(self, node: Node, partition: int) -> StateMachine:
        machine: StateMachine = self._meta if partition == META_PARTITION else self._machine
        bugged: StateMachine = self.build.machine(node, machine)
        return bugged

    def founders(self, partition: int) -> Configuration:
        ids = [node.id for node in self.nodes]
        factor = min(REPLICATION_FACTOR, len(ids) - 1 + len(ids) % 2)
        return Configuration(tuple(sorted(ids[:factor])), tuple(sorted(ids[factor:])))

    def members_at_first(self, node: Node) -> Configuration:
        return self.founders(0)

    def peers_of(self, node: Node) -> Sequence[bytes]:
        return [other.id for other in self.nodes if other is not node]

    def admits(self, node: Node, sender: Node) -> bool:
        return True

    def applied_on_disk(self, node: Node, partition: int) -> int:
        if node.alive:
            return node.shelf(partition).committed[partition]
        head = HEADS.get(node.disk.shards[partition % SHARDS], HeadKey(HEADS_PARTITION, partition))
        return head.applied if head is not None else 0

    # --- life ----------------------------------------------------------------------------------------------
    def kill(self, node: Node) -> None:
        node.kill()
        for session in self.sessions:
            session.node_died(node)
        for other in self.nodes:
            if other.alive and other is not node:
                delay = self.kernel.between(1, 600) * MS
                other.after(delay, self._links_broke, other, node, node.life)

    def _links_broke(self, node: Node, peer: Node, life: int) -> None:
        node.service.peer_lost(peer.number)
        if peer.life == life and self.kernel.chance(0.5):
            node.put(lambda: node.groups.silent(peer.id))

    def _digest(self) -> None:
        """Logged, so that all replicas take it at the same index."""
        self.kernel.after(DIGEST_MS * MS, self._digest)
        number = self.partitions[self.kernel.between(0, len(self.partitions) - 1)]
        for node in self.nodes:
            if node.alive and node.service.leads(number):
                node.service.propose(number, commands.encode(Digest()), _nothing, _nothing)

    # --- from the beginning to the end ---------------------------------------------------------------------
    def run(self) -> History:
        """Raises Violation, or AssertionError where a core noticed it first."""
        self.kernel.run_until(self.options.seconds * SECOND)
        self.heal()
        self.settle()
        self.history.frames = self.network.sent
        self.history.events = self.kernel.events
        return self.history

    def heal(self) -> None:
        self.kernel.note("all heals")
        self.is_ending = True
        self.faults.end()
        self.network.cuts.clear()
        self.network.weather = FAIR
        for node in self.nodes:
            node.disk.journal.disk_full = node.disk_is_slow = False
            if not node.alive:
                node.start()

    def settle(self) -> None:
        end = self.kernel.now + SETTLE_S_MAX * SECOND
        amiss = ["nothing was looked at"]
        while amiss and self.kernel.now < end:
            self.kernel.run_until(self.kernel.now + SECOND // 2)
            amiss = self.amiss()
        if amiss:
            raise Violation("liveness", f"{SETTLE_S_MAX} s after all was healed: {'; '.join(amiss[:5])}")
        self._check_equal()
        node = self.nodes[self.kernel.between(0, len(self.nodes) - 1)]
        for checker, detail in self.traffic.wrong(Everything(node), self.options.partitions):
            raise Violation(checker, detail)

    def amiss(self) -> list[str]:
        """What is not at rest yet."""
        busy = sum(not session.idle for session in self.sessions)
        wrong = [f"{busy} clients wait"] if busy else []
        for number in self.partitions:
            leaders = [node for node in self.nodes if node.service.leads(number)]
            if len(leaders) != 1:
                wrong.append(f"partition {number} has {len(leaders)} leaders in charge")
                continue
            last = leaders[0].groups.raft(number).group.log.last
            for node in self.nodes:
                if node.shelf(number).committed[number] != last:
                    at = node.shelf(number).committed[number]
                    wrong.append(f"{node} has applied {at} of {last} in partition {number}")
            if leaders[0].partition(number).head.outbox_rows:
                wrong.append(f"partition {number} has messages under way")
        wrong += [f"{node} has errands" for node in self.nodes if not node.service.duties.at_rest]
        return wrong

    def _check_equal(self) -> None:
        for number in self.partitions:
            digests = {node.partition(number).digest(node.shelf(number).rows) for node in self.nodes}
            if len(digests) > 1:
                raise Violation("equal digests", f"the replicas of partition {number} differ")
        leaders = [node.groups.raft(number).role for node in self.nodes for number in self.partitions]
        assert leaders.count(Role.LEADER) == len(self.partitions)


class Everything:
    """The rows of all shards of a node, as committed."""

    def __init__(self, node: Node) -> None:
        self._shards = node.disk.shards

    def _of(self, key: bytes) -> Any:
        return self._shards[int.from_bytes(key[:2], "big") % SHARDS]

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._of(key).get(key)
        return value

    def get_many(self, keys: Any) -> dict[bytes, bytes]:
        found = {key: self.get(key) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Any:
        return self._of(start).scan(start, stop, reverse=reverse)


def _nothing(_: Any) -> None:
    pass
