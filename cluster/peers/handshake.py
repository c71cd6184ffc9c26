"""The beginning of a link: TLS, then one Hello of each side; and the wire that comes of it.

Whatever goes wrong ends in one of two exceptions that say whose fault it was: `LinkBroken` (the world's, or
bytes that are none of ours) and `Refused` (one side does not want the other). Every wait is bounded.
"""

import ssl
from collections.abc import Container
from typing import Final

import msgspec
import trio

from cluster.peers import frames, hello
from cluster.peers.frames import Frame, FrameError, Reader
from cluster.peers.hello import Admits, Hello, Name, Refusal

HANDSHAKE_S: Final = 5.0  # TLS and Hello: two round trips and 1 ms of arithmetic
LINGER_S: Final = 1.0  # after a refusal, until the peer has read it and closed
CARRIED_BYTES_MAX: Final = 128 << 30  # under the keys of one handshake; RFC 8446 §5.5 allows thrice that
LINGER_BYTES_MAX: Final = 64 << 10
EXPIRED: Final = {9, 10}  # of OpenSSL's reasons: not valid yet, not valid any more

# Codes of links that broke before they were any; counted beside those of refusals.
BAD_TLS: Final = "bad_tls"
BAD_FRAME: Final = "bad_frame"
FOREIGN_CERTIFICATE: Final = "foreign_certificate"
EXPIRED_CERTIFICATE: Final = "expired_certificate"
HANDSHAKE_SLOW: Final = "handshake_slow"
BROKEN: Final = "broken"  # the connection ended


