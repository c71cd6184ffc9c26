"""What the trio thread of a node does, in virtual time: who leads, duties, forwarding, reads, snapshots.

A command goes the way that `cluster.attempts` says (`cluster.simulation.errand`). What a leader owes its
partitions is `cluster.duties`; how the node belongs to its cluster is in `cluster.simulation.belonging`.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cluster import commands, mailbox
from cluster.commands import FEATURE_LEVEL, Continue, Deliver, Delivery, Execute, Trim
from cluster.duties import Duties
from cluster.groups import Groups, Led
from cluster.keys import META_PARTITION
from cluster.partition import Applied
from cluster.raft.effects import NeedSnapshot, Standing
from cluster.raft.messages import Configuration, Install
from cluster.raft.roles import Role
from cluster.simulation.calls import Answer, Calls, Done, Failed
from cluster.simulation.errand import Ended, Unreachable, Watches
from cluster.simulation.kernel import MS
from cluster.simulation.shelf import Outbound
from cluster.snapshots.installing import MemorySpooled
from storage.rows import Reader

if TYPE_CHECKING:
    from cluster.simulation.node import Node

CARRY_AGAIN_MS: Final = (40, 300)  # until a delivery that failed is tried again
TRIM_MS: Final = 1_000
READ_WITHIN_MS: Final = 3_000
SNAPSHOT_MS: Final = (5, 120)
SNAPSHOT_PAUSE_MS: Final = 300  # after a failure, before Raft may ask again


class Service:
    """Of one life of a node."""

    def __init__(self, node: "Node", first_peers: tuple[bytes, ...]) -> None:
        self.node = node
        self.world = node.world
        self.duties = Duties()
        self.watches = Watches()
        self.calls = Calls(node)
        self.belonging = node.world.build.belonging(node, first_peers)
        self.standings: dict[int, Standing] = {}
        self._charges: dict[int, tuple[int, int]] = {}  # led here, not in charge yet: term, begins
        self._reached: list[tuple[int, int, Callable[[], None]]] = []

    def start(self) -> None:
        self.belonging.start()
        self.node.after(self.node.kernel.between(0, TRIM_MS * MS), self._trim)

    # --- who leads -----------------------------------------------------------------------------------------
    def led(self, led: Led) -> None:
        number, standing = led.partition, led.standing
        self.standings[number] = standing
        self._charges.pop(number, None)
        self.duties.give_up(number)
        if standing.role is Role.LEADER:
            self._charges[number] = (standing.term, led.begins)
            self._take_charges()

    def leader(self, partition: int) -> bytes | None:
        standing = self.standings.get(partition)
        return standing.leader if standing is not None else None

    def leads(self, partition: int) -> bool:
        return self.duties.in_charge(partition)

    def _take_charges(self) -> None:
        for number, (term, begins) in list(self._charges.items()):
            shelf = self.node.shelf(number)
            if shelf.committed[number] >= begins:
                del self._charges[number]
                head = shelf.partitions[number].head
                waiting = mailbox.waiting(shelf.rows, number)
                self.duties.take_charge(number, term, waiting, has_work=head.work_rows > 0)
                self.belonging.hurry()

    # --- what the shards say -------------------------------------------------------------------------------
    def arrived(self, out: Outbound) -> None:
        for proposal, applied in out.applied:
            self.duties.applied(applied)
            proposal.done(applied)
        for applied in out.seen:
            self.watches.applied(applied)
        for number, term in out.terms:
            self.watches.term_began(number, term)
        if out.installed is not None:
            self.watches.installed(out.installed)
        if out.committed:
            if self._charges:
                self._take_charges()
            self._wake_reached()
            self.belonging.look()
        self.errands()

    # --- commands ------------------------------------------------------------------------------------------
    def propose(
        self,
        partition: int,
        data: bytes,
        done: Callable[[Applied], None],
        failed: Failed,
        *,
        term: int = 0,
        waits: bool = False,
    ) -> None:
        build = self.world.build
        self.node.put(build.proposal(partition, data, done, failed, term=term, waits=waits))

    def execute(self, partition: int, command: Execute, ended: Ended) -> None:
        self.world.build.errand(self, partition, command, ended)

    def execute_meta(self, body: bytes, ended: Ended) -> None:
        """A command to the meta group, of the kind that may be taken twice."""
        node, random = self.node, self.node.kernel.draw_bytes(32)
        command = Execute(node.clock_ms(), FEATURE_LEVEL, random[:16], 0, random[16:], b"", body)
        self.execute(META_PARTITION, command, ended)

    # --- duties --------------------------------------------------------------------------------------------
    def errands(self) -> None:
        for destination, batch in self.duties.deliveries():
            self._carry(destination, batch)
        for partition in self.duties.continuations():
            command = Continue(self.node.clock_ms(), FEATURE_LEVEL, self.node.kernel.draw_bytes(16))
            done, failed = partial(self._continued, partition), partial(self._not_continued, partition)
            self.propose(partition, commands.encode(command), done, failed, waits=True)

    def _continued(self, partition: int, applied: Applied) -> None:
        self.duties.continued(partition, has_work=applied.work)

    def _not_continued(self, partition: int, _: Exception) -> None:
        delay = self.node.kernel.between(*CARRY_AGAIN_MS) * MS
        self.node.after(delay, self._continue_again, partition)

    def _continue_again(self, partition: int) -> None:
        self.duties.continued(partition, has_work=True)
        self.errands()

    def _carry(self, destination: int, batch: tuple[Delivery, ...]) -> None:
        command = Deliver(self.node.clock_ms(), FEATURE_LEVEL, self.node.kernel.draw_bytes(16), batch)
        data = commands.encode(command)
        done, failed = partial(self._delivered, destination), partial(self._undelivered, destination)
        leader = self.leader(destination)
        if leader is None:
            failed(Unreachable())
        elif leader == self.node.id:
            self.propose(destination, data, done, failed, waits=True)
        else:
            self.calls.call(leader, "propose", (destination, 0, data), done, failed)

    def _delivered(self, destination: int, applied: Applied) -> None:
        self.duties.delivered(destination, applied.taken)
        self.errands()

    def _undelivered(self, destination: int, _: Exception) -> None:
        delay = self.node.kernel.between(*CARRY_AGAIN_MS) * MS
        self.node.after(delay, self._deliver_again, destination)

    def _deliver_again(self, destination: int) -> None:
        self.duties.undelivered(destination)
        self.errands()

    def _trim(self) -> None:
        self.node.after(TRIM_MS * MS, self._trim)
        for source, cuts in self.duties.trims():
            failed = partial(self._untrimmed, source, cuts)
            self.propose(source, commands.encode(Trim(cuts)), _nothing, failed, waits=True)

    def _untrimmed(self, source: int, cuts: tuple[tuple[int, int], ...], _: Exception) -> None:
        self.duties.untrimmed(source, cuts)

    # --- reads ---------------------------------------------------------------------------------------------
    def read(
        self, partition: int, look: Callable[[Reader], Any], saw: Done, failed: Callable[[], None]
    ) -> None:
        """By read index, from this replica. One of `saw` and `failed` is called, once."""
        waiting = [True]

        def once(call: Callable[..., None], *arguments: Any) -> None:
            if waiting:
                waiting.clear()
                call(*arguments)

        def indexed(index: int) -> None:
            self.reached(partition, index, lambda: once(self._look, partition, look, saw))

        def lost(_: Exception) -> None:
            once(failed)

        leader = self.leader(partition)
        self.node.after(READ_WITHIN_MS * MS, once, failed)
        if leader == self.node.id:
            self.read_index(partition, indexed, lost)
        elif leader is not None:
            self.calls.call(leader, "read_index", (partition,), indexed, lost)
        else:
            once(failed)

    def _look(self, partition: int, look: Callable[[Reader], Any], saw: Done) -> None:
        saw(look(self.node.shelf(partition).rows))

    def read_index(self, partition: int, done: Callable[[int], None], failed: Failed) -> None:
        def ask(groups: Groups, question: Any) -> None:
            groups.read(partition, question)

        self.node.put(self.world.build.question(ask, done, failed))

    def reached(self, partition: int, index: int, call: Callable[[], None]) -> None:
        if self.node.shelf(partition).committed[partition] >= index:
            call()
        else:
            self._reached.append((partition, index, call))

    def _wake_reached(self) -> None:
        if not self._reached:
            return
        waiting, self._reached = self._reached, []
        for partition, index, call in waiting:
            self.reached(partition, index, call)

    # --- what peers ask ------------------------------------------------------------------------------------
    def send_frame(self, to: bytes, data: bytes) -> None:
        node, peer = self.node, self.world.node(to)
        if peer is not None:
            self.world.network.send(node.number, peer.number, peer.frame, node, node.life, data)

    def serve_propose(self, sender: "Node", partition: int, term: int, data: bytes, answer: Answer) -> None:
        self.propose(partition, data, partial(answer, True), partial(answer, False), term=term)

    def serve_read_index(self, sender: "Node", partition: int, answer: Answer) -> None:
        self.read_index(partition, partial(answer, True), partial(answer, False))

    # --- snapshots -----------------------------------------------------------------------------------------
    def offer_snapshot(self, number: int, need: NeedSnapshot) -> None:
        node = self.node

        def sent(index: int) -> None:
            node.put(partial(node.groups.snapshot_sent, number, need.node, index))

        def failed(_: Exception) -> None:
            again = partial(node.groups.snapshot_failed, number, need.node)
            node.after(SNAPSHOT_PAUSE_MS * MS, node.put, again)

        pieces = self.world.build.state(node.shelf(number).rows, number, Configuration((node.id,)))
        self.calls.call(need.node, "snapshot", (number, need.term, pieces), sent, failed)

    def serve_snapshot(
        self, sender: "Node", number: int, term: int, pieces: list[bytes], answer: Answer
    ) -> None:
        node = self.node
        spooled = MemorySpooled(node.kernel.draw_bytes(8).hex(), number, pieces)
        begin = spooled.begin
        install = Install(number, term, begin.index, begin.term, begin.configuration)
        done = partial(answer, True, begin.index)
        node.after(
            node.kernel.between(*SNAPSHOT_MS) * MS,
            node.put,
            partial(node.install, sender.id, install, spooled, done),
        )


def _nothing(_: Any) -> None:
    pass
