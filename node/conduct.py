"""A leader's conduct towards its groups: brings their members to what the layout wants, hands leads over.

Each node does this for the groups that it leads, one step of each group at a time
(`cluster.members.reconcile` says which), until nothing is left to do; then it costs nothing until members,
links or leads change. A node whose clock is off gives its leads away, and nobody gives it any (law 4). So
does a node that is about to end, or whose disk has no room for what was written, and says so: its
partitions take writes again after the one round that a transfer needs, not after an election.
"""

import math
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import msgspec
import trio

from cluster.commands import Execute
from cluster.keys import META_PARTITION
from cluster.members import meta, meta_rows
from cluster.members.layout import Layout, layout_of
from cluster.members.membership import ClockTurned, Event, Membership, State, Turned
from cluster.members.reconcile import Step, Transfer, hand_over, next_step
from cluster.peers.errors import PeerRefused, PeerSilent, PeerUnreachable
from cluster.peers.messages import Order, decode_frame
from cluster.raft.effects import ChangeRefused, Lost, NotLeader, Overfull, Standing
from cluster.raft.messages import Configuration
from cluster.raft.roles import Role
from cluster.replicas import Overloaded, Replicas, StorageFull, now_ms
from node.logs import get_logger
from storage.shard import Snapshot

log = get_logger("cluster")

LOOK_EVERY_S: Final = 2.0  # though nothing was heard: replicas become level without a word
STEP_EVERY_S: Final = 0.1  # while there is something to do
TRANSFER_AGAIN_S: Final = 3.0  # a lead that could not be handed over; meanwhile its partition takes writes
STEPS_AT_ONCE: Final = 32  # groups, in one go
WATCH_EVERY_S: Final = 0.1  # who is heard, and whose clock is off
LEAVE_WITHIN_S: Final = 2.0  # to hand all leads over before the end; what is left is elected anew
SAY_WITHIN_S: Final = 0.5  # … of which this to say so
LEFT_S: Final = 10.0  # for so long, or until it is back, it is given no lead
SAY_AGAIN_S: Final = LEFT_S / 2  # while its disk has no room
LEAVE: Final = "leave"  # what it says: an `Order`, so that an older node only answers that it cannot
MS: Final = 1000


