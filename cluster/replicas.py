"""Replicas: every group of this node, driven together, as the trio thread sees them.

Commands go in by `propose`, results come out when they are durable and applied. Messages that a command sent
go on by the courier, work rows are continued piece by piece, and what commits made visible is handed to those
who follow the change streams. On a lone node each group has one voter, this node; in a cluster the same code
has peers, whose frames come in by `frame` and go out by `send_frame`.

Who leads a partition is told by the cores (`standing`); this node is in charge of one (`leads`) when it leads
it and has applied all that was there before.
"""

import os
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import outcome
import trio

from cluster import commands, mailbox, memory, streams
from cluster.commands import FEATURE_LEVEL, Command, Continue, Deliver, ForgetChanges, ForgetRemembered, Trim
from cluster.courier import Mark
from cluster.duties import Duties
from cluster.groups import Groups, Led
from cluster.journal_writer import LATER, JournalWriter, News, Proposal, Question, Unknown
from cluster.keys import GROUPS, HEADS, HEADS_PARTITION, TAKEN, GroupKey, Head, HeadKey, TakenKey
from cluster.partition import Applied, StateMachine
from cluster.raft_effects import Change, Lost, NeedSnapshot, NotLeader, Overfull, RaftStatistics, Standing
from cluster.raft_messages import Configuration, Install
from cluster.raft_roles import Role
from cluster.shard_writer import (
    Outbound,
    Pause,
    ShardWriter,
    WriterSettings,
    load_groups,
    load_partitions,
    members_of,
)
from cluster.starts import LogGap, Starts
from cluster.streams import Published
from storage.journal import Journal, JournalFull, JournalStatistics
from storage.shard import Frozen, Shard, ShardDamaged, ShardStatistics, Snapshot

PROPOSALS_MAX: Final = 8192  # commands under way at once; more are refused, not queued
TRIM_EVERY_S: Final = 0.5
TEND_EVERY_S: Final = 5.0  # journal segments released, streams looked at
FORGET_EVERY_S: Final = 3600.0
ERRAND_AGAIN_S: Final = 0.1  # before a delivery or continuation that found no leader is tried again
LONE: Final = bytes(16)  # who a node is that has no identity yet: in tests and tools


class Overloaded(Exception):
    """Too much is under way: said before a command enters the log. The client may retry."""


class StorageFull(Exception):
    """The node's quota or disk is used up: said before a command enters the log. Deletes go on as long as
    the journal has room."""


class Stopped(Exception):
    """The writers stopped, or died of a bug or the disk. Whether what was under way took effect is known
    only after the next start."""


class Undelivered(Exception):
    """Nobody who leads the destination of a batch of messages could be asked; it is tried again."""


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
    led: int  # groups that this node leads
    leaderless: int  # groups of which no leader is known
    frames_dropped: int
    bad_frames: int


class Watch:
    """An eye on one command: what it did is told when it is applied here, whoever leads. A context."""

    def __init__(
        self, close: Callable[["Watch"], None], partition: int, command_id: bytes, term: int
    ) -> None:
        self.partition = partition
        self.command_id = command_id
        self.term = term
        self._close = close
        self._event = trio.Event()
        self._fate: Applied | Exception | None = None

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._close(self)

    def settle(self, fate: Applied | Exception) -> None:
        if self._fate is None:
            self._fate = fate
            self._event.set()

    async def outcome(self) -> Applied:
        """Raises raft_effects.Lost where the command certainly had no effect, journal_writer.Unknown where a
        snapshot hides whether it had, and Stopped."""
        await self._event.wait()
        assert self._fate is not None
        if isinstance(self._fate, Exception):
            raise self._fate
        return self._fate


