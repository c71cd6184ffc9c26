"""The intake: bytes from a client to a stored, referenced blob (DESIGN §4, "Blobs").

Staged while hashing, in constant memory; then `Reserve` in partition(hash), the file put in its place here
and on so many other nodes that a majority has it, and `Reference` there. Only after that may a command name
the blob. Whatever fails on the way leaves nothing that is not swept: a staged file is abandoned, a
reservation runs out, a reference that no medium confirms goes after a day.
"""

import os
from collections.abc import AsyncIterable
from pathlib import Path
from typing import Final

import msgspec
import trio

from cluster.copies.placement import Placement
from cluster.replicas import now_ms
from cluster.router import StorageFull
from node.media.probe import SNIFF_BYTES, MediaType, sniff
from node.service import Service
from node.social.blobs import PROVISIONAL, Reference, Reserve, Reserved, blob_partition
from storage.blobs import Blobs, BlobsFull, BlobTooLarge, Staged

RESERVED_MS: Final = 3600 * 1000  # for placing what is staged already: far more than it takes
WRITE_BYTES: Final = 256 << 10  # gathered before a hop to the thread that writes and hashes


Piece = bytes | bytearray


class TooLarge(Exception):
    """More bytes than may come: the client's fault."""


class Stored(msgspec.Struct, frozen=True):
    """A blob that is durable here and referenced under `media`."""

    hash: bytes
    size: int
    media: int


class Received(msgspec.Struct, frozen=True):
    """An upload that is whole but not stored: what it is by content. Store or abandon it."""

    staged: Staged
    hash: bytes
    size: int
    type: MediaType | None  # None: not a kind that is taken


class Intake:
    def __init__(self, service: Service, blobs: Blobs, placement: Placement) -> None:
        self._service = service
        self._blobs = blobs
        self._placement = placement

    async def receive(self, chunks: AsyncIterable[bytes], bytes_max: int) -> Received:
        """Stage what comes, hashed on the way. Raises TooLarge, StorageFull, and what `chunks` raises; then
        nothing is left behind."""
        self._service.require_room()
        try:
            staged = await trio.to_thread.run_sync(self._blobs.stage, bytes_max)
            try:
                return await self._receive(staged, chunks)
            except BaseException:
                # Cancelled or not, the file must go; the unlink of one file does not block for long.
                staged.abandon()
                raise
        except BlobTooLarge as wrong:
            raise TooLarge(str(wrong)) from None
        except BlobsFull as wrong:
            raise StorageFull(str(wrong)) from None

    async def _receive(self, staged: Staged, chunks: AsyncIterable[bytes]) -> Received:
        try:
            async with trio.open_nursery() as nursery:
                to_file, pieces = trio.open_memory_channel[Piece](0)
                nursery.start_soon(_write, staged, pieces)
                head = await _gather(chunks, to_file)
        except BaseExceptionGroup as failures:
            # Who asked wants to hear what went wrong, not that it did so beside another task.
            _, told = failures.split(trio.Cancelled)
            if told is None:
                raise
            raise told.exceptions[0] from None
        digest, size = await trio.to_thread.run_sync(staged.finish)
        return Received(staged, digest, size, sniff(head))

    async def store(self, received: Received, owner: int, media: int = 0) -> Stored:
        """Place a received upload as an original of `owner`. Without a `media` id the reference carries a
        provisional number, which the command that makes the medium must name.

        Raises StorageFull, Refused, cluster.copies.placement.NotEnoughCopies; then the upload is abandoned.
        """
        assert received.type is not None
        media = media or PROVISIONAL | int.from_bytes(os.urandom(7), "big")
        try:
            await self.place(received.staged, received.hash, received.size, received.type.mime, owner, media)
        except BaseException:
            received.staged.abandon()
            raise
        return Stored(received.hash, received.size, media)

    async def place(
        self, source: Staged | Path, digest: bytes, size: int, mime: str, owner: int, media: int
    ) -> None:
        """Reserve, put in place, refer to: for an upload, or for a variant that a worker wrote."""
        home = blob_partition(digest)
        reserved = await self._service.do(home, Reserve(digest, now_ms() + RESERVED_MS), Reserved)
        index = reserved.result.index
        try:
            await trio.to_thread.run_sync(self._blobs.place, source, digest, index)
        except BlobsFull as wrong:
            raise StorageFull(str(wrong)) from None
        await self._placement.place(digest, size, index)
        await self._service.do(home, Reference(digest, index, media, owner, size, mime))


async def _gather(chunks: AsyncIterable[bytes], to_file: trio.MemorySendChannel[Piece]) -> bytes:
    """Join small chunks to pieces that are worth a hop to a thread. Returns the first bytes of all."""
    head, gathered = b"", bytearray()
    with to_file:
        async for chunk in chunks:
            if len(head) < SNIFF_BYTES:
                head += chunk[: SNIFF_BYTES - len(head)]
            if not gathered and len(chunk) >= WRITE_BYTES:
                await to_file.send(chunk)
                continue
            gathered += chunk
            if len(gathered) >= WRITE_BYTES:
                await to_file.send(gathered)
                gathered = bytearray()
        if gathered:
            await to_file.send(gathered)
    return head


async def _write(staged: Staged, pieces: trio.MemoryReceiveChannel[Piece]) -> None:
    """Write and hash one piece while the next is received; there is never more than one of each."""
    async for piece in pieces:
        await trio.to_thread.run_sync(staged.write, piece)
