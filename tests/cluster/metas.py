"""A meta group of one replica in memory, driven by commands; for tests of what it decides."""

from cluster import commands
from cluster.commands import Accepted, Execute
from cluster.keys import META_PARTITION
from cluster.members import meta
from cluster.members.meta import MetaMachine
from cluster.partition import Partition
from storage.memory import MemoryRows
from storage.rows import Overlay

NOW = 1_800_000_000_000


class Group:
    """The meta partition alone; each command comes a millisecond after the one before."""

    def __init__(self):
        self.rows = Overlay(MemoryRows())
        self.now = NOW
        self._partition = Partition(META_PARTITION, MetaMachine())
        self._index = 0

    def do(self, command):
        """`ok`, or the code of the refusal."""
        self._index += 1
        self.now += 1
        data = Execute(self.now, 1, bytes(16), 0, bytes(16), b"", meta.encode(command))
        outcome = self._partition.apply(self.rows, self._index, 1, commands.encode(data)).outcome
        return "ok" if isinstance(outcome, Accepted) else outcome.code

    def digest(self):
        """Of the rows: what a refused command leaves as it was."""
        self._partition.head.applied = 0
        digest = self._partition.digest(self.rows)
        self._partition.head.applied = self._index
        return digest
