"""The writer threads of a node: one for the journal, one per shard. No trio here; results leave by `post`.

A proposal goes through both: the journal's thread gives it its index, writes all that wait in one piece and
syncs once; then the shard's thread applies it inside the open transaction. Answers leave before the commit
only under load, when many wait: the journal has the command already, so nothing is lost, and a reader that
must see the write waits for the commit (`Replicas.visible`). When nothing waits the commit comes first, so
whoever was answered sees the write in the next read of any kind.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from queue import Empty, SimpleQueue
from threading import Event
from typing import Final

import msgspec

from cluster.keys import HEADS, HEADS_PARTITION
from cluster.partition import Applied, Partition, StateMachine
from cluster.streams import Published
from storage.journal import Entry, HardState, Journal, JournalFull
from storage.rows import Overlay
from storage.shard import Frozen, Shard, ShardDamaged, ShardFull, WriteTransaction

LONE_TERM: Final = 1  # the term of a group of one voter
BATCH_ENTRIES_MAX: Final = 1024  # of one journal write; ~0.5 ms of encoding
BATCH_BYTES_MAX: Final = 4 << 20
ANSWER_FIRST_FROM: Final = 24  # entries in a batch: below, nobody gains by an answer before the commit
FULL_RETRY_S: Final = 0.5  # how often a journal or shard without room looks whether there is some
HELD_AT_ONCE_MAX: Final = 8  # of those that waited for room: deliveries of up to 512 KiB each
LINGER_S: Final = 0.015  # under load, how long an open transaction waits for the next batch


class WriterSettings(msgspec.Struct, frozen=True):
    commit_delay_s: float = 0.05  # at the latest after this, an open transaction is committed
    commit_rows: int = 20_000  # … or when so many rows wait


class Proposal:
    """A command on its way through the threads. `done` or, where there is no room for it in the journal,
    `refused` is called in the trio thread. One without `refused` waits for room instead."""

    __slots__ = ("data", "done", "index", "partition", "refused")

    def __init__(
        self,
        partition: int,
        data: bytes,
        done: Callable[[Applied], None] | None,
        refused: Callable[[], None] | None = None,
    ) -> None:
        self.partition = partition
        self.data = data
        self.done = done
        self.refused = refused
        self.index = 0


class Outbound(msgspec.Struct):
    """What a shard's thread hands to the trio thread at once: results, and what a commit made visible."""

    shard: int
    applied: list[tuple[Proposal, Applied]]
    changes: list[Published]
    committed: bool  # all that was answered so far can be read now
    written: Sequence[Iterable[bytes]] = ()  # keys of the rows that a commit wrote


Post = Callable[[Outbound], None]
Refuse = Callable[[list[Proposal]], None]


class _Stop:
    pass


class _CommitNow:
    pass


class Pause:
    """Commit, freeze the shard at that commit, and wait until the other writers have done so too."""

    def __init__(self, reached: Callable[[], None]) -> None:
        self.frozen: Frozen | None = None
        self.reached = reached  # called in the writer's thread
        self.resume = Event()
        self.abandoned = False  # set before `resume`: nobody will use, or close, what was frozen


class _Release:
    pass


_Item = list[Proposal] | _Stop | _CommitNow | Pause


