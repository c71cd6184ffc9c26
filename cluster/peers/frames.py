"""Frames: how messages between two nodes are cut out of a stream of bytes; pure.

A frame is a head of 18 bytes and a body. Integers are unsigned, the highest byte first.

    length u32 | kind u8 | flags u8 | request u64 | deadline_ms u32 | body of `length` bytes

`Reader` takes bytes in pieces of any size and gives whole frames. What it cannot read is the peer's fault:
the link is dropped, and nothing that follows on it is read.
"""

import struct
from collections.abc import Container
from typing import Final, NamedTuple

HELLO: Final = 1  # who speaks: the first frame of each side
REFUSAL: Final = 2  # why the link is not wanted: the last frame of a side
RAFT: Final = 3  # a RaftFrame, unread by the link
REQUEST: Final = 4
RESPONSE: Final = 5
CHUNK: Final = 6  # of a stream, on the bulk lane
END: Final = 7  # the stream is whole
FAILED: Final = 8  # the stream ends here, and is not whole
PING: Final = 9
PONG: Final = 10
KINDS: Final = {
    HELLO: "hello",
    REFUSAL: "refusal",
    RAFT: "raft",
    REQUEST: "request",
    RESPONSE: "response",
    CHUNK: "chunk",
    END: "end",
    FAILED: "failed",
    PING: "ping",
    PONG: "pong",
}

# What each side of a link may send, by the state of the link. Who dials asks, the other answers.
OPENING_DIALLER: Final = frozenset({HELLO})
OPENING_ACCEPTOR: Final = frozenset({HELLO, REFUSAL})
CONTROL_DIALLER: Final = frozenset({RAFT, REQUEST, PING, REFUSAL})
CONTROL_ACCEPTOR: Final = frozenset({RESPONSE, PONG, REFUSAL})
BULK_DIALLER: Final = frozenset({REQUEST, REFUSAL})
BULK_ACCEPTOR: Final = frozenset({CHUNK, END, FAILED, REFUSAL})
STRANGER: Final = frozenset({REQUEST, REFUSAL})

HEAD: Final = struct.Struct(">IBBQI")
HEAD_BYTES: Final = HEAD.size
FRAME_BYTES_MAX: Final = 4 << 20  # of a body: above the largest command, and 0.1 s of a slow link
CHUNK_BYTES_MAX: Final = 256 << 10  # of a stream: larger ones gain nothing and hold memory on both sides
HELLO_BYTES_MAX: Final = 4 << 10  # before the peer is known, it can make us keep no more than this
STRANGER_BYTES_MAX: Final = 32 << 10  # without a certificate: a Join with its request for one is 1 KiB
DEADLINE_MS_MAX: Final = 2**32 - 1


class FrameError(Exception):
    """The peer's fault: these bytes are no frame of this protocol."""


class Frame(NamedTuple):
    kind: int
    request: int  # numbers the requests of a link; the answer carries it back; 0 where there is none
    deadline_ms: int  # of a request: when nobody waits for the answer any more; 0: no end
    body: bytes
    flags: int = 0  # none is defined: sent as 0, and not looked at


def encode(kind: int, body: bytes = b"", request: int = 0, deadline_ms: int = 0) -> bytes:
    """Raises ValueError for a body that no peer would take: a mistake of ours."""
    if len(body) > FRAME_BYTES_MAX:
        raise ValueError(f"a {KINDS[kind]} frame of {len(body)} bytes; at most {FRAME_BYTES_MAX}")
    return HEAD.pack(len(body), kind, 0, request, deadline_ms) + body


class Reader:
    """`bytes_max` bounds a body, and with it what is kept here between two calls."""

    def __init__(self, bytes_max: int, kinds: Container[int] = KINDS) -> None:
        self.bytes_max = bytes_max
        self.kinds = kinds  # that may come from this peer, in this state of the link
        self._rest = bytearray()
        self._broken = False

    @property
    def kept(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are whole with `data`, in order. Raises FrameError, then and ever after, at the
        first that is none; those before it in the same piece are lost with the link."""
        if self._broken:
            raise FrameError("after bytes that are no frame")
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < HEAD_BYTES or len(rest) < HEAD_BYTES + self._checked_length(rest, 0):
                return []
            data = bytes(rest)
            rest.clear()
        frames: list[Frame] = []
        start, end = 0, len(data)
        while end - start >= HEAD_BYTES:
            length = self._checked_length(data, start)
            after = start + HEAD_BYTES + length
            if after > end:
                break
            _, kind, flags, request, deadline_ms = HEAD.unpack_from(data, start)
            frames.append(Frame(kind, request, deadline_ms, data[start + HEAD_BYTES : after], flags))
            start = after
        if start < end:
            rest += memoryview(data)[start:]
        return frames

    def _checked_length(self, data: bytes | bytearray, start: int) -> int:
        length: int
        length, kind, _, _, _ = HEAD.unpack_from(data, start)
        if kind not in self.kinds:
            self._broken = True
            raise FrameError(f"a frame of kind {KINDS.get(kind, kind)}, which does not belong here")
        if length > self.bytes_max:
            self._broken = True
            raise FrameError(f"a {KINDS.get(kind, kind)} frame of {length} bytes; at most {self.bytes_max}")
        return length