class Conduct:
    """One per node. `run` in its nursery; `attach` when there are others."""

    def __init__(self, me: bytes, replicas: Replicas, read: Callable[[], Snapshot], partitions: int) -> None:
        self.changing = 0  # groups led here whose members or leader are not yet those of the layout
        self.clock_off_ms = 0  # this clock, ahead of the median of all
        self._me = me
        self._replicas = replicas
        self._read = read
        self._partitions = partitions  # without the meta group
        self._links: Any = None
        self._layout: Layout | None = None
        self._handed: dict[int, float] = {}  # partition → when its lead was last given away
        self._kept: dict[int, float] = {}  # partition → until when it stays here, whoever is to lead it
        self._leaving: dict[bytes, float] = {}  # nodes that are about to end → until when that counts
        self._say_at = 0.0  # when the others are told again that this node has no room
        self._membership = Membership(me)
        self._wake = trio.Event()
        replicas.on_standing(self._stood)

    # --- what it hears ---------------------------------------------------------------------------------
    def attach(self, links: Any) -> None:
        """This node has peers, from now on; after the replicas have taken `on_raft` and `on_connected`."""
        self._links = links
        take, connected = links.on_raft, links.on_connected

        def on_raft(node: bytes, frame: bytes) -> None:
            take(node, frame)
            self._heard(node, frame)

        def on_connected(node: bytes, is_connected: bool) -> None:
            connected(node, is_connected)
            if is_connected:
                self._leaving.pop(node, None)  # it is back
            self._turned(self._membership.connected(node, is_connected, _ticks()))
            self.hurry()

        links.on_raft, links.on_connected = on_raft, on_connected

    def hurry(self) -> None:
        """Members, links or leads have changed."""
        self._wake.set()

    def _stood(self, _partition: int, _standing: Standing) -> None:
        self.hurry()

    def keep(self, partitions: Iterable[int], seconds: float) -> None:
        """An operator wants this node to lead these for a while."""
        until = trio.current_time() + seconds
        self._kept.update(dict.fromkeys(partitions, until))
        self.hurry()

    def let_go(self, partitions: Iterable[int]) -> None:
        for number in partitions:
            self._kept.pop(number, None)

    # --- what it does ----------------------------------------------------------------------------------
    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            while True:
                self._wake = trio.Event()
                idle = self._links is None or self._me in self._leaving
                stepped = 0 if idle else await self._round()
                with trio.move_on_after(LOOK_EVERY_S):
                    if stepped:
                        await trio.sleep(STEP_EVERY_S)
                    else:
                        await self._wake.wait()

    async def _round(self) -> int:
        """One step of each group that needs one; how many there were."""
        with self._read() as rows:
            layout = self._current(rows)
            members = tuple(meta_rows.members(rows))
            self._replicas.level = meta_rows.level(rows)
            spoken = meta_rows.level_spoken(rows)
        if spoken > self._replicas.level:
            await self._raise_level(spoken)
        self._membership.keep(members, _ticks())
        now = trio.current_time()
        self._kept = {number: until for number, until in self._kept.items() if until > now}
        if layout is None:
            layout = await self._laid_out()
        replicas, unfit = self._replicas, self._unfit()
        if replicas.is_stuck:
            await self._say_so_again()
        unsettled = {
            number: replicas.configuration(number)
            for number in replicas.partitions
            if number in layout.placements and replicas.leads(number)
        }
        unsettled = {
            number: configuration
            for number, configuration in unsettled.items()
            if self._me in unfit or not self._is_settled(number, configuration, layout, members)
        }
        self.changing = len(unsettled)
        if not unsettled:
            return 0
        membership = self._membership
        groups = await replicas.group_statistics(unsettled)
        steps: list[tuple[int, Step]] = []
        for number, configuration in unsettled.items():
            step = next_step(
                configuration,
                self._wanted(number, layout),
                members,
                groups[number],
                self._me,
                membership.alive(),
                unfit,
            )
            if step is not None and self._is_due(number, step):
                steps.append((number, step))
        await self._take(steps)
        return len(steps)

    def _unfit(self) -> frozenset[bytes]:
        """Who is given no lead: whose clock is off, who is about to end, or has no room."""
        now = trio.current_time()
        self._leaving = {node: until for node, until in self._leaving.items() if until > now}
        stuck = {self._me} if self._replicas.is_stuck else set()
        return self._membership.unfit() | self._leaving.keys() | stuck

    # --- the end of it ---------------------------------------------------------------------------------
    def leaves(self, node: bytes) -> None:
        """It is about to end, or has no room."""
        self._leaving[node] = trio.current_time() + LEFT_S
        self.hurry()

    async def leave(self) -> None:
        """Hand all leads over, to whoever can take them: within LEAVE_WITHIN_S."""
        if self._links is None:
            return
        self._leaving[self._me] = math.inf
        with trio.move_on_after(LEAVE_WITHIN_S) as scope:
            await self._say_so()
            while led := self._led_with_others():
                await self._give_away(led)
                self._wake = trio.Event()
                with trio.move_on_after(STEP_EVERY_S):
                    await self._wake.wait()
        log.info("leads_handed_over", in_time=not scope.cancelled_caught, left=len(self._led_with_others()))

    def _led_with_others(self) -> list[int]:
        """Groups led here that another voter could lead that is not about to end either."""
        replicas, fit = self._replicas, self._membership.alive() - self._unfit()
        led = (n for n in replicas.partitions if replicas.standing(n).role is Role.LEADER)
        return [n for n in led if fit.intersection(replicas.configuration(n).voters)]

    async def _say_so_again(self) -> None:
        if trio.current_time() >= self._say_at:
            self._say_at = trio.current_time() + SAY_AGAIN_S
            log.warning("no_room", hands_over="its leaderships")
            await self._say_so()

    async def _say_so(self) -> None:
        """Whoever is to lead a partition by the layout would be given its lead back at once."""
        links = self._links

        async def say(node: bytes) -> None:
            with suppress(PeerUnreachable, PeerSilent, PeerRefused):
                await links.call(node, Order(LEAVE), deadline_s=SAY_WITHIN_S)

        async with trio.open_nursery() as nursery:
            for node in self._membership.alive() - {self._me}:
                nursery.start_soon(say, node)

    async def _give_away(self, led: list[int]) -> None:
        layout = self._layout or await self._laid_out()
        with self._read() as rows:
            members = tuple(meta_rows.members(rows))
        groups = await self._replicas.group_statistics(led)
        steps: list[tuple[int, Step]] = []
        for number in led:
            configuration, wanted = self._replicas.configuration(number), layout.of(number).voters
            asked = (configuration, wanted, members, groups[number], self._me)
            step = hand_over(*asked, self._membership.alive(), self._unfit())
            if step is not None and self._is_due(number, step):
                steps.append((number, step))
        await self._take(steps)

    async def _raise_level(self, level: int) -> None:
        """All members speak it: what waits for it may begin (law 12). The machine looks at it once more."""
        if not self._replicas.leads(META_PARTITION):
            return
        random = os.urandom(32)
        body = meta.encode(meta.RaiseLevel(level))
        command = Execute(now_ms(), self._replicas.level, random[:16], 0, random[16:], b"", body)
        with suppress(NotLeader, Lost, Overloaded, StorageFull):  # the next round asks again
            await self._replicas.propose(META_PARTITION, command)
            log.info("level_raised", level=level)

    def _is_due(self, number: int, step: Step) -> bool:
        """A lead that is on its way is not given again: each time holds the writes of its partition up."""
        if not isinstance(step, Transfer):
            return True
        now = trio.current_time()
        if now - self._handed.get(number, -TRANSFER_AGAIN_S) < TRANSFER_AGAIN_S:
            return False
        self._handed[number] = now
        return True

    def _current(self, rows: Snapshot) -> Layout | None:
        """The layout, if it is still that of the rows."""
        layout = self._layout
        return layout if layout is not None and layout.version == meta_rows.layout_version(rows) else None

    async def _laid_out(self) -> Layout:
        """Working it out takes tens of milliseconds: in a thread."""
        with self._read() as rows:
            placed, factor = meta_rows.placed(rows), meta_rows.replication_factor(rows)
            version = meta_rows.layout_version(rows)
        self._layout = await trio.to_thread.run_sync(layout_of, version, placed, factor, self._partitions)
        return self._layout

    def _is_settled(
        self, number: int, configuration: Configuration, layout: Layout, members: tuple[bytes, ...]
    ) -> bool:
        wanted = layout.of(number).voters
        if set(configuration.members) != set(members):
            return False
        if len(members) == 2:  # which of two votes is not changed without need
            return len(configuration.voters) == 1
        if set(configuration.voters) != set(wanted):
            return False
        return self._me == wanted[0] or number in self._kept

    def _wanted(self, number: int, layout: Layout) -> tuple[bytes, ...]:
        """The voters, the one that is to lead first."""
        voters = layout.of(number).voters
        if number not in self._kept or self._me not in voters:
            return voters
        return (self._me, *(node for node in voters if node != self._me))

    async def _take(self, steps: list[tuple[int, Step]]) -> None:
        limiter = trio.CapacityLimiter(STEPS_AT_ONCE)

        async def one(number: int, step: Step) -> None:
            async with limiter:
                await self._step(number, step)

        async with trio.open_nursery() as nursery:
            for number, step in steps:
                nursery.start_soon(one, number, step)

    async def _step(self, number: int, step: Step) -> None:
        try:
            if isinstance(step, Transfer):
                await self._replicas.transfer(number, step.target)
            else:
                await self._replicas.change(number, step)
        except (NotLeader, ChangeRefused, Overfull, Overloaded) as wrong:
            log.debug("step_not_taken", partition=number, step=str(step), reason=str(wrong))
        else:
            log.debug("step", partition=number, step=type(step).__name__)

    # --- who is heard, and whose clock is off ------------------------------------------------------------
    def _heard(self, node: bytes, frame: bytes) -> None:
        membership, ticks = self._membership, _ticks()
        if not membership.wants_clock(node, ticks):
            self._turned(membership.heard(node, ticks))
            return
        try:
            sent = decode_frame(frame).sent_ms
        except msgspec.DecodeError:
            return  # the replicas count it
        self._turned(membership.observe(node, sent, now_ms(), ticks))

    async def _watch(self) -> None:
        while True:
            await trio.sleep(WATCH_EVERY_S)
            self._turned(self._membership.tick(_ticks()))
            self.clock_off_ms = self._membership.clock_off_ms(_ticks())

    def _turned(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Turned(node, before, after) if State.SILENT in (before, after):
                    log.info("node_" + after.value, node=node.hex())
                    self.hurry()
                case ClockTurned(node, is_off, off_ms):
                    if node == self._me and is_off:
                        log.error("clock_off", off_ms=off_ms, hands_over="its leaderships")
                    else:
                        log.warning("clock_off" if is_off else "clock_even", node=node.hex(), off_ms=off_ms)
                    self.hurry()


def _ticks() -> int:
    return int(trio.current_time() * MS)
