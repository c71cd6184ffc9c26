"""The dialling side of links: one other node, kept connected to, and asked.

`Peer.run` dials, and dials again. Requests and Raft frames of this node leave on the link that it dialled;
the answers come back on it. A caller waits for nothing but its own answer: without a link it is told so at
once.
"""

import random
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple

import msgspec
import outcome
import trio

from cluster.peers import frames, hello, messages
from cluster.peers.bulk import Pool
from cluster.peers.errors import PeerRefused, PeerSilent, PeerUnreachable
from cluster.peers.frames import Frame
from cluster.peers.handshake import BAD_FRAME, BROKEN, LinkBroken, Refused, Wire, open_wire
from cluster.peers.hello import Admits, Hello, Name, Refusal
from cluster.peers.link import RAFT_BYTES_MAX, RAFT_FRAMES_MAX, Link
from cluster.peers.refusals import Refusals, log

CONNECT_S: Final = 3.0
RETRY_FIRST_S: Final = 0.05  # a node that restarts is back in a second
RETRY_MAX_S: Final = 2.0  # so a node that comes back waits no longer for anybody
STEADY_S: Final = 1.0  # a link that lived shorter was a failure too, or two nodes could spin
REGAIN_S: Final = 0.3  # a broken link that is made again within this was not lost
CALLS_MAX: Final = 1024  # under way to one node; half of what it lets run

Transport = Callable[[str], Awaitable[trio.abc.Stream]]


class Around(NamedTuple):
    """What all peers of a node share. `context` is asked for each time, for certificates are renewed."""

    me: Hello
    context: Callable[[], ssl.SSLContext]
    admits: Admits
    transport: Transport
    refusals: Refusals
    chance: random.Random
    on_connected: Callable[[bytes, bool], None]
    on_told: Callable[[Refusal], None]


class PeerStatistics(msgspec.Struct, frozen=True):
    address: str
    connected: bool
    version: int  # of the protocol, as agreed on; 0 while not connected
    level: int  # the peer's feature level
    round_trip_s: float | None
    calls: int  # under way
    streams: int
    queued_bytes: int
    queued_frames: int
    raft_sent: int
    raft_dropped: int
    pulled_bytes: int
    links_made: int
    last_error: str


