"""Bulk commands: as many under way as keep the writers busy, through the same replicas as a node's.

What is loaded is what the state machine makes of real commands; nothing is written behind its back.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import trio

from cluster.commands import FEATURE_LEVEL, Accepted, Execute
from cluster.keys import META_PARTITION
from cluster.members.meta import MetaMachine
from cluster.partition import Applied, StateMachine
from cluster.replicas import Replicas, now_ms
from cluster.shard_writer import WriterSettings
from node.social.application import social_machine
from node.social.machine import encode
from storage.directory import DataDirectory
from storage.journal import Journal
from storage.shard import Shard

UNDER_WAY_MAX: Final = 3000
MESSAGES_QUEUED_MAX: Final = 40_000
# Each row is put at random, so fewer and larger commits write fewer pages. The journal is synced as ever.
IN_BULK: Final = WriterSettings(commit_delay_s=2.0, commit_rows=200_000)


class Bulk:
    """Commands go in by `put`; their results come to `then`, in no particular order."""

    def __init__(self, replicas: Replicas) -> None:
        self.replicas = replicas
        self.commands = 0
        self._under_way = 0
        self._room = trio.Event()

    async def put(
        self, partition: int, command: msgspec.Struct, then: Callable[[bytes], None] | None, now: int
    ) -> None:
        """Propose a command as of `now` (ms). Waits while too many are under way."""
        self.commands += 1
        identity = self.commands.to_bytes(16, "big")
        execute = Execute(now, FEATURE_LEVEL, identity, 0, identity, b"", encode(command))
        while self._under_way >= UNDER_WAY_MAX or self.replicas.courier.queued > MESSAGES_QUEUED_MAX:
            self._room = trio.Event()
            await self._room.wait()
        self._under_way += 1

        def done(applied: Applied) -> None:
            self._under_way -= 1
            self._room.set()
            if not isinstance(applied.outcome, Accepted):
                raise RuntimeError(f"{command}: {applied.outcome}")
            if then is not None:
                then(applied.outcome.result)

        self.replicas.submit(partition, execute, done)

    async def settle(self) -> None:
        """Until every command is applied and every message taken."""
        await self.replicas.at_rest()
        dead = self.replicas.dead_letters()
        if dead:
            raise RuntimeError(f"dead letters by partition: {dead}")


@asynccontextmanager
async def open_replicas(directory: DataDirectory) -> AsyncIterator[Replicas]:
    """The replicas of a data directory, running, without the rest of a node."""
    identity = directory.identity
    machine = social_machine()
    machines: dict[int, StateMachine] = dict.fromkeys(range(identity.partition_count), machine)
    machines[META_PARTITION] = MetaMachine()
    shards = [Shard(directory.shards / f"{number:02}") for number in range(identity.shard_count)]
    journal = Journal.open(directory.journal)
    replicas = Replicas(journal, shards, machines, IN_BULK, me=directory.node_id, boot=directory.boots)
    replicas.recover()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(replicas.run)
            yield replicas
            nursery.cancel_scope.cancel()
    finally:
        journal.close()
        for shard in shards:
            shard.close()


def open_directory(path: Path) -> DataDirectory:
    return DataDirectory.open(path, now=now_ms() / 1000)
