"""The accepting side of links: who dials in is asked who it is, and what it asks for is handed to handlers.

A node has one link of the control lane to each other, which it dialled itself and on which only it asks; what
is accepted here carries the peer's Raft frames and requests, and our answers. So nobody has to agree on who
dials, and each side's requests fail with its own link.
"""

import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

import msgspec
import trio

from cluster.peers import bulk, frames, hello, messages
from cluster.peers.errors import PeerRefused
from cluster.peers.frames import Frame
from cluster.peers.handshake import BAD_FRAME, LinkBroken, Refused, Wire, accept_wire
from cluster.peers.hello import Admits, Hello, Refusal
from cluster.peers.link import OVERFULL, Link
from cluster.peers.messages import Describe, Failed, Join
from cluster.peers.refusals import Refusals, log
from cluster.peers.strangers import Strangers

HANDSHAKES_MAX: Final = 128  # under way: each holds a socket, 40 KB and up to 10 s
HANDSHAKES_OF_ADDRESS_MAX: Final = 32  # seven nodes on one machine may all come at once
STRANGERS_MAX: Final = 8  # links without a certificate at once
STRANGER_REQUESTS_MAX: Final = 4  # of one such link
STRANGER_S: Final = 30.0  # and how long it may last: a Join waits for a majority of the meta group
IN_FLIGHT_MAX: Final = 2048  # requests of one peer whose handlers run
BULK_OF_NODE_MAX: Final = 8  # connections; a peer's pool uses fewer

UNKNOWN_REQUEST: Final = "unknown"
OVERLOADED: Final = "overloaded"
INTERNAL: Final = "internal"
STRANGER_REQUESTS: Final = (Describe, Join)

Handler = Callable[[bytes, Any], Awaitable[Any]]
Giver = Callable[[bytes, Any], AsyncIterator[bytes]]