class ShardWriter:
    """Applies the entries of a shard's partitions, in the order of the journal, in its own thread."""

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
        self._shard = shard
        self._settings = settings
        self._post = post
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._transaction: WriteTransaction | None = None
        self._overlay: Overlay | None = None
        self._opened = 0.0
        self._dirty: dict[int, Partition] = {}
        self._changes: list[Published] = []
        self._stopping = Event()
        self.full = False  # the disk has no room for a commit: what was applied waits for some
        self.commits = 0
        self.applied = 0
        self.commit_seconds = 0.0

    # --- from other threads ----------------------------------------------------------------------------
    def submit(self, batch: list[Proposal]) -> None:
        self._queue.put(batch)

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
        finally:
            if self._transaction is not None:
                self._transaction.abort()

    def _next(self) -> _Item:
        if self._overlay is None:
            return self._queue.get()
        left = self._opened + self._settings.commit_delay_s - time.monotonic()
        try:
            return self._queue.get(timeout=max(0.0, min(LINGER_S, left)))
        except Empty:
            return _CommitNow()

    def _take(self, batch: list[Proposal]) -> _Item | None:
        """Apply what waits; return what ended it, for which a commit was made."""
        batch, then = self._drain(batch)
        applied = [(one, self.apply(one.partition, one.index, one.data)) for one in batch]
        if then is not None or len(batch) < ANSWER_FIRST_FROM:
            self._commit(applied)
            return then
        self._post(Outbound(self.number, applied, [], False))
        overdue = time.monotonic() - self._opened > self._settings.commit_delay_s
        if overdue or (self._overlay is not None and len(self._overlay) > self._settings.commit_rows):
            self._commit()
        return None

    def _drain(self, batch: list[Proposal]) -> tuple[list[Proposal], _Item | None]:
        """Join what has queued up meanwhile, up to one journal batch's size, and say what else came: wishes
        for a commit are joined too, so that many make one; a pause or stop ends it, in its place."""
        then: _Item | None = None
        while len(batch) < BATCH_ENTRIES_MAX and not self._queue.empty():
            item = self._queue.get()
            if isinstance(item, list):
                batch = batch + item
                continue
            then = item
            if not isinstance(item, _CommitNow):
                break
        return batch, then

    def apply(self, partition: int, index: int, data: bytes) -> Applied:
        if self._overlay is None:
            self._transaction = self._shard.begin()
            self._overlay = Overlay(self._transaction)
            self._opened = time.monotonic()
        replica = self.partitions[partition]
        applied = replica.apply(self._overlay, index, LONE_TERM, data)
        self._dirty[partition] = replica
        if applied.changes:
            self._changes.extend(applied.changes)
        self.applied += 1
        return applied

    def _commit(self, applied: Iterable[tuple[Proposal, Applied]] = ()) -> None:
        written: Sequence[Iterable[bytes]] = ()
        if self._overlay is not None and self._transaction is not None:
            started = time.monotonic()
            for replica in self._dirty.values():
                replica.store_head(self._overlay)
            self._overlay.flush()
            written = self._overlay.written
            transaction, self._transaction, self._overlay = self._transaction, None, None
            self._commit_when_there_is_room(transaction)
            for number, replica in self._dirty.items():
                self.committed[number] = replica.head.applied
            self._dirty.clear()
            self.commits += 1
            self.commit_seconds += time.monotonic() - started
        changes, self._changes = self._changes, []
        self._post(Outbound(self.number, list(applied), changes, True, written))

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

    def recover(self, entry: Entry) -> None:
        """Apply an entry of the journal again where the shard has not got so far. Before the thread runs.
        Raises ShardDamaged where the shard stands before what the journal still has."""
        applied = self.partitions[entry.partition].head.applied
        if entry.index > applied + 1:
            raise ShardDamaged(
                f"{self._shard.path}: partition {entry.partition} ends at {applied}, "
                f"its journal begins at {entry.index}"
            )
        if entry.index > applied:
            self.apply(entry.partition, entry.index, entry.command)
            if self._overlay is not None and len(self._overlay) > self._settings.commit_rows:
                self._commit()

    def recovered(self) -> None:
        self._commit()


