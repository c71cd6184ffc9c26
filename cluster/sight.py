"""Sight: what a new snapshot of this node's shards shows, and who waits until it shows more.

Under load answers come before the commit, so what was answered may not be readable yet; and on a node that
does not lead, what another has answered may not have come here yet.

A commit counts when this thread has been told of it, not a moment before, when the shard's thread has made
it: caches of rows and watches are told by the same word, and who goes on must find them up to date.
"""

from collections.abc import Callable, Mapping, Sequence

import trio

from cluster.courier import Mark
from cluster.keys import TAKEN, TakenKey
from cluster.shard_writer import ShardWriter
from cluster.waiting import Waiting
from storage.shard import Snapshot


class Sight:
    """Over the shards of one node."""

    def __init__(
        self, writers: Sequence[ShardWriter], snapshot: Callable[[], Snapshot], waiting: Waiting
    ) -> None:
        self._writers = writers
        self._mask = len(writers) - 1
        self._snapshot = snapshot
        self._waiting = waiting
        self.unread = [0] * len(writers)  # batches answered before their commit
        self._told = {number: index for writer in writers for number, index in writer.committed.items()}
        self._read_waiters: list[list[trio.Event]] = [[] for _ in writers]
        self._index_waiters: list[list[tuple[int, int, trio.Event]]] = [[] for _ in writers]
        self._mark_waiters: list[list[trio.Event]] = [[] for _ in writers]

    # --- what the shards' threads say ------------------------------------------------------------------
    def answered(self, shard: int) -> None:
        """A batch was answered, and is not committed yet."""
        self.unread[shard] += 1
        if self._index_waiters[shard] or self._mark_waiters[shard]:
            self._writers[shard].commit_soon()

    def committed(self, shard: int, indexes: Mapping[int, int]) -> None:
        """All that was answered so far can be read; these partitions up to these indexes."""
        self.unread[shard] = 0
        self._told.update(indexes)
        if self._read_waiters[shard]:
            waiters, self._read_waiters[shard] = self._read_waiters[shard], []
            for event in waiters:
                event.set()
        for partition, index, event in self._index_waiters[shard]:
            if self.index(partition) >= index:
                event.set()
        for event in self._mark_waiters[shard]:
            event.set()  # it looks for itself

    def commit_what_is_unread(self) -> None:
        for writer, unread in zip(self._writers, self.unread, strict=True):
            if unread:
                writer.commit_soon()

    # --- those who wait --------------------------------------------------------------------------------
    def index(self, partition: int) -> int:
        """Up to where the partition can be read; 0 while a snapshot is taking its place."""
        return min(self._told[partition], self._writers[partition & self._mask].committed[partition])

    def readable(self, *partitions: int) -> bool:
        """Whether `visible` would return at once."""
        return not any(self.unread[partition & self._mask] for partition in partitions)

    async def visible(self, *partitions: int) -> None:
        """Return when all that was answered in these partitions can be read by a new snapshot."""
        for number in {partition & self._mask for partition in partitions}:
            if self.unread[number]:
                event = trio.Event()
                waiters = self._read_waiters[number]
                waiters.append(event)
                if len(waiters) == 1:  # any commit that is heard of from now on covers what was answered
                    self._writers[number].commit_soon()
                await self._waiting.until(event)

    async def reached(self, partition: int, index: int) -> None:
        """Return when this replica has applied the entry and a new snapshot shows it."""
        number = partition & self._mask
        writer = self._writers[number]
        while self.index(partition) < index:
            event = trio.Event()
            self._index_waiters[number].append((partition, index, event))
            if self.unread[number]:
                writer.commit_soon()
            try:
                await self._waiting.until(event)
            finally:
                waiters = self._index_waiters[number]
                self._index_waiters[number] = [one for one in waiters if one[2] is not event]

    async def taken(self, mark: Mark) -> None:
        """Return when the destination's inbox cursor is behind the message."""
        number = mark[1] & self._mask
        while not self._is_taken(mark):
            event = trio.Event()
            self._mark_waiters[number].append(event)
            if self.unread[number]:
                self._writers[number].commit_soon()
            try:
                await self._waiting.until(event)
            finally:
                self._mark_waiters[number].remove(event)
        await self.reached(mark[1], self._writers[number].committed[mark[1]])

    def _is_taken(self, mark: Mark) -> bool:
        source, destination, sequence = mark
        with self._snapshot() as rows:
            cursor = TAKEN.get(rows, TakenKey(destination, source))
        return cursor is not None and cursor.sequence >= sequence
