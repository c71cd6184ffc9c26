"""The router: whom to ask. All that the application knows of the cluster.

`execute` takes a command to the leader of its partition and returns its result and marks; `read` opens the
nearest replicas. On a lone node both are this process.
"""

import os
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from cluster.commands import FEATURE_LEVEL, Declined, Execute, Refused
from cluster.courier import Mark
from cluster.replicas import Replicas, now_ms
from cluster.replicas import StorageFull as StorageFull  # raised here too, before the replicas are asked
from storage.ids import partition_of
from storage.shard import Snapshot

TAKEN_WITHIN_S: Final = 1.0  # how long an answer waits for the messages of its command


class Executed(msgspec.Struct, frozen=True):
    """What a command did: its result as the state machine encoded it, and how to ask for its effects."""

    result: bytes
    partition: int
    index: int
    marks: tuple[Mark, ...]  # messages under way: (source, destination, sequence)


class Router:
    """`execute` raises Refused (the state machine's word), cluster.replicas.Overloaded and StorageFull."""

    def __init__(self, replicas: Replicas, is_full: Callable[[], bool]) -> None:
        self.replicas = replicas
        self._is_full = is_full

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

        `grows` says that it makes the data grow: such commands are refused when there is no room.
        """
        if scope and partition_of(scope) != partition:
            raise ValueError(f"scope {scope} is not of partition {partition}: its memory lies elsewhere")
        if grows:
            self.require_room()
        random = os.urandom(32)
        command = Execute(
            now_ms(), FEATURE_LEVEL, random[:16], scope, command_id or random[16:], fingerprint, body
        )
        applied = await self.replicas.propose(partition, command)
        if isinstance(applied.outcome, Declined):
            raise Refused(applied.outcome.code, applied.outcome.detail)
        marks = tuple(
            (message.delivery.source, message.destination, message.delivery.sequence)
            for message in applied.sent
        )
        return Executed(applied.outcome.result, partition, applied.index, marks)

    def require_room(self) -> None:
        """Raises StorageFull where a command that grows would be refused for it."""
        if self._is_full():
            raise StorageFull("the node has no room left for writes; reads and deletes work")

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

    async def taken_mark(self, mark: Mark) -> None:
        """Wait for one message that a client names, for 1 s at most."""
        with trio.move_on_after(TAKEN_WITHIN_S):
            await self.replicas.taken(mark)

    def readable(self, *partitions: int) -> bool:
        """Whether `visible` would return at once."""
        return self.replicas.readable(*partitions)

    async def visible(self, *partitions: int) -> None:
        """Return when all that was answered in these partitions can be read."""
        await self.replicas.visible(*partitions)

    def read(self) -> Snapshot:
        """The rows of all partitions as last committed; for one synchronous block (`with`), never across an
        await."""
        return self.replicas.snapshot()
