"""The router: whom to ask. All that the application knows of the cluster.

`execute` takes a command to the leader of its partition and returns its result and marks; `read` opens the
nearest replicas, which are this node's own; `newest` makes sure that they have what was answered anywhere. On
a lone node all of it is this process, and costs nothing beside the command itself.
"""

import os
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from cluster.commands import Declined, Deliver, Execute, Outcome, Refused
from cluster.courier import Mark
from cluster.forwarding import Forwarded, Forwarding
from cluster.forwarding import Unavailable as Unavailable  # what `execute` raises
from cluster.peers.links import Links
from cluster.peers.messages import CloseLane, Propose, ReadIndex
from cluster.raft.effects import Lost, NotLeader
from cluster.read_index import READ_INDEX_WITHIN_S, Indexes
from cluster.replicas import Replicas, Undelivered, now_ms
from cluster.replicas import StorageFull as StorageFull  # raised here too, before the replicas are asked
from storage.ids import partition_of
from storage.shard import Snapshot

TAKEN_WITHIN_S: Final = 1.0  # how long an answer waits for the messages of its command
LOOKED_EVERY_S: Final = (
    0.1  # whether all partitions have a state: asked before each request, and slow to tell
)


class Executed(msgspec.Struct, frozen=True):
    """What a command did: its result as the state machine encoded it, and how to ask for its effects."""

    result: bytes
    partition: int
    index: int
    marks: tuple[Mark, ...]  # messages under way: (source, destination, sequence)


class RouterStatistics(msgspec.Struct, frozen=True):
    waiting: int  # commands that are not at their end
    forwarded: int  # commands asked of other nodes
    served: int  # commands that other nodes asked of this one
    repeated: int  # attempts beyond a command's first
    unavailable: int  # commands given up
    questions: int  # to other leaders: how far they are
    stale: int  # reads that nobody confirmed to be of the newest


