"""What the trio thread of a node does, in virtual time: who leads, duties, forwarding, reads, calls of peers.

A command goes the way that `cluster.attempts` says; its fate is watched in what this replica applies. What a
leader owes its partitions is `cluster.duties`. Calls between nodes are answered once, or break off.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cluster import commands, mailbox
from cluster.attempts import ENDS, LEADERLESS_MS, WRITE_WITHIN_MS, Attempts, Event, State
from cluster.commands import FEATURE_LEVEL, Continue, Deliver, Delivery, Execute, Trim
from cluster.duties import Duties
from cluster.groups import Groups, Led
from cluster.keys import HEADS, HEADS_PARTITION, Head, HeadKey
from cluster.partition import Applied
from cluster.raft_effects import Lost, NeedSnapshot, NotLeader, Overfull, Standing
from cluster.raft_messages import Install
from cluster.raft_roles import Role
from cluster.simulation.kernel import MS
from cluster.simulation.shelf import Outbound, members_in
from storage.journal import JournalFull
from storage.keys import partition_range
from storage.rows import Reader

if TYPE_CHECKING:
    from cluster.simulation.node import Node

SEEK_MS: Final = 40  # between two looks whether somebody leads
CARRY_AGAIN_MS: Final = (40, 300)  # until a delivery that failed is tried again
TRIM_MS: Final = 1_000
BREAK_MS: Final = (50, 900)  # until a call that got lost is seen to have broken off
READ_WITHIN_MS: Final = 3_000
SNAPSHOT_MS: Final = (5, 120)
CALL_WITHIN_MS: Final = 6_000

Ended = Callable[[State, Applied | None], None]
Saw = Callable[[Any], None]


class Watch:
    """Until the command is applied here, or cannot be any more."""

    __slots__ = ("id", "partition", "seen", "term")

    def __init__(self, partition: int, id_: bytes, term: int, seen: Callable[[Event, Applied | None], None]):
        self.partition = partition
        self.id = id_
        self.term = term
        self.seen = seen


class Errand:
    """One command of a client, from its arrival at this node to its answer."""

    def __init__(self, service: "Service", partition: int, command: Execute, ended: Ended) -> None:
        self.attempts = Attempts()
        self._service = service
        self._partition = partition
        self._command = command
        self._data = commands.encode(command)
        self._ended = ended
        self._watch: Watch | None = None
        self._leaderless_since: int | None = None
        self._asks = 0
        kernel = service.node.kernel
        self._ends_at = kernel.now + WRITE_WITHIN_MS * MS
        service.node.after(WRITE_WITHIN_MS * MS, self._on, Event.DEADLINE, None)
        self._seek()

    def _seek(self) -> None:
        if self.attempts.state in ENDS:
            return
        service, partition = self._service, self._partition
        leader = service.leader(partition)
        now = service.node.kernel.now
        if leader is None:
            if self._leaderless_since is None:
                self._leaderless_since = now
            if now - self._leaderless_since >= LEADERLESS_MS * MS:
                self._on(Event.NO_LEADER, None)
                return
        else:
            self._leaderless_since = None
        if self.attempts.state is State.SEEKING and leader is not None:
            self._ask(leader)
        service.node.after(SEEK_MS * MS, self._seek) if self.attempts.state not in ENDS else None

    def _ask(self, leader: bytes) -> None:
        service, partition = self._service, self._partition
        term = service.standings[partition].term
        self._asks += 1
        asked = self._asks
        self.attempts.on(Event.LEADER)
        self._unwatch()
        self._watch = Watch(partition, self._command.id, term, partial(self._seen, asked))
        service.watch(self._watch)
        if leader == service.node.id:
            service.propose(
                partition, self._data, partial(self._done, asked), partial(self._failed, asked), term=term
            )
        else:
            service.node.world.history.forwarded += 1
            service.call(
                leader,
                "propose",
                (partition, term, self._data),
                lambda answer: self._done(asked, answer),
                partial(self._failed, asked),
            )

    def _done(self, asked: int, applied: Applied) -> None:
        if asked == self._asks:
            self._on(Event.APPLIED, applied)

    def _failed(self, asked: int, wrong: Exception) -> None:
        if asked == self._asks and self.attempts.state is State.UNDER_WAY:
            self._on(event_of(wrong), None)

    def _seen(self, asked: int, event: Event, applied: Applied | None) -> None:
        if asked == self._asks and self.attempts.state in (State.UNDER_WAY, State.OPEN):
            self._on(event, applied)

    def _on(self, event: Event, applied: Applied | None) -> None:
        if self.attempts.state in ENDS:
            return
        state = self.attempts.on(event)
        if state in ENDS:
            self._unwatch()
            self._ended(state, applied)

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._service.unwatch(self._watch)
            self._watch = None


class LinkLost(Exception):
    """It was sent, and nobody is left to answer."""


class Unreachable(Exception):
    """Nothing was sent."""


def event_of(wrong: Exception) -> Event:
    match wrong:
        case NotLeader():
            return Event.NOT_LEADER
        case Unreachable():
            return Event.UNREACHABLE
        case Lost():
            return Event.LOST
        case LinkLost():
            return Event.LINK_LOST
        case Overfull():
            return Event.OVERLOADED
        case JournalFull():
            return Event.FULL
    return Event.UNKNOWN


class Service:
    def __init__(self, node: "Node") -> None:
        self.node = node
        self.world = node.world
        self.duties = Duties()
        self.standings: dict[int, Standing] = {}
        self.watched: dict[bytes, list[Watch]] = {}
        self._watches: dict[int, list[Watch]] = {}
        self._charges: dict[int, tuple[int, int]] = {}  # led here, not in charge yet: term, begins
        self._calls: dict[int, tuple[int, Callable[[Any], None], Callable[[Exception], None]]] = {}
        self._called = 0
        self._reached: list[tuple[int, int, Callable[[], None]]] = []

    def start(self) -> None:
        self.peers_changed()
        self.node.after(self.node.kernel.between(0, TRIM_MS * MS), self._trim)

    def peers_changed(self) -> None:
        self.node.groups.peers(self.world.peers_of(self.node))

    def admits(self, sender: "Node") -> bool:
        return self.world.admits(self.node, sender)

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

    # --- what the shards say -------------------------------------------------------------------------------
    def arrived(self, out: Outbound) -> None:
        for proposal, applied in out.applied:
            self.duties.applied(applied)
            proposal.done(applied)
        for applied in out.seen:
            for watch in list(self.watched.get(applied.id, ())):
                if watch.partition == applied.partition:
                    watch.seen(Event.APPLIED, applied)
        for number, term in out.terms:
            for watch in list(self._watches.get(number, ())):
                if watch.term < term:
                    watch.seen(Event.LOST, None)
        if out.installed is not None:
            self._installed(out.installed)
        if out.committed:
            if self._charges:
                self._take_charges()
            self._wake_reached()
        self.errands()

    def _installed(self, number: int) -> None:
        """What was skipped may have held what is watched for."""
        for watch in list(self._watches.get(number, ())):
            watch.seen(Event.UNKNOWN, None)

    # --- commands ------------------------------------------------------------------------------------------
    def propose(
        self,
        partition: int,
        data: bytes,
        done: Callable[[Applied], None],
        failed: Callable[[Exception], None],
        *,
        term: int = 0,
        waits: bool = False,
    ) -> None:
        build = self.world.build
        self.node.put(build.proposal(partition, data, done, failed, term=term, waits=waits))

    def execute(self, partition: int, command: Execute, ended: Ended) -> None:
        Errand(self, partition, command, ended)

    def watch(self, watch: Watch) -> None:
        self.watched.setdefault(watch.id, []).append(watch)
        self._watches.setdefault(watch.partition, []).append(watch)

    def unwatch(self, watch: Watch) -> None:
        self._watches[watch.partition].remove(watch)
        known = self.watched[watch.id]
        known.remove(watch)
        if not known:
            del self.watched[watch.id]

    # --- duties --------------------------------------------------------------------------------------------
    def errands(self) -> None:
        for destination, batch in self.duties.deliveries():
            self._carry(destination, batch)
        for partition in self.duties.continuations():
            command = Continue(self.node.clock_ms(), FEATURE_LEVEL, self.node.kernel.draw_bytes(16))
            self.propose(
                partition,
                commands.encode(command),
                partial(self._continued, partition),
                lambda wrong, partition=partition: self._uncontinued(partition),  # type: ignore[misc]
                waits=True,
            )

    def _continued(self, partition: int, applied: Applied) -> None:
        self.duties.continued(partition, has_work=applied.work)

    def _uncontinued(self, partition: int) -> None:
        self.node.after(self.node.kernel.between(*CARRY_AGAIN_MS) * MS, self._continue_again, partition)

    def _continue_again(self, partition: int) -> None:
        self.duties.continued(partition, has_work=True)
        self.errands()

    def _carry(self, destination: int, batch: tuple[Delivery, ...]) -> None:
        command = Deliver(self.node.clock_ms(), FEATURE_LEVEL, self.node.kernel.draw_bytes(16), batch)
        done = partial(self._delivered, destination)
        failed = partial(self._undelivered, destination)
        leader = self.leader(destination)
        if leader is None:
            failed(Unreachable())
        elif leader == self.node.id:
            self.propose(destination, commands.encode(command), done, failed, waits=True)
        else:
            self.call(leader, "propose", (destination, 0, commands.encode(command)), done, failed)

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
            self.propose(source, commands.encode(Trim(cuts)), _nothing, _nothing, waits=True)

    # --- reads ---------------------------------------------------------------------------------------------
    def read(
        self, partition: int, look: Callable[[Reader], Any], saw: Saw, failed: Callable[[], None]
    ) -> None:
        """By read index, from this replica. One of `saw` and `failed` is called, once."""
        waiting = [True]

        def once(call: Callable[..., None], *arguments: Any) -> None:
            if waiting:
                waiting.clear()
                call(*arguments)

        def indexed(index: int) -> None:
            self.reached(partition, index, lambda: once(self._look, partition, look, saw))

        leader = self.leader(partition)
        self.node.after(READ_WITHIN_MS * MS, once, failed)
        if leader == self.node.id:
            self.read_index(partition, indexed, lambda _: once(failed))
        elif leader is not None:
            self.call(leader, "read_index", (partition,), indexed, lambda _: once(failed))
        else:
            once(failed)

    def _look(self, partition: int, look: Callable[[Reader], Any], saw: Saw) -> None:
        saw(look(self.node.shelf(partition).rows))

    def read_index(
        self, partition: int, done: Callable[[int], None], failed: Callable[[Exception], None]
    ) -> None:
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

    # --- between nodes -------------------------------------------------------------------------------------
    def send_frame(self, to: bytes, data: bytes) -> None:
        peer = self.world.node(to)
        if peer is not None:
            self.world.network.send(
                self.node.number, peer.number, peer.frame, self.node, self.node.life, data
            )

    def call(
        self,
        to: bytes,
        what: str,
        arguments: tuple[Any, ...],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """`done` or `failed` is called once, unless this node dies."""
        node, network, kernel = self.node, self.world.network, self.node.kernel
        peer = self.world.node(to)
        reachable = peer is not None and peer.alive and network.connected(node.number, peer.number)
        if peer is None or (not reachable and kernel.chance(0.5)):
            node.after(MS, failed, Unreachable())
            return
        self._called += 1
        number = self._called
        self._calls[number] = (peer.number, done, failed)
        call = partial(self._called_by, peer, number, node.life, what, arguments)
        if not network.call(node.number, peer.number, call) or not reachable:
            self._break(number)
        else:
            node.after(CALL_WITHIN_MS * MS, self._broken, number)

    def _break(self, number: int) -> None:
        self.node.after(self.node.kernel.between(*BREAK_MS) * MS, self._broken, number)

    def _broken(self, number: int) -> None:
        waiting = self._calls.pop(number, None)
        if waiting is not None:
            waiting[2](LinkLost())

    def peer_lost(self, peer: int) -> None:
        """Its links broke."""
        for number in [number for number, (to, _, _) in self._calls.items() if to == peer]:
            self._broken(number)

    def _called_by(self, peer: "Node", number: int, life: int, what: str, arguments: tuple[Any, ...]) -> None:
        """On the peer. Whatever becomes of the answer, the caller hears of it, or that the call broke."""
        if not peer.alive or not peer.service.admits(self.node):
            self._answer_lost(life, number)
            return
        peer_life = peer.life

        def answer(ok: bool, value: Any) -> None:
            if self.node.life != life:
                return
            if peer.life != peer_life or not self.world.network.call(
                peer.number, self.node.number, self._answered, life, number, ok, value
            ):
                self._answer_lost(life, number)

        getattr(peer.service, "serve_" + what)(self.node, *arguments, answer)

    def _answer_lost(self, life: int, number: int) -> None:
        if self.node.life == life and number in self._calls:
            self._break(number)

    def _answered(self, life: int, number: int, ok: bool, value: Any) -> None:
        if self.node.life != life:
            return
        waiting = self._calls.pop(number, None)
        if waiting is not None:
            _, done, failed = waiting
            (done if ok else failed)(value)

    def serve_propose(
        self, sender: "Node", partition: int, term: int, data: bytes, answer: Callable[[bool, Any], None]
    ) -> None:
        self.propose(partition, data, partial(answer, True), partial(answer, False), term=term)

    def serve_read_index(self, sender: "Node", partition: int, answer: Callable[[bool, Any], None]) -> None:
        self.read_index(partition, partial(answer, True), partial(answer, False))

    # --- snapshots -----------------------------------------------------------------------------------------
    def offer_snapshot(self, number: int, need: NeedSnapshot) -> None:
        shelf = self.node.shelf(number)
        index = shelf.committed[number]
        rows = dict(shelf.rows.scan(*partition_range(number)))
        head = HEADS.get(shelf.rows, HeadKey(HEADS_PARTITION, number)) or Head()
        install = Install(number, need.term, index, head.term, members_in(shelf.rows, number))
        node = self.node

        def sent(_: Any) -> None:
            node.put(partial(node.groups.snapshot_sent, number, need.node, index))

        def failed(_: Exception) -> None:
            node.put(partial(node.groups.snapshot_failed, number, need.node))

        self.call(need.node, "snapshot", (install, (rows, head)), sent, failed)

    def serve_snapshot(
        self, sender: "Node", install: Install, spool: Any, answer: Callable[[bool, Any], None]
    ) -> None:
        node = self.node
        install_it = partial(node.install, sender.id, install, spool, partial(answer, True, None))
        node.after(node.kernel.between(*SNAPSHOT_MS) * MS, node.put, install_it)


def _nothing(_: Any) -> None:
    pass
