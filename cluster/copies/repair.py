"""Repair: what rows refer to and is not here is fetched from the nodes that have it.

The rows are the truth: every round goes through all references in this node's replicas, looks which files are
missing, asks the other nodes which of them they have, and fetches, from several nodes at once. A round comes
soon after the start, after rows came by snapshot, and when a node was joined or came back; else slowly, for
ever. What commits write is looked at on its own, a little later (`note`): so a blob that was not offered, or
a log that is caught up with, waits for no round. It finds no stray files (the collector does) and reads no
bytes (`cluster.copies.scrub`).

Others' pages come first: rows are read in pieces with pauses, and STREAMS blobs are under way at once. That
many keep a wire and a disk busy, and leave the event loop of both sides more than half of its time.
"""

import math
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Final, Protocol

import msgspec
import structlog
import trio

from cluster.copies.copies import Errand, Wanted, divide
from cluster.copies.fetching import BlobUnavailable, Catalogue, Fetching
from cluster.copies.rounds import Rounds
from cluster.peers.errors import PeerRefused, PeerSilent, PeerUnreachable
from cluster.peers.messages import HASHES_MAX
from storage.blobs import BlobMissing, Blobs

log = structlog.stdlib.get_logger("heliograph.blobs")

EVERY_S: Final = 600.0  # a look at 100,000 rows and files costs a second
SOON_S: Final = 2.0  # for a start, or links that have just been made, to settle
MISSED_EVERY_S: Final = 30.0  # while something is missing that no node could give
NOTED_AFTER_S: Final = 3.0  # for the offers that are under way to come
NOTED_MAX: Final = 100_000  # blobs: 10 MB; beyond, there is a round instead
ROWS_AT_ONCE: Final = 200  # some 1 ms of the event loop
PAUSE_S: Final = 0.005  # between two such pieces
STREAMS: Final = 6
ASKED_WITHIN_S: Final = 5.0


class Connecting(Protocol):
    """What is used of `cluster.peers.links.Links`."""

    on_connected: Callable[[bytes, bool], None]


class RepairStatistics(msgspec.Struct, frozen=True):
    """`checked`, `missing`, `fetched` and `bytes` are of this process's life; `last_…` of the last round."""

    rounds: int
    is_running: bool
    checked: int  # references
    missing: int  # files that were not here
    fetched: int
    bytes: int
    last_ended_ms: int  # Unix; 0 before the first has ended
    last_seconds: float
    last_missing: int  # what the round left missing


