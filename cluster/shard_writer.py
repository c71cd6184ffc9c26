"""The writer thread of one shard: applies what is committed, in the order of the log. No trio here.

It applies inside an open transaction. Answers leave before the commit only under load, when many wait: the
journal has the command already, so nothing is lost, and a reader that must see the write waits for the commit
(`Replicas.visible`). When nothing waits the commit comes first, so whoever was answered sees the write in the
next read of any kind. What another leads nobody awaits here, unless they say so, and its commit
waits a little for more. A snapshot is installed in pieces, with other partitions' entries in between.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from threading import Event
from typing import Final

import msgspec

from cluster.groups import Committed, Ticket
from cluster.keys import GROUPS, HEADS, HEADS_PARTITION, GroupKey, GroupRow
from cluster.partition import Applied, Partition, StateMachine
from cluster.raft.messages import Configuration, decode_configuration, is_configuration
from cluster.streams import Published
from storage.rows import Overlay
from storage.shard import Frozen, Shard, ShardFull, WriteTransaction

ENTRIES_AT_ONCE_MAX: Final = 1024  # applied before results leave: some 30 ms
ANSWER_FIRST_FROM: Final = 24  # entries in a batch: below, nobody gains by an answer before the commit
FULL_RETRY_S: Final = 0.5  # how often a shard without room looks whether there is some
LINGER_S: Final = 0.015  # under load, how long an open transaction waits for the next batch
_NOTHING: Final[Mapping[int, int]] = {}


class WriterSettings(msgspec.Struct, frozen=True):
    commit_delay_s: float = 0.05  # at the latest after this, an open transaction is committed
    commit_rows: int = 20_000  # … or when so many rows wait


class Outbound(msgspec.Struct):
    """What a shard's thread hands to the trio thread at once: results, and what a commit made visible."""

    shard: int
    applied: list[tuple[Ticket, Applied]]  # of what was proposed here
    changes: list[Published]
    committed: bool  # all that was answered so far can be read now
    written: Sequence[Iterable[bytes]] = ()  # keys of the rows that a commit wrote
    seen: Sequence[Applied] = ()  # commands that somebody here watches for, whoever proposed them
    terms: Sequence[tuple[int, int]] = ()  # partitions that applied the first entry of a term
    installed: int | None = None  # the partition whose state a snapshot has replaced
    indexes: Mapping[int, int] = {}  # partition: up to where a commit made it readable


Post = Callable[[Outbound], None]
Report = Callable[[dict[int, int]], None]  # partition: index applied


class Pause:
    """Commit, freeze the shard at that commit, and wait until the other writers have done so too."""

    def __init__(self, reached: Callable[[], None]) -> None:
        self.frozen: Frozen | None = None
        self.reached = reached  # called in the writer's thread
        self.resume = Event()
        self.abandoned = False  # set before `resume`: nobody will use, or close, what was frozen


class Installation:
    """A snapshot on its way in: each step of `pieces` is a transaction of its own, and yields the keys that
    it changed."""

    def __init__(self, partition: int, pieces: Iterator[list[bytes]], installed: Callable[[], None]) -> None:
        self.partition = partition
        self.pieces = pieces
        self.installed = installed  # called in the writer's thread


class _Stop:
    pass


class _CommitNow:
    pass


class _Piece:
    """The next step of an installation."""


_Item = list[Committed] | _Stop | _CommitNow | _Piece | Pause | Installation