class Replicas:
    """`run` must be running for anything to move. Methods belong to the trio thread."""

    def __init__(
        self,
        journal: Journal,
        shards: Sequence[Shard],
        machines: dict[int, StateMachine],
        settings: WriterSettings | None = None,
        *,
        me: bytes = LONE,
        boot: int = 1,
        founder: bool = True,
    ) -> None:
        """`founder`: groups whose state names no members have this node as their only one; else they wait to
        be told."""
        mask = len(shards) - 1
        if len(shards) & mask:
            raise ValueError(f"{len(shards)} shards: the number must be a power of two")
        settings = settings or WriterSettings()
        self.me = me
        self.duties = Duties()
        self.courier = self.duties.courier
        self.partitions = tuple(sorted(machines))
        # Set by whoever composes a node of a cluster.
        self.send_frame: Callable[[bytes, bytes], None] = lambda node, frame: None
        self.carry: Callable[[int, Deliver], Awaitable[dict[int, int]]] = _nobody
        self.pieces: Callable[[int, Install, Path], Iterable[None]] = lambda number, install, spool: ()
        self.on_need_snapshot: Callable[[int, NeedSnapshot], None] = lambda partition, need: None
        self._boot = boot
        self._members = Configuration((me,)) if founder else Configuration(())
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
        self._groups: Groups
        self._journal_writer: JournalWriter
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._standings = {number: Standing(Role.FOLLOWER, 0, None) for number in self.partitions}
        self._to_charge: dict[int, Led] = {}  # led, but not yet in charge
        self._led_alone: set[int] = set()  # groups that this node alone decides, at the start
        self._started = trio.Event()  # it is in charge of those
        self._terms = {number: p.head.term for w in self._writers for number, p in w.partitions.items()}
        self._peers: frozenset[bytes] = frozenset()
        self._under_way = 0
        self._unread = [0] * len(shards)  # batches answered before their commit
        self._read_waiters: list[list[trio.Event]] = [[] for _ in shards]
        self._index_waiters: list[list[tuple[int, int, trio.Event]]] = [[] for _ in shards]
        self._mark_waiters: list[list[tuple[Mark, trio.Event]]] = [[] for _ in shards]
        self._watches: defaultdict[bytes, list[Watch]] = defaultdict(list)
        self._rest: list[trio.Event] = []
        self._stopped = False
        self._pauses: list[Pause] = []
        self._asking: set[trio.lowlevel.Task] = set()  # waiting for a result or an answer
        self._events: set[trio.Event] = set()  # waited for in `_wait`
        self._severed: set[trio.Event] = set()  # those that `run` left without an answer
        self._trim_wanted = trio.Event()
        self._hurry = trio.Event()
        self._listeners: list[Callable[[list[Published]], None]] = []
        self._followers_of_rows: list[Callable[[Iterable[bytes]], None]] = []
        self._followers_of_standings: list[Callable[[int, Standing], None]] = []
        self._followers_of_installs: list[Callable[[int], None]] = []
        self._bad_frames = 0

    # --- who leads ---------------------------------------------------------------------------------------
    def standing(self, partition: int) -> Standing:
        """This node's role in the group, its term, and who leads it, as last told by its core."""
        return self._standings[partition]

    def leads(self, partition: int) -> bool:
        """Whether this node is in charge: it leads, and all of earlier terms is applied here."""
        return self.duties.in_charge(partition)

    def on_standing(self, listener: Callable[[int, Standing], None]) -> None:
        """Call `listener` when a partition's standing changes, and when this node takes charge of it."""
        self._followers_of_standings.append(listener)

    def on_installed(self, listener: Callable[[int], None]) -> None:
        """Call `listener` when a snapshot has replaced all rows of a partition."""
        self._followers_of_installs.append(listener)

    def configuration(self, partition: int) -> Configuration:
        """The members of the group as last applied here; nobody, where this node was not told yet."""
        with self._shards[partition & self._mask].reading() as rows:
            group = GROUPS.get(rows, GroupKey(HEADS_PARTITION, partition))
        return members_of(group) if group else self._members

    def is_ready(self) -> bool:
        """Whether this node has the state of every partition: a joiner has none at first."""
        return all(index > 0 for writer in self._writers for index in writer.committed.values())

    @property
    def peers(self) -> frozenset[bytes]:
        return self._peers

    def set_peers(self, nodes: Iterable[bytes]) -> None:
        """The other members of the cluster."""
        self._peers = frozenset(nodes) - {self.me}
        self._journal_writer.peers(sorted(self._peers))

    def connected(self, node: bytes, is_connected: bool) -> None:
        """The link to a peer is there, or broke and could not be made again at once."""
        if not is_connected:
            self._journal_writer.silent(node)

    def frame(self, sender: bytes, data: bytes) -> None:
        """A frame of Raft messages (`peers.messages.RaftFrame`, encoded) from a peer."""
        self._journal_writer.frame(sender, data)

    async def change(self, partition: int, change: Change) -> int:
        """Propose other members; the index of the entry. Raises NotLeader, raft_effects.ChangeRefused,
        Overloaded."""
        index: int = await self._ask(lambda groups, _: groups.change(partition, change))
        return index

    async def transfer(self, partition: int, target: bytes) -> None:
        """Hand the lead to another voter. Raises NotLeader, ChangeRefused."""
        await self._ask(lambda groups, _: groups.transfer(partition, target))

    async def group_statistics(self, partitions: Iterable[int]) -> dict[int, RaftStatistics]:
        """What the cores say of themselves."""
        wanted = tuple(partitions)
        found: dict[int, RaftStatistics] = await self._ask(
            lambda groups, _: {number: groups.statistics(number) for number in wanted}
        )
        return found

    async def _ask(self, ask: Callable[[Groups, Question], Any]) -> Any:
        """The answer of a core. Raises what it refuses with."""
        self._check_running()
        done, failed, wait = self._slot()
        self._journal_writer.ask(Question(ask, done, failed))
        return await wait()

    def _slot(
        self,
    ) -> tuple[Callable[[Any], None], Callable[[Exception], None], Callable[[], Awaitable[Any]]]:
        """Where a task waits for what another thread's work brings: a result, or why there is none."""
        task = trio.lowlevel.current_task()
        waiting = True

        def done(value: Any) -> None:
            if waiting:
                self._asking.discard(task)
                trio.lowlevel.reschedule(task, outcome.Value(value))

        def failed(why: Exception) -> None:
            if waiting:
                self._asking.discard(task)
                trio.lowlevel.reschedule(task, outcome.Error(_as_told(why)))

        def abort(_: object) -> trio.lowlevel.Abort:
            nonlocal waiting
            waiting = False
            self._asking.discard(task)
            return trio.lowlevel.Abort.SUCCEEDED

        async def wait() -> Any:
            nonlocal waiting
            self._asking.add(task)
            try:
                return await trio.lowlevel.wait_task_rescheduled(abort)
            finally:
                waiting = False

        return done, failed, wait

    # --- commands --------------------------------------------------------------------------------------
    async def propose(self, partition: int, command: Command, *, term: int = 0) -> Applied:
        """Make the command durable, apply it, and return what it did. Only where this node leads; with
        `term`, in that very term.

        Cancelled, the command may take effect all the same. Raises raft_effects.NotLeader (nothing was
        taken), Overloaded, StorageFull where the disk has no room for it, raft_effects.Lost where another
        leader's entry took its place (it had no effect), journal_writer.Unknown, and Stopped where `run`
        ended.
        """
        return await self.propose_encoded(partition, commands.encode(command), term)

    async def propose_encoded(self, partition: int, data: bytes, term: int = 0) -> Applied:
        """The same, of a command as it travels."""
        self._check_running()
        standing = self._standings[partition]
        if standing.role is not Role.LEADER:
            raise NotLeader(partition, standing.leader)
        if self._writers[partition & self._mask].full:
            raise StorageFull("the disk has no room for what was written before")
        if self._under_way >= PROPOSALS_MAX or self.courier.full:
            raise Overloaded(f"{self._under_way} commands and {self.courier.queued} messages are under way")
        done, failed, wait = self._slot()
        self._submit(Proposal(partition, data, done, failed, term=term))
        applied: Applied = await wait()
        return applied

    def submit(
        self,
        partition: int,
        command: Command,
        done: Callable[[Applied], None] | None,
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        """Propose without waiting; `done` is called with the result, or `failed` with the reason why there is
        none. Not bounded, and held where the disk is full: for the cluster itself."""
        self._submit(
            Proposal(partition, commands.encode(command), done or _ignore, failed or _ignore, waits=True)
        )

    def _submit(self, proposal: Proposal) -> None:
        size = len(proposal.data)
        if size > commands.COMMAND_BYTES_MAX:
            raise AssertionError(f"a command of {size} bytes: at most {commands.COMMAND_BYTES_MAX}")
        self._under_way += 1
        self._journal_writer.propose(proposal)

    def watch(self, partition: int, command_id: bytes, term: int) -> Watch:
        """Begin to look for a command among what is applied here: before it is sent to a leader of `term`. An
        entry of a later term without it before shows that it is lost."""
        watch = Watch(self._unwatch, partition, command_id, term)
        if self._terms[partition] > term:
            watch.settle(Lost(f"partition {partition}: term {term} is over"))
        self._watches[command_id].append(watch)
        self._writers[partition & self._mask].watched.add(command_id)
        return watch

    def _unwatch(self, watch: Watch) -> None:
        watches = self._watches[watch.command_id]
        watches.remove(watch)
        if not watches:
            del self._watches[watch.command_id]
            self._writers[watch.partition & self._mask].watched.discard(watch.command_id)

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

    async def read_index(self, partition: int) -> int:
        """How far a replica must have applied to see all that was answered before now, confirmed by a
        majority (dissertation §6.4). Raises NotLeader, Overloaded."""
        self._check_running()
        standing = self._standings[partition]
        if standing.role is not Role.LEADER:
            raise NotLeader(partition, standing.leader)
        if not self._peers and self.leads(partition):
            return self.applied_index(partition)  # nobody else could have been elected

        def ask(groups: Groups, question: Question) -> Any:
            groups.read(partition, question)
            return LATER

        try:
            index: int = await self._ask(ask)
        except Lost:
            raise NotLeader(partition, None) from None
        return index

    async def reached(self, partition: int, index: int) -> None:
        """Return when this replica has applied the entry and a new snapshot shows it."""
        number = partition & self._mask
        writer = self._writers[number]
        while writer.committed[partition] < index:
            event = trio.Event()
            self._index_waiters[number].append((partition, index, event))
            if self._unread[number]:
                writer.commit_soon()
            try:
                await self._wait(event)
            finally:
                waiters = self._index_waiters[number]
                self._index_waiters[number] = [one for one in waiters if one[2] is not event]

    async def taken(self, mark: Mark) -> None:
        """Return when the message has taken effect in this node's replica of its destination. On a lone node
        that may be before its commit: `visible` says when it can be read."""
        if not self._peers and self.leads(mark[0]):
            event = trio.Event()
            wake = event.set
            if self.courier.when_taken(mark, wake):
                try:
                    await self._wait(event)
                finally:
                    self.courier.forget_waiter(mark, wake)
            return
        number = mark[1] & self._mask
        while not self._is_taken(mark):
            event = trio.Event()
            self._mark_waiters[number].append((mark, event))
            if self._unread[number]:
                self._writers[number].commit_soon()
            try:
                await self._wait(event)
            finally:
                waiters = self._mark_waiters[number]
                self._mark_waiters[number] = [one for one in waiters if one[1] is not event]

    def _is_taken(self, mark: Mark) -> bool:
        source, destination, sequence = mark
        with self.snapshot() as rows:
            cursor = TAKEN.get(rows, TakenKey(destination, source))
        return cursor is not None and cursor.sequence >= sequence

    async def at_rest(self) -> None:
        """Return when no command, message or work is under way: what is counted is exact then."""
        while self._under_way or not self.duties.at_rest or any(self._unread):
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
        stopped = Stopped("the writers stopped before an answer")
        for task in self._asking:
            trio.lowlevel.reschedule(task, outcome.Error(stopped))
        self._asking.clear()
        for watches in list(self._watches.values()):
            for watch in watches:
                watch.settle(stopped)
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
        """Find out where each core begins, from shards and journal. Returns how many entries the journal has
        beyond the shards' commits. Blocking: before `run`. Raises storage.shard.ShardDamaged."""
        heads = {number: p.head for w in self._writers for number, p in w.partitions.items()}
        groups = {number: group for shard in self._shards for number, group in load_groups(shard).items()}
        starts = Starts(self.partitions, heads, groups, self._members)
        try:
            for record in self._journal.recovered():
                starts.take(record)
            begun = starts.starts()
        except LogGap as wrong:
            raise ShardDamaged(str(wrong)) from wrong
        dice = random.Random()
        self._groups = Groups(self.me, self._boot, begun, dice.randrange)
        self._journal_writer = JournalWriter(
            self._journal,
            self._groups,
            self._writers,
            self._tell,
            now_ms,
            lambda number, install, spool: self.pieces(number, install, spool),
        )
        self._led_alone = {
            number for number in self.partitions if self._groups.configuration(number).voters == (self.me,)
        }
        for number in self._led_alone:  # what is proposed before it runs waits in the queue
            self._standings[number] = Standing(Role.LEADER, 0, self.me)
        return sum(len(start.recent) for start in begun.values())

    def settle(self) -> None:
        """Blocking, in place of `run`: apply all that this node decides alone and its journal still has, and
        release the journal's segments. For work on a stopped node's data."""
        self._journal_writer.settle()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the writer threads until cancelled; what was accepted by then is still finished. Reports that
        it runs when this node is in charge of the groups that it decides alone.

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
                    async with trio.open_nursery() as tasks:
                        self._nursery = tasks
                        tasks.start_soon(self._trim)
                        tasks.start_soon(self._tend)
                        if self._led_alone:
                            await self._started.wait()
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
        if self._token is not None:
            self._token.run_sync_soon(self._arrived, outbound)

    def _tell(self, news: News) -> None:
        if self._token is not None:
            self._token.run_sync_soon(self._heard, news)

    def _heard(self, news: News) -> None:
        """From the journal's thread."""
        for node, frame in news.frames:
            self.send_frame(node, frame)
        for led in news.led:
            self._stand(led)
        for question, answer in news.answers:
            question.done(answer)
        for asked, why in news.failed:
            if isinstance(asked, Proposal):
                self._under_way -= 1
            asked.failed(why)
        for partition, need in news.snapshots:
            self.on_need_snapshot(partition, need)
        for call in news.called:
            call()
        self._bad_frames += len(news.bad_frames)
        if news.failed or news.led:
            self._run_errands()
            self._wake_resting()

    def _stand(self, led: Led) -> None:
        partition, standing, begins = led
        self._standings[partition] = standing
        if standing.role is not Role.LEADER:
            self._to_charge.pop(partition, None)
            self.duties.give_up(partition)
        elif not (self.leads(partition) and begins == 0):
            self._to_charge[partition] = led
            number = partition & self._mask
            if not self._unread[number]:
                self._take_charge(number)
        for follower in self._followers_of_standings:
            follower(partition, standing)

    def _take_charge(self, shard: int) -> None:
        """Of the partitions led here whose first own entry is committed to the shard, in which nothing is
        answered that is not."""
        committed = self._writers[shard].committed
        ripe = [
            led
            for number, led in self._to_charge.items()
            if number & self._mask == shard and committed[number] >= led.begins
        ]
        if not ripe:
            return
        with self._shards[shard].reading() as rows:
            for led in ripe:
                del self._to_charge[led.partition]
                head = HEADS.get(rows, HeadKey(HEADS_PARTITION, led.partition)) or Head()
                waiting = list(mailbox.waiting(rows, led.partition)) if head.outbox_rows else []
                self.duties.take_charge(
                    led.partition, led.standing.term, waiting, has_work=head.work_rows > 0
                )
        for led in ripe:
            for follower in self._followers_of_standings:
                follower(led.partition, led.standing)
        if self._led_alone:
            self._led_alone.difference_update(led.partition for led in ripe)
            if not self._led_alone:
                self._started.set()

    def _arrived(self, outbound: Outbound) -> None:
        """From a shard's thread."""
        for keys in outbound.written:
            for follower in self._followers_of_rows:
                follower(keys)
        if outbound.installed is not None:
            self._was_installed(outbound.installed)
        if outbound.seen:
            self._was_seen(outbound.seen)
        for partition, term in outbound.terms:
            self._terms[partition] = term
            if self._watches:
                self._term_began(partition, term)
        for proposal, applied in outbound.applied:
            self._under_way -= 1
            self.duties.applied(applied)
            proposal.done(applied)
        if outbound.changes:
            for listener in self._listeners:
                listener(outbound.changes)
        if outbound.committed:
            self._committed(outbound.shard)
        else:
            self._unread[outbound.shard] += 1
            if self._index_waiters[outbound.shard] or self._mark_waiters[outbound.shard]:
                self._writers[outbound.shard].commit_soon()
        self._run_errands()
        self._wake_resting()

    def _committed(self, shard: int) -> None:
        self._unread[shard] = 0
        if self._read_waiters[shard]:
            waiters, self._read_waiters[shard] = self._read_waiters[shard], []
            for event in waiters:
                event.set()
        committed = self._writers[shard].committed
        for partition, index, event in self._index_waiters[shard]:
            if committed[partition] >= index:
                event.set()
        for _, event in self._mark_waiters[shard]:
            event.set()  # it looks for itself
        if self._to_charge:
            self._take_charge(shard)

    def _was_seen(self, seen: Iterable[Applied]) -> None:
        for applied in seen:
            for watch in self._watches.get(applied.id, ()):
                if watch.partition == applied.partition:
                    watch.settle(applied)

    def _term_began(self, partition: int, term: int) -> None:
        for watches in self._watches.values():
            for watch in watches:
                if watch.partition == partition and watch.term < term:
                    watch.settle(Lost(f"partition {partition}: term {watch.term} is over"))

    def _was_installed(self, partition: int) -> None:
        for watches in self._watches.values():
            for watch in watches:
                if watch.partition == partition:
                    watch.settle(Unknown("a snapshot took the place of the log"))
        for follower in self._followers_of_installs:
            follower(partition)

    def _wake_resting(self) -> None:
        for event in self._rest:
            event.set()
        self._rest.clear()

    # --- errands ---------------------------------------------------------------------------------------
    def _run_errands(self) -> None:
        for destination, messages in self.duties.deliveries():
            command = Deliver(now_ms(), FEATURE_LEVEL, os.urandom(16), messages)
            if self._standings[destination].role is Role.LEADER:
                delivered = partial(self._delivered, destination)
                self.submit(destination, command, delivered, partial(self._undelivered, destination))
            else:
                self._spawn(self._carry_far, destination, command)
        for partition in self.duties.continuations():
            again = Continue(now_ms(), FEATURE_LEVEL, os.urandom(16))
            continued = partial(self._continued, partition)
            self.submit(partition, again, continued, partial(self._not_continued, partition))

    def _spawn(self, run: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        if self._nursery is not None and not self._stopped:
            self._nursery.start_soon(run, *arguments)

    async def _carry_far(self, destination: int, command: Deliver) -> None:
        try:
            cursors = await self.carry(destination, command)
        except (NotLeader, Undelivered, Overloaded, StorageFull) as why:
            await self._deliver_later(destination, why)
            return
        self.duties.delivered(destination, cursors)
        self._trim_wanted.set()
        self._run_errands()

    def _delivered(self, destination: int, applied: Applied) -> None:
        self.duties.delivered(destination, applied.taken)
        self._trim_wanted.set()

    def _undelivered(self, destination: int, why: Exception) -> None:
        self._spawn(self._deliver_later, destination, why)

    async def _deliver_later(self, destination: int, _: Exception) -> None:
        await trio.sleep(ERRAND_AGAIN_S)
        self.duties.undelivered(destination)
        self._run_errands()
        self._wake_resting()

    def _continued(self, partition: int, applied: Applied) -> None:
        self.duties.continued(partition, has_work=applied.work)

    def _not_continued(self, partition: int, _: Exception) -> None:
        self._spawn(self._continue_later, partition)

    async def _continue_later(self, partition: int) -> None:
        await trio.sleep(ERRAND_AGAIN_S)
        self.duties.continued(partition, has_work=True)
        self._run_errands()
        self._wake_resting()

    async def _trim(self) -> None:
        while True:
            await self._trim_wanted.wait()
            with trio.move_on_after(TRIM_EVERY_S):
                await self._hurry.wait()
            self._trim_wanted, self._hurry = trio.Event(), trio.Event()
            for source, cuts in self.duties.trims():
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
            for number in self.duties.charges:
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
        standings = self._standings.values()
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
            work=self.duties.working,
            dead_letters=sum(self.dead_letters().values()),
            led=sum(standing.role is Role.LEADER for standing in standings),
            leaderless=sum(standing.leader is None for standing in standings),
            frames_dropped=self._journal_writer.frames_dropped,
            bad_frames=self._bad_frames,
        )


async def _drive(loop: Callable[[], None], limiter: trio.CapacityLimiter) -> None:
    """Shielded: cancelled before its thread began, a writer would never pass the stop on to the others."""
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(loop, limiter=limiter)


async def _nobody(destination: int, command: Deliver) -> dict[int, int]:
    raise NotLeader(destination, None)


def _ignore(_: object) -> None:
    pass


def _as_told(why: Exception) -> Exception:
    if isinstance(why, JournalFull):
        return StorageFull(str(why))
    if isinstance(why, Overfull):
        return Overloaded(str(why))
    return why


def now_ms() -> int:
    """The proposer's clock, as commands carry it: ms, Unix."""
    return time.time_ns() // 1_000_000