class JournalWriter:
    """Gives proposals their indexes, makes them durable together and hands them to the shards."""

    def __init__(
        self, journal: Journal, last: dict[int, int], shards: list[ShardWriter], refuse: Refuse
    ) -> None:
        self._journal = journal
        self._last = last  # the last index of each partition's log
        self._shards = shards
        self._refuse = refuse
        self._held: list[Proposal] = []  # accepted for good, and no room for them yet
        self._queue: SimpleQueue[Proposal | _Stop | _Release] = SimpleQueue()
        self.propose = self._queue.put
        self.full = False  # the disk had no room for the last batch
        self._looked_at = 0  # batches when the journal was last tended
        self.batches = 0
        self.entries = 0

    def stop(self) -> None:
        self._queue.put(_Stop())

    def release_soon(self) -> None:
        """Remove the segments that all shards have passed."""
        self._queue.put(_Release())

    def loop(self) -> None:
        """Until `stop`; the shards stop after the last entry. Raises storage.journal.JournalFailed.
        What is held when it stops is lost: nobody was promised it."""
        try:
            while True:
                held, self._held = self._held, []
                batch, then = self._next(bool(held))
                for start in range(0, len(held), HELD_AT_ONCE_MAX):
                    self._write(held[start : start + HELD_AT_ONCE_MAX])
                if batch:
                    self._write(batch)
                if isinstance(then, _Stop):
                    return
                if isinstance(then, _Release):
                    self._release()
        finally:
            for shard in self._shards:
                shard.stop()

    def _next(self, holding: bool) -> tuple[list[Proposal], _Stop | _Release | None]:
        try:
            return self._gather(self._queue.get(timeout=FULL_RETRY_S if holding else None))
        except Empty:
            return [], None

    def _gather(self, item: Proposal | _Stop | _Release) -> tuple[list[Proposal], _Stop | _Release | None]:
        batch: list[Proposal] = []
        size = 0
        while isinstance(item, Proposal):
            batch.append(item)
            size += len(item.data)
            if len(batch) >= BATCH_ENTRIES_MAX or size >= BATCH_BYTES_MAX or self._queue.empty():
                return batch, None
            item = self._queue.get()
        return batch, item

    def _write(self, batch: list[Proposal]) -> None:
        before, last = dict(self._last), self._last
        entries = []
        parts: list[list[Proposal]] = [[] for _ in self._shards]
        mask = len(self._shards) - 1
        for proposal in batch:
            partition = proposal.partition
            proposal.index = last[partition] = last[partition] + 1
            entries.append(Entry(partition, LONE_TERM, proposal.index, proposal.data))
            parts[partition & mask].append(proposal)
        if not self._write_if_there_is_room(entries):
            last.update(before)  # no index is burned: the log has no gaps
            self._held += [one for one in batch if one.refused is None]
            self._refuse([one for one in batch if one.refused is not None])
            return
        self.batches += 1
        self.entries += len(batch)
        for shard, part in zip(self._shards, parts, strict=True):
            if part:
                shard.submit(part)

    def _write_if_there_is_room(self, entries: list[Entry]) -> bool:
        """Nothing was written where the journal says that it is full. Segments that all shards have passed
        make room before anybody is refused."""
        try:
            self._journal.write(entries)
        except JournalFull:
            self._release()
            try:
                self._journal.write(entries)
            except JournalFull:
                self.full = True
                return False
        self.full = False
        return True

    def _mark_when_idle(self) -> None:
        """Say in the journal that the last batch is synced: without a word after it, damage to it would pass
        for a torn tail. While batches come, each says so of the one before."""
        if self._looked_at == self.batches:
            self._journal.mark()
        self._looked_at = self.batches

    def _release(self) -> None:
        self._mark_when_idle()
        mask = len(self._shards) - 1
        states = [HardState(number, LONE_TERM, b"", last) for number, last in self._last.items() if last]
        try:
            self._journal.release(
                lambda partition: self._shards[partition & mask].committed[partition], states
            )
        except JournalFull:
            return  # no room even for the checkpoint: the segments stay


def load_partitions(
    shard: Shard, numbers: Iterable[int], machine_of: Callable[[int], StateMachine]
) -> dict[int, Partition]:
    """The replicas of a shard with their heads as last committed."""
    with shard.reading() as rows:
        heads = {key.of: head for key, head in HEADS.scan(rows, HEADS_PARTITION)}
    return {number: Partition(number, machine_of(number), heads.get(number)) for number in numbers}
