"""Streams on the bulk lane: one connection carries one stream at a time, pulled by who wants the bytes.

TCP's own back pressure is the flow control: the side that gives writes a chunk, waits until the connection
has taken it, and asks for the next. A few connections per peer are kept for the next stream, for making one
costs two round trips and a signature.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio

from cluster.peers import frames, hello, messages
from cluster.peers.errors import PeerRefused, PeerSilent, PeerUnreachable
from cluster.peers.handshake import LinkBroken, Wire

STREAMS_MAX: Final = 4  # pulled from one peer at once: more only share the same disk and network
KEPT_MAX: Final = STREAMS_MAX  # connections to one peer between streams: none is made twice while many come
KEEP_S: Final = 30.0  # less than GIVER_WAITS_S, so that who dials lets go first
GIVER_WAITS_S: Final = 60.0  # for the next request on a connection
CHUNK_TAKEN_S: Final = 60.0  # for one chunk: the puller may sync what it got before it reads on

Opened = Callable[[], Awaitable[Wire]]


class Chunks(AsyncIterator[bytes]):
    """The bytes of one stream, in pieces of up to CHUNK_BYTES_MAX. Ends only when the stream is whole."""

    def __init__(self, wire: Wire, idle_s: float, count: Callable[[int], None]) -> None:
        self._wire = wire
        self._count = count  # told of every piece, for statistics
        self._idle_s = idle_s
        self._ready: list[frames.Frame] = []
        self.done = False  # it ended by a word of the peer: the connection can be used again

    async def first(self) -> None:
        """Wait for the peer's first frame. Raises LinkBroken, trio.TooSlowError."""
        with trio.fail_after(self._idle_s):
            while not self._ready:
                self._ready = await self._wire.receive()
        self._ready.reverse()

    def __aiter__(self) -> "Chunks":
        return self

    async def __anext__(self) -> bytes:
        if self.done:
            raise StopAsyncIteration
        try:
            if not self._ready:
                await self.first()
        except trio.TooSlowError:
            raise PeerSilent(f"nothing of the stream came for {self._idle_s:g} s") from None
        except LinkBroken as broken:
            raise PeerSilent(f"the stream broke: {broken.detail}") from None
        frame = self._ready.pop()
        if frame.kind == frames.CHUNK:
            self._count(len(frame.body))
            return frame.body
        return self._ended(frame)

    def _ended(self, frame: frames.Frame) -> bytes:
        if self._ready or self._wire.reader.kept:
            raise PeerSilent("more came after the end of the stream")
        if frame.kind == frames.END:
            self.done = True
            raise StopAsyncIteration
        try:
            if frame.kind == frames.REFUSAL:
                refusal = hello.decode_refusal(frame.body)
                raise PeerRefused(refusal.code, refusal.detail)
            failed = messages.decode_response(frame.body)
        except msgspec.DecodeError as error:
            raise PeerSilent(f"the stream failed, for a reason that cannot be read: {error}") from None
        if not isinstance(failed, messages.Failed):
            raise PeerSilent("the stream failed, for a reason that is none")
        self.done = True
        raise PeerRefused.of(failed)


class Pool:
    """The bulk connections to one peer."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._slots = trio.Semaphore(STREAMS_MAX)
        self._kept: list[tuple[float, Wire]] = []
        self.pulled_bytes = 0

    @property
    def streams(self) -> int:
        return STREAMS_MAX - self._slots.value

    def _pulled(self, size: int) -> None:
        self.pulled_bytes += size

    @asynccontextmanager
    async def stream(self, request: bytes, idle_s: float) -> AsyncIterator[AsyncIterator[bytes]]:
        try:
            with trio.fail_after(idle_s):
                await self._slots.acquire()
        except trio.TooSlowError:
            raise PeerUnreachable(f"{STREAMS_MAX} streams from it are under way") from None
        try:
            wire, chunks = await self._begin(request, idle_s)
            try:
                yield chunks
            finally:
                if chunks.done and len(self._kept) < KEPT_MAX and not wire.is_worn:
                    self._kept.append((trio.current_time(), wire))
                else:
                    await wire.aclose()
        finally:
            self._slots.release()

    async def _begin(self, request: bytes, idle_s: float) -> tuple[Wire, Chunks]:
        """Ask, on a kept connection if one is still good: the peer may have closed it in between."""
        frame = frames.encode(frames.REQUEST, request, 1)
        while self._kept:
            since, wire = self._kept.pop()
            if trio.current_time() - since > KEEP_S:
                await wire.aclose()
                continue
            chunks = Chunks(wire, idle_s, self._pulled)
            try:
                await _asked(wire, chunks, frame, idle_s)
                return wire, chunks
            except LinkBroken:
                await wire.aclose()
            except BaseException:
                await wire.aclose()
                raise
        wire = await self._opened()
        chunks = Chunks(wire, idle_s, self._pulled)
        try:
            await _asked(wire, chunks, frame, idle_s)
        except LinkBroken as broken:
            await wire.aclose()
            raise PeerSilent(f"the stream broke before it began: {broken.detail}") from None
        except BaseException:
            await wire.aclose()
            raise
        return wire, chunks

    async def aclose(self) -> None:
        """Close what is kept. Streams under way end by themselves."""
        while self._kept:
            await self._kept.pop()[1].aclose()


async def _asked(wire: Wire, chunks: Chunks, frame: bytes, idle_s: float) -> None:
    """Raises LinkBroken, PeerSilent."""
    try:
        with trio.fail_after(idle_s):
            await wire.send(frame)
        await chunks.first()
    except trio.TooSlowError:
        raise PeerSilent(f"nothing of the stream came for {idle_s:g} s") from None


async def give(wire: Wire, chunks: AsyncIterator[bytes], count: Callable[[int], None]) -> None:
    """Send a stream to who asked for it. Raises LinkBroken where the puller is gone or takes nothing."""
    async for data in chunks:
        for start in range(0, len(data), frames.CHUNK_BYTES_MAX):
            piece = data[start : start + frames.CHUNK_BYTES_MAX]  # all of it is no copy
            await say(wire, frames.encode(frames.CHUNK, piece, 1))
            count(len(piece))
    await say(wire, frames.encode(frames.END, b"", 1))


async def say(wire: Wire, frame: bytes) -> None:
    with trio.move_on_after(CHUNK_TAKEN_S) as patience:
        await wire.send(frame)
    if patience.cancelled_caught:
        raise LinkBroken("shed", f"a chunk was not taken for {CHUNK_TAKEN_S:g} s")