class LinkBroken(Exception):
    """No link, or none any more. `code` is counted, `detail` is logged."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Refused(Exception):
    """`heard`: the peer refused us; else we refused it. `who`: as far as a certificate says."""

    def __init__(self, refusal: Refusal, *, heard: bool, who: Name | None) -> None:
        super().__init__(f"{'refused by the peer' if heard else 'refused'}: {refusal}")
        self.refusal = refusal
        self.heard = heard
        self.who = who


class Wire:
    """Frames over one TLS stream. One task reads, one writes; a send that was cancelled has spoilt it."""

    def __init__(self, stream: trio.SSLStream[trio.abc.Stream], reader: Reader, name: Name | None) -> None:
        self._stream = stream
        self.reader = reader
        self.carried = 0  # bytes, both ways
        self.name = name  # whom the peer's certificate names; None: it showed none
        self.peer: Hello  # once `open_wire` or `accept_wire` has given it

    async def send(self, data: bytes) -> None:
        """Raises LinkBroken."""
        try:
            await self._stream.send_all(data)
            self.carried += len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise _broken(error) from None

    async def receive(self) -> list[Frame]:
        """Some frames; none where the piece that came made none whole. Raises LinkBroken."""
        try:
            data = await self._stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise _broken(error) from None
        if not data:
            raise LinkBroken(BROKEN, "the peer closed the connection")
        self.carried += len(data)
        try:
            return self.reader.feed(bytes(data))  # bytes already: no copy
        except FrameError as error:
            raise LinkBroken(BAD_FRAME, str(error)) from None

    @property
    def is_worn(self) -> bool:
        """Its keys have been used for long enough."""
        return self.carried > CARRIED_BYTES_MAX

    async def refuse(self, refusal: Refusal) -> None:
        """Say why, and close in a way that lets the peer read it. Does not raise."""
        with trio.move_on_after(LINGER_S):
            try:
                await self.send(frames.encode(frames.REFUSAL, hello.encode(refusal)))
                left = LINGER_BYTES_MAX
                while left > 0 and (data := await self._stream.receive_some()):
                    left -= len(data)
            except (LinkBroken, trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # it left before: the refusal is counted all the same
        await self.aclose()

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)

    def allow(self, kinds: Container[int], bytes_max: int) -> None:
        self.reader.kinds = kinds
        self.reader.bytes_max = bytes_max


async def open_wire(
    transport: trio.abc.Stream,
    context: ssl.SSLContext,
    mine: Hello,
    node: bytes | None,
    admits: Admits | None,
) -> Wire:
    """The dialler's side, to `node` (None: to whichever the certificate names, or to nobody known).
    Closes `transport` unless it returns. Raises LinkBroken, Refused."""
    wire = await _secured(transport, context, server_side=False)
    try:
        with trio.fail_after(HANDSHAKE_S):
            await wire.send(frames.encode(frames.HELLO, hello.encode(mine)))
            theirs = await _first_frame(wire)
            refusal = _judge(mine, theirs, wire.name, node, admits)
        if refusal is not None:
            await wire.refuse(refusal)
            raise Refused(refusal, heard=False, who=wire.name)
    except trio.TooSlowError:
        await wire.aclose()
        raise LinkBroken(HANDSHAKE_SLOW, f"no Hello within {HANDSHAKE_S:g} s") from None
    except BaseException:
        await wire.aclose()
        raise
    bulk = mine.lane == hello.BULK
    wire.allow(frames.BULK_ACCEPTOR if bulk else frames.CONTROL_ACCEPTOR, frames.FRAME_BYTES_MAX)
    wire.peer = theirs
    return wire


async def accept_wire(transport: trio.abc.Stream, context: ssl.SSLContext, me: Hello, admits: Admits) -> Wire:
    """The other side. A peer without a certificate has a `Hello` without a node. Closes `transport` unless
    it returns. Raises LinkBroken, Refused."""
    wire = await _secured(transport, context, server_side=True)
    try:
        with trio.fail_after(HANDSHAKE_S):
            theirs = await _first_frame(wire)
            mine = msgspec.structs.replace(me, lane=theirs.lane)
            refusal = hello.judge(mine, theirs, wire.name)
            if refusal is None and theirs.node:
                refusal = admits(theirs)
            if refusal is None:
                await wire.send(frames.encode(frames.HELLO, hello.encode(mine)))
        if refusal is not None:
            await wire.refuse(refusal)
            raise Refused(refusal, heard=False, who=wire.name)
    except trio.TooSlowError:
        await wire.aclose()
        raise LinkBroken(HANDSHAKE_SLOW, f"no Hello within {HANDSHAKE_S:g} s") from None
    except BaseException:
        await wire.aclose()
        raise
    if not theirs.node:
        wire.allow(frames.STRANGER, frames.STRANGER_BYTES_MAX)
    elif theirs.lane == hello.BULK:
        wire.allow(frames.BULK_DIALLER, frames.STRANGER_BYTES_MAX)
    else:
        wire.allow(frames.CONTROL_DIALLER, frames.FRAME_BYTES_MAX)
    wire.peer = theirs
    return wire


def _judge(
    mine: Hello, theirs: Hello, name: Name | None, node: bytes | None, admits: Admits | None
) -> Refusal | None:
    """What the dialler has against who answered."""
    if not mine.node:  # a joiner: whom it trusts, its TLS context says
        if hello.common_version(mine, theirs) is None:
            return Refusal(hello.NO_COMMON_VERSION)
        return None
    if (refusal := hello.judge(mine, theirs, name)) is not None:
        return refusal
    if node is not None and theirs.node != node:
        return Refusal(hello.WRONG_IDENTITY, f"node {node.hex()} was dialled")
    return admits(theirs) if admits is not None else None


async def _secured(transport: trio.abc.Stream, context: ssl.SSLContext, *, server_side: bool) -> Wire:
    stream = trio.SSLStream(transport, context, server_side=server_side, https_compatible=True)
    try:
        with trio.fail_after(HANDSHAKE_S):
            await stream.do_handshake()
        name = hello.name_in(stream.getpeercert())
        if name is None and stream.getpeercert(binary_form=True) and context.verify_mode != ssl.CERT_NONE:
            raise LinkBroken(FOREIGN_CERTIFICATE, "the certificate names no node")
    except trio.TooSlowError:
        await trio.aclose_forcefully(stream)
        raise LinkBroken(HANDSHAKE_SLOW, f"no TLS within {HANDSHAKE_S:g} s") from None
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        raise _broken(error, BAD_TLS) from None
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    opening = frames.OPENING_DIALLER if server_side else frames.OPENING_ACCEPTOR
    return Wire(stream, Reader(frames.HELLO_BYTES_MAX, opening), name)


async def _first_frame(wire: Wire) -> Hello:
    while not (received := await wire.receive()):
        pass
    frame = received[0]
    try:
        if frame.kind == frames.REFUSAL:
            raise Refused(hello.decode_refusal(frame.body), heard=True, who=wire.name)
        theirs = hello.decode_hello(frame.body)
    except msgspec.DecodeError as error:
        raise LinkBroken(BAD_FRAME, f"a {frames.KINDS[frame.kind]} that cannot be read: {error}") from None
    if len(received) > 1 or wire.reader.kept:
        raise LinkBroken(BAD_FRAME, "more was said before the answer to Hello")
    return theirs


def _broken(error: BaseException, code: str = BROKEN) -> LinkBroken:
    """What trio and ssl say, as one of our codes. The innermost cause knows most."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        expired = error.verify_code in EXPIRED
        return LinkBroken(EXPIRED_CERTIFICATE if expired else FOREIGN_CERTIFICATE, error.verify_message)
    if isinstance(error, ssl.SSLEOFError):
        return LinkBroken(code, "the connection ended")
    if isinstance(error, ssl.SSLError):
        return LinkBroken(BAD_TLS, error.reason or str(error))
    return LinkBroken(code, str(error) or "the connection ended")