class Router:
    """`execute` raises Refused (the state machine's word), cluster.replicas.Overloaded and StorageFull, and
    Unavailable where no majority is to be had."""

    def __init__(self, replicas: Replicas, is_full: Callable[[], bool]) -> None:
        self.replicas = replicas
        self._is_full = is_full
        self._links: Links | None = None
        self._forwarding = Forwarding(replicas, self.require_room)
        self._indexes = Indexes(replicas, self._forwarding)
        self._answered: dict[int, int] = {}  # partition → the newest index that another node answered with
        self._partitions = frozenset(replicas.partitions)
        self._filled = False  # as of the last look
        self._look_at = 0.0
        self._stale = 0

    def join(self, links: Links) -> None:
        """From now on there are others: they are asked, and may ask."""
        self._links = self._forwarding.links = links
        links.serve(Propose, self._forwarding.serve)
        links.serve(CloseLane, self._forwarding.close_lane)
        links.serve(ReadIndex, self._indexes.serve)

    @property
    def alone(self) -> bool:
        return self._links is None

    @property
    def ready(self) -> bool:
        """Whether this node has a state of every partition: one that is being filled has not."""
        if self._links is None:
            return True
        now = trio.current_time()
        if now >= self._look_at:
            self._look_at = now + LOOKED_EVERY_S
            self._filled = self.replicas.is_ready()
        return self._filled

    # --- writing ---------------------------------------------------------------------------------------
    async def execute(
        self,
        partition: int,
        body: bytes,
        *,
        scope: int = 0,
        command_id: bytes = b"",
        fingerprint: bytes = b"",
        grows: bool = True,
    ) -> Executed:
        """Apply a command once, however often it comes with the same `command_id` (16 bytes; made up when
        empty) in the same `scope` (a user of this partition, or 0: not remembered).

        `grows` says that it makes the data grow: such commands are refused when the leader has no room.
        """
        if scope and partition_of(scope) != partition:
            raise ValueError(f"scope {scope} is not of partition {partition}: its memory lies elsewhere")
        random = os.urandom(32)
        command = Execute(
            now_ms(), self.replicas.level, random[:16], scope, command_id or random[16:], fingerprint, body
        )
        if self._links is None:
            if grows:
                self.require_room()
            try:
                applied = await self.replicas.propose(partition, command)
            except (NotLeader, Lost):
                pass  # it has only begun, or others have joined meanwhile
            else:
                result = _accepted(applied.outcome)
                marks = tuple(
                    (message.delivery.source, message.destination, message.delivery.sequence)
                    for message in applied.sent
                )
                return Executed(result, partition, applied.index, marks)
        answer = await self._forwarding.once(partition, command, grows)
        self._note(partition, answer.index)
        sent = tuple([(partition, destination, sequence) for destination, sequence in answer.sent])
        return Executed(_accepted(answer.outcome), partition, answer.index, sent)

    async def order(self, partition: int, command: Forwarded) -> Outcome:
        """A command of the cluster's own that does no harm when it is taken twice, to the leader. Raises
        Overloaded, StorageFull, Unavailable."""
        answer = await self._forwarding.often(partition, command)
        self._note(partition, answer.index)
        return answer.outcome

    async def deliver(self, destination: int, command: Deliver) -> dict[int, int]:
        """Messages to the leader of their destination; where its inbox cursors stand then. Raises Overloaded,
        StorageFull, cluster.replicas.Undelivered."""
        try:
            return (await self._forwarding.often(destination, command)).taken
        except Unavailable as nobody:
            raise Undelivered(str(nobody)) from None

    def _note(self, partition: int, index: int) -> None:
        if index > self._answered.get(partition, 0):
            self._answered[partition] = index

    def require_room(self) -> None:
        """Raises StorageFull where this node has no room for data that grows."""
        if self._is_full():
            raise StorageFull("the node has no room left for writes; reads and deletes work")

    # --- what was written ------------------------------------------------------------------------------
    async def taken(self, executed: Executed, destination: int | None = None) -> tuple[Mark, ...]:
        """Wait until the command's messages (to one destination, or all) have taken effect, for 1 s at most.

        Returns the marks of those that have not: the client gets them as its token.
        """
        marks = [mark for mark in executed.marks if destination is None or mark[1] == destination]
        with trio.move_on_after(TAKEN_WITHIN_S):
            while marks:
                await self.replicas.taken(marks[0])
                marks.pop(0)
        return tuple(marks)

    async def reached(self, mark: tuple[int, int] | Mark) -> None:
        """Return when what a client names can be read here: (partition, index), or a message. What names no
        partition of ours is not waited for. Not bounded in time."""
        if mark[-2] not in self._partitions:
            return
        if len(mark) == 3:
            await self.replicas.taken(mark)
        else:
            await self.replicas.reached(*mark)

    # --- reading ---------------------------------------------------------------------------------------
    def readable(self, *partitions: int) -> bool:
        """Whether `visible` would return at once."""
        return self.replicas.readable(*partitions) and not self._awaited(partitions)

    async def visible(self, *partitions: int) -> None:
        """Return when all that was answered by this node in these partitions can be read, whoever led."""
        await self.replicas.visible(*partitions)
        for partition, index in self._awaited(partitions).items():
            with trio.move_on_after(READ_INDEX_WITHIN_S):  # asked, the leader says at once what it committed
                await self._indexes.confirmed(partition)
            await self.replicas.reached(partition, index)

    def _awaited(self, partitions: Sequence[int]) -> dict[int, int]:
        """Those in which another node's answer has not come true here yet, and its index: whoever else asks
        forgets it as soon as it has."""
        found: dict[int, int] = {}
        if not self._answered:
            return found
        for partition in partitions:
            index = self._answered.get(partition)
            if index is not None:
                if self.replicas.committed_index(partition) < index:
                    found[partition] = index
                else:
                    del self._answered[partition]
        return found

    async def newest(self, *partitions: int) -> bool:
        """Return when all that was answered by any node before now can be read here in these partitions.
        False, after READ_INDEX_WITHIN_S at most, where nobody is there to say so."""
        with trio.move_on_after(READ_INDEX_WITHIN_S):
            for partition in partitions:
                index = await self._indexes.confirmed(partition)
                if index is None:
                    break
                await self.replicas.reached(partition, index)
            else:
                return True
        self._stale += 1
        return False

    def read(self) -> Snapshot:
        """The rows of all partitions as last committed; for one synchronous block (`with`), never across an
        await."""
        return self.replicas.snapshot()

    def statistics(self) -> RouterStatistics:
        forwarding = self._forwarding
        return RouterStatistics(
            waiting=forwarding.waiting,
            forwarded=forwarding.forwarded,
            served=forwarding.served,
            repeated=forwarding.repeated,
            unavailable=forwarding.unavailable,
            questions=self._indexes.questions,
            stale=self._stale,
        )


def _accepted(outcome: Outcome) -> bytes:
    if isinstance(outcome, Declined):
        raise Refused(outcome.code, outcome.detail)
    return outcome.result
