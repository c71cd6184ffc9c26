"""Errands: what a leader owes its partitions is carried out (`cluster.duties` decides what and when).

Deliveries to partitions that are led here are proposed at once; others go to their leaders by `carry`. What
finds no leader is tried again after a moment, for as long as this node is in charge.
"""

import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, Protocol

import trio

from cluster import memory, streams
from cluster.commands import Command, Continue, Deliver, ForgetChanges, ForgetRemembered, Trim
from cluster.duties import Duties
from cluster.keys import Head
from cluster.partition import Applied
from cluster.raft.effects import NotLeader, Standing
from cluster.raft.roles import Role
from cluster.waiting import Overloaded, StorageFull
from storage.shard import Snapshot

TRIM_EVERY_S: Final = 0.5
FORGET_EVERY_S: Final = 3600.0
ERRAND_AGAIN_S: Final = 0.1  # before a delivery or continuation that found no leader is tried again

Carry = Callable[[int, Deliver], Awaitable[dict[int, int]]]


class Undelivered(Exception):
    """Nobody who leads the destination of a batch of messages could be asked; it is tried again."""


class Engine(Protocol):
    """What errands need of `cluster.replicas.Replicas`."""

    level: int

    def standing(self, partition: int) -> Standing: ...

    def submit(
        self,
        partition: int,
        command: Command,
        done: Callable[[Applied], None] | None,
        failed: Callable[[Exception], None] | None = None,
    ) -> None: ...

    def snapshot(self) -> Snapshot: ...

    def head(self, partition: int) -> Head: ...


class Errands:
    """`run` must be running. `moved` is called whenever something came to its end."""

    def __init__(self, duties: Duties, engine: Engine, moved: Callable[[], None]) -> None:
        self.carry: Carry = nobody
        self._duties = duties
        self._engine = engine
        self._moved = moved
        self._nursery: trio.Nursery | None = None
        self._trim_wanted = trio.Event()
        self._hurry = trio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._trim)
            nursery.start_soon(self._forget)
            self.go()

    def hurry(self) -> None:
        """Somebody waits until all is done: trim now."""
        self._hurry.set()

    def go(self) -> None:
        """Send on its way what is due."""
        for destination, messages in self._duties.deliveries():
            command = Deliver(now_ms(), self._engine.level, os.urandom(16), messages)
            if self._engine.standing(destination).role is Role.LEADER:
                delivered = partial(self._delivered, destination)
                self._engine.submit(destination, command, delivered, partial(self._undelivered, destination))
            else:
                self._spawn(self._carry_far, destination, command)
        for partition in self._duties.continuations():
            again = Continue(now_ms(), self._engine.level, os.urandom(16))
            continued = partial(self._continued, partition)
            self._engine.submit(partition, again, continued, partial(self._not_continued, partition))

    def _spawn(self, run: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(run, *arguments)

    # --- deliveries ------------------------------------------------------------------------------------
    async def _carry_far(self, destination: int, command: Deliver) -> None:
        try:
            cursors = await self.carry(destination, command)
        except (NotLeader, Undelivered, Overloaded, StorageFull):
            await self._deliver_later(destination)
            return
        self._duties.delivered(destination, cursors)
        self._trim_wanted.set()
        self.go()
        self._moved()

    def _delivered(self, destination: int, applied: Applied) -> None:
        self._duties.delivered(destination, applied.taken)
        self._trim_wanted.set()

    def _undelivered(self, destination: int, _: Exception) -> None:
        self._spawn(self._deliver_later, destination)

    async def _deliver_later(self, destination: int) -> None:
        await trio.sleep(ERRAND_AGAIN_S)
        self._duties.undelivered(destination)
        self.go()
        self._moved()

    async def _trim(self) -> None:
        while True:
            await self._trim_wanted.wait()
            with trio.move_on_after(TRIM_EVERY_S):
                await self._hurry.wait()
            self._trim_wanted, self._hurry = trio.Event(), trio.Event()
            for source, cuts in self._duties.trims():
                self._engine.submit(source, Trim(cuts), None, partial(self._untrimmed, source, cuts))
            self._moved()

    def _untrimmed(self, source: int, cuts: tuple[tuple[int, int], ...], _: Exception) -> None:
        self._duties.untrimmed(source, cuts)
        self._trim_wanted.set()

    # --- work ------------------------------------------------------------------------------------------
    def _continued(self, partition: int, applied: Applied) -> None:
        self._duties.continued(partition, has_work=applied.work)

    def _not_continued(self, partition: int, _: Exception) -> None:
        self._spawn(self._continue_later, partition)

    async def _continue_later(self, partition: int) -> None:
        await trio.sleep(ERRAND_AGAIN_S)
        self._duties.continued(partition, has_work=True)
        self.go()
        self._moved()

    # --- forgetting ------------------------------------------------------------------------------------
    async def _forget(self) -> None:
        while True:
            await trio.sleep(FORGET_EVERY_S)
            self.forget_old()

    def forget_old(self) -> None:
        """Let go of changes and remembered commands that are older than is promised."""
        with self._engine.snapshot() as rows:
            for number in self._duties.charges:
                self._forget_changes_of(number, rows)
                self._forget_remembered_of(number, rows)

    def _forget_remembered_of(self, number: int, rows: Snapshot) -> None:
        now = now_ms()
        if memory.is_forgettable(rows, number, now):
            self._engine.submit(number, ForgetRemembered(now), partial(self._forgot_remembered, number))

    def _forgot_remembered(self, number: int, _: Applied) -> None:
        with self._engine.snapshot() as rows:
            self._forget_remembered_of(number, rows)

    def _forget_changes_of(self, number: int, rows: Snapshot) -> None:
        head = self._engine.head(number)
        below = streams.forgettable(rows, head, number, now_ms())
        if below > head.stream_first:
            self._engine.submit(number, ForgetChanges(below), partial(self._forgot, number))

    def _forgot(self, number: int, _: Applied) -> None:
        """One command forgets a bounded number: go on until nothing is old enough."""
        with self._engine.snapshot() as rows:
            self._forget_changes_of(number, rows)


async def nobody(destination: int, command: Deliver) -> dict[int, int]:
    """The way to other nodes, where there are none."""
    raise NotLeader(destination, None)


def now_ms() -> int:
    """The proposer's clock, as commands carry it: ms, Unix."""
    return time.time_ns() // 1_000_000
