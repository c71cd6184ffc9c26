"""A file as the whole answer to a request, handed by the kernel from its page cache to the client's socket.

A photo is what is asked for most and what costs least to decide. On HTTP/1.1 without TLS it passes neither
the web framework nor this process's memory: the connection asks the application for a `FileAnswer` as soon as
it has read a request's head, and sends what it gets with sendfile(2). Every other request, and every other
answer (a problem, 304, HEAD, a file that was not verified yet), goes through the routes.
"""

import errno
import os
from collections.abc import Callable, Sequence
from io import FileIO
from types import TracebackType

import trio

PIECE_BYTES = 1024 * 1024  # handed over at once: some 0.2 ms of the event loop
PROBE_BYTES = 64 * 1024  # one look into the page cache for so much: reclaim takes more than that at a time

Headers = list[tuple[bytes, bytes]]


class FileAnswer:
    """`length` > 0 bytes from `start` of an open file; owns the file. `len()` is for h11, which counts."""

    def __init__(self, status: int, headers: Headers, file: FileIO, start: int, length: int) -> None:
        self.status = status
        self.headers = headers  # names in lower case; Content-Length is the connection's
        self.file = file
        self.start = start
        self.length = length
        self.ended: Callable[[], None] | None = None  # told once, when the answer has gone or the client has

    def __len__(self) -> int:
        return self.length

    def __enter__(self) -> "FileAnswer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        if self.ended is not None:
            self.ended()


# Target and headers (names in lower case) of a GET without a body; None: ask the routes.
FileSource = Callable[[bytes, Sequence[tuple[bytes, bytes]]], FileAnswer | None]


class FileData:
    """An event of the protocol for the connection: send these bytes, then this file."""

    def __init__(self, head: bytes, answer: FileAnswer) -> None:
        self.head = head
        self.answer = answer


async def send_file(
    sock: trio.socket.SocketType, head: bytes, answer: FileAnswer, stall_s: float, stall_bytes: int
) -> None:
    """Send both; a checkpoint only where it must wait. After any error the connection cannot go on:
    part of the answer may be with the client.

    Raises trio.TooSlowError where `stall_bytes` did not leave within `stall_s`; OSError with EIO where the
    file cannot be read or is shorter than was announced; any other OSError where the client has left.
    """
    due = trio.current_time() + stall_s
    while head:
        try:
            # Trio's own send costs a turn of the event loop, even where it need not wait.
            head = head[os.write(sock.fileno(), head) :]
        except BlockingIOError:
            await _room(sock, due)
    to, descriptor = sock.fileno(), answer.file.fileno()
    at, end = answer.start, answer.start + answer.length
    cached = at  # up to here the kernel needs no disk
    marked = at  # when this much had left, `due` was set
    while at < end:
        if at >= cached:
            cached = min(at + PIECE_BYTES, end)
            if not in_page_cache(descriptor, at, cached):
                await trio.to_thread.run_sync(_fetch, descriptor, at, cached)
                due = trio.current_time() + stall_s  # the client had nothing to take meanwhile
        try:
            sent = os.sendfile(to, descriptor, at, cached - at)
        except BlockingIOError:
            await _room(sock, due)
            continue
        if sent == 0:
            raise OSError(errno.EIO, f"the file ends {end - at} bytes early")
        at += sent
        if at - marked >= stall_bytes:
            due, marked = trio.current_time() + stall_s, at
        if at < cached:
            await _room(sock, due)  # the socket is full
        elif at < end:
            await trio.lowlevel.checkpoint()


async def _room(sock: trio.socket.SocketType, due: float) -> None:
    """Wait until the socket takes more. Raises trio.TooSlowError when it does not by then."""
    with trio.CancelScope(deadline=due):
        await trio.lowlevel.wait_writable(sock)
        return
    raise trio.TooSlowError


def in_page_cache(descriptor: int, start: int, end: int) -> bool:
    """Whether these bytes (at least one) can be read without waiting for the disk, by samples.

    A wrong yes costs one wait for the disk. Where the kernel cannot say (preadv2 without RWF_NOWAIT), no.
    """
    byte = [bytearray(1)]
    try:
        for at in (*range(start, end, PROBE_BYTES), end - 1):
            os.preadv(descriptor, byte, at, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise
        return False
    return True


def _fetch(descriptor: int, start: int, end: int) -> None:
    """Read the bytes for the page cache alone."""
    os.pread(descriptor, end - start, start)
