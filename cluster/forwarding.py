"""Forwarding: a command to whoever leads its partition, exactly once, though leaders and links fall away.

The table of `cluster.attempts` decides; here is what carries it out. A command that is asked of another node
is watched for in what is applied here, from before it is sent: so when no answer comes, it is still known
whether it took effect (`Replicas.watch`). Where the leader stays and only the link to it broke, no later term
would ever tell, so it is asked to close the lane in which the command went: it takes nothing more of it, and
says how far must be applied to see all that it took. Commands that do no harm when they are taken twice are
simply asked again.
"""

import os
from collections import defaultdict
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol

import msgspec
import structlog
import trio

from cluster import attempts, commands
from cluster.attempts import WRITE_WITHIN_MS, Attempts, Event, State
from cluster.commands import (
    COMMAND_BYTES_MAX,
    Deliver,
    Digest,
    DropDeadLetter,
    Execute,
    Outcome,
    RetryDeadLetter,
    Trim,
)
from cluster.journal_writer import Unknown
from cluster.partition import Applied
from cluster.peers.errors import PeerRefused, PeerSilent, PeerUnreachable
from cluster.peers.messages import CloseLane, Index, Propose, Proposed
from cluster.raft.effects import Lost, NotLeader, Standing
from cluster.replicas import Overloaded, Replicas, StorageFull, Watch

log = structlog.stdlib.get_logger("heliograph.router")

AGAIN_S: Final = 0.05  # between attempts, if nobody is heard of who leads: an election takes 0.6 s and more
LOOKED_WITHIN_MS: Final = 1000  # a link that was down at both of two looks was so between them
SETTLED_WITHIN_S: Final = 2.0  # of one question about a lane; then it is asked again
CLOSED_MAX: Final = 1024  # lanes that are remembered; each was a link that broke, and its requests with it
WAITING_MAX: Final = 8192  # commands at once; more are refused, not queued

NOTHING: Final = commands.encode(Trim(()))

# What the asked one says of a proposal that it did not take.
NOT_LEADER: Final = "not_leader"
LOST: Final = "lost"
OVERLOADED: Final = "overloaded"
STORAGE_FULL: Final = "storage_full"
UNKNOWN: Final = "unknown"  # … this question, or this command: it is of another version
# … and of one that it did take.
NOT_KNOWN: Final = "not_known"  # a snapshot came in between
CODES: Final = {
    Event.NOT_LEADER: NOT_LEADER,
    Event.LOST: LOST,
    Event.OVERLOADED: OVERLOADED,
    Event.FULL: STORAGE_FULL,
    Event.UNKNOWN: NOT_KNOWN,
}
EVENTS: Final = {code: event for event, code in CODES.items() if event is not Event.UNKNOWN} | {
    UNKNOWN: Event.OVERLOADED,
    NOT_KNOWN: Event.LINK_LOST,  # to the asked one; what is applied here may tell
}

# What may come from another node; all else is a leader's own.
Forwarded = Execute | Deliver | Digest | RetryDeadLetter | DropDeadLetter
_decode_forwarded = msgspec.msgpack.Decoder(Forwarded).decode
_decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
_encode = msgspec.msgpack.Encoder().encode


class Unavailable(Exception):
    """There is no majority to be had, or no answer in time. `settled`: it certainly had no effect; otherwise
    it may have had one, or have it yet."""

    def __init__(self, partition: int, after_ms: int, *, settled: bool) -> None:
        word = "it had no effect" if settled else "it is not known whether it took effect"
        super().__init__(
            f"partition {partition}: nobody led it to an end within {after_ms / 1000:.1f} s; {word}"
        )
        self.partition = partition
        self.settled = settled


class Answer(msgspec.Struct, frozen=True):
    """What a command did, whoever applied it first."""

    index: int
    outcome: Outcome
    sent: tuple[tuple[int, int], ...]  # (destination, sequence) of each message
    taken: dict[int, int]  # inbox cursors by source, after a Deliver


class Peers(Protocol):
    """What is needed of `cluster.peers.links.Links`."""

    def connected(self, node: bytes) -> bool: ...

    async def call(self, node: bytes, request: Any, *, deadline_s: float) -> Any: ...


