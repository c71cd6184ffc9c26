"""A lone node's replicas over real files, as the tests start, stop, copy and kill them.

Run as a program (`python -m tests.cluster.lone DIRECTORY FIRST`) it writes numbered notes until it is killed,
and says on its output which ones were answered.
"""

import os
import shutil
import sys
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import trio

from cluster.commands import Accepted, Execute
from cluster.replicas import Replicas, now_ms
from storage.journal import Journal
from storage.shard import Shard
from tests.cluster.toy import Bank, balance, decode, encode, notes

PARTITIONS = 8
MAP_BYTES = 64 << 20
SEGMENT_BYTES = 256 << 10
WITHIN_S = 30  # a bound for what takes milliseconds: a hang becomes a failure


class Node:
    def __init__(
        self,
        path,
        *,
        shards=2,
        machine=None,
        settings=None,
        segment_bytes=SEGMENT_BYTES,
        journal=None,
        **who,
    ):
        path.mkdir(exist_ok=True)
        self.path = path
        self.journal = journal or Journal.open(path / "journal", segment_bytes=segment_bytes)
        self.shards = [Shard(path / f"shard-{number}", map_bytes=MAP_BYTES) for number in range(shards)]
        machines = dict.fromkeys(range(PARTITIONS), machine or Bank())
        self.replicas = Replicas(self.journal, self.shards, machines, settings, **who)
        self.replayed = self.replicas.recover()

    def close(self):
        self.journal.close()
        for shard in self.shards:
            shard.close()

    def crash_image(self, path):
        """The files as a kill at this moment would leave them."""
        shutil.copytree(self.path, path)
        return path

    def command(self, *body, now=0):
        return Execute(now or now_ms(), 1, os.urandom(16), 0, os.urandom(16), b"", encode(body))

    async def do(self, partition, *body):
        """Propose; the machine's result."""
        outcome = (await self.replicas.propose(partition, self.command(*body))).outcome
        assert isinstance(outcome, Accepted), outcome
        return decode(outcome.result)

    def balances(self):
        with self.replicas.snapshot() as rows:
            return [balance(rows, partition) for partition in range(PARTITIONS)]

    def notes(self, partition):
        with self.replicas.snapshot() as rows:
            return notes(rows, partition)


@asynccontextmanager
async def running(node):
    """Drive the node's replicas inside the block; stop them cleanly, and close the files, after it."""
    try:
        with trio.fail_after(WITHIN_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(node.replicas.run)
                yield node
                nursery.cancel_scope.cancel()
    finally:
        node.close()


async def _write_until_killed(directory, first):
    node = Node(Path(directory))

    async def one(number):
        partition = number % PARTITIONS
        await node.do(partition, "tell", (partition + 1) % PARTITIONS, "note", b"%d" % number)
        os.write(1, b"%d\n" % number)

    async with trio.open_nursery() as nursery:
        await nursery.start(node.replicas.run)
        for start in count(first, 40):
            async with trio.open_nursery() as batch:
                for number in range(start, start + 40):
                    batch.start_soon(one, number)


if __name__ == "__main__":
    trio.run(_write_until_killed, sys.argv[1], int(sys.argv[2]))