class ShardWriter:
    """Applies the entries of a shard's partitions, in the order in which it gets them, in its own thread."""

    def __init__(
        self,
        number: int,
        shard: Shard,
        partitions: dict[int, Partition],
        settings: WriterSettings,
        post: Post,
    ) -> None:
        self.number = number
        self.partitions = partitions
        self.committed = {p.number: p.head.applied for p in partitions.values()}
        self.watched: set[bytes] = set()  # command ids; changed by the trio thread
        self.report: Report = lambda _: None
        self._shard = shard
        self._settings = settings
        self._post = post
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._installations: deque[Installation] = deque()
        self._transaction: WriteTransaction | None = None
        self._overlay: Overlay | None = None
        self._opened = 0.0
        self._dirty: dict[int, Partition] = {}
        self._changes: list[Published] = []
        self._seen: list[Applied] = []
        self._terms: list[tuple[int, int]] = []
        self._stopping = Event()
        self.full = False  # the disk has no room for a commit: what was applied waits for some
        self._bytes_in = 0  # of entries: counted by the journal's thread
        self._bytes_applied = 0  # … and by this one
        self.commits = 0
        self.applied = 0
        self.commit_seconds = 0.0

    # --- from other threads ----------------------------------------------------------------------------
    def submit(self, batch: list[Committed]) -> None:
        """From one thread only."""
        self._bytes_in += _size(batch)
        self._queue.put(batch)

    @property
    def backlog_bytes(self) -> int:
        """Of entries that were submitted and are not applied yet."""
        return self._bytes_in - self._bytes_applied

    def install(self, installation: Installation) -> None:
        self._queue.put(installation)

    def commit_soon(self) -> None:
        self._queue.put(_CommitNow())

    def pause(self, pause: Pause) -> None:
        self._queue.put(pause)

    def stop(self) -> None:
        self._stopping.set()
        self._queue.put(_Stop())

    # --- the thread ------------------------------------------------------------------------------------
    def loop(self) -> None:
        """Until `stop`. Raises what apply raises: a bug or the disk; nobody skips a command alone.
        Raises storage.shard.ShardFull if it is stopped while there is no room for what it applied."""
        try:
            while True:
                item = self._next()
                if isinstance(item, list):
                    then = self._take(item)
                else:
                    self._commit()
                    then = item
                if isinstance(then, _Stop):
                    return
                if isinstance(then, Pause):
                    self._hold(then)
                elif isinstance(then, Installation):
                    self._installations.append(then)
                elif isinstance(then, _Piece):
                    self._install_piece()
        finally:
            if self._transaction is not None:
                self._transaction.abort()

    def drain(self) -> None:
        """In place of `loop`: apply what waits, commit, and return."""
        while not self._queue.empty():
            item = self._queue.get()
            if isinstance(item, list):
                self._take(item)
        self._commit()

    def _next(self) -> _Item:
        if self._installations and self._queue.empty():
            return _Piece()
        if self._overlay is None:
            return self._queue.get()
        left = self._opened + self._settings.commit_delay_s - time.monotonic()
        try:
            return self._queue.get(timeout=max(0.0, min(LINGER_S, left)))
        except Empty:
            return _CommitNow()

    def _take(self, batch: list[Committed]) -> _Item | None:
        """Apply what waits; return what ended it, for which a commit was made."""
        batch, entries, then = self._drain(batch)
        applied: list[tuple[Ticket, Applied]] = []
        for run in batch:
            self.apply(run, applied)
        self._bytes_applied += _size(batch)
        self.report({run.partition: run.first + len(run.entries) - 1 for run in batch})
        awaited = bool(applied or self._terms)
        if then is not None or (awaited and entries < ANSWER_FIRST_FROM):
            self._commit(applied)
        else:
            self._hand_out(applied, committed=False)
            overdue = time.monotonic() - self._opened > self._settings.commit_delay_s
            if overdue or (self._overlay is not None and len(self._overlay) > self._settings.commit_rows):
                self._commit()
        if self._installations and not isinstance(then, _Stop):
            self._install_piece()  # though the queue may never be empty
        return then

    def _drain(self, batch: list[Committed]) -> tuple[list[Committed], int, _Item | None]:
        """Join what has queued up meanwhile, up to a bound, and say how many entries it is and what else
        came: wishes for a commit are joined too, so that many make one; all else ends it, in its place."""
        then: _Item | None = None
        entries = sum(len(run.entries) for run in batch)
        while entries < ENTRIES_AT_ONCE_MAX and not self._queue.empty():
            item = self._queue.get()
            if isinstance(item, list):
                batch = batch + item
                entries += sum(len(run.entries) for run in item)
                continue
            then = item
            if not isinstance(item, _CommitNow):
                break
        return batch, entries, then

    def apply(self, run: Committed, out: list[tuple[Ticket, Applied]]) -> None:
        """Apply a run of entries; `out` gets the results of those that were proposed here."""
        overlay = self._overlay
        if overlay is None:
            self._transaction = self._shard.begin()
            overlay = self._overlay = Overlay(self._transaction)
            self._opened = time.monotonic()
        partition, index, term, entries, tickets = run
        replica = self._dirty[partition] = self.partitions[partition]
        if replica.head.term != term:
            self._terms.append((partition, term))
        watched = self.watched
        for at, entry in enumerate(entries):
            if not entry or is_configuration(entry):
                self._pass_by(replica, overlay, index + at, term, entry)
                continue
            applied = replica.apply(overlay, index + at, term, entry)
            if applied.changes:
                self._changes.extend(applied.changes)
            if tickets and tickets[at] is not None:
                out.append((tickets[at], applied))
            if watched and applied.id in watched:
                self._seen.append(applied)
        self.applied += len(entries)

    def _pass_by(self, replica: Partition, rows: Overlay, index: int, term: int, entry: bytes) -> None:
        """Raft's own entries move the head; the members of the group are kept beside it."""
        replica.pass_by(index, term)
        if entry:
            members = decode_configuration(entry)
            key = GroupKey(HEADS_PARTITION, replica.number)
            before = GROUPS.get(rows, key) or GroupRow((), (), 0)
            GROUPS.put(
                rows,
                key,
                GroupRow(members.voters, members.learners, index, before.base, before.base_term),
            )

    def _commit(self, applied: list[tuple[Ticket, Applied]] | None = None) -> None:
        written: Sequence[Iterable[bytes]] = ()
        indexes: dict[int, int] = {}
        if self._overlay is not None and self._transaction is not None:
            started = time.monotonic()
            for replica in self._dirty.values():
                replica.store_head(self._overlay)
            self._overlay.flush()
            written = self._overlay.written
            transaction, self._transaction, self._overlay = self._transaction, None, None
            self._commit_when_there_is_room(transaction)
            indexes = {number: replica.head.applied for number, replica in self._dirty.items()}
            self.committed.update(indexes)
            self._dirty.clear()
            self.commits += 1
            self.commit_seconds += time.monotonic() - started
        self._hand_out(applied or [], committed=True, written=written, indexes=indexes)

    def _hand_out(
        self,
        applied: list[tuple[Ticket, Applied]],
        *,
        committed: bool,
        written: Sequence[Iterable[bytes]] = (),
        installed: int | None = None,
        indexes: Mapping[int, int] = _NOTHING,
    ) -> None:
        """What was seen leaves at once; changes wait for their commit."""
        changes: list[Published] = []
        if committed and self._changes:
            changes, self._changes = self._changes, changes
        seen, self._seen = self._seen, []
        terms, self._terms = self._terms, []
        self._post(
            Outbound(self.number, applied, changes, committed, written, seen, terms, installed, indexes)
        )

    def _commit_when_there_is_room(self, transaction: WriteTransaction) -> None:
        """What was applied is in the journal and cannot be refused any more: it waits."""
        while True:
            try:
                transaction.commit()
                break
            except ShardFull:
                self.full = True
                if self._stopping.wait(FULL_RETRY_S):
                    raise
                transaction = transaction.again()
        self.full = False

    def _hold(self, pause: Pause) -> None:
        pause.frozen = self._shard.freeze()
        pause.reached()
        pause.resume.wait()
        if pause.abandoned:  # left open, it would keep every page from being used again
            pause.frozen.close()

    def _install_piece(self) -> None:
        """One transaction of the oldest installation; then others' entries have their turn."""
        self._commit()
        installation = self._installations[0]
        self.committed[installation.partition] = 0  # a row that is absent now may only not have come yet
        for _ in installation.pieces:
            return
        self._installations.popleft()
        with self._shard.reading() as rows:
            replica = self.partitions[installation.partition].reloaded(rows)
        self.partitions[replica.number] = replica
        self.committed[replica.number] = replica.head.applied
        self._terms.append((replica.number, replica.head.term))
        installation.installed()
        indexes = {replica.number: replica.head.applied}
        self._hand_out([], committed=True, installed=replica.number, indexes=indexes)


def _size(batch: list[Committed]) -> int:
    return sum(sum(map(len, run.entries)) for run in batch)


def load_partitions(
    shard: Shard, numbers: Iterable[int], machine_of: Callable[[int], StateMachine]
) -> dict[int, Partition]:
    """The replicas of a shard with their heads as last committed."""
    with shard.reading() as rows:
        heads = {key.of: head for key, head in HEADS.scan(rows, HEADS_PARTITION)}
    return {number: Partition(number, machine_of(number), heads.get(number)) for number in numbers}


def load_groups(shard: Shard) -> dict[int, GroupRow]:
    """The members of each group of a shard as last applied, where its state names any."""
    with shard.reading() as rows:
        return {key.of: group for key, group in GROUPS.scan(rows, HEADS_PARTITION)}


def members_of(group: GroupRow) -> Configuration:
    return Configuration(group.voters, group.learners)