class _Waiting:
    """One command that is not at its end: until when, and what it is asked of. A context."""

    __slots__ = ("_forwarding", "began", "call", "ends", "ends_as", "partition", "scope", "term")

    def __init__(self, forwarding: "Forwarding", partition: int, began: int) -> None:
        self._forwarding = forwarding
        self.partition = partition
        self.began = began
        self.ends, self.ends_as = began + WRITE_WITHIN_MS, Event.DEADLINE
        self.scope = trio.CancelScope(deadline=self.ends / 1000)
        self.call: trio.CancelScope | None = None
        self.term = 0  # in which `call` asks

    def __enter__(self) -> "_Waiting":
        self._forwarding.waiting += 1
        self._forwarding.at[self.partition].add(self)
        self.scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._forwarding.waiting -= 1
        self._forwarding.at[self.partition].discard(self)
        return self.scope.__exit__(kind, error, trace)

    def hold(self, now: int, leaderless_since: int | None) -> None:
        ends, self.ends_as = attempts.ends_at(now, self.began, leaderless_since)
        if ends != self.ends:
            self.ends = ends
            self.scope.deadline = ends / 1000


class Forwarding:
    """Of one node. Methods belong to the trio thread."""

    def __init__(self, replicas: Replicas, require_room: Callable[[], None]) -> None:
        self.links: Peers | None = None  # a lone node has none
        self.waiting = 0  # commands that are not at their end
        self.forwarded = 0  # asked of other nodes
        self.served = 0  # asked of this one
        self.repeated = 0  # attempts beyond the first
        self.unavailable = 0
        self._replicas = replicas
        self._partitions = frozenset(replicas.partitions)
        self._require_room = require_room  # raises StorageFull
        self._lanes: dict[bytes, int] = {}  # leader → the lane in which it is asked
        self._closed: dict[tuple[bytes, int], None] = {}  # lanes of others, the newest last
        self.at: defaultdict[int, set[_Waiting]] = defaultdict(set)  # by partition
        self._changed: dict[int, trio.Event] = {}
        self._leaderless: dict[int, int] = {}  # partition → since when (ms) nobody is known to lead it
        self._cut_off: dict[bytes, tuple[int, int]] = {}  # leader → since when its link is down; last look
        replicas.on_standing(self._on_standing)

    # --- who leads -------------------------------------------------------------------------------------
    def _on_standing(self, partition: int, standing: Standing) -> None:
        if standing.leader is None:
            self._leaderless.setdefault(partition, _now())
        else:
            self._leaderless.pop(partition, None)
        for waiting in self.at.get(partition, ()):
            waiting.hold(_now(), self._leaderless_since(partition))
            if waiting.call is not None and standing.term > waiting.term:
                waiting.call.cancel()  # who was asked leads no more: what is applied here will tell
        changed = self._changed.pop(partition, None)
        if changed is not None:
            changed.set()

    def leader(self, partition: int) -> Standing | None:
        """Who can be asked now: this node, or another one with a link."""
        standing = self._replicas.standing(partition)
        leader = standing.leader
        if leader is None or leader == self._replicas.me:
            return standing if leader else None
        if self.links is None or not self.links.connected(leader):
            self._note_cut_off(leader)
            return None
        self._cut_off.pop(leader, None)
        return standing

    def _leaderless_since(self, partition: int) -> int | None:
        leader = self._replicas.standing(partition).leader
        if leader is None:
            return self._leaderless.setdefault(partition, _now())
        return self._cut_off[leader][0] if leader in self._cut_off else None

    def _note_cut_off(self, leader: bytes) -> None:
        now = _now()
        since, looked = self._cut_off.get(leader, (now, now))
        self._cut_off[leader] = (since if now - looked < LOOKED_WITHIN_MS else now, now)

    async def changed(self, partition: int) -> None:
        """Until something else is heard of who leads, and for AGAIN_S at most."""
        event = self._changed.get(partition)
        if event is None:
            event = self._changed[partition] = trio.Event()
        with trio.move_on_after(AGAIN_S):
            await event.wait()

    def _begin(self, partition: int) -> _Waiting:
        """Ends the block in time; `ends_as` says why then."""
        if self.waiting >= WAITING_MAX:
            raise Overloaded(f"{self.waiting} commands wait for their leaders")
        waiting = _Waiting(self, partition, _now())
        since = self._leaderless_since(partition)
        if since is not None:
            waiting.hold(waiting.began, since)
        return waiting

    # --- commands that must take effect once -------------------------------------------------------------
    async def once(self, partition: int, command: Execute, grows: bool) -> Answer:
        """Raises Overloaded, StorageFull, Unavailable, cluster.replicas.Stopped."""
        tries = Attempts()
        told: Told = None
        with self._begin(partition) as waiting:
            while tries.state not in attempts.ENDS:
                standing = self.leader(partition)
                if standing is None:
                    waiting.hold(_now(), self._leaderless_since(partition))
                    await self.changed(partition)
                    continue
                tries.on(Event.LEADER)
                if standing.leader == self._replicas.me:
                    event, told = await self._propose(partition, commands.encode(command), 0, grows)
                    tries.on(event)
                else:
                    event, told = await self._once_elsewhere(tries, waiting, standing, command, grows)
                if event in (Event.NOT_LEADER, Event.UNREACHABLE):
                    await self.changed(partition)
        if tries.state not in attempts.ENDS:
            tries.on(waiting.ends_as)
        self.repeated += max(0, tries.asked - 1)
        if isinstance(told, Answer):
            return told
        if tries.state is State.TURNED_AWAY and told is not None:
            raise told
        settled = tries.state is State.WITHOUT_EFFECT
        raise self._given_up(waiting, settled)

    async def _once_elsewhere(
        self, tries: Attempts, waiting: _Waiting, standing: Standing, command: Execute, grows: bool
    ) -> tuple[Event, "Told"]:
        """Ask the leader; where that broke off, see what is applied here."""
        leader, lane = standing.leader or b"", self._lane(standing.leader or b"")
        with self._replicas.watch(waiting.partition, command.id, standing.term) as watch:
            waiting.term = standing.term
            with trio.CancelScope() as waiting.call:
                data = commands.encode(command)
                request = Propose(waiting.partition, standing.term, data, grows, lane)
                event, told = await self._call(leader, request)
            if waiting.call.cancelled_caught:
                event, told = Event.LINK_LOST, None
            elif event is Event.LINK_LOST and self._lanes.get(leader) == lane:
                del self._lanes[leader]
            waiting.call = None
            if tries.on(event) is State.OPEN:
                event, told = await self._resolved(watch, leader, lane)
                tries.on(event)
            return event, told

    def _lane(self, leader: bytes) -> int:
        lane = self._lanes.get(leader)
        if lane is None:
            lane = self._lanes[leader] = int.from_bytes(os.urandom(8), "big")
        return lane

    async def _resolved(self, watch: Watch, leader: bytes, lane: int) -> tuple[Event, "Told"]:
        """What became of it, as far as what is applied here can tell: that may take for ever."""
        found: tuple[Event, Told] | None = None

        async def see() -> None:
            nonlocal found
            found = await _fate(watch)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(see)
            await self._until_settled(watch, leader, lane)
            nursery.cancel_scope.cancel()
        return found or (Event.LOST, None)  # all that was taken of the lane is applied, and it is not there

    async def _until_settled(self, watch: Watch, leader: bytes, lane: int) -> None:
        """Return when all is applied here that the leader took of the lane in this term; if the term ends
        first, it is the watch that tells."""
        partition, request = watch.partition, CloseLane(watch.partition, watch.term, lane)
        while True:
            links = self.links
            over = self._replicas.standing(partition).term > watch.term
            if links is not None and links.connected(leader) and not over:
                try:
                    said = await links.call(leader, request, deadline_s=SETTLED_WITHIN_S)
                except (PeerUnreachable, PeerSilent, PeerRefused) as why:
                    log.debug("lane not closed yet", partition=partition, reason=str(why))
                else:
                    await self._replicas.reached(partition, said.indexes[0])
                    return
            await self.changed(partition)

    # --- commands that may be taken twice ----------------------------------------------------------------
    async def often(self, partition: int, command: Forwarded) -> Answer:
        """Ask until there is an answer. Raises Overloaded, StorageFull, Unavailable, Stopped."""
        data = commands.encode(command)
        with self._begin(partition) as waiting:
            while True:
                standing = self.leader(partition)
                told: Told = None
                if standing is None:
                    waiting.hold(_now(), self._leaderless_since(partition))
                elif standing.leader == self._replicas.me:
                    _, told = await self._propose(partition, data, 0, grows=False)
                else:
                    request = Propose(partition, 0, data, grows=False)
                    _, told = await self._call(standing.leader or b"", request)
                if isinstance(told, Answer):
                    return told
                if told is not None:
                    raise told
                await self.changed(partition)
        raise self._given_up(waiting, settled=False)

    def _given_up(self, waiting: _Waiting, settled: bool) -> Unavailable:
        self.unavailable += 1
        return Unavailable(waiting.partition, _now() - waiting.began, settled=settled)

    # --- one attempt -------------------------------------------------------------------------------------
    async def _propose(self, partition: int, data: bytes, term: int, grows: bool) -> tuple[Event, "Told"]:
        """Here. Whether there is room for what grows is for the leader to say: it writes first. A follower
        without room acknowledges nothing, and does not hold up the majority."""
        try:
            if grows:
                self._require_room()
            return Event.APPLIED, answer_of(await self._replicas.propose_encoded(partition, data, term))
        except NotLeader:
            return Event.NOT_LEADER, None
        except Lost:
            return Event.LOST, None
        except Overloaded as overloaded:
            return Event.OVERLOADED, overloaded
        except StorageFull as full:
            return Event.FULL, full
        except Unknown:
            return Event.UNKNOWN, None

    async def _call(self, leader: bytes, request: Propose) -> tuple[Event, "Told"]:
        """There."""
        assert self.links is not None
        self.forwarded += 1
        try:
            said = await self.links.call(leader, request, deadline_s=WRITE_WITHIN_MS / 1000)
        except PeerUnreachable:
            return Event.UNREACHABLE, None
        except PeerSilent:
            return Event.LINK_LOST, None
        except PeerRefused as refused:
            event = EVENTS.get(refused.code, Event.LINK_LOST)  # what is not understood may be anything
            if event is Event.OVERLOADED:
                return event, Overloaded(refused.detail)
            return event, StorageFull(refused.detail) if event is Event.FULL else None
        return Event.APPLIED, Answer(said.index, _decode_outcome(said.outcome), said.sent, dict(said.taken))

    async def serve(self, sender: bytes, request: Propose) -> Proposed:
        """A member asks this node as the leader. Raises PeerRefused."""
        if request.partition not in self._partitions or len(request.command) > COMMAND_BYTES_MAX:
            raise PeerRefused(UNKNOWN, f"partition {request.partition}, {len(request.command)} bytes")
        try:
            _decode_forwarded(request.command)
        except msgspec.DecodeError as error:  # in the log it would stop every replica
            raise PeerRefused(UNKNOWN, f"a command that cannot be read: {error}") from None
        if (sender, request.lane) in self._closed:
            raise PeerRefused(LOST, "the lane is closed")
        self.served += 1
        event, told = await self._propose(request.partition, request.command, request.term, request.grows)
        if isinstance(told, Answer):
            return Proposed(told.index, _encode(told.outcome), told.sent, tuple(told.taken.items()))
        raise self._refusal(request.partition, event, told)

    def _refusal(self, partition: int, event: Event, told: "Told") -> PeerRefused:
        leader = self._replicas.standing(partition).leader or b""
        return PeerRefused(CODES[event], str(told or event.value), leader)

    async def close_lane(self, sender: bytes, request: CloseLane) -> Index:
        """What of the lane came before has an index below that of an empty command which is proposed now.
        Raises PeerRefused."""
        if request.partition not in self._partitions:
            raise PeerRefused(UNKNOWN, f"partition {request.partition}")
        self._closed[sender, request.lane] = None
        while len(self._closed) > CLOSED_MAX:
            del self._closed[next(iter(self._closed))]
        event, told = await self._propose(request.partition, NOTHING, request.term, grows=False)
        if isinstance(told, Answer):
            return Index((told.index,))
        raise self._refusal(request.partition, event, told)


Told = Answer | Overloaded | StorageFull | None


async def _fate(watch: Watch) -> tuple[Event, Told]:
    try:
        return Event.APPLIED, answer_of(await watch.outcome())
    except Lost:
        return Event.LOST, None
    except Unknown:
        return Event.UNKNOWN, None


def answer_of(applied: Applied) -> Answer:
    sent = tuple([(message.destination, message.delivery.sequence) for message in applied.sent])
    return Answer(applied.index, applied.outcome, sent, applied.taken)


def _now() -> int:
    """ms of the clock by which tasks wait."""
    return round(trio.current_time() * 1000)
