"""Snapshots between nodes: who leads offers a partition's state, who lacks it pulls, spools and installs it.

    await snapshots.send(node, partition, term)     # where Raft says NeedSnapshot; returns the index
    replicas.pieces = snapshots.pieces              # what a shard's thread does with a state that came

A stream is read from one read transaction, in worker threads, a piece at a time as the peer takes them. While
it lives the shard's file cannot use freed pages again, so a stream ends after `STREAM_S_MAX`, whole or not.
Few run at once, in all and to one node: what users read and write goes first.
"""

import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import trio

from cluster.peers.errors import PeerRefused, PeerSilent
from cluster.peers.messages import FetchSnapshot, Index, OfferSnapshot, Request, Response
from cluster.raft.messages import Configuration, Install
from cluster.snapshots.installing import install_pieces, unfinished_installs
from cluster.snapshots.spool import Spool, Spooled, SpoolFull
from cluster.snapshots.state_stream import (
    STATE_BYTES_MAX,
    Begin,
    StateDamaged,
    StateTooLarge,
    StateTooNew,
    state_pieces,
)
from storage.shard import Shard, ShardFull, WriteTransaction

SENDS_MAX: Final = 4  # offers under way in all; others wait
SENDS_OF_NODE_MAX: Final = 2
GIVEN_MAX: Final = 4  # streams read at once
TAKEN_MAX: Final = 4  # states spooled and installed at once
WAITING_MAX: Final = 512  # offers that wait their turn here: more partitions than that come one by one
STREAM_S_MAX: Final = 120.0  # a read transaction's life: 2 GB at 20 MB/s
IDLE_S: Final = 20.0  # without a byte of a stream
OFFER_S: Final = 600.0  # until an offered state is installed, waiting included
PAUSE_S: Final = 1.0  # after a failure, before Raft may ask again
FULL_PAUSE_S: Final = 0.1  # between two tries to install a piece on a disk without room
PORTION_BYTES: Final = 1 << 20  # written to the spool at once

BUSY: Final = "busy"
DAMAGED: Final = "damaged"
FULL: Final = "storage_full"
UNKNOWN: Final = "not_found"
TOO_SLOW: Final = "too_slow"


