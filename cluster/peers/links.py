"""The links of a node: to every other member one that it dialled, and those that the others dialled.

What crosses the border to the rest of the node are bytes of Raft frames, typed requests with their answers,
and streams. Each node asks on the link that it dialled itself and is asked on those that it accepted: nobody
has to agree on who dials, two that dial at once do not collide, and a network that lets one side through only
fails exactly the requests of the other.
"""

import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeVar

import msgspec
import trio

from cluster.peers import hello
from cluster.peers.certificates import Credentials, client_context, server_context
from cluster.peers.dialling import Around, Peer, PeerStatistics, Transport
from cluster.peers.errors import PeerRefused, PeerSilent, PeerUnreachable
from cluster.peers.hello import Admits, Hello, Refusal
from cluster.peers.messages import Request, Response
from cluster.peers.refusals import Refusals
from cluster.peers.serving import Serving

__all__ = ["Links", "LinksStatistics", "PeerRefused", "PeerSilent", "PeerUnreachable", "introduction", "tcp"]

R = TypeVar("R", bound=Request)


class LinksStatistics(msgspec.Struct, frozen=True):
    peers: dict[bytes, PeerStatistics]  # those that this node dials
    accepted: int  # links that others dialled
    requests: int  # of others, with handlers that run
    given_bytes: int  # of streams that others pulled
    refused: dict[str, int]  # by code: refusals said and heard, links that broke


def introduction(
    cluster: bytes, node: bytes, boot: int, start: bytes, level: int, address: str = ""
) -> Hello:
    """What a node says of itself. `start`: START_BYTES random bytes, of this start of the process."""
    versions = hello.VERSION_MIN, hello.VERSION_MAX
    return Hello(*versions, cluster, node, boot, start, level, hello.CONTROL, address)


