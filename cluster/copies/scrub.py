"""Scrub: every blob's file is read again from time to time, so that no byte rots unnoticed (law 7).

One that no longer matches its name goes to quarantine and is fetched again from another node. At BYTES_PER_S
it costs a thousandth of a processor and little of a disk, and a terabyte takes three days. Each life of a
process begins somewhere else, so that a node which never runs for three days comes to all of them too.

What is in the page cache is read from there: a fault of the disk below shows when the pages have gone.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

import msgspec
import structlog
import trio

from cluster.copies.fetching import BlobUnavailable, Fetching
from cluster.copies.rounds import Rounds
from storage.blobs import DIGEST_BYTES, BlobDamaged, BlobEntry, BlobMissing, Blobs

log = structlog.stdlib.get_logger("heliograph.blobs")

BYTES_PER_S: Final = 4 << 20
NOW_BYTES_PER_S: Final = 200 << 20  # where somebody waits for it: a quarter of a processor, half of a disk
EVERY_S: Final = 24 * 3600.0  # a node with little to read begins no sooner again
SOON_S: Final = 60.0  # after the start, which has other things to read
FILES_AT_ONCE: Final = 100  # listed at once
FILE_BYTES: Final = 16 << 10  # a small file costs the disk as much as this


class ScrubStatistics(msgspec.Struct, frozen=True):
    """All of this process's life, but for `last_…`: the last round."""

    rounds: int
    is_running: bool
    checked: int  # files
    bytes: int
    damaged: int
    fetched: int  # of the damaged, from other nodes
    last_ended_ms: int  # Unix; 0 before the first has ended
    last_seconds: float
    last_damaged: int


class Scrub:
    """One per node; `run` in its nursery. `begin_at`: the first bytes of the hash with which it begins."""

    def __init__(self, blobs: Blobs, fetching: Fetching, now_ms: Callable[[], int], begin_at: bytes) -> None:
        self._blobs = blobs
        self._fetching = fetching
        self._now_ms = now_ms
        self._begin_at = begin_at.ljust(DIGEST_BYTES, b"\x00")
        self._rounds = Rounds(EVERY_S, SOON_S)
        self._one = trio.Lock()
        self._hurried = 0  # how many wait for a round
        self._count = self._checked = self._bytes = self._damaged = self._fetched = 0
        self._last = (0, 0.0, 0)  # when it ended (ms), how long it took (s), what it found damaged

    def statistics(self) -> ScrubStatistics:
        return ScrubStatistics(
            self._count,
            self._one.locked(),
            self._checked,
            self._bytes,
            self._damaged,
            self._fetched,
            *self._last,
        )

    async def run(self) -> None:
        """Rounds until cancelled."""
        self._rounds.begin(trio.current_time())
        while True:
            await trio.sleep_until(self._rounds.next_deadline())
            await self._round()

    async def now(self) -> ScrubStatistics:
        """A whole round at NOW_BYTES_PER_S; one that is under way is hurried first."""
        self._hurried += 1
        try:
            await self._round()
        finally:
            self._hurried -= 1
        return self.statistics()

    async def _round(self) -> None:
        async with self._one:
            began, damaged = trio.current_time(), self._damaged
            self._rounds.started()
            for first, last in ((self._begin_at, b"\xff" * DIGEST_BYTES), (b"", self._begin_at)):
                await self._between(first, last)
            ended = trio.current_time()
            self._count += 1
            self._last = (self._now_ms(), ended - began, self._damaged - damaged)
            self._rounds.ended(ended)

    async def _between(self, after: bytes, last: bytes) -> None:
        """The files with a hash above `after` and not above `last`."""
        files = self._blobs.iterate(after)
        while batch := await trio.to_thread.run_sync(_next, files):
            for file in batch:
                if file.digest > last:
                    return
                await self._check(file)

    async def _check(self, file: BlobEntry) -> None:
        began = trio.current_time()
        try:
            await trio.to_thread.run_sync(self._blobs.verify, file.digest)
        except BlobMissing:  # collected or quarantined since it was listed
            return
        except BlobDamaged as wrong:
            self._damaged += 1
            log.error("blob_damaged", reason=str(wrong))
            await self._fetch_again(file)
        self._checked += 1
        self._bytes += file.size
        rate = NOW_BYTES_PER_S if self._hurried else BYTES_PER_S
        await trio.sleep_until(began + max(file.size, FILE_BYTES) / rate)

    async def _fetch_again(self, file: BlobEntry) -> None:
        try:
            await self._fetching.fetch(file.digest)
        except (BlobMissing, BlobUnavailable) as wrong:
            log.error("blob_not_fetched", reason=str(wrong))  # repair goes on trying
        else:
            self._fetched += 1


def _next(files: Iterator[BlobEntry]) -> list[BlobEntry]:
    return list(islice(files, FILES_AT_ONCE))
