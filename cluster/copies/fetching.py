"""Fetching: blobs that rows refer to and this node lacks, pulled from a node that has them.

Everything that moves in bulk is pulled. Bytes are hashed while they are written and get their place only
under their own hash, so a peer can send what it will. Whoever needs a blob waits for the one fetch of it
that is under way; a blob that no node has is told apart from one that some node could not be asked for.

It also is what answers other nodes: which blobs are here, and the bytes of one, verified since this process
began before they leave.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from io import FileIO
from typing import Any, Final, Protocol

import msgspec
import trio

from cluster.copies.copies import Wanted, in_turn, name
from cluster.peers.errors import PeerRefused, PeerSilent, PeerUnreachable
from cluster.peers.messages import FetchBlob, HaveBlobs, Held
from storage.blobs import (
    BlobDamaged,
    BlobMismatch,
    BlobMissing,
    Blobs,
    BlobsFull,
    BlobTooLarge,
    Staged,
)

FLIGHTS_MAX: Final = 64  # blobs that readers wait for at once; one more is refused, not queued
FETCHED_WITHIN_S: Final = 10.0  # a reader's patience for a small blob …
SLOW_BYTES_PER_S: Final = 1 << 20  # … and what a larger one is given time for
IDLE_S: Final = 5.0  # a stream that brings nothing for so long is given up
SENDS_MAX: Final = 16  # streams to other nodes at once; further ones wait, and nobody's pages with them
READ_BYTES: Final = 1 << 20  # a hop to the disk's thread
WRITE_BYTES: Final = 1 << 20  # gathered before one; most variants are smaller, and take a single hop
DISK_THREADS: Final = 8  # syncing files of other nodes; uploads have their own
MISMATCH: Final = (BlobMismatch, BlobTooLarge)


class BlobUnavailable(Exception):
    """Rows say that the blob exists; nobody who could be asked has it, and somebody could not be asked."""


class Links(Protocol):
    """What is used of `cluster.peers.links.Links`."""

    def serve(self, request: type[Any], handler: Callable[[bytes, Any], Awaitable[Any]]) -> None: ...

    def serve_stream(
        self, request: type[Any], handler: Callable[[bytes, Any], AsyncIterator[bytes]]
    ) -> None: ...

    async def call(self, node: bytes, request: Any, *, deadline_s: float) -> Any: ...

    def stream(
        self, node: bytes, request: Any, *, idle_s: float
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...

    def connected(self, node: bytes) -> bool: ...


class Catalogue(Protocol):
    """What the application's rows say of blobs. Asked in the trio thread."""

    partitions: int  # the first so many decide about blobs

    def home(self, digest: bytes) -> int:
        """The partition that decides about it."""
        ...

    def wanted(self, digest: bytes) -> Wanted | None:
        """The blob, if something refers to it."""
        ...

    def referenced(self, partition: int, beyond: bytes, most: int) -> list[Wanted]:
        """Blobs of a partition that something refers to, in the order of their hashes, after `beyond`."""
        ...


class FetchingStatistics(msgspec.Struct, frozen=True):
    under_way: int
    fetched: int  # blobs
    bytes: int
    failed: int
    sent: int  # streams to other nodes, whole


class _Flight:
    """A fetch that is under way, for all who wait for it."""

    __slots__ = ("landed", "wrong")

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.wrong: Exception | None = None


