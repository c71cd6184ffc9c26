"""Charges: when a node that leads a partition may act for it.

It leads as soon as it is elected, and takes commands. But what its predecessors left (messages in the outbox,
work that is not done) it knows only when the first entry of its own term is applied and committed to the
shard; with that commit it begins (`cluster.duties`).
"""

from collections.abc import Callable, Sequence

import trio

from cluster import mailbox
from cluster.duties import Duties
from cluster.groups import Led
from cluster.keys import HEADS, HEADS_PARTITION, Head, HeadKey
from cluster.raft.effects import Standing
from cluster.raft.roles import Role
from cluster.shard_writer import ShardWriter
from cluster.sight import Sight
from storage.shard import Shard


class Charges:
    """Of one node. `taken` is called for each partition of which it has taken charge."""

    def __init__(
        self,
        shards: Sequence[Shard],
        writers: Sequence[ShardWriter],
        sight: Sight,
        duties: Duties,
        taken: Callable[[int, Standing], None],
    ) -> None:
        self._shards = shards
        self._writers = writers
        self._mask = len(writers) - 1
        self._sight = sight
        self._duties = duties
        self._taken = taken
        self._pending: dict[int, Led] = {}  # led, but not yet in charge
        self._alone: set[int] = set()  # groups that this node alone decides, at the start
        self._all_alone = trio.Event()

    def expect(self, partitions: set[int]) -> None:
        """Groups of which this node will certainly take charge."""
        self._alone = set(partitions)
        if not self._alone:
            self._all_alone.set()

    async def of_all_expected(self) -> None:
        await self._all_alone.wait()

    def stand(self, led: Led) -> None:
        """Who leads a partition has changed."""
        partition, standing, begins = led
        if standing.role is not Role.LEADER:
            self._pending.pop(partition, None)
            self._duties.give_up(partition)
        elif not (self._duties.in_charge(partition) and begins == 0):
            self._pending[partition] = led
            shard = partition & self._mask
            if not self._sight.unread[shard]:
                self.committed(shard)
            else:
                self.answered(shard)

    def answered(self, shard: int) -> None:
        """Something was applied and is not committed yet: a charge does not wait until it is by itself."""
        writer = self._writers[shard]
        for number, led in self._pending.items():
            if number & self._mask == shard and writer.partitions[number].head.applied >= led.begins:
                writer.commit_soon()
                return

    def committed(self, shard: int) -> None:
        """All that was answered in the shard is committed."""
        if not self._pending:
            return
        committed = self._writers[shard].committed
        ripe = [
            led
            for number, led in self._pending.items()
            if number & self._mask == shard and committed[number] >= led.begins
        ]
        if not ripe:
            return
        with self._shards[shard].reading() as rows:
            for led in ripe:
                del self._pending[led.partition]
                head = HEADS.get(rows, HeadKey(HEADS_PARTITION, led.partition)) or Head()
                waiting = list(mailbox.waiting(rows, led.partition)) if head.outbox_rows else []
                self._duties.take_charge(
                    led.partition, led.standing.term, waiting, has_work=head.work_rows > 0
                )
        for led in ripe:
            self._taken(led.partition, led.standing)
        if self._alone:
            self._alone.difference_update(led.partition for led in ripe)
            if not self._alone:
                self._all_alone.set()
