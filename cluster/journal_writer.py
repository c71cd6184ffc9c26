"""The journal's thread: it owns the Raft cores of all groups and the journal. No trio here.

It gathers what has come (commands, frames from peers, reports of the shards), lets the cores decide, hands
out what may leave at once, writes what all groups have to write in one piece, syncs once, and passes what is
committed to the shards. While a sync is under way nothing else moves, which is what makes batches.

Room in the journal is asked for before a command reaches a core: what a core has in its log cannot be refused
any more. What cores write of themselves (votes, entries of other leaders) waits for room, and with it this
node: others lead meanwhile.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any, Final

import msgspec

from cluster.groups import TICK_MS, Batch, Groups, Led
from cluster.partition import Applied
from cluster.peers.messages import OpenFrame, decode_open_frame
from cluster.peers.messages import encode as encode_frame
from cluster.raft.effects import ChangeRefused, Lost, NeedEntries, NeedSnapshot, NotLeader, Overfull
from cluster.raft.messages import Append, Install, Message
from cluster.raft.quiet import NodeHeartbeat
from cluster.shard_writer import Installation, ShardWriter
from storage.entries import Record
from storage.journal import Journal, JournalFull

TICK_S: Final = TICK_MS / 1000
BATCH_ENTRIES_MAX: Final = 1024  # commands of one journal write; ~0.5 ms of encoding
BATCH_BYTES_MAX: Final = 4 << 20
FRAME_BYTES: Final = 1 << 20  # a frame is closed when it has so many; one entry more may be in it
FRAMES_WAITING_MAX: Final = 4096  # from peers; more are dropped, and asked for again by those who sent them
FRAMES_WAITING_BYTES_MAX: Final = 64 << 20  # … and no more than this: while this thread waits for room
BACKLOG_BYTES_MAX: Final = 64 << 20  # of committed entries, not applied by a shard; then this node waits
BACKLOG_LOOK_S: Final = 0.02  # … and looks again
FULL_RETRY_S: Final = 0.5  # how often a journal without room looks whether there is some
HELD_AT_ONCE_MAX: Final = 8  # of those that waited for room: deliveries of up to 512 KiB each
SEGMENTS_KEPT: Final = 4  # in a cluster: nodes that were away catch up from them


class Unknown(Exception):
    """Whether the command took effect is not known here: a snapshot took the place of the log."""


class Proposal:
    """A command on its way through the threads. `done` or `failed` is called in the trio thread. One that
    `waits` is not refused where the disk has no room, but held."""

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
    """A wish of the trio thread that a core answers: `done(answer)` or `failed(why)`, called there."""

    __slots__ = ("ask", "done", "failed")

    def __init__(
        self,
        ask: Callable[[Groups, "Question"], Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.ask = ask  # in the journal's thread; LATER: the answer comes with a batch
        self.done = done
        self.failed = failed


LATER: Final = object()


class _Frame:
    __slots__ = ("data", "sender")

    def __init__(self, sender: bytes, data: bytes) -> None:
        self.sender = sender
        self.data = data


class _Stop:
    pass


class _Release:
    pass


_Do = Callable[[], None]
_Item = Proposal | Question | _Frame | _Stop | _Release | _Do


class News(msgspec.Struct):
    """What the trio thread is told at once."""

    frames: list[tuple[bytes, bytes]] = []
    led: list[Led] = []
    answers: list[tuple[Question, Any]] = []
    failed: list[tuple[Proposal | Question, Exception]] = []
    snapshots: list[tuple[int, NeedSnapshot]] = []
    bad_frames: list[tuple[bytes, Exception]] = []
    called: list[Callable[[], None]] = []


class JournalWriter:
    """`tell` is called with news in this thread; it must hand them to the trio thread."""

    def __init__(
        self,
        journal: Journal,
        groups: Groups,
        shards: Sequence[ShardWriter],
        tell: Callable[[News], None],
        clock_ms: Callable[[], int],
        pieces: Callable[[int, Install, Any], Iterator[list[bytes]]],
    ) -> None:
        self._journal = journal
        self._groups = groups
        self._shards = shards
        self._mask = len(shards) - 1
        self._tell = tell
        self._clock_ms = clock_ms
        self._pieces = pieces
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._frames_in = self._frame_bytes_in = 0  # counted by the trio thread alone
        self._frames_out = self._frame_bytes_out = 0  # by this one: what both changed would drift
        self._held: deque[Proposal] = deque()  # accepted for good, and no room for them yet
        self._spools: dict[int, tuple[Any, Callable[[], None]]] = {}  # partition: spool, who waits for it
        self._news = News()
        self._alone = True
        self._next_tick = 0.0
        self._stopping = Event()
        self.propose: Callable[[Proposal], None] = self._queue.put
        self.ask: Callable[[Question], None] = self._queue.put
        self.full = False  # the disk had no room for the last batch
        self._looked_at = 0  # batches when the journal was last tended
        self.batches = 0
        self.entries = 0
        self.frames_dropped = 0
        self._reports: deque[dict[int, int]] = deque()  # partition: index applied; nobody waits for them
        for shard in shards:
            shard.report = self._reports.append

    # --- from other threads ----------------------------------------------------------------------------
    def stop(self) -> None:
        self._stopping.set()
        self._queue.put(_Stop())

    def release_soon(self) -> None:
        """Remove the segments that all shards have passed."""
        self._queue.put(_Release())

    def frame(self, sender: bytes, data: bytes) -> None:
        """An encoded RaftFrame of a peer. Dropped where too many wait: Raft repeats what matters."""
        waiting = self._frames_in - self._frames_out
        if waiting >= FRAMES_WAITING_MAX or (
            waiting and self._frame_bytes_in - self._frame_bytes_out + len(data) > FRAMES_WAITING_BYTES_MAX
        ):
            self.frames_dropped += 1
            return
        self._frames_in += 1
        self._frame_bytes_in += len(data)
        self._queue.put(_Frame(sender, data))

    def peers(self, nodes: Iterable[bytes]) -> None:
        """The other members of the cluster."""
        nodes = tuple(nodes)
        self._queue.put(partial(self._set_peers, nodes))

    def silent(self, node: bytes) -> None:
        self._queue.put(partial(self._groups.silent, node))

    def snapshot_sent(self, partition: int, node: bytes, index: int) -> None:
        self._queue.put(partial(self._groups.snapshot_sent, partition, node, index))

    def snapshot_failed(self, partition: int, node: bytes) -> None:
        self._queue.put(partial(self._groups.snapshot_failed, partition, node))

    def install(self, sender: bytes, install: Install, spool: Any, done: Callable[[], None]) -> None:
        """Take a snapshot whose state lies in `spool`; `done` is called in the trio thread when it is in
        place, or was not needed."""
        self._queue.put(partial(self._install, sender, install, spool, done))

    # --- the thread ------------------------------------------------------------------------------------
    def loop(self) -> None:
        """Until `stop`; the shards stop after the last entry. Raises storage.journal.JournalFailed.
        What is held when it stops is lost: nobody was promised it."""
        try:
            self._lead_alone()
            while self._turn():
                pass
        finally:
            for shard in self._shards:
                shard.stop()

    def settle(self) -> None:
        """In place of `loop`, and without threads: lead what this node decides alone, and apply all that the
        journal has of it. Then no segment is needed any more."""
        self._groups.campaign_alone(behind=True)
        self._drive()
        for shard in self._shards:
            shard.drain()
        self._take_reports()
        self._release()

    def _lead_alone(self) -> None:
        """A group whose only voter is this node need not wait for a timeout."""
        self._groups.campaign_alone()
        self._drive()

    def _turn(self) -> bool:
        self._wait_for_shards()
        proposals, others, going_on = self._gather()
        self._take_reports()
        for item in others:
            self._take(item)
        self._propose(proposals)
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = max(self._next_tick + TICK_S, now)
            self._groups.tick()
        self._drive(whole=not going_on)
        return going_on

    def _wait_for_shards(self) -> None:
        """A shard that does not keep up (its disk is slow, or has no room) holds this thread back, and with
        it those who send: else what a majority commits without this node would pile up in memory."""
        while any(shard.backlog_bytes > BACKLOG_BYTES_MAX for shard in self._shards):
            if self._stopping.wait(BACKLOG_LOOK_S):
                return

    def _gather(self) -> tuple[list[Proposal], list[_Item], bool]:
        """What waits, up to one batch; waits for something until the next tick."""
        proposals: list[Proposal] = []
        others: list[_Item] = []
        size = 0
        queue = self._queue
        try:
            item = queue.get(timeout=self._patience())
        except Empty:
            return proposals, others, True
        while True:
            if type(item) is Proposal:
                proposals.append(item)
                size += len(item.data)
            elif isinstance(item, _Stop):
                return proposals, others, False
            else:
                others.append(item)
                if type(item) is _Frame:
                    self._frames_out += 1
                    self._frame_bytes_out += len(item.data)
                    size += len(item.data)
            full = len(proposals) + len(others) >= BATCH_ENTRIES_MAX or size >= BATCH_BYTES_MAX
            if full or queue.empty():
                return proposals, others, True
            item = queue.get()

    def _patience(self) -> float | None:
        if self._held:
            return FULL_RETRY_S if self._groups.idle else TICK_S
        if self._groups.idle:
            return None
        return max(0.0, self._next_tick - time.monotonic())

    def _take_reports(self) -> None:
        while self._reports:
            for number, index in self._reports.popleft().items():
                self._groups.applied(number, index)

    def _take(self, item: _Item) -> None:
        if isinstance(item, _Frame):
            self._step(item)
        elif isinstance(item, Question):
            self._answer(item)
        elif isinstance(item, _Release):
            self._release()
        else:
            assert callable(item)
            item()

    def _step(self, item: _Frame) -> None:
        try:
            frame = decode_open_frame(item.data)
            if frame.heartbeat is not None:
                self._groups.heartbeat(item.sender, frame.heartbeat)
            self._groups.step(item.sender, frame.messages)
        except (msgspec.DecodeError, KeyError) as wrong:  # the peer's fault
            self._news.bad_frames.append((item.sender, wrong))

    def _answer(self, question: Question) -> None:
        try:
            answer = question.ask(self._groups, question)
        except (NotLeader, Overfull, ChangeRefused) as wrong:
            self._news.failed.append((question, wrong))
            return
        if answer is not LATER:
            self._news.answers.append((question, answer))

    def _set_peers(self, nodes: tuple[bytes, ...]) -> None:
        self._groups.peers(nodes)
        self._alone = not nodes

    def _install(self, sender: bytes, install: Install, spool: Any, done: Callable[[], None]) -> None:
        number = install.group
        if self._groups.installing(number):
            self._news.called.append(done)  # another copy is being put in place
            return
        self._groups.step(sender, [install])
        self._spools[number] = (spool, done)
        self._drive()
        if number in self._spools:  # all of it was here already
            del self._spools[number]
            self._news.called.append(done)

    # --- commands --------------------------------------------------------------------------------------
    def _propose(self, proposals: list[Proposal]) -> None:
        if self._held:
            self._try_held()
        if not proposals:
            return
        if not self._has_room(proposals):
            self._held += [one for one in proposals if one.waits]
            full = JournalFull("the disk has no room for the journal; nothing was changed")
            self._news.failed += [(one, full) for one in proposals if not one.waits]
            return
        self._submit(proposals)

    def _try_held(self) -> None:
        held = self._held
        while held:
            some = [held.popleft() for _ in range(min(HELD_AT_ONCE_MAX, len(held)))]
            if not self._has_room(some):
                held.extendleft(reversed(some))
                return
            self._submit(some)

    def _submit(self, proposals: list[Proposal]) -> None:
        grouped: dict[tuple[int, int], list[Proposal]] = {}
        for one in proposals:
            key = one.partition, one.term
            if key in grouped:
                grouped[key].append(one)
            else:
                grouped[key] = [one]
        for (number, term), ones in grouped.items():
            try:
                self._groups.propose(number, [one.data for one in ones], ones, term)
            except (NotLeader, Overfull) as wrong:
                self._news.failed += [(one, wrong) for one in ones]
            else:
                self.entries += len(ones)

    def _has_room(self, proposals: list[Proposal]) -> bool:
        """Segments that all shards have passed make room before anybody is refused."""
        size = sum(len(one.data) for one in proposals)
        try:
            self._journal.make_room(len(proposals), size)
        except JournalFull:
            self._release()
            try:
                self._journal.make_room(len(proposals), size)
            except JournalFull:
                self.full = True
                return False
        self.full = False
        return True

    # --- what the cores decided --------------------------------------------------------------------------
    def _drive(self, *, whole: bool = True) -> None:
        """Do what is to be done; with more in the queue only a part, unless the `whole` is wanted: what the
        queue holds then goes the same way in one batch with what is left."""
        groups, queue = self._groups, self._queue
        while (batch := groups.ready()) is not None:
            if batch.messages or batch.heartbeats:
                self._send(batch)
            if batch.committed:  # synced before: the shards apply it while this thread writes
                self._hand_on(batch)
            if batch.records:
                self._write(batch.records)
            groups.synced()
            self._note(batch)
            if not (whole or queue.empty()):
                break
        if self._news != _NO_NEWS:
            news, self._news = self._news, News()
            self._tell(news)

    def _send(self, batch: Batch) -> None:
        """One frame to each node, or a few."""
        waiting: dict[bytes, list[Message]] = {node: [] for node in batch.heartbeats}
        sizes: dict[bytes, int] = {}
        beats = dict(batch.heartbeats)
        for node, message in batch.messages:
            messages = waiting.get(node)
            if messages is None:
                messages = waiting[node] = []
            messages.append(message)
            if type(message) is Append:
                sizes[node] = size = sizes.get(node, 0) + sum(map(len, message.entries))
                if size >= FRAME_BYTES:
                    self._close_frame(node, messages, beats)
                    waiting[node], sizes[node] = [], 0
        for node, messages in waiting.items():
            if messages or node in beats:
                self._close_frame(node, messages, beats)
        # Followers write at the same time as this node: they must not wait for its sync.
        frames, self._news.frames = self._news.frames, []
        self._tell(News(frames=frames))

    def _close_frame(self, node: bytes, messages: list[Message], beats: dict[bytes, NodeHeartbeat]) -> None:
        frame = OpenFrame(self._clock_ms(), beats.pop(node, None), messages)
        self._news.frames.append((node, encode_frame(frame)))

    def _write(self, records: list[Record]) -> None:
        """Waits for room, if there is none: what is in the cores' logs cannot be taken back."""
        while True:
            try:
                self._journal.write(records)
                break
            except JournalFull:
                self.full = True
                self._release()
                if self._stopping.wait(FULL_RETRY_S):
                    raise
        self.full = False
        self.batches += 1

    def _hand_on(self, batch: Batch) -> None:
        if self._mask == 0:
            self._shards[0].submit(batch.committed)
            return
        parts: list[list[Any]] = [[] for _ in self._shards]
        for run in batch.committed:
            parts[run.partition & self._mask].append(run)
        for shard, part in zip(self._shards, parts, strict=True):
            if part:
                shard.submit(part)

    def _note(self, batch: Batch) -> None:
        news = self._news
        news.led += batch.led
        news.answers += batch.reads
        if batch.reads_lost:
            news.failed += [(ticket, Lost("the lead was lost")) for ticket in batch.reads_lost]
        if batch.lost:
            news.failed += [(one, Lost("another leader's entry took its place")) for one in batch.lost]
        if batch.unknown:
            news.failed += [(one, Unknown("a snapshot took the place of the log")) for one in batch.unknown]
        for number, need in batch.needs:
            if isinstance(need, NeedEntries):
                self._read_for(number, need)
            else:
                news.snapshots.append((number, need))
        for number, install in batch.installs:
            spool, done = self._spools.pop(number)
            self._shards[number & self._mask].install(
                Installation(
                    number,
                    self._pieces(number, install, spool),
                    partial(self._queue.put, partial(self._installed, number, done)),
                )
            )

    def _installed(self, number: int, done: Callable[[], None]) -> None:
        self._groups.installed(number)
        self._news.called.append(done)

    def _read_for(self, number: int, need: NeedEntries) -> None:
        entries = self._journal.read(number, need.first, need.last, bytes_max=need.bytes_max)
        commands = [entry.command for entry in entries] if entries and entries[0].index == need.first else []
        self._groups.supply(number, need, commands)

    # --- looking after the journal -----------------------------------------------------------------------
    def _mark_when_idle(self) -> None:
        """Say in the journal that the last batch is synced: without a word after it, damage to it would pass
        for a torn tail. While batches come, each says so of the one before."""
        if self._looked_at == self.batches:
            self._journal.mark()
        self._looked_at = self.batches

    def _release(self) -> None:
        self._take_reports()
        mask, groups, shards = self._mask, self._groups, self._shards

        def passed(number: int) -> int:
            return min(shards[number & mask].committed[number], groups.applied_index(number))

        try:
            self._mark_when_idle()
            gone = self._journal.release(
                passed, groups.hard_states(), keep=0 if self._alone or self.full else SEGMENTS_KEPT
            )
        except JournalFull:
            return  # no room even for the checkpoint: the segments stay
        for number, index in gone.items():
            groups.compacted(number, index)


_NO_NEWS: Final = News()
