"""Replicas: every group of this node, driven together, as the trio thread sees them.

Commands go in by `propose`, results come out when they are durable and applied. Messages that a command sent
go on by the courier, work rows are continued piece by piece, and what commits made visible is handed to those
who follow the change streams. On a lone node each group has one voter, this node; in a cluster the same code
has peers, whose frames come in by `frame` and go out by `send_frame`.

Who leads a partition is told by the cores (`standing`); this node is in charge of one (`leads`) when it leads
it and has applied all that was there before.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
import trio

from cluster import commands
from cluster.charges import Charges
from cluster.commands import FEATURE_LEVEL, Command
from cluster.courier import Mark
from cluster.cuts import Cuts
from cluster.duties import Duties
from cluster.errands import Carry, Errands
from cluster.errands import Undelivered as Undelivered  # raised by what carries messages to other nodes
from cluster.errands import now_ms as now_ms  # the name by which the rest knows the proposer's clock
from cluster.groups import Groups, Led
from cluster.journal_writer import LATER, JournalWriter, News, Proposal, Question
from cluster.keys import GROUPS, HEADS_PARTITION, GroupKey, Head
from cluster.partition import Applied, StateMachine
from cluster.raft.effects import Change, Lost, NeedSnapshot, NotLeader, RaftStatistics, Standing
from cluster.raft.messages import Configuration, Install
from cluster.raft.roles import Role
from cluster.shard_writer import (
    Outbound,
    ShardWriter,
    WriterSettings,
    load_groups,
    load_partitions,
    members_of,
)
from cluster.sight import Sight
from cluster.starts import LogGap, Starts
from cluster.streams import Published
from cluster.waiting import Overloaded as Overloaded  # raised here
from cluster.waiting import Stopped as Stopped
from cluster.waiting import StorageFull as StorageFull
from cluster.waiting import Waiting
from cluster.watches import Watch as Watch
from cluster.watches import Watches
from storage.journal import Journal, JournalStatistics
from storage.shard import Frozen, Shard, ShardDamaged, ShardStatistics, Snapshot

PROPOSALS_MAX: Final = 8192  # commands under way at once; more are refused, not queued
TEND_EVERY_S: Final = 5.0  # journal segments released
LONE: Final = bytes(16)  # who a node is that has no identity yet: in tests and tools


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
        self.level = FEATURE_LEVEL  # the cluster's, as it is stamped in commands
        self.duties = Duties()
        self.courier = self.duties.courier
        self.errands = Errands(self.duties, self, self._wake_resting)
        self._waiting = Waiting()
        self.partitions = tuple(sorted(machines))
        # Set by whoever composes a node of a cluster.
        self.send_frame: Callable[[bytes, bytes], None] = lambda node, frame: None
        self.pieces: Callable[[int, Install, Any], Iterator[list[bytes]]] = _no_pieces
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
        self._standings = {number: Standing(Role.FOLLOWER, 0, None) for number in self.partitions}
        self._watches = Watches(
            {number: p.head.term for w in self._writers for number, p in w.partitions.items()},
            lambda partition: self._writers[partition & mask].watched,
        )
        self._peers: frozenset[bytes] = frozenset()
        self._under_way = 0
        self._sight = Sight(self._writers, self.snapshot, self._waiting)
        self._charges = Charges(self._shards, self._writers, self._sight, self.duties, self._stood)
        self._rest: list[trio.Event] = []
        self._cuts = Cuts(self._writers, self._waiting)
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
    def is_stuck(self) -> bool:
        """Whether the disk has no room for what is to be written or was applied: where this node leads,
        nothing goes on."""
        return self._journal_writer.full or any(writer.full for writer in self._writers)

    @property
    def carry(self) -> Carry:
        """How messages reach destinations that other nodes lead; set by whoever composes a node."""
        return self.errands.carry

    @carry.setter
    def carry(self, carry: Carry) -> None:
        self.errands.carry = carry

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

    async def install(self, sender: bytes, install: Install, spool: Any) -> None:
        """Give a snapshot's Install to the core of its group; returns when the state in `spool` has taken the
        place of the partition's (`pieces` puts it there), or is not needed. Raises Stopped."""
        installed = trio.Event()
        self._journal_writer.install(sender, install, spool, installed.set)
        await self._waiting.until(installed)

    def snapshot_sent(self, partition: int, node: bytes, index: int) -> None:
        """The state up to `index` that a core needed for `node` is installed there."""
        self._journal_writer.snapshot_sent(partition, node, index)

    def snapshot_failed(self, partition: int, node: bytes) -> None:
        """It is not; the core may ask again."""
        self._journal_writer.snapshot_failed(partition, node)

    async def group_statistics(self, partitions: Iterable[int]) -> dict[int, RaftStatistics]:
        """What the cores say of themselves."""
        wanted = tuple(partitions)
        found: dict[int, RaftStatistics] = await self._ask(
            lambda groups, _: {number: groups.statistics(number) for number in wanted}
        )
        return found

    async def _ask(self, ask: Callable[[Groups, Question], Any]) -> Any:
        """The answer of a core. Raises what it refuses with."""
        self._waiting.check_running()
        done, failed, wait = self._waiting.slot()
        self._journal_writer.ask(Question(ask, done, failed))
        return await wait()

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
        self._waiting.check_running()
        standing = self._standings[partition]
        if standing.role is not Role.LEADER:
            raise NotLeader(partition, standing.leader)
        if self._writers[partition & self._mask].full:
            raise StorageFull("the disk has no room for what was written before")
        if self._under_way >= PROPOSALS_MAX or self.courier.full:
            raise Overloaded(f"{self._under_way} commands and {self.courier.queued} messages are under way")
        done, failed, wait = self._waiting.slot()
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
        return self._watches.open(partition, command_id, term)

    # --- reads -----------------------------------------------------------------------------------------
    def snapshot(self) -> Snapshot:
        """All partitions as last committed; for one synchronous block (`with`)."""
        return Snapshot(self._shards)

    def readable(self, *partitions: int) -> bool:
        """Whether `visible` would return at once."""
        return self._sight.readable(*partitions)

    async def visible(self, *partitions: int) -> None:
        """Return when all that was answered in these partitions can be read by a new snapshot."""
        await self._sight.visible(*partitions)

    async def read_index(self, partition: int) -> int:
        """How far a replica must have applied to see all that was answered before now, confirmed by a
        majority (dissertation §6.4). Raises NotLeader, Overloaded."""
        self._waiting.check_running()
        standing = self._standings[partition]
        if standing.role is not Role.LEADER:
            raise NotLeader(partition, standing.leader)
        alone = not self._peers and self.configuration(partition).voters == (self.me,)
        if alone and self.leads(partition):
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
        await self._sight.reached(partition, index)

    async def taken(self, mark: Mark) -> None:
        """Return when the message has taken effect in this node's replica of its destination. On a lone node
        that may be before its commit: `visible` says when it can be read."""
        if self._peers or not self.leads(mark[0]):
            await self._sight.taken(mark)
            return
        event = trio.Event()
        wake = event.set
        if self.courier.when_taken(mark, wake):
            try:
                await self._waiting.until(event)
            finally:
                self.courier.forget_waiter(mark, wake)

    async def at_rest(self) -> None:
        """Return when no command, message or work is under way: what is counted is exact then."""
        while self._under_way or not self.duties.at_rest or any(self._sight.unread):
            event = trio.Event()
            self._rest.append(event)
            self.errands.hurry()
            self._sight.commit_what_is_unread()
            await self._waiting.until(event)

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
        alone = {
            number for number in self.partitions if self._groups.configuration(number).voters == (self.me,)
        }
        self._charges.expect(alone)
        for number in alone:  # what is proposed before it runs waits in the queue
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
                        tasks.start_soon(self.errands.run)
                        tasks.start_soon(self._tend)
                        await self._charges.of_all_expected()
                        task_status.started()
                        await trio.sleep_forever()
                finally:
                    self._journal_writer.stop()
                    self._cuts.abandon()
        finally:
            stopped = Stopped("the writers stopped before an answer")
            self._watches.stopped(stopped)
            self._waiting.sever(stopped)

    async def _tend(self) -> None:
        while True:
            await trio.sleep(TEND_EVERY_S)
            self._journal_writer.release_soon()

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
            self.errands.go()
            self._wake_resting()

    def _stand(self, led: Led) -> None:
        self._standings[led.partition] = led.standing
        self._charges.stand(led)
        self._stood(led.partition, led.standing)

    def _stood(self, partition: int, standing: Standing) -> None:
        for follower in self._followers_of_standings:
            follower(partition, standing)

    def _arrived(self, outbound: Outbound) -> None:
        """From a shard's thread."""
        for keys in outbound.written:
            for follower in self._followers_of_rows:
                follower(keys)
        if outbound.installed is not None:
            self._was_installed(outbound.installed)
        if outbound.seen:
            self._watches.applied(outbound.seen)
        for partition, term in outbound.terms:
            self._watches.term_began(partition, term)
        for proposal, applied in outbound.applied:
            self._under_way -= 1
            self.duties.applied(applied)
            proposal.done(applied)
        if outbound.changes:
            for listener in self._listeners:
                listener(outbound.changes)
        if outbound.committed:
            self._committed(outbound)
        else:
            self._sight.answered(outbound.shard)
            self._charges.answered(outbound.shard)
        self.errands.go()
        self._wake_resting()

    def _committed(self, outbound: Outbound) -> None:
        self._sight.committed(outbound.shard, outbound.indexes)
        self._charges.committed(outbound.shard)

    def _was_installed(self, partition: int) -> None:
        self._watches.installed(partition)
        for follower in self._followers_of_installs:
            follower(partition)

    def _wake_resting(self) -> None:
        for event in self._rest:
            event.set()
        self._rest.clear()

    # --- for operators ---------------------------------------------------------------------------------
    async def freeze(self) -> list[Frozen]:
        """One cut: all writers pause between commits, each shard is frozen there, writers go on
        (law 11). Who gets the frozen shards closes them. Raises Stopped."""
        return await self._cuts.freeze()

    def dead_letters(self) -> dict[int, int]:
        """How many dead letters each partition keeps, where there are any."""
        heads = ((n, p.head.dead_rows) for w in self._writers for n, p in w.partitions.items())
        return {number: rows for number, rows in heads if rows}

    def head(self, partition: int) -> Head:
        """Where the replica stands; its writer changes it."""
        return self._writers[partition & self._mask].partitions[partition].head

    def digested(self, partition: int) -> tuple[int, bytes] | None:
        """Index and result of the last `Digest` applied here since the start."""
        return self._writers[partition & self._mask].partitions[partition].digested

    def applied_index(self, partition: int) -> int:
        return self._writers[partition & self._mask].partitions[partition].head.applied

    def committed_index(self, partition: int) -> int:
        """Up to where the partition can be read here."""
        return self._sight.index(partition)

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


def _no_pieces(number: int, install: Install, spool: Any) -> Iterator[list[bytes]]:
    raise AssertionError(f"partition {number}: a snapshot came, and nobody said how it is installed")


def _ignore(_: object) -> None:
    pass