async def tcp(address: str) -> trio.abc.Stream:
    """Connect to `host:port`, `[v6 address]:port` too. Raises OSError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise OSError(f"{address!r} is no host:port")
    try:
        return await trio.open_tcp_stream(host.removeprefix("[").removesuffix("]"), int(port))
    except OSError as error:
        if isinstance(error.__cause__, ExceptionGroup):  # one for each address that the name has
            raise OSError(f"{address}: {error.__cause__.exceptions[0]}") from None
        raise


class Links:
    """Everything from the trio thread. `run` must be running for anything to move.

    `admits` decides over every Hello of a node with a certificate, from both directions; `on_refused` is
    called when a peer says that this node is a stale copy or revoked: it must end then.
    """

    def __init__(
        self,
        me: Hello,
        credentials: Credentials,
        admits: Admits,
        *,
        on_refused: Callable[[Refusal], None] | None = None,
        transport: Transport = tcp,
        chance: random.Random | None = None,
    ) -> None:
        self.on_connected: Callable[[bytes, bool], None] = _nobody_hears
        self.refusals = Refusals()
        self._on_refused = on_refused
        self._serving = Serving(me, admits, self.refusals)
        self._serving.on_told = self._told
        self._around = Around(
            me=me,
            context=lambda: self._client,
            admits=admits,
            transport=transport,
            refusals=self.refusals,
            chance=chance or random.Random(),
            on_connected=lambda node, connected: self.on_connected(node, connected),
            on_told=self._told,
        )
        self._peers: dict[bytes, Peer] = {}
        self._scopes: dict[bytes, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._server: ssl.SSLContext
        self._client: ssl.SSLContext
        self.show(credentials)

    # --- what others ask of this node -------------------------------------------------------------------
    def serve(self, request: type[R], handler: Callable[[bytes, R], Awaitable[Response]]) -> None:
        """`handler(sender, request)`; the sender of a Describe or Join may be b"", a node without a
        certificate. What it raises as PeerRefused is told to the peer."""
        self._serving.handlers[request] = handler

    def serve_stream(self, request: type[R], handler: Callable[[bytes, R], AsyncIterator[bytes]]) -> None:
        self._serving.givers[request] = handler

    @property
    def on_met(self) -> Callable[[Hello], None]:
        """Called with what a node said that was let in on a link of its own."""
        return self._serving.on_met

    @on_met.setter
    def on_met(self, take: Callable[[Hello], None]) -> None:
        self._serving.on_met = take

    @property
    def on_raft(self) -> Callable[[bytes, bytes], None]:
        return self._serving.on_raft

    @on_raft.setter
    def on_raft(self, take: Callable[[bytes, bytes], None]) -> None:
        self._serving.on_raft = take

    # --- what this node asks of others ------------------------------------------------------------------
    def send_raft(self, node: bytes, frame: bytes) -> None:
        """Dropped, and counted, where there is no link or its queue is full. Raises ValueError for a frame
        of over `frames.FRAME_BYTES_MAX`."""
        peer = self._peers.get(node)
        if peer is not None:
            peer.send_raft(frame)

    async def call(self, node: bytes, request: Request, *, deadline_s: float) -> Response:
        """Raises PeerUnreachable, PeerSilent, PeerRefused."""
        answer: Response = await self._peer(node).call(request, deadline_s)
        return answer

    def stream(
        self, node: bytes, request: Request, *, idle_s: float
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Pull a stream; `idle_s` bounds every wait for its next bytes. Raises the same, on entering and
        while reading; who has read to the end has all of it."""
        return self._peer(node).stream(request, idle_s)

    def connected(self, node: bytes) -> bool:
        """Has this node a link on which it can ask `node`?"""
        peer = self._peers.get(node)
        return peer is not None and peer.link is not None

    def away_s(self, node: bytes) -> float:
        """For how long there has been no link to `node`; 0 while there is one, and for a stranger."""
        peer = self._peers.get(node)
        return peer.away_s if peer else 0.0

    def heard_of(self, node: bytes) -> Hello | None:
        """What `node` said of itself when it was last connected to."""
        peer = self._peers.get(node)
        return peer.hello if peer is not None else None

    def _peer(self, node: bytes) -> Peer:
        peer = self._peers.get(node)
        if peer is None:
            raise PeerUnreachable(f"node {node.hex()} is not among the members that are dialled")
        return peer

    # --- members and certificates -----------------------------------------------------------------------
    def connect_to(self, members: Mapping[bytes, str]) -> None:
        """Keep links to exactly these, node id → address; this node itself is left out. What is as before
        stays connected."""
        me = self._around.me.node
        wanted = {node: address for node, address in members.items() if node != me}
        for node, peer in list(self._peers.items()):
            if wanted.get(node) != peer.address:
                del self._peers[node]
                if (scope := self._scopes.pop(node, None)) is not None:
                    scope.cancel()
        for node, address in wanted.items():
            if node not in self._peers:
                peer = self._peers[node] = Peer(node, address, self._around)
                self._start(peer)

    def review(self) -> None:
        """Members were revoked or registered a new boot: ask `admits` again about every link."""
        self._serving.review()
        for peer in self._peers.values():
            peer.review()

    def show(self, credentials: Credentials) -> None:
        """Use these files from the next handshake on: a certificate was renewed. Raises BadCertificate and
        OSError, and keeps those of before."""
        server, client = server_context(credentials), client_context(credentials)
        self._server, self._client = server, client

    def _told(self, refusal: Refusal) -> None:
        if refusal.code in hello.FINAL and self._on_refused is not None:
            self._on_refused(refusal)

    # --- running ---------------------------------------------------------------------------------------
    async def run(
        self,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]] = (),
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until cancelled. `listeners` (`trio.open_tcp_listeners`) are closed at the end."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for peer in self._peers.values():
                    self._start(peer)
                if listeners:
                    await nursery.start(partial(trio.serve_listeners, self.accept, list(listeners)))
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def accept(self, transport: trio.abc.Stream) -> None:
        """Serve one connection that came in, until it ends."""
        await self._serving.accept(transport, self._server)

    def _start(self, peer: Peer) -> None:
        if self._nursery is not None:
            scope = self._scopes[peer.node] = trio.CancelScope()
            self._nursery.start_soon(_run_within, scope, peer)

    def statistics(self) -> LinksStatistics:
        return LinksStatistics(
            {node: peer.statistics() for node, peer in self._peers.items()},
            self._serving.links,
            self._serving.in_flight,
            self._serving.given_bytes,
            dict(self.refusals.counts),
        )


async def _run_within(scope: trio.CancelScope, peer: Peer) -> None:
    with scope:
        await peer.run()


def _nobody_hears(node: bytes, connected: bool) -> None:
    """Before composition has said who wants to know."""