class Serving:
    """Handlers, and the links that came in."""

    def __init__(self, me: Hello, admits: Admits, refusals: Refusals) -> None:
        self.handlers: dict[type, Handler] = {}
        self.givers: dict[type, Giver] = {}
        self.on_raft: Callable[[bytes, bytes], None] = _to_nobody
        self.on_told: Callable[[Refusal], None] = _unheard  # a peer refused this node
        self.on_met: Callable[[Hello], None] = _unmet  # a node was let in
        self.in_flight = 0
        self.given_bytes = 0
        self._me = me
        self._admits = admits
        self._refusals = refusals
        self._links: dict[bytes, Link] = {}  # the newest of each node
        self._bulk: dict[Wire, trio.CancelScope] = {}
        self._handshakes: Counter[str] = Counter()
        self._strangers = Strangers()
        self._strangers_now = 0

    @property
    def links(self) -> int:
        return len(self._links)

    def review(self) -> None:
        """What is known of members has changed: links that would not be admitted now are ended."""
        for link in list(self._links.values()):
            if (refusal := self._admits(link.wire.peer)) is not None:
                self._refusals.note("link_ended", refusal.code, refusal.detail, link.wire.peer.node.hex())
                link.cut(refusal.code, refusal.detail, refusal)
        for wire, scope in list(self._bulk.items()):
            if self._admits(wire.peer) is not None:
                scope.cancel()

    async def accept(self, transport: trio.abc.Stream, context: ssl.SSLContext) -> None:
        """Serve one connection until it ends; closes it. Raises nothing that a peer can cause."""
        address = _address(transport)
        if (
            self._handshakes.total() >= HANDSHAKES_MAX
            or self._handshakes[address] >= HANDSHAKES_OF_ADDRESS_MAX
        ):
            self._refusals.note("handshakes_overfull", hello.BUSY, "too many are under way", address)
            await trio.aclose_forcefully(transport)
            return
        self._handshakes[address] += 1
        try:
            wire = await accept_wire(transport, context, self._me, self._admits)
        except LinkBroken as broken:
            self._refusals.note("no_link", broken.code, broken.detail, address)
            return
        except Refused as refused:
            self._refused(refused, address)
            return
        finally:
            self._handshakes[address] -= 1
            if not self._handshakes[address]:
                del self._handshakes[address]
        try:
            await self._serve(wire, address)
        finally:
            await wire.aclose()

    def _refused(self, refused: Refused, address: str) -> None:
        who = refused.who.node.hex() if refused.who else address
        event = "refused_by_peer" if refused.heard else "peer_refused"
        self._refusals.note(event, refused.refusal.code, refused.refusal.detail, who)

    async def _serve(self, wire: Wire, address: str) -> None:
        if not wire.peer.node:
            await self._serve_stranger(wire, address)
        elif wire.peer.lane == hello.BULK:
            await self._serve_bulk(wire)
        else:
            await self._serve_control(wire)

    # --- the control lane ------------------------------------------------------------------------------
    async def _serve_control(self, wire: Wire) -> None:
        node = wire.peer.node
        async with trio.open_nursery() as nursery:
            link = Link(wire, lambda frame: self._take(link, frame, nursery), pings=False)
            older = self._links.get(node)
            self._links[node] = link
            if older is not None:
                older.cut("replaced", "the peer made a new link")
            self.on_met(wire.peer)
            try:
                await link.run()
            finally:
                if self._links.get(node) is link:
                    del self._links[node]
            nursery.cancel_scope.cancel()  # handlers whose answers nobody can get

    def _take(self, link: Link, frame: Frame, nursery: trio.Nursery) -> None:
        if frame.kind == frames.RAFT:
            self.on_raft(link.wire.peer.node, frame.body)
        elif frame.kind == frames.REQUEST:
            if link.requests >= IN_FLIGHT_MAX:
                self._refusals.counts[OVERLOADED] += 1
                failed = Failed(OVERLOADED, f"{IN_FLIGHT_MAX} requests of this node are under way")
                self._say(link, _response(frame, failed))
                return
            link.requests += 1
            self.in_flight += 1
            nursery.start_soon(self._answer_on, link, frame)
        elif frame.kind == frames.PING:
            link.send(frames.encode(frames.PONG, b"", frame.request))
        else:
            self._heard_refusal(link, frame)

    async def _answer_on(self, link: Link, frame: Frame) -> None:
        try:
            with trio.CancelScope() as scope:
                if frame.deadline_ms:
                    scope.deadline = trio.current_time() + frame.deadline_ms / 1000
                self._say(link, await self._answer(link.wire.peer.node, frame))
        finally:
            link.requests -= 1
            self.in_flight -= 1

    def _say(self, link: Link, response: bytes) -> None:
        if not link.send(response) and link.ended is None:
            link.cut(OVERFULL, "the peer does not take its answers")

    def _heard_refusal(self, link: Link, frame: Frame) -> None:
        try:
            refusal = hello.decode_refusal(frame.body)
        except msgspec.DecodeError as error:
            link.cut(BAD_FRAME, f"a refusal that cannot be read: {error}")
            return
        self._refusals.note("refused_by_peer", refusal.code, refusal.detail, link.wire.peer.node.hex())
        link.cut(refusal.code, refusal.detail)
        self.on_told(refusal)

    async def _answer(self, node: bytes, frame: Frame) -> bytes:
        """The frame with what a handler says, or why there is nothing to say. A mistake in a handler is ours:
        it is logged whole, and the peer is told no more than its name."""
        try:
            request = messages.decode_request(frame.body)
            handler = self.handlers.get(type(request))
            if handler is None or (not node and not isinstance(request, STRANGER_REQUESTS)):
                failed = Failed(UNKNOWN_REQUEST, f"{type(request).__name__} is not served here")
            else:
                return _response(frame, await handler(node, request))
        except msgspec.DecodeError as error:
            failed = Failed(UNKNOWN_REQUEST, str(error))
        except PeerRefused as refused:
            failed = Failed(refused.code, refused.detail, refused.leader)
        except Exception as error:  # noqa: BLE001  # logged whole, and counted
            failed = self._mistake(node, error)
        return _response(frame, failed)

    def _mistake(self, node: bytes, error: Exception) -> Failed:
        log.error("peer_request_failed", peer=node.hex(), exc_info=error)
        self._refusals.counts[INTERNAL] += 1
        return Failed(INTERNAL, type(error).__name__)

    # --- the bulk lane ---------------------------------------------------------------------------------
    async def _serve_bulk(self, wire: Wire) -> None:
        node = wire.peer.node
        if sum(other.peer.node == node for other in self._bulk) >= BULK_OF_NODE_MAX:
            refusal = Refusal(hello.BUSY, f"{BULK_OF_NODE_MAX} bulk connections of this node are open")
            self._refusals.note("peer_refused", refusal.code, refusal.detail, node.hex())
            await wire.refuse(refusal)
            return
        try:
            with trio.CancelScope() as scope:
                self._bulk[wire] = scope
                while (frame := await _next(wire, bulk.GIVER_WAITS_S)) is not None:
                    await self._give(wire, frame)
        except LinkBroken as broken:
            self._refusals.counts[broken.code] += 1
        finally:
            del self._bulk[wire]

    async def _give(self, wire: Wire, frame: Frame) -> None:
        node = wire.peer.node
        try:
            request = messages.decode_request(frame.body)
            giver = self.givers.get(type(request))
            if giver is None:
                raise PeerRefused(UNKNOWN_REQUEST, f"{type(request).__name__} is not served here")
            chunks: Any = giver(node, request)
            if hasattr(chunks, "aclose"):
                async with aclosing(chunks):
                    await bulk.give(wire, chunks, self._given)
            else:
                await bulk.give(wire, chunks, self._given)
            return
        except LinkBroken:
            raise
        except msgspec.DecodeError as error:
            failed = Failed(UNKNOWN_REQUEST, str(error))
        except PeerRefused as refused:
            failed = Failed(refused.code, refused.detail, refused.leader)
        except Exception as error:  # noqa: BLE001  # logged whole, and counted
            failed = self._mistake(node, error)
        await bulk.say(wire, frames.encode(frames.FAILED, messages.encode(failed), frame.request))

    def _given(self, size: int) -> None:
        self.given_bytes += size

    # --- without a certificate -------------------------------------------------------------------------
    async def _serve_stranger(self, wire: Wire, address: str) -> None:
        now = round(trio.current_time() * 1000)
        if self._strangers_now >= STRANGERS_MAX or not self._strangers.admits(now):
            refusal = Refusal(hello.BUSY, "too many nodes ask to join; try again")
            self._refusals.note("stranger_refused", refusal.code, refusal.detail, address)
            await wire.refuse(refusal)
            return
        self._strangers_now += 1
        try:
            with trio.move_on_after(STRANGER_S):
                for _ in range(STRANGER_REQUESTS_MAX):
                    if (frame := await _next(wire, STRANGER_S)) is None:
                        return
                    await wire.send(await self._answer(b"", frame))
        except LinkBroken as broken:
            self._refusals.counts[broken.code] += 1
        finally:
            self._strangers_now -= 1


def _response(request: Frame, answer: Any) -> bytes:
    return frames.encode(frames.RESPONSE, messages.encode(answer), request.request)


async def _next(wire: Wire, wait_s: float) -> Frame | None:
    """The next request where one follows the other; None where the peer leaves, or says nothing."""
    received: list[Frame] = []
    with trio.move_on_after(wait_s):
        try:
            while not received:
                received = await wire.receive()
        except LinkBroken as broken:
            if broken.code == BAD_FRAME:
                raise
            return None
    if not received or received[0].kind == frames.REFUSAL:
        return None
    if len(received) > 1 or wire.reader.kept:
        raise LinkBroken(BAD_FRAME, "a request before the last one was answered")
    return received[0]


def _address(transport: trio.abc.Stream) -> str:
    if isinstance(transport, trio.SocketStream):
        try:
            return str(transport.socket.getpeername()[0])
        except OSError:  # it has left
            return "unknown"
    return "in memory"


def _to_nobody(node: bytes, frame: bytes) -> None:
    """Raft frames before the replicas are there: Raft repeats them."""


def _unmet(peer: Hello) -> None:
    """Who dials in is of no interest to composition."""


def _unheard(refusal: Refusal) -> None:
    """A refusal of this node that composition does not want to hear of."""
