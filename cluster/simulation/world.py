"""One history: nodes, network, clients, operators and faults from one seed; it is run, healed and judged."""

from typing import Any, Final

import msgspec

from cluster import commands
from cluster.commands import Declined, Digest
from cluster.keys import HEADS, HEADS_PARTITION, META_PARTITION, HeadKey
from cluster.members import meta_rows
from cluster.members.layout import Layout, layout_of
from cluster.members.meta import MetaMachine
from cluster.members.meta_rows import REPLICATION_FACTOR_DEFAULT
from cluster.partition import StateMachine
from cluster.raft.messages import Configuration
from cluster.simulation.build import PRODUCTION, Build
from cluster.simulation.checks import Checks
from cluster.simulation.disk import SHARDS, Disk
from cluster.simulation.ending import Ending
from cluster.simulation.faults import Faults
from cluster.simulation.history import History
from cluster.simulation.kernel import MS, SECOND, Kernel, Trace
from cluster.simulation.network import FAIR, Network
from cluster.simulation.node import Node
from cluster.simulation.operators import Operators
from cluster.simulation.sessions import Session
from cluster.simulation.traffic import Application
from storage.rows import Reader

DIGEST_MS: Final = 2_500


class Options(msgspec.Struct, frozen=True):
    nodes: int = 5  # 0, where there are many histories: by the seed
    seconds: int = 60  # of faults and traffic; healing comes after
    settle_seconds: int = 60  # at most, after all has healed, until everything is at rest
    factor: int = REPLICATION_FACTOR_DEFAULT  # voters of each partition: the cluster's setting
    partitions: int = 16
    clients: int = 6
    pause_ms: int = 800  # of a client between two steps, on average
    climate: int | None = None  # of cluster.simulation.faults.CLIMATES, or CALM; None: by the seed


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
        self.cluster_id = self.kernel.draw_bytes(16)
        self._machine = application.machine()
        self._meta = MetaMachine()
        self._layouts: dict[Any, Layout] = {}
        self._numbers = 0
        self._by_id: dict[bytes, Node] = {}
        self.nodes: list[Node] = []  # members, as the operators see it
        self.joining: list[Node] = []
        self.lost: list[Node] = []
        founder = self.new_node(founder=True)
        self.founders = Configuration((founder.id,))
        self.add(founder)
        self.joining = [self.new_node() for _ in range(options.nodes - 1)]
        self.traffic = application.traffic(self.kernel.random, options.partitions, options.clients)
        self.operators = Operators(self)
        self.faults = Faults(self)
        founder.start()
        self.kernel.after(50 * MS, self.operators.found, founder)
        self.sessions = [Session(self, client, options.pause_ms) for client in self.traffic.clients]
        self.kernel.after(DIGEST_MS * MS, self._digest)

    # --- who is who ----------------------------------------------------------------------------------------
    def new_node(self, *, founder: bool = False) -> Node:
        disk = Disk(self.kernel.draw_bytes(16), founder=founder)
        self._numbers += 1
        return self.build.node(self, self._numbers, disk)

    def copy_of(self, node: Node, disk: Any) -> Node:
        self._numbers += 1
        twin = self.build.node(self, self._numbers, disk, is_copy=True)
        twin.first_peers = node.first_peers
        return twin

    def add(self, node: Node) -> None:
        self.nodes.append(node)
        self._by_id[node.id] = node

    def lose(self, node: Node) -> None:
        self.nodes.remove(node)
        self.lost.append(node)

    def node(self, id_: bytes) -> Node | None:
        return self._by_id.get(id_)

    def name(self, id_: bytes) -> str:
        node = self._by_id.get(id_)
        return repr(node) if node is not None else id_.hex()[:8]

    def machine(self, node: Node, partition: int) -> StateMachine:
        machine: StateMachine = self._meta if partition == META_PARTITION else self._machine
        return self.build.machine(node, machine)

    def layout(self, rows: Reader) -> Layout:
        """By the rows of a meta group; worked out once for all nodes."""
        version, placed = meta_rows.layout_version(rows), meta_rows.placed(rows)
        factor = meta_rows.replication_factor(rows)
        key = (version, factor, tuple(sorted(placed.items())))
        if key not in self._layouts:
            self._layouts[key] = layout_of(version, placed, factor, self.options.partitions)
        return self._layouts[key]

    def applied_on_disk(self, node: Node, partition: int) -> int:
        head = HEADS.get(node.disk.shards[partition % SHARDS], HeadKey(HEADS_PARTITION, partition))
        return head.applied if head is not None else 0

    # --- life ----------------------------------------------------------------------------------------------
    def kill(self, node: Node) -> None:
        self.history.kills += 1
        node.kill()

    def killed(self, node: Node) -> None:
        for session in self.sessions:
            session.node_died(node)
        for other in self.nodes:
            if other.alive and other is not node and not node.is_copy:
                delay = self.kernel.between(1, 600) * MS
                other.after(delay, self._links_broke, other, node, node.life)
        if self.is_ending and not node.is_copy:  # a disk that was to fail at the next sync did so only now
            self.kernel.after(SECOND, self._start_again, node)

    def _start_again(self, node: Node) -> None:
        if not node.alive:
            node.start()

    def _links_broke(self, node: Node, peer: Node, life: int) -> None:
        node.service.calls.peer_lost(peer.number)
        if peer.life == life:
            node.service.belonging.link_broke(peer.id)
        if peer.life == life and self.kernel.chance(0.5):
            node.put(lambda: node.groups.silent(peer.id))

    def refused(self, node: Node, sender: Node, why: Declined) -> None:
        self.kernel.note(f"{node} does not listen to {sender}: {why.code}")
        if sender.is_copy:
            self.history.copies_refused += 1
            sender.after(self.kernel.between(1, 20) * MS, sender.expel, why.code)

    def _digest(self) -> None:
        """Logged, so that all replicas take it at the same index."""
        if self.is_ending:
            return
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
        Ending(self).settle()
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
            node.clock_off_ms = 0
            if not node.alive:
                node.start()


def _nothing(_: Any) -> None:
    pass