class Peer:
    """One other node at one address."""

    def __init__(self, node: bytes, address: str, around: Around) -> None:
        self.node = node
        self.address = address
        self.link: Link | None = None
        self.hello: Hello | None = None  # the last one
        self._around = around
        self._pool = Pool(self._open_bulk)
        self._calls: dict[int, trio.lowlevel.Task] = {}
        self._number = 0
        self._told = False
        self._since = trio.current_time()  # when `_told` became what it is
        self._raft_sent = 0
        self._raft_dropped = 0
        self._links_made = 0
        self._last_error = ""

    # --- what this node wants of the other -----------------------------------------------------------
    def send_raft(self, body: bytes) -> None:
        link, frame = self.link, frames.encode(frames.RAFT, body)
        if link is not None and link.send(frame, bytes_max=RAFT_BYTES_MAX, frames_max=RAFT_FRAMES_MAX):
            self._raft_sent += 1
        else:
            self._raft_dropped += 1

    async def call(self, request: Any, deadline_s: float) -> Any:
        """Raises PeerUnreachable, PeerSilent, PeerRefused."""
        number = self._number = self._number + 1
        link = await self._ask(request, number, deadline_s)

        def abort(_: Any) -> trio.lowlevel.Abort:
            del self._calls[number]
            link.withdraw(number)
            return trio.lowlevel.Abort.SUCCEEDED

        with trio.move_on_after(deadline_s):
            self._calls[number] = trio.lowlevel.current_task()
            answer = self._read(await trio.lowlevel.wait_task_rescheduled(abort))
            if isinstance(answer, messages.Failed):
                raise PeerRefused.of(answer)
            self._check(request, answer)
            return answer
        if link.unsent(number):
            raise PeerUnreachable(f"node {self.node.hex()}: it was not sent in {deadline_s:g} s")
        raise PeerSilent(f"node {self.node.hex()}: no answer in {deadline_s:g} s")

    async def _ask(self, request: Any, number: int, deadline_s: float) -> Link:
        """Queue it. Raises PeerUnreachable."""
        link = self.link
        if link is None:
            why = f"not connected ({self._last_error})" if self._last_error else "not connected"
        elif len(self._calls) >= CALLS_MAX:
            why = f"{CALLS_MAX} calls to it are under way"
        else:
            deadline_ms = min(max(1, round(deadline_s * 1000)), frames.DEADLINE_MS_MAX)
            body = messages.encode(request)
            if link.send(frames.encode(frames.REQUEST, body, number, deadline_ms), number):
                return link
            why = "the link broke" if link.ended else f"{link.queued_bytes} bytes wait to be sent to it"
        await trio.lowlevel.checkpoint()
        raise PeerUnreachable(f"node {self.node.hex()}: {why}")

    def stream(self, request: Any, idle_s: float) -> AbstractAsyncContextManager[Any]:
        return self._pool.stream(messages.encode(request), idle_s)

    # --- the link --------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        try:
            while True:
                lived_s = await self._connect()
                if lived_s >= STEADY_S:
                    failures = 0
                    continue  # it was a link, and broke: the first attempt comes at once
                self._tell(False)
                await trio.sleep(self._pause(failures))
                failures += 1
        finally:
            self._tell(False)
            with trio.CancelScope(shield=True):
                await self._pool.aclose()

    def _pause(self, failures: int) -> float:
        longest = min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(failures, 16))
        return self._around.chance.uniform(longest / 2, longest)

    async def _connect(self) -> float:
        """Dial, and serve the link until it ends. For how long there was one."""
        wire: Wire | None = None
        with trio.move_on_after(REGAIN_S) if self._told else trio.CancelScope():
            wire = await self._dialled(hello.CONTROL)
        if wire is None:
            return 0.0
        link = Link(wire, self._take, pings=True)
        if self._told and self.hello is not None and wire.peer.start != self.hello.start:
            self._tell(False)  # it was away, however short
        self.hello, self.link = wire.peer, link
        self._links_made += 1
        since = trio.current_time()
        self._tell(True)
        log.info("link_made", peer=self.node.hex(), address=self.address, boot=wire.peer.boot)
        try:
            ended = await link.run()
        finally:
            self.link = None
            self._let_go(link)
            await self._pool.aclose()  # what is kept there has most likely ended too
        self._last_error = ended.detail
        log.info("link_lost", peer=self.node.hex(), code=ended.code, detail=ended.detail)
        return trio.current_time() - since

    def _let_go(self, link: Link) -> None:
        """Whoever waits is told; who was still in the queue may be sure that nothing was sent."""
        who = f"node {self.node.hex()}: the link broke"
        for number, task in self._calls.items():
            error = PeerUnreachable(f"{who} before it was sent") if link.unsent(number) else PeerSilent(who)
            trio.lowlevel.reschedule(task, outcome.Error(error))
        self._calls.clear()

    async def _dialled(self, lane: str) -> Wire | None:
        """None where it did not succeed; `_last_error` says why, and so does the log."""
        around = self._around
        try:
            mine = msgspec.structs.replace(around.me, lane=lane)
            with trio.fail_after(CONNECT_S):
                transport = await around.transport(self.address)
            return await open_wire(transport, around.context(), mine, self.node, around.admits)
        except trio.TooSlowError:
            code, detail = BROKEN, f"no connection in {CONNECT_S:g} s"
        except OSError as error:
            code, detail = BROKEN, str(error)
        except LinkBroken as broken:
            code, detail = broken.code, broken.detail
        except Refused as refused:
            code, detail = refused.refusal.code, refused.refusal.detail
            if refused.heard and refused.who == Name(around.me.cluster, self.node):
                around.on_told(refused.refusal)  # not of whoever else may be at this address
        self._last_error = f"{code}: {detail}"
        around.refusals.note("no_link_to_peer", code, detail, self.node.hex())
        return None

    async def _open_bulk(self) -> Wire:
        wire = await self._dialled(hello.BULK)
        if wire is None:
            raise PeerUnreachable(f"node {self.node.hex()}: {self._last_error}")
        return wire

    def _tell(self, connected: bool) -> None:
        if connected != self._told:
            self._told = connected
            self._since = trio.current_time()
            self._around.on_connected(self.node, connected)

    def _take(self, frame: Frame) -> None:
        if frame.kind == frames.RESPONSE:
            task = self._calls.pop(frame.request, None)
            if task is not None:  # else nobody waits any more
                trio.lowlevel.reschedule(task, outcome.Value(frame.body))
        elif self.link is not None:
            if frame.kind == frames.PONG:
                self.link.ponged()
            else:
                self._refused(self.link, frame)

    def _check(self, request: Any, answer: Any) -> None:
        wanted = messages.ANSWERS.get(type(request))
        if wanted is None or isinstance(answer, wanted):
            return
        said = f"{type(request).__name__} was answered with {type(answer).__name__}"
        if self.link is not None:
            self.link.cut(BAD_FRAME, said)
        raise PeerSilent(f"node {self.node.hex()}: {said}")

    def _read(self, body: bytes) -> Any:
        try:
            return messages.decode_response(body)
        except msgspec.DecodeError as error:
            if self.link is not None:
                self.link.cut(BAD_FRAME, f"an answer that cannot be read: {error}")
            raise PeerSilent(f"node {self.node.hex()}: its answer cannot be read") from None

    def _refused(self, link: Link, frame: Frame) -> None:
        try:
            refusal = hello.decode_refusal(frame.body)
        except msgspec.DecodeError as error:
            link.cut(BAD_FRAME, f"a refusal that cannot be read: {error}")
            return
        self._around.refusals.note("refused_by_peer", refusal.code, refusal.detail, self.node.hex())
        link.cut(refusal.code, refusal.detail)
        self._around.on_told(refusal)

    def review(self) -> None:
        link = self.link
        if link is not None and (refusal := self._around.admits(link.wire.peer)) is not None:
            self._around.refusals.note("link_ended", refusal.code, refusal.detail, self.node.hex())
            link.cut(refusal.code, refusal.detail, refusal)

    @property
    def away_s(self) -> float:
        """Since the link was lost, or first wanted; 0 while there is one."""
        return 0.0 if self._told else trio.current_time() - self._since

    def statistics(self) -> PeerStatistics:
        link, peer = self.link, self.hello
        return PeerStatistics(
            address=self.address,
            connected=link is not None,
            version=(hello.common_version(self._around.me, peer) or 0) if link and peer else 0,
            level=peer.level if peer else 0,
            round_trip_s=link.round_trip_s if link else None,
            calls=len(self._calls),
            streams=self._pool.streams,
            queued_bytes=link.queued_bytes if link else 0,
            queued_frames=link.queued_frames if link else 0,
            raft_sent=self._raft_sent,
            raft_dropped=self._raft_dropped,
            pulled_bytes=self._pool.pulled_bytes,
            links_made=self._links_made,
            last_error=self._last_error,
        )