class Fetching:
    """One per node. `run` must be running for `fetch` on a node with peers; `attach` makes it one."""

    def __init__(
        self,
        me: bytes,
        blobs: Blobs,
        catalogue: Catalogue,
        members: Callable[[int], Sequence[bytes]],
    ) -> None:
        self._me = me
        self._blobs = blobs
        self._catalogue = catalogue
        self._members = members  # of a partition
        self._links: Links | None = None
        self._nursery: trio.Nursery | None = None
        self._flights: dict[bytes, _Flight] = {}
        self._sends = trio.CapacityLimiter(SENDS_MAX)
        self.disk = trio.CapacityLimiter(DISK_THREADS)
        self._turn = self._fetched = self._bytes = self._failed = self._sent = 0

    def attach(self, links: Links) -> None:
        """This node has peers, from now on."""
        self._links = links
        links.serve(HaveBlobs, self._have)
        links.serve_stream(FetchBlob, self._send)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    @property
    def has_peers(self) -> bool:
        return self._links is not None

    def others(self, partition: int) -> list[bytes]:
        """The other members of a partition, those first that can be reached now, and of these each time
        another; none on a node without peers."""
        links = self._links
        if links is None:
            return []
        self._turn += 1
        found = in_turn((node for node in self._members(partition) if node != self._me), self._turn)
        return sorted(found, key=lambda node: not links.connected(node))

    def statistics(self) -> FetchingStatistics:
        return FetchingStatistics(len(self._flights), self._fetched, self._bytes, self._failed, self._sent)

    # --- getting ---------------------------------------------------------------------------------------
    async def fetch(self, digest: bytes) -> None:
        """Bring the blob here; others that ask for it meanwhile wait for the same fetch.

        Raises BlobMissing where nothing refers to it or no node has it, BlobUnavailable where that is not
        certain or there is no room for it.
        """
        flight = self._flights.get(digest)
        if flight is None:
            wanted = self._catalogue.wanted(digest)
            others = self.others(self._catalogue.home(digest))
            if wanted is None or not others:
                raise BlobMissing(f"no blob {digest.hex()}")
            if len(self._flights) >= FLIGHTS_MAX or self._nursery is None:
                raise BlobUnavailable(f"blob {name(digest)}…: {len(self._flights)} others are being fetched")
            flight = self._flights[digest] = _Flight()
            self._nursery.start_soon(self._fly, flight, wanted, others)
        await flight.landed.wait()
        if flight.wrong is not None:
            raise type(flight.wrong)(str(flight.wrong))

    async def _fly(self, flight: _Flight, wanted: Wanted, nodes: Sequence[bytes]) -> None:
        flight.wrong = BlobUnavailable("the node stops")
        try:
            await self.fetch_from(wanted, nodes)
            flight.wrong = None
        except (BlobMissing, BlobUnavailable) as wrong:
            flight.wrong = wrong
        finally:
            del self._flights[wanted.digest]
            flight.landed.set()

    async def fetch_from(self, wanted: Wanted, nodes: Sequence[bytes]) -> bytes:
        """From the first of these that gives it; returns which. Raises BlobMissing where all said that they
        do not have it, else BlobUnavailable with what went wrong."""
        said: list[str] = []
        is_certain = True
        with trio.move_on_after(FETCHED_WITHIN_S + wanted.size / SLOW_BYTES_PER_S):
            for node in nodes:
                try:
                    await self.pull(node, wanted)
                    self._fetched += 1
                    self._bytes += wanted.size
                    return node
                except PeerRefused as wrong:
                    is_certain = is_certain and wrong.code == "not_found"
                    said.append(f"node {name(node)}: {wrong}")
                except (PeerUnreachable, PeerSilent, *MISMATCH) as wrong:
                    is_certain = False
                    said.append(f"node {name(node)}: {wrong}")
                except (BlobsFull, OSError) as wrong:
                    is_certain = False
                    said.append(f"here: {wrong}")
                    break
        self._failed += 1
        asked = "; ".join(said) or "no answer in time"
        detail = f"blob {name(wanted.digest)}… is not here; {asked}"
        if is_certain and len(said) == len(nodes):
            raise BlobMissing(detail)
        raise BlobUnavailable(detail)

    async def pull(self, node: bytes, wanted: Wanted) -> None:
        """The blob from this node, in its place when it returns. Raises the errors of `Links.stream`,
        BlobMismatch or BlobTooLarge (the peer's fault), BlobsFull, BlobsFailed."""
        links = self._links
        assert links is not None
        staged: Staged | None = None
        gathered = bytearray()
        try:
            async with links.stream(node, FetchBlob(wanted.digest), idle_s=IDLE_S) as chunks:
                async for chunk in chunks:
                    gathered += chunk
                    if len(gathered) >= WRITE_BYTES:
                        if staged is None:
                            staged = await self._in_thread(self._blobs.stage, wanted.size)
                        await self._in_thread(staged.write, gathered)
                        gathered = bytearray()
            await self._in_thread(_finish, self._blobs, staged, gathered, wanted)
        except BaseException:
            if staged is not None:
                staged.abandon()  # the unlink of one file does not block for long
            raise

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await trio.to_thread.run_sync(function, *arguments, limiter=self.disk)

    # --- giving ----------------------------------------------------------------------------------------
    async def ask(self, node: bytes, wanted: Sequence[Wanted], deadline_s: float) -> tuple[int, ...]:
        """The index of that node's file of each, 0 where it has none. Raises the errors of `Links.call`."""
        assert self._links is not None
        request = HaveBlobs(tuple(one.digest for one in wanted))
        answer = await self._links.call(node, request, deadline_s=deadline_s)
        return answer.indexes if isinstance(answer, Held) else ()

    async def _have(self, _: bytes, request: HaveBlobs) -> Held:
        return Held(tuple(await self._in_thread(self._blobs.indexes, request.hashes)))

    async def _send(self, _: bytes, request: FetchBlob) -> AsyncIterator[bytes]:
        borrower = object()
        await self._sends.acquire_on_behalf_of(borrower)
        try:
            file, data = await self._begun(request.hash)
            with file:
                while data:
                    yield data
                    # A thread costs more than most variants: what came short was the end.
                    data = await self._in_thread(_read, file, READ_BYTES) if len(data) == READ_BYTES else b""
            self._sent += 1
        finally:
            self._sends.release_on_behalf_of(borrower)

    async def _begun(self, digest: bytes) -> tuple[FileIO, bytes]:
        try:
            begun: tuple[FileIO, bytes] = await self._in_thread(_begin, self._blobs, digest)
            return begun
        except (BlobMissing, BlobDamaged, ValueError) as wrong:
            raise PeerRefused("not_found", str(wrong)) from None


def _begin(blobs: Blobs, digest: bytes) -> tuple[FileIO, bytes]:
    """The blob's file and its first bytes."""
    file = blobs.open(digest)
    try:
        return file, _read(file, READ_BYTES)
    except BaseException:
        file.close()
        raise


def _read(file: FileIO, count: int) -> bytes:
    """So many bytes; fewer only at the end of the file."""
    data = file.read(count)
    while len(data) < count and (more := file.read(count - len(data))):
        data += more
    return data


def _finish(blobs: Blobs, staged: Staged | None, rest: bytearray, wanted: Wanted) -> None:
    staged = staged or blobs.stage(wanted.size)
    try:
        if rest:
            staged.write(rest)
        blobs.place(staged, wanted.digest, wanted.index)
    except BaseException:
        staged.abandon()
        raise
