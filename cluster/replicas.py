"""Replicas: every group of this node, driven together, as the trio thread sees them.

Commands go in by `propose`, results come out when they are durable and applied. Messages that a command
sent go on by the courier, work rows are continued piece by piece, and what commits made visible is handed
to those who follow the change streams. On a lone node each group has one voter, this node.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

import msgspec
import outcome
import trio

from cluster import commands, mailbox, memory, streams
from cluster.commands import FEATURE_LEVEL, Command, Continue, Deliver, ForgetChanges, ForgetRemembered, Trim
from cluster.courier import Courier, Mark
from cluster.partition import Applied, StateMachine
from cluster.streams import Published
from cluster.writers import (
    JournalWriter,
    Outbound,
    Pause,
    Proposal,
    ShardWriter,
    WriterSettings,
    load_partitions,
)
from storage.journal import Entry, HardState, Journal, JournalStatistics, Truncation
from storage.shard import Frozen, Shard, ShardStatistics, Snapshot

PROPOSALS_MAX: Final = 8192  # commands under way at once; more are refused, not queued
TRIM_EVERY_S: Final = 0.5
TEND_EVERY_S: Final = 5.0  # journal segments released, streams looked at
FORGET_EVERY_S: Final = 3600.0


class Overloaded(Exception):
    """Too much is under way: said before a command enters the log. The client may retry."""


class StorageFull(Exception):
    """The node's quota or disk is used up: said before a command enters the log. Deletes go on as long as
    the journal has room."""


class Stopped(Exception):
    """The writers stopped, or died of a bug or the disk. Whether what was under way took effect is known
    only after the next start."""


class ReplicaStatistics(msgspec.Struct, frozen=True):
    proposals: int  # under way
    journal: JournalStatistics
    journal_batches: int
    journal_entries: int
    shards: tuple[ShardStatistics, ...]
    applied: int
    commits: int
    commit_seconds: float
    messages_queued: int
    messages_repeated: int
    work: int  # partitions with work to be continued
    dead_letters: int


class Replicas:
    """`run` must be running for anything to move. Methods belong to the trio thread."""

    def __init__(
        self,
        journal: Journal,
        shards: Sequence[Shard],
        machines: dict[int, StateMachine],
        settings: WriterSettings | None = None,
    ) -> None:
        mask = len(shards) - 1
        if len(shards) & mask:
            raise ValueError(f"{len(shards)} shards: the number must be a power of two")
        settings = settings or WriterSettings()
        self.courier = Courier()
        self.partitions = tuple(sorted(machines))
        self._journal = journal
        self._shards = tuple(shards)
        self._mask = mask
        self._writers = [
            ShardWriter(
                number,
                shard,
                load_partitions(shard, (p for p in machines if p & mask == number), machines.__getitem__),
                settings,
                self._post,
            )
            for number, shard in enumerate(shards)
        ]
        self._journal_writer: JournalWriter
        self._token: trio.lowlevel.TrioToken | None = None
        self._under_way = 0
        self._unread = [0] * len(shards)  # batches answered before their commit
        self._read_waiters: list[list[trio.Event]] = [[] for _ in shards]
        self._working: set[int] = set()
        self._rest: list[trio.Event] = []
        self._stopped = False
        self._pauses: list[Pause] = []
        self._proposers: set[trio.lowlevel.Task] = set()  # waiting in `propose`
        self._events: set[trio.Event] = set()  # waited for in `_wait`
        self._severed: set[trio.Event] = set()  # those that `run` left without an answer
        self._trim_wanted = trio.Event()
        self._hurry = trio.Event()
        self._listeners: list[Callable[[list[Published]], None]] = []
        self._followers_of_rows: list[Callable[[Iterable[bytes]], None]] = []

    # --- commands --------------------------------------------------------------------------------------
    async def propose(self, partition: int, command: Command) -> Applied:
        """Make the command durable, apply it, and return what it did.

        Cancelled, the command may take effect all the same. Raises Overloaded, StorageFull where the disk
        has no room for it, and Stopped where `run` ended.
        """
        self._check_running()
        if self._writers[partition & self._mask].full:
            raise StorageFull("the disk has no room for what was written before")
        if self._under_way >= PROPOSALS_MAX or self.courier.full:
            raise Overloaded(f"{self._under_way} commands and {self.courier.queued} messages are under way")
        task = trio.lowlevel.current_task()
        waiting = True

        def done(applied: Applied) -> None:
            if waiting:
                self._proposers.discard(task)
                trio.lowlevel.reschedule(task, outcome.Value(applied))

        def abort(_: object) -> trio.lowlevel.Abort:
            nonlocal waiting
            waiting = False
            self._proposers.discard(task)
            return trio.lowlevel.Abort.SUCCEEDED

        def refused() -> None:
            if waiting:
                self._proposers.discard(task)
                full = StorageFull("the disk has no room for the journal; nothing was changed")
                trio.lowlevel.reschedule(task, outcome.Error(full))

        self._submit(Proposal(partition, commands.encode(command), done, refused))
        self._proposers.add(task)
        applied: Applied = await trio.lowlevel.wait_task_rescheduled(abort)
        return applied

    def submit(self, partition: int, command: Command, done: Callable[[Applied], None] | None) -> None:
        """Propose without waiting; `done` is called with the result. Not bounded, and held where the disk
        is full: for the cluster itself."""
        self._submit(Proposal(partition, commands.encode(command), done))

    def _submit(self, proposal: Proposal) -> None:
        size = len(proposal.data)
        if size > commands.COMMAND_BYTES_MAX:
            raise AssertionError(f"a command of {size} bytes: at most {commands.COMMAND_BYTES_MAX}")
        self._under_way += 1
        self._journal_writer.propose(proposal)

    # --- reads -----------------------------------------------------------------------------------------
    def snapshot(self) -> Snapshot:
        """All partitions as last committed; for one synchronous block (`with`)."""
        return Snapshot(self._shards)

    def readable(self, *partitions: int) -> bool:
        """Whether `visible` would return at once."""
        return not any(self._unread[partition & self._mask] for partition in partitions)

    async def visible(self, *partitions: int) -> None:
        """Return when all that was answered in these partitions can be read by a new snapshot."""
        for number in {partition & self._mask for partition in partitions}:
            if self._unread[number]:
                event = trio.Event()
                waiters = self._read_waiters[number]
                waiters.append(event)
                if len(waiters) == 1:  # any commit that is heard of from now on covers what was answered
                    self._writers[number].commit_soon()
                await self._wait(event)

    async def taken(self, mark: Mark) -> None:
        """Return when the message has taken effect in its destination."""
        event = trio.Event()
        wake = event.set
        if self.courier.when_taken(mark, wake):
            try:
                await self._wait(event)
            finally:
                self.courier.forget_waiter(mark, wake)

    async def at_rest(self) -> None:
        """Return when no command, message or work is under way: what is counted is exact then."""
        while self._under_way or not self.courier.at_rest or self._working or any(self._unread):
            event = trio.Event()
            self._rest.append(event)
            self._hurry.set()
            for writer, unread in zip(self._writers, self._unread, strict=True):
                if unread:
                    writer.commit_soon()
            await self._wait(event)

    async def _wait(self, event: trio.Event) -> None:
        self._check_running()
        self._events.add(event)
        try:
            await event.wait()
        finally:
            self._events.discard(event)
        if event in self._severed:
            self._severed.discard(event)
            self._check_running()

    def _check_running(self) -> None:
        if self._stopped:
            raise Stopped("the writers of this node have stopped")

    def _sever(self) -> None:
        """Nobody is left to answer: let those who wait know it."""
        self._stopped = True
        for task in self._proposers:
            trio.lowlevel.reschedule(task, outcome.Error(Stopped("the writers stopped before an answer")))
        self._proposers.clear()
        for event in self._events:
            if not event.is_set():
                self._severed.add(event)
                event.set()

    def on_changes(self, listener: Callable[[list[Published]], None]) -> None:
        """Call `listener` with what the change streams got, after its commit and in its order."""
        self._listeners.append(listener)

    def on_rows(self, listener: Callable[[Iterable[bytes]], None]) -> None:
        """Call `listener` with the keys of rows that a commit wrote, in pieces, before anybody whom the
        commit answers goes on and before `on_changes`: for caches of rows."""
        self._followers_of_rows.append(listener)

    # --- the life of it --------------------------------------------------------------------------------
    def recover(self) -> int:
        """Apply what the journal has beyond the shards' commits; entries read. Blocking: before `run`."""
        last = {number: p.head.applied for w in self._writers for number, p in w.partitions.items()}
        count = 0
        for record in self._journal.recovered():
            match record:
                case Entry():
                    count += 1
                    self._writers[record.partition & self._mask].recover(record)
                    last[record.partition] = max(last[record.partition], record.index)
                case HardState() | Truncation():
                    continue  # a lone voter has nothing to forget; every synced entry is committed
        for writer in self._writers:
            writer.recovered()
        self._journal_writer = JournalWriter(self._journal, last, self._writers, self._refuse)
        with self.snapshot() as rows:
            for writer in self._writers:
                for partition in writer.partitions.values():
                    if partition.head.outbox_rows:
                        self.courier.sent(mailbox.waiting(rows, partition.number))
                    if partition.head.work_rows:
                        self._working.add(partition.number)
        return count

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the writer threads until cancelled; what was accepted by then is still finished.

        Raises what stops a writer: storage.journal.JournalFailed, lmdb.Error, a bug in a state machine.
        """
        self._token = trio.lowlevel.current_trio_token()
        loops = [self._journal_writer.loop, *(writer.loop for writer in self._writers)]
        limiter = trio.CapacityLimiter(len(loops))
        try:
            async with trio.open_nursery() as nursery:
                for loop in loops:
                    nursery.start_soon(_drive, loop, limiter)
                try:
                    nursery.start_soon(self._trim)
                    nursery.start_soon(self._tend)
                    self._carry()
                    for partition in tuple(self._working):
                        self._continue(partition)
                    task_status.started()
                    await trio.sleep_forever()
                finally:
                    self._journal_writer.stop()
                    for pause in self._pauses:  # a writer that is dead never reaches it
                        pause.abandoned = True
                        pause.resume.set()
        finally:
            self._sever()

    def _post(self, outbound: Outbound) -> None:
        if self._token is not None:  # during recovery nobody waits
            self._token.run_sync_soon(self._arrived, outbound)

    def _refuse(self, proposals: list[Proposal]) -> None:
        if self._token is not None:
            self._token.run_sync_soon(self._refused, proposals)

    def _refused(self, proposals: list[Proposal]) -> None:
        for proposal in proposals:
            self._under_way -= 1
            if proposal.refused is not None:
                proposal.refused()
        self._wake_resting()

    def _arrived(self, outbound: Outbound) -> None:
        for keys in outbound.written:
            for follower in self._followers_of_rows:
                follower(keys)
        for proposal, applied in outbound.applied:
            self._under_way -= 1
            if applied.sent:
                self.courier.sent(applied.sent)
            if applied.work and applied.partition not in self._working:
                self._working.add(applied.partition)
                self._continue(applied.partition)
            if proposal.done is not None:
                proposal.done(applied)
        if outbound.changes:
            for listener in self._listeners:
                listener(outbound.changes)
        if outbound.committed:
            self._unread[outbound.shard] = 0
            waiters = self._read_waiters[outbound.shard]
            if waiters:
                self._read_waiters[outbound.shard] = []
                for event in waiters:
                    event.set()
        else:
            self._unread[outbound.shard] += 1
        self._carry()
        self._wake_resting()

    def _wake_resting(self) -> None:
        for event in self._rest:
            event.set()
        self._rest.clear()

    def _carry(self) -> None:
        while (batch := self.courier.next_batch()) is not None:
            destination, messages = batch
            command = Deliver(now_ms(), FEATURE_LEVEL, os.urandom(16), messages)
            self.submit(destination, command, partial(self._delivered, destination))

    def _delivered(self, destination: int, applied: Applied) -> None:
        self.courier.delivered(destination, applied.taken)
        self._trim_wanted.set()

    def _continue(self, partition: int) -> None:
        command = Continue(now_ms(), FEATURE_LEVEL, os.urandom(16))
        self.submit(partition, command, partial(self._continued, partition))

    def _continued(self, partition: int, applied: Applied) -> None:
        if applied.work:
            self._continue(partition)
        else:
            self._working.discard(partition)

    async def _trim(self) -> None:
        while True:
            await self._trim_wanted.wait()
            with trio.move_on_after(TRIM_EVERY_S):
                await self._hurry.wait()
            self._trim_wanted, self._hurry = trio.Event(), trio.Event()
            for source, cuts in self.courier.trims():
                self.submit(source, Trim(cuts), None)

    async def _tend(self) -> None:
        forget_at = trio.current_time() + FORGET_EVERY_S
        while True:
            await trio.sleep(TEND_EVERY_S)
            self._journal_writer.release_soon()
            if trio.current_time() >= forget_at:
                forget_at = trio.current_time() + FORGET_EVERY_S
                self._forget_old()

    def _forget_old(self) -> None:
        with self.snapshot() as rows:
            for number in self.partitions:
                self._forget_changes_of(number, rows)
                self._forget_remembered_of(number, rows)

    def _forget_remembered_of(self, number: int, rows: Snapshot) -> None:
        now = now_ms()
        if memory.is_forgettable(rows, number, now):
            self.submit(number, ForgetRemembered(now), partial(self._forgot_remembered, number))

    def _forgot_remembered(self, number: int, _: Applied) -> None:
        with self.snapshot() as rows:
            self._forget_remembered_of(number, rows)

    def _forget_changes_of(self, number: int, rows: Snapshot) -> None:
        head = self._writers[number & self._mask].partitions[number].head
        below = streams.forgettable(rows, head, number, now_ms())
        if below > head.stream_first:
            self.submit(number, ForgetChanges(below), partial(self._forgot, number))

    def _forgot(self, number: int, _: Applied) -> None:
        """One command forgets a bounded number: go on until nothing is old enough."""
        with self.snapshot() as rows:
            self._forget_changes_of(number, rows)

    # --- for operators ---------------------------------------------------------------------------------
    async def freeze(self) -> list[Frozen]:
        """One cut: all writers pause between commits, each shard is frozen there, writers go on
        (law 11). Who gets the frozen shards closes them. Raises Stopped."""
        token = trio.lowlevel.current_trio_token()
        reached = [trio.Event() for _ in self._writers]
        pauses = [Pause(partial(token.run_sync_soon, event.set)) for event in reached]
        self._check_running()
        self._pauses.extend(pauses)
        try:
            for writer, pause in zip(self._writers, pauses, strict=True):
                writer.pause(pause)
            for event in reached:
                await self._wait(event)
            if any(pause.abandoned for pause in pauses):
                raise Stopped("the writers stopped before the cut was made")
        except BaseException:
            for pause in pauses:
                pause.abandoned = True
            raise
        finally:
            for pause in pauses:
                pause.resume.set()
                self._pauses.remove(pause)
        return [pause.frozen for pause in pauses if pause.frozen is not None]

    def dead_letters(self) -> dict[int, int]:
        """How many dead letters each partition keeps, where there are any."""
        heads = ((n, p.head.dead_rows) for w in self._writers for n, p in w.partitions.items())
        return {number: rows for number, rows in heads if rows}

    def applied_index(self, partition: int) -> int:
        return self._writers[partition & self._mask].partitions[partition].head.applied

    def committed_index(self, partition: int) -> int:
        return self._writers[partition & self._mask].committed[partition]

    def statistics(self) -> ReplicaStatistics:
        return ReplicaStatistics(
            proposals=self._under_way,
            journal=self._journal.statistics(),
            journal_batches=self._journal_writer.batches,
            journal_entries=self._journal_writer.entries,
            shards=tuple(shard.statistics() for shard in self._shards),
            applied=sum(writer.applied for writer in self._writers),
            commits=sum(writer.commits for writer in self._writers),
            commit_seconds=sum(writer.commit_seconds for writer in self._writers),
            messages_queued=self.courier.queued,
            messages_repeated=self.courier.repeated,
            work=len(self._working),
            dead_letters=sum(self.dead_letters().values()),
        )


async def _drive(loop: Callable[[], None], limiter: trio.CapacityLimiter) -> None:
    """Shielded: cancelled before its thread began, a writer would never pass the stop on to the others."""
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(loop, limiter=limiter)


def now_ms() -> int:
    """The proposer's clock, as commands carry it: ms, Unix."""
    return time.time_ns() // 1_000_000
