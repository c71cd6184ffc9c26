"""Files as answers: conditional, in ranges, and fast enough that the disk or the network is what limits.

The decision (which status, which bytes) is a pure function after RFC 9110 §13 and §14; the shell opens the
file and reads it in large pieces, directly where the page cache has them and in a thread where the disk must
be asked.
"""

import errno
import os
from collections.abc import Mapping, Sequence
from io import FileIO
from types import TracebackType
from typing import Any

import msgspec
import trio
from quart import Response
from quart.wrappers.response import ResponseBody

from node.http import problems
from node.http.problems import Problem
from node.http.sendfile import FileAnswer

READ_BYTES = 256 * 1024  # one read: 8 KiB reads gave 40 MB/s, these 1.15 GB/s
RANGE_CHARACTERS_MAX = 100  # of a Range header with one range; longer ones are many ranges or nonsense


class Plan(msgspec.Struct, frozen=True):
    """What to answer: `length` bytes from `start` of a file of `size`."""

    status: int
    start: int
    length: int
    size: int


def plan(
    size: int, etag: str, *, if_none_match: str | None, range_: str | None, if_range: str | None
) -> Plan:
    """Decide from the request's headers. `etag` is strong and quoted, as it stands in the answer.

    One satisfiable range gives 206, one that lies outside 416; what is malformed, or several ranges, gives
    the whole file, which RFC 9110 §14.2 allows.
    """
    if if_none_match is not None and _matches(if_none_match, etag):
        return Plan(304, 0, 0, size)
    if range_ is None or (if_range is not None and if_range.strip() != etag):
        return Plan(200, 0, size, size)
    asked = _range(range_)
    if asked is None:
        return Plan(200, 0, size, size)
    first, last = asked
    if first is None:
        assert last is not None
        start, end = max(0, size - last), size
        satisfiable = last > 0 and size > 0
    else:
        start, end = first, size if last is None else min(last + 1, size)
        satisfiable = first < size
    if not satisfiable:
        return Plan(416, 0, 0, size)
    return Plan(206, start, end - start, size)


def answer_file(request: Any, file: FileIO, *, etag: str, headers: Mapping[str, str]) -> Response:
    """The open `file` as the request asks for it; `headers` (Content-Type, Cache-Control, …) go out with it.

    `etag` without quotes. The file is closed when the body has been sent, when the client left before, when
    the answer is dropped unsent, and when this raises.
    """
    try:
        size = os.fstat(file.fileno()).st_size
        quoted = f'"{etag}"'
        decided = plan(
            size,
            quoted,
            if_none_match=request.headers.get("If-None-Match"),
            range_=request.headers.get("Range"),
            if_range=request.headers.get("If-Range"),
        )
        if decided.status == 416:
            raise Problem(
                "range_not_satisfiable", f"the file has {size} bytes", {"Content-Range": f"bytes */{size}"}
            )
    except BaseException:
        file.close()
        raise
    if request.method == "HEAD" or decided.length == 0:
        file.close()
        response = Response(b"", status=decided.status)
    else:
        response = Response(FileBody(file, decided.start, decided.length), status=decided.status)
    response.headers.clear()
    for name, value in [*headers.items(), *_headers(decided, quoted)]:
        response.headers[name] = value
    return response


def answer_directly(
    asked: Sequence[tuple[bytes, bytes]], file: FileIO, *, etag: str, headers: Mapping[str, str]
) -> FileAnswer | None:
    """As `answer_file`, for the headers of a GET as they came, for sendfile. None, and the file closed, where
    the answer has no bytes of it; then the route answers."""
    try:
        # As for the route, the first of several headers of one name counts.
        first = {name: value.decode("latin-1") for name, value in reversed(asked)}
        quoted = f'"{etag}"'
        decided = plan(
            os.fstat(file.fileno()).st_size,
            quoted,
            if_none_match=first.get(b"if-none-match"),
            range_=first.get(b"range"),
            if_range=first.get(b"if-range"),
        )
    except BaseException:
        file.close()
        raise
    if decided.length == 0:
        file.close()
        return None
    lines = [*headers.items(), *_headers(decided, quoted)]
    encoded = [(name.lower().encode(), value.encode()) for name, value in lines if name != "Content-Length"]
    return FileAnswer(decided.status, encoded, file, decided.start, decided.length)


def _headers(decided: Plan, quoted: str) -> list[tuple[str, str]]:
    """What the decision says of the bytes that follow."""
    lines = [("ETag", quoted), ("Accept-Ranges", "bytes")]
    if decided.status != 304:
        lines.append(("Content-Length", str(decided.length)))
    if decided.status == 206:
        end = decided.start + decided.length - 1
        lines.append(("Content-Range", f"bytes {decided.start}-{end}/{decided.size}"))
    return lines


class FileBody(ResponseBody):
    """Part of an open file as the body of an answer; owns the file."""

    def __init__(self, file: Any, start: int, length: int) -> None:
        self._file = file
        self._at = start
        self._end = start + length

    async def __aenter__(self) -> "FileBody":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back; more than once does no harm."""
        self._file.close()

    def __aiter__(self) -> "FileBody":
        return self

    async def __anext__(self) -> bytes:
        if self._at >= self._end:
            raise StopAsyncIteration
        data = await read_at(self._file.fileno(), min(READ_BYTES, self._end - self._at), self._at)
        if not data:
            # Too late for a status: the client gets fewer bytes than announced, and so knows.
            raise OSError(errno.EIO, f"the file ends {self._end - self._at} bytes early")
        self._at += len(data)
        return data

    async def convert_to_sequence(self) -> bytes:
        async with self:
            return b"".join([chunk async for chunk in self])


async def read_at(descriptor: int, count: int, offset: int) -> bytes:
    """Up to `count` bytes: from the page cache at once (preadv2's RWF_NOWAIT), else by a thread."""
    buffer = bytearray(count)
    try:
        read = os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise
        read = 0
    if read == count:
        return bytes(buffer)
    if read > 0:
        return bytes(memoryview(buffer)[:read])
    return await trio.to_thread.run_sync(os.pread, descriptor, count, offset)


def not_found() -> Response:
    """The one answer for what does not exist and for what is hidden."""
    return problems.answer(Problem("not_found"))


def _range(text: str) -> tuple[int | None, int | None] | None:
    """(first, last), (first, None) or (None, suffix length) of one byte range; None for anything else."""
    unit, equals, spec = text.partition("=")
    if len(text) > RANGE_CHARACTERS_MAX or not equals or unit.strip().lower() != "bytes":
        return None
    first, dash, last = spec.strip().partition("-")
    if not dash or not all(part == "" or (part.isascii() and part.isdigit()) for part in (first, last)):
        return None
    if first == "":
        return None if last == "" else (None, int(last))
    if last != "" and int(last) < int(first):
        return None
    return int(first), int(last) if last else None


def _matches(if_none_match: str, etag: str) -> bool:
    """Weak comparison against a list (RFC 9110 §13.1.2)."""
    if if_none_match.strip() == "*":
        return True
    return any(entry.strip().removeprefix("W/") == etag for entry in if_none_match.split(","))
