"""What a simulated node keeps: journal, shards, identity and the count of its starts; and how it loses them.

A kill forgets what was not synced (of the last write some first records may be found after all) and what the
shards had not committed. A copy is what a backup of the whole directory would be.
"""

import copy
from functools import partial
from random import Random
from typing import Final

from cluster.snapshots.installing import MemorySpooled, install_pieces, unfinished_installs
from storage.memory import MemoryRows
from storage.memory_journal import MemoryJournal

SHARDS: Final = 2
SEGMENT_BYTES: Final = 12 << 10  # small: segments are released, and who was away needs a snapshot


class Disk:
    def __init__(self, identity: bytes, *, founder: bool) -> None:
        self.identity = identity
        self.founder = founder  # of the cluster: alone, until others are added
        self.boots = 0
        self.journal = MemoryJournal(segment_bytes=SEGMENT_BYTES)
        self.shards = [MemoryRows() for _ in range(SHARDS)]
        self.spools: dict[str, MemorySpooled] = {}

    def crash(self, random: Random) -> None:
        self.journal.crash(random)
        for shard in self.shards:
            shard.crash()

    def finish_installs(self) -> None:
        """What a start does before anything else: installs that were cut are finished; other spools go."""
        for shard in self.shards:
            for row in unfinished_installs(shard).values():
                for _ in install_pieces(partial(_opened, shard), self.spools[row.spool]):
                    continue
        self.spools.clear()

    def copied(self) -> "Disk":
        return copy.deepcopy(self)


def _opened(rows: MemoryRows) -> MemoryRows:
    return rows