class Peers(Protocol):
    """Of `cluster.peers.links.Links` what is used here."""

    def serve(self, request: type[Any], handler: Callable[[bytes, Any], Awaitable[Response]]) -> None: ...

    def serve_stream(
        self, request: type[Any], handler: Callable[[bytes, Any], AsyncIterator[bytes]]
    ) -> None: ...

    async def call(self, node: bytes, request: Request, *, deadline_s: float) -> Response: ...

    def stream(
        self, node: bytes, request: Request, *, idle_s: float
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...


class Receiver(Protocol):
    """Of `cluster.replicas.Replicas` what is used here."""

    async def install(self, sender: bytes, install: Install, spool: Spooled) -> None:
        """Returns when the state is in place, or is not needed."""
        ...

    def committed_index(self, partition: int) -> int:
        """How far the partition's rows go for certain."""
        ...


class SnapshotStatistics(msgspec.Struct, frozen=True):
    sending: int  # offers under way
    giving: int  # streams being read
    taking: int  # states on their way in
    sent: int  # installed by the peer
    taken: int  # installed here
    failed: int  # of both
    given_bytes: int
    taken_bytes: int


class Snapshots:
    """Everything from the trio thread. `folder` is staging/snapshots of the data directory."""

    def __init__(
        self,
        me: bytes,
        partitions: Collection[int],
        replicas: Receiver,
        links: Peers,
        shards: Sequence[Shard],
        folder: Path,
        *,
        bytes_max: int = STATE_BYTES_MAX,
    ) -> None:
        self._founder = Configuration((me,))
        self._partitions = frozenset(partitions)
        self._replicas = replicas
        self._links = links
        self._shards = shards
        self._folder = folder
        self._bytes_max = bytes_max
        self._sends = trio.Semaphore(SENDS_MAX)
        self._sends_of: dict[bytes, trio.Semaphore] = {}
        self._gives = trio.Semaphore(GIVEN_MAX)
        self._takes = trio.Semaphore(TAKEN_MAX)
        self._taking: set[int] = set()  # partitions
        self._under_way = self._giving = 0
        self._counts: Counter[str] = Counter()
        links.serve(OfferSnapshot, self._offered)
        links.serve_stream(FetchSnapshot, self._give)

    # --- the leader's side -----------------------------------------------------------------------------
    async def send(self, node: bytes, partition: int, term: int) -> int:
        """Bring the partition's state to `node`, as its leader in `term`. Returns the index up to which the
        state goes that is installed there now. Raises PeerUnreachable, PeerSilent, PeerRefused, after a pause
        that keeps a failure from being repeated at once."""
        of_node = self._sends_of.setdefault(node, trio.Semaphore(SENDS_OF_NODE_MAX))
        self._under_way += 1
        try:
            async with of_node, self._sends:
                answer = await self._links.call(node, OfferSnapshot(partition, term), deadline_s=OFFER_S)
            if not isinstance(answer, Index) or not answer.indexes:
                raise PeerSilent(f"a {type(answer).__name__} is no answer to an offer")
        except Exception:  # counted, and raised on
            self._counts["failed"] += 1
            await trio.sleep(PAUSE_S)
            raise
        finally:
            self._under_way -= 1
        self._counts["sent"] += 1
        return answer.indexes[0]

    async def _give(self, sender: bytes, request: FetchSnapshot) -> AsyncIterator[bytes]:
        """The stream of a partition's state, as of the shard's last commit."""
        partition = self._known(request.partition)
        async with self._gives:
            self._giving += 1
            deadline = trio.current_time() + STREAM_S_MAX
            read = self._shards[partition & (len(self._shards) - 1)].read()
            pieces = state_pieces(read, partition, self._founder)
            try:
                if partition in unfinished_installs(read):  # offered as its leader, who is another by now
                    raise PeerRefused(BUSY, f"partition {partition} is being replaced by another state here")
                while (piece := await trio.to_thread.run_sync(next, pieces, None)) is not None:
                    if trio.current_time() > deadline:
                        detail = f"the state of partition {partition} was not taken within {STREAM_S_MAX:g} s"
                        raise PeerRefused(TOO_SLOW, detail)
                    self._counts["given_bytes"] += len(piece)
                    yield piece
            finally:
                self._giving -= 1
                pieces.close()  # its cursor goes before the transaction
                read.close()

    # --- the follower's side ---------------------------------------------------------------------------
    async def _offered(self, sender: bytes, offer: OfferSnapshot) -> Index:
        partition = self._known(offer.partition)
        if partition in self._taking or len(self._taking) >= WAITING_MAX:
            raise PeerRefused(BUSY, f"partition {partition}: a state is on its way in, or too many are")
        self._taking.add(partition)
        try:
            async with self._takes:
                spooled = await self._pull(sender, partition)
                if isinstance(spooled, Begin):  # as far as that it is here already
                    return Index((spooled.index,))
                begin = spooled.begin
                install = Install(partition, offer.term, begin.index, begin.term, begin.configuration)
                # Cancelled here the spool stays: a shard's thread may have begun with it. A start sweeps it.
                await self._replicas.install(sender, install, spooled)
                await trio.to_thread.run_sync(spooled.remove)
        except (PeerRefused, PeerSilent, OSError):
            self._counts["failed"] += 1
            raise
        finally:
            self._taking.discard(partition)
        self._counts["taken"] += 1
        return Index((begin.index,))

    async def _pull(self, sender: bytes, partition: int) -> Spooled | Begin:
        """The whole state; or where it begins, if what is here goes as far."""
        spool = await trio.to_thread.run_sync(self._open_spool, partition)
        try:
            async with self._links.stream(sender, FetchSnapshot(partition), idle_s=IDLE_S) as chunks:
                portion = bytearray()
                async for chunk in chunks:
                    portion += chunk
                    if len(portion) < PORTION_BYTES and spool.begin is not None:
                        continue
                    await trio.to_thread.run_sync(spool.write, bytes(portion))
                    portion.clear()
                    begin = spool.begin
                    if begin is not None and begin.index <= self._replicas.committed_index(partition):
                        return begin
                await trio.to_thread.run_sync(spool.write, bytes(portion))
            spooled = await trio.to_thread.run_sync(spool.finish)
        except (StateDamaged, StateTooLarge, StateTooNew) as wrong:
            raise PeerRefused(DAMAGED, str(wrong)) from wrong
        except SpoolFull as wrong:
            raise PeerRefused(FULL, str(wrong)) from wrong
        finally:
            self._counts["taken_bytes"] += spool.received_bytes
            spool.abandon()  # nothing, once it is finished
        return spooled

    def _open_spool(self, partition: int) -> Spool:
        return Spool(self._folder, partition, bytes_max=self._bytes_max)

    def pieces(self, partition: int, install: Install, spooled: Spooled) -> Iterator[list[bytes]]:
        """The steps of an install, for the thread of the partition's shard; see
        `cluster.snapshots.installing`."""
        shard = self._shards[partition & (len(self._shards) - 1)]
        return install_pieces(shard.begin, spooled, _commit_if_there_is_room)

    def _known(self, partition: int) -> int:
        if partition not in self._partitions:
            raise PeerRefused(UNKNOWN, f"there is no partition {partition}")
        return partition

    def statistics(self) -> SnapshotStatistics:
        counts = self._counts
        return SnapshotStatistics(
            sending=self._under_way,
            giving=self._giving,
            taking=len(self._taking),
            sent=counts["sent"],
            taken=counts["taken"],
            failed=counts["failed"],
            given_bytes=counts["given_bytes"],
            taken_bytes=counts["taken_bytes"],
        )


def _commit_if_there_is_room(transaction: WriteTransaction) -> bool:
    """In a shard's thread. The pause keeps a full disk from being asked without end."""
    try:
        transaction.commit()
    except ShardFull:
        time.sleep(FULL_PAUSE_S)
        return False
    return True
