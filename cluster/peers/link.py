"""A link of the control lane in motion: a bounded queue that a writer empties, a reader, and pings.

Whatever is queued goes out together, in pieces of up to `SEND_BYTES`. A peer that does not take a piece
within `SHED_S` is cut off, and so is one that is not heard for some pings. The link does not know what its
frames mean; its owner gets each by `take`.
"""

from collections.abc import Callable
from typing import Final

import trio

from cluster.peers import frames
from cluster.peers.frames import Frame
from cluster.peers.handshake import BROKEN, LinkBroken, Wire
from cluster.peers.hello import Refusal

QUEUE_BYTES_MAX: Final = 16 << 20  # waiting to be sent on one link: 0.3 s of a slow network
QUEUE_FRAMES_MAX: Final = 16_384
RAFT_BYTES_MAX: Final = 12 << 20  # Raft frames fill the queue no further: a call still finds room
RAFT_FRAMES_MAX: Final = 12_288
SEND_BYTES: Final = 256 << 10  # of one piece
SHED_S: Final = 5.0  # for one piece: a peer that takes less than 50 KB/s is no use in a cluster
PING_S: Final = 1.0
PINGS_MISSED_MAX: Final = 5  # counted, not timed: a process that was stopped itself must not cut its links

SHED: Final = "shed"  # codes of links that ended
SILENT: Final = "silent"
WORN: Final = "worn"
OVERFULL: Final = "overfull"


class Link:
    """`send` and `cut` from the trio thread; `run` until the link ends."""

    def __init__(self, wire: Wire, take: Callable[[Frame], None], *, pings: bool) -> None:
        self.wire = wire
        self.ended: LinkBroken | None = None
        self.queued_bytes = 0
        self.queued_frames = 0
        self.requests = 0  # of the peer, with handlers that run: the owner's count
        self.round_trip_s: float | None = None  # of the last ping
        self._take = take
        self._pings = pings
        self._pinged_at = 0.0
        self._queue: list[bytes] = []
        self._last_request = 0  # queued
        self._taken_request = 0  # the last that the writer has taken out of the queue
        self._withdrawn: set[int] = set()  # of those after it
        self._wake = trio.Event()
        self._heard = True
        self._scope = trio.CancelScope()
        self._refusal: Refusal | None = None

    # --- for the owner -----------------------------------------------------------------------------------
    def send(
        self,
        frame: bytes,
        request: int = 0,
        *,
        bytes_max: int = QUEUE_BYTES_MAX,
        frames_max: int = QUEUE_FRAMES_MAX,
    ) -> bool:
        """Queue a frame; `request`: the number of a request of ours, which grow. False, and nothing is
        queued, where the queue is full or the link has ended."""
        if self.queued_bytes + len(frame) > bytes_max or self.queued_frames >= frames_max or self.ended:
            return False
        self._queue.append(frame)
        self.queued_bytes += len(frame)
        self.queued_frames += 1
        if request:
            self._last_request = request
        self._wake.set()
        return True

    def unsent(self, request: int) -> bool:
        """Does this request of ours still wait in the queue? Then none of it has left, and if the link has
        ended none of it ever will."""
        return request > self._taken_request

    def withdraw(self, request: int) -> None:
        """Nobody waits for this one any more: if it is unsent, it stays so."""
        if self.unsent(request):
            self._withdrawn.add(request)

    def cut(self, code: str, detail: str, refusal: Refusal | None = None) -> None:
        """End the link from here, after telling the peer why if there is a refusal."""
        if self.ended is None:
            self.ended = LinkBroken(code, detail)
            self._refusal = refusal
            self._scope.cancel()

    async def run(self) -> LinkBroken:
        """Until the link ends; says why. The wire is closed then."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._watch)
                    await self._read()
            if self._refusal is not None:
                await self.wire.refuse(self._refusal)
        finally:
            self.cut(BROKEN, "closed here")
            await self.wire.aclose()
        assert self.ended is not None
        return self.ended

    # --- tasks -----------------------------------------------------------------------------------------
    async def _read(self) -> None:
        receive, take = self.wire.receive, self._take
        try:
            while True:
                for frame in await receive():
                    take(frame)
                self._heard = True
        except LinkBroken as broken:
            self.cut(broken.code, broken.detail)

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                for piece, count in _pieces(self._taken()):
                    with trio.move_on_after(SHED_S) as patience:
                        await self.wire.send(piece)
                    if patience.cancelled_caught:
                        self.cut(SHED, f"{self.queued_bytes} bytes wait, none taken for {SHED_S:g} s")
                        return
                    self.queued_bytes -= len(piece)
                    self.queued_frames -= count
        except LinkBroken as broken:
            self.cut(broken.code, broken.detail)

    def _taken(self) -> list[bytes]:
        """All that is queued, but for what was withdrawn."""
        queue, self._queue = self._queue, []
        self._taken_request = self._last_request
        if self._withdrawn:
            left = [frame for frame in queue if not self._is_withdrawn(frame)]
            self.queued_bytes -= sum(map(len, queue)) - sum(map(len, left))
            self.queued_frames -= len(queue) - len(left)
            queue = left
            self._withdrawn.clear()
        return queue

    def _is_withdrawn(self, frame: bytes) -> bool:
        _, kind, _, request, _ = frames.HEAD.unpack_from(frame)
        return kind == frames.REQUEST and request in self._withdrawn

    async def _watch(self) -> None:
        """Pings, and notices when nothing comes any more: a half-open connection looks like an idle one."""
        missed = 0
        while missed < PINGS_MISSED_MAX:
            self._heard = False
            if self._pings:
                if self.wire.is_worn:
                    return self.cut(WORN, "new keys are due")  # made again at once
                self._pinged_at = trio.current_time()
                self.send(frames.encode(frames.PING))
            await trio.sleep(PING_S)
            missed = 0 if self._heard else missed + 1
        self.cut(SILENT, f"nothing heard for {PINGS_MISSED_MAX * PING_S:g} s")

    def ponged(self) -> None:
        """The owner was given a PONG."""
        self.round_trip_s = trio.current_time() - self._pinged_at


def _pieces(queue: list[bytes]) -> list[tuple[bytes, int]]:
    """Frames joined to pieces of about SEND_BYTES, and how many are in each."""
    pieces: list[tuple[bytes, int]] = []
    start = size = 0
    for position, frame in enumerate(queue):
        size += len(frame)
        if size >= SEND_BYTES:
            pieces.append((b"".join(queue[start : position + 1]), position + 1 - start))
            start, size = position + 1, 0
    if start < len(queue):
        pieces.append((b"".join(queue[start:]), len(queue) - start))
    return pieces