class Repair:
    """One per node; `run` in its nursery."""

    def __init__(
        self,
        blobs: Blobs,
        fetching: Fetching,
        catalogue: Catalogue,
        now_ms: Callable[[], int],
    ) -> None:
        self._blobs = blobs
        self._fetching = fetching
        self._catalogue = catalogue
        self._now_ms = now_ms
        self._rounds = Rounds(EVERY_S, SOON_S)
        self._hurried = trio.Event()
        self._noted: dict[bytes, None] = {}  # in the order of their coming
        self._noted_at = Rounds(math.inf, NOTED_AFTER_S)
        self._one = trio.Lock()
        self._count = self._checked = self._missing = self._fetched = self._bytes = 0
        self._last = (0, 0.0, 0)  # when it ended (ms), how long it took (s), what it left missing

    def attach(self, links: Connecting) -> None:
        """This node has peers, from now on: whenever one can be reached again, there may be much to fetch."""
        connected = links.on_connected

        def on_connected(node: bytes, is_connected: bool) -> None:
            connected(node, is_connected)
            if is_connected:
                self.hurry()

        links.on_connected = on_connected

    def note(self, digests: Iterable[bytes]) -> None:
        """Rows of these blobs were written: their files should be here soon."""
        if not self._fetching.has_peers:
            return
        self._noted.update(dict.fromkeys(digests))
        if len(self._noted) > NOTED_MAX:
            self._noted.clear()
            self.hurry()
        elif self._noted and self._noted_at.next_deadline() == math.inf:
            self._noted_at.hurry(trio.current_time())
            self._hurried.set()

    def hurry(self) -> None:
        """There is a reason for a round: rows came by snapshot, or a node can be reached again."""
        self._rounds.hurry(trio.current_time())
        self._hurried.set()

    def statistics(self) -> RepairStatistics:
        return RepairStatistics(
            self._count,
            self._one.locked(),
            self._checked,
            self._missing,
            self._fetched,
            self._bytes,
            *self._last,
        )

    async def run(self) -> None:
        """Rounds until cancelled. On a node without peers there is nobody to fetch from: it rests."""
        self._rounds.begin(trio.current_time())
        while True:
            self._hurried = trio.Event()
            round_at, noted_at = self._rounds.next_deadline(), self._noted_at.next_deadline()
            with trio.move_on_at(min(round_at, noted_at)):
                await self._hurried.wait()
                continue
            if noted_at <= round_at:
                await self._look_at_noted()
            else:
                await self.now()

    async def _look_at_noted(self) -> None:
        async with self._one:
            noted, self._noted = self._noted, {}
            self._noted_at.started()
            await self._bring(self._absent_of(list(noted)))

    async def now(self) -> RepairStatistics:
        """A whole round, after the one that is under way."""
        async with self._one:
            began = trio.current_time()
            self._rounds.started()
            left = await self._round() if self._fetching.has_peers else 0
            ended = trio.current_time()
            self._count += 1
            self._last = (self._now_ms(), ended - began, left)
            self._rounds.every_s = MISSED_EVERY_S if left else EVERY_S
            self._rounds.ended(ended)
            if left:
                log.warning("blobs_missing", count=left)
        return self.statistics()

    async def _round(self) -> int:
        """How many files are missing after it."""
        missing, fetched = self._missing, self._fetched
        await self._bring(self._absent())
        return self._missing - missing - (self._fetched - fetched)

    async def _bring(self, absent: AsyncGenerator[list[Wanted], None]) -> None:
        to_workers, errands = trio.open_memory_channel[Errand](0)
        async with trio.open_nursery() as nursery, to_workers, aclosing(absent):
            for _ in range(STREAMS):
                nursery.start_soon(self._work, errands)
            pending: list[Wanted] = []
            async for found in absent:
                self._missing += len(found)
                pending += found
                while len(pending) >= HASHES_MAX:
                    await self._give_out(pending[:HASHES_MAX], to_workers)
                    pending = pending[HASHES_MAX:]
            if pending:
                await self._give_out(pending, to_workers)
            await to_workers.aclose()

    async def _absent(self) -> AsyncGenerator[list[Wanted], None]:
        """What is referred to and has no file here, in pieces."""
        for partition in range(self._catalogue.partitions):
            beyond = b""
            while found := self._catalogue.referenced(partition, beyond, ROWS_AT_ONCE):
                beyond = found[-1].digest
                if absent := await self._without_file(found):
                    yield absent
                await trio.sleep(PAUSE_S)
                if len(found) < ROWS_AT_ONCE:
                    break
            else:
                await trio.lowlevel.checkpoint()

    async def _absent_of(self, noted: list[bytes]) -> AsyncGenerator[list[Wanted], None]:
        for start in range(0, len(noted), ROWS_AT_ONCE):
            piece = sorted(noted[start : start + ROWS_AT_ONCE])
            found = [wanted for digest in piece if (wanted := self._catalogue.wanted(digest))]
            if absent := await self._without_file(found):
                yield absent
            await trio.sleep(PAUSE_S)

    async def _without_file(self, found: list[Wanted]) -> list[Wanted]:
        digests = [one.digest for one in found]
        indexes = await trio.to_thread.run_sync(self._blobs.indexes, digests)
        self._checked += len(found)
        return [one for one, index in zip(found, indexes, strict=True) if not index]

    async def _give_out(self, wanted: list[Wanted], to_workers: trio.MemorySendChannel[Errand]) -> None:
        """Ask who has these, and let each node be asked for its share."""
        partitions = {self._catalogue.home(one.digest) for one in wanted}
        nodes = {node for partition in partitions for node in self._fetching.others(partition)}
        held: dict[bytes, tuple[int, ...]] = {}
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(self._ask, node, wanted, held)
        errands, _ = divide(wanted, held)
        for errand in errands:
            await to_workers.send(errand)

    async def _ask(self, node: bytes, wanted: list[Wanted], held: dict[bytes, tuple[int, ...]]) -> None:
        try:
            held[node] = await self._fetching.ask(node, wanted, ASKED_WITHIN_S)
        except (PeerUnreachable, PeerSilent, PeerRefused) as wrong:
            log.info("repair_not_answered", peer=node.hex(), reason=str(wrong))

    async def _work(self, errands: trio.MemoryReceiveChannel[Errand]) -> None:
        async for errand in errands:
            try:
                await self._fetching.fetch_from(errand.wanted, errand.nodes)
            except (BlobMissing, BlobUnavailable) as wrong:
                log.warning("blob_not_fetched", reason=str(wrong))
            else:
                self._fetched += 1
                self._bytes += errand.wanted.size
