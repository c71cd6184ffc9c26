"""A simulated node: the real cores, and around them what a node's threads do, in virtual time.

Here is the part of the journal's thread (`cluster.journal_writer`): it gathers what has come, lets the cores
decide, hands out what may leave, writes and syncs in one piece, and passes what is committed to the shards.
While a sync is under way nothing else moves. What the trio thread does is in `cluster.simulation.service`.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from cluster.groups import TICK_MS, Batch, Committed, Groups
from cluster.keys import GROUPS, HEADS, HEADS_PARTITION, META_PARTITION
from cluster.partition import Applied, Partition
from cluster.peers.messages import RaftFrame, decode_frame
from cluster.peers.messages import encode as encode_frame
from cluster.raft import messages as raft_messages
from cluster.raft.effects import ChangeRefused, Lost, NeedEntries, NotLeader, Overfull
from cluster.raft.messages import Configuration, Install
from cluster.simulation.disk import SHARDS, Disk
from cluster.simulation.kernel import EPOCH_MS, MS
from cluster.simulation.shelf import Installation, Outbound, Shelf, members_in
from cluster.snapshots.installing import install_pieces
from storage.journal import JournalFailed, JournalFull

if TYPE_CHECKING:
    from cluster.simulation.world import World

SYNC_US: Final = (300, 2_500)  # of a journal that does well
SLOW_SYNC_MS: Final = (20, 250)
FULL_RETRY_MS: Final = 500
INSTALL_ROWS: Final = 40  # in a transaction, of thousands in a node: kills shall come in between
SEGMENTS_KEPT: Final = 2  # the node keeps 4; here they are smaller, and histories short
TEND_MS: Final = 1_500
POST_US: Final = 250  # until the trio thread is told, at most


class Unknown(Exception):
    """Whether the command took effect is not known here: a snapshot took the place of the log."""


class Proposal:
    __slots__ = ("data", "done", "failed", "partition", "term", "waits")

    def __init__(
        self,
        partition: int,
        data: bytes,
        done: Callable[[Applied], None],
        failed: Callable[[Exception], None],
        *,
        term: int = 0,
        waits: bool = False,
    ) -> None:
        self.partition = partition
        self.data = data
        self.done = done
        self.failed = failed
        self.term = term
        self.waits = waits


class Question:
    """Asked of the cores; `ask` raises what `failed` is to get. The answer comes with a batch."""

    __slots__ = ("ask", "done", "failed")

    def __init__(
        self,
        ask: Callable[[Groups, "Question"], Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.ask = ask
        self.done = done
        self.failed = failed


class Node:
    def __init__(self, world: "World", number: int, disk: Disk, *, is_copy: bool = False) -> None:
        self.world = world
        self.is_copy = is_copy  # of another's disk: nobody may let it in
        self.first_peers: tuple[bytes, ...] = ()  # whom it was told of at its admission
        self.kernel = world.kernel
        self.number = number
        self.disk = disk
        self.alive = False
        self.is_expelled = False
        self.life = 0  # starts and kills; what was begun in an earlier one is void
        self.clock_rate = 1.0
        self.clock_off_ms = 0
        self.disk_is_slow = False
        self.stalled_until = 0

    def __repr__(self) -> str:
        return f"n{self.number}"

    @property
    def id(self) -> bytes:
        return self.disk.identity

    def clock_ms(self) -> int:
        return EPOCH_MS + int(self.kernel.now * self.clock_rate) // MS + self.clock_off_ms

    # --- life ----------------------------------------------------------------------------------------------
    def start(self) -> None:
        disk = self.disk
        disk.boots += 1
        disk.finish_installs()
        self.boot = disk.boots
        self.start_id = self.kernel.draw_bytes(8)
        self.alive = True
        self.life += 1
        self._inbox: list[Any] = []
        self._writing = False
        self._held: list[Proposal] = []
        self._spools: dict[int, tuple[Any, Callable[[], None]]] = {}
        self._posts_until = 0
        self._founders = Configuration((self.id,)) if disk.founder else Configuration(())
        heads = {key.of: head for rows in disk.shards for key, head in HEADS.scan(rows, HEADS_PARTITION)}
        groups = {key.of: row for rows in disk.shards for key, row in GROUPS.scan(rows, HEADS_PARTITION)}
        build = self.world.build
        starts = build.starts(self.world.partitions, heads, groups, self._founders)
        records = list(disk.journal.recovered())
        self.world.checks.recovered(self, records)
        for record in records:
            starts.take(record)
        self.groups = build.groups(
            self.id, self.boot, starts.starts(), self.kernel.random.randrange, build.settings, build.raft
        )
        self.shelves = [
            Shelf(
                self,
                rows,
                {
                    of: build.partition(of, self.world.machine(self, of), heads.get(of))
                    for of in self.world.partitions
                    if of % SHARDS == number
                },
            )
            for number, rows in enumerate(disk.shards)
        ]
        self.service = build.service(self, self.first_peers)
        self.kernel.note(f"{self} starts, boot {self.boot}")
        self.service.start()
        self.after(self.kernel.between(0, TICK_MS * MS), self._tick)
        self.after(self.kernel.between(0, TEND_MS * MS), self._tend)
        self.groups.campaign_alone()
        self._drive()

    def configuration(self, number: int) -> Configuration:
        """The members of a group as last applied here and committed."""
        return members_in(self.shelf(number).rows, number) or self._founders

    def kill(self) -> None:
        self.kernel.note(f"{self} is killed")
        self.alive = False
        self.life += 1
        self.stalled_until = 0
        self.disk.crash(self.kernel.random)
        self.world.killed(self)

    def expel(self, code: str) -> None:
        """It is no member any more, or never was: it ends, for good."""
        self.kernel.note(f"{self} is expelled: {code}")
        self.is_expelled = True
        self.kernel.after(0, self._end, self.life)

    def _end(self, life: int) -> None:
        if life == self.life:
            self.kill()

    def after(self, delay: int, call: Callable[..., None], *arguments: Any) -> None:
        """Unless this life has ended by then; not while the node stands still."""
        self.kernel.after(delay, self._living, self.life, call, arguments)

    def _living(self, life: int, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if life != self.life:
            return
        if self.kernel.now < self.stalled_until:
            self.kernel.after(self.wakes_in(), self._living, life, call, arguments)
            return
        call(*arguments)

    def wakes_in(self) -> int:
        """Of what came while the node stood still, anything may be looked at first."""
        return self.stalled_until - self.kernel.now + self.kernel.between(0, 4 * MS)

    def partition(self, number: int) -> Partition:
        return self.shelves[number % SHARDS].partitions[number]

    def shelf(self, number: int) -> Shelf:
        return self.shelves[number % SHARDS]

    # --- what comes ----------------------------------------------------------------------------------------
    def put(self, item: Any) -> None:
        """A proposal, a question, or what is to be called, in the journal's thread."""
        self._inbox.append(item)
        self._pump()

    def frame(self, sender: "Node", life: int, data: bytes) -> None:
        if not self.alive or sender.life != life or not self.service.belonging.admits(sender):
            return
        self.world.checks.heard(self, sender)
        if self.kernel.now < self.stalled_until:  # it waits in the socket
            self.kernel.after(self.wakes_in(), self.frame, sender, life, data)
            return
        self.service.belonging.heard(sender.id, data)
        self.put(partial(self._step, sender.id, data))

    def report(self, applied: dict[int, int]) -> None:
        for number, index in applied.items():
            self.groups.applied(number, index)

    def _tick(self) -> None:
        self.after(int(TICK_MS * MS / self.clock_rate), self._tick)
        if not self.groups.idle:
            self.put(self.groups.tick)

    def _pump(self) -> None:
        while self._inbox and not self._writing:
            inbox, self._inbox = self._inbox, []
            proposals: list[Proposal] = []
            for at, item in enumerate(inbox):
                if type(item) is Proposal:
                    proposals.append(item)
                else:
                    self._take(item)
                if self._is_writing():  # an install has begun to: the rest comes after it
                    self._inbox = inbox[at + 1 :] + self._inbox
                    break
            if proposals or self._held:
                self._propose(proposals)
            self._drive()

    def _step(self, sender: bytes, data: bytes) -> None:
        frame = decode_frame(data)
        if frame.heartbeat is not None:
            self.groups.heartbeat(sender, frame.heartbeat)
        self.groups.step(sender, [raft_messages.decode(message) for message in frame.messages])

    def _is_writing(self) -> bool:
        return self._writing

    def _take(self, item: Any) -> None:
        if type(item) is Question:
            self._answer(item)
        else:
            item()

    def _answer(self, question: Question) -> None:
        try:
            question.ask(self.groups, question)
        except (NotLeader, Overfull, ChangeRefused) as wrong:
            question.failed(wrong)

    # --- commands ------------------------------------------------------------------------------------------
    def _propose(self, proposals: list[Proposal]) -> None:
        held, self._held = self._held, []
        if not self._has_room(held + proposals):
            self._held = held + [one for one in proposals if one.waits]
            for one in proposals:
                if not one.waits:
                    one.failed(JournalFull("the disk has no room for the journal; nothing was changed"))
            return
        grouped: dict[tuple[int, int], list[Proposal]] = {}
        for one in held + proposals:
            grouped.setdefault((one.partition, one.term), []).append(one)
        for (number, term), ones in grouped.items():
            try:
                self.groups.propose(number, [one.data for one in ones], ones, term)
            except (NotLeader, Overfull) as wrong:
                for one in ones:
                    one.failed(wrong)

    def _has_room(self, proposals: list[Proposal]) -> bool:
        size = sum(len(one.data) for one in proposals)
        journal = self.disk.journal
        try:
            journal.make_room(len(proposals), size)
        except JournalFull:
            self._release(keep=0)
            try:
                journal.make_room(len(proposals), size)
            except JournalFull:
                return False
        return True

    # --- what the cores decided ----------------------------------------------------------------------------
    def _drive(self) -> None:
        while not self._writing and (batch := self.groups.ready()) is not None:
            if batch.messages or batch.heartbeats:
                self.send(batch)
            if batch.records:
                self._writing = True
                self.write(batch)
                return
            self.groups.synced()
            self._hand_on(batch)

    def send(self, batch: Batch) -> None:
        encoded: dict[int, msgspec.Raw] = {}
        waiting: dict[bytes, list[msgspec.Raw]] = {node: [] for node in batch.heartbeats}
        for node, message in batch.messages:
            data = encoded.get(id(message))
            if data is None:
                data = encoded[id(message)] = msgspec.Raw(raft_messages.encode(message))
            waiting.setdefault(node, []).append(data)
        for node, messages in waiting.items():
            frame = RaftFrame(self.clock_ms(), batch.heartbeats.get(node), tuple(messages))
            self.service.send_frame(node, encode_frame(frame))

    def write(self, batch: Batch) -> None:
        """Append, and after the disk's time sync. Waits for room, if there is none."""
        try:
            self.disk.journal.append(batch.records)
        except JournalFull:
            self._release(keep=0)
            self.after(FULL_RETRY_MS * MS, self.write, batch)
            return
        self.after(self.sync_delay(), self.sync, batch)

    def sync_delay(self) -> int:
        low, high = SYNC_US
        if self.disk_is_slow:
            low, high = SLOW_SYNC_MS[0] * MS, SLOW_SYNC_MS[1] * MS
        return self.kernel.between(low, high)

    def sync(self, batch: Batch) -> None:
        try:
            self.disk.journal.sync()
        except JournalFailed:  # the process ends, as it must
            self.world.kill(self)
            return
        self._synced(batch)

    def _synced(self, batch: Batch) -> None:
        self._writing = False
        self.world.checks.synced(self, batch.records)
        self.groups.synced()
        self._hand_on(batch)
        self._drive()
        self._pump()

    def _hand_on(self, batch: Batch) -> None:
        if batch.committed:
            parts: list[list[Committed]] = [[] for _ in self.shelves]
            for run in batch.committed:
                parts[run.partition % SHARDS].append(run)
            for shelf, part in zip(self.shelves, parts, strict=True):
                if part:
                    shelf.submit(part)
        for led in batch.led:
            self.world.checks.led(self, led)
            self.service.led(led)
        for question, index in batch.reads:
            question.done(index)
        for question in batch.reads_lost:
            question.failed(Lost("the lead was lost"))
        for proposal in batch.lost:
            proposal.failed(Lost("another leader's entry took its place"))
        for proposal in batch.unknown:
            proposal.failed(Unknown("a snapshot took the place of the log"))
        for number, need in batch.needs:
            if isinstance(need, NeedEntries):
                self._read_for(number, need)
            else:
                self.service.offer_snapshot(number, need)
        for number, _ in batch.installs:
            spool, done = self._spools.pop(number)
            self.disk.spools[spool.name] = spool
            rows_max = None if number == META_PARTITION else INSTALL_ROWS  # the meta group's fit into one
            pieces = install_pieces(self.shelf(number).begin, spool, rows_max=rows_max)
            self.shelf(number).install(Installation(number, pieces, partial(self._installed, number, done)))

    def install(self, sender: bytes, install: Install, spool: Any, done: Callable[[], None]) -> None:
        """In the journal's thread: take a snapshot whose state lies in `spool`."""
        number = install.group
        if self.groups.installing(number):
            done()
            return
        self.groups.step(sender, [install])
        self._spools[number] = (spool, done)
        self._drive()
        if not self.groups.installing(number):  # all of it was here already
            del self._spools[number]
            done()

    def _installed(self, number: int, done: Callable[[], None]) -> None:
        self.groups.installed(number)
        self.world.history.snapshots += 1
        done()

    def _read_for(self, number: int, need: NeedEntries) -> None:
        entries = self.disk.journal.read(number, need.first, need.last, bytes_max=need.bytes_max)
        commands = [entry.command for entry in entries] if entries and entries[0].index == need.first else []
        self.groups.supply(number, need, commands)

    # --- the trio thread is told ---------------------------------------------------------------------------
    def post(self, out: Outbound) -> None:
        """In order, a little later."""
        due = max(self._posts_until, self.kernel.now + self.kernel.between(0, POST_US))
        self._posts_until = due
        self.after(due - self.kernel.now, self.service.arrived, out)

    # --- looking after the journal -------------------------------------------------------------------------
    def _tend(self) -> None:
        self.after(TEND_MS * MS, self._tend)
        self.put(partial(self._release, keep=SEGMENTS_KEPT))

    def _release(self, *, keep: int) -> None:
        def passed(number: int) -> int:
            return min(self.shelf(number).committed[number], self.groups.applied_index(number))

        for number, index in self.disk.journal.release(passed, self.groups.hard_states(), keep=keep).items():
            self.groups.compacted(number, index)
