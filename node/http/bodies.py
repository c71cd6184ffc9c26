"""Request bodies: JSON read whole, uploads read as they come, forms taken apart on the way; all bounded and
timed.

Bytes are counted here and not by the framework, whose one limit for all routes lets chunked bodies pass. A
client must keep up a pace, too: a deadline per chunk alone would wait a week for one that sends a byte a
second.
"""

from collections.abc import AsyncIterator
from typing import Any, TypeVar

import msgspec
import trio
from quart import current_app
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio import multipart

from node.http.problems import Problem, parse
from node.settings import Http

FORM_PARTS_MAX = 16  # a photo has four
FORM_TEXT_BYTES_MAX = 64 * 1024  # of one text field; the longest allowed is 5000 code points
FORM_HEAD_BYTES_MAX = 16 * 1024  # of what must come before the first part, or of one part's headers
PADDING_BYTES_MAX = 64  # of white space after a boundary
BOUNDARY_CHARACTERS_MAX = 70  # RFC 2046 §5.1.1

# Before anybody has signed in: a password of 1024 characters, each spelled as an escape, and a little more.
STRANGERS_BYTES_MAX = 16 * 1024

T = TypeVar("T")


class Pace:
    """How long to wait for the next chunk, so that `bytes_min` come every `window_s` of waiting.

    Only waiting counts, not what the route does between chunks. A pure core: fed with seconds, asks no clock.
    """

    def __init__(self, window_s: float, bytes_min: int) -> None:
        self._window_s = window_s
        self._bytes_min = bytes_min
        self._waited = 0.0
        self._bytes = 0

    def patience(self) -> float:
        """Seconds that are left for the next chunk."""
        return self._window_s - self._waited

    def heard(self, count: int, waited: float) -> None:
        """`count` bytes came after `waited` seconds."""
        self._bytes += count
        self._waited += waited
        if self._bytes >= self._bytes_min:
            self._bytes, self._waited = 0, 0.0


class Field(msgspec.Struct, frozen=True):
    """A text field of a form."""

    name: str
    value: str


class FileStart(msgspec.Struct, frozen=True):
    """A file field begins. The file's name and type are the client's words, not facts."""

    name: str
    file_name: str
    content_type: str


class FileChunk(msgspec.Struct, frozen=True):
    """Some bytes of the file that began last."""

    data: bytes


class FileEnd(msgspec.Struct, frozen=True):
    """That file is complete."""


FormEvent = Field | FileStart | FileChunk | FileEnd


async def read_json(request: Any, kind: type[T], bytes_max: int | None = None) -> T:
    """The JSON body as `kind` (a problems.Body), of the listener's json_bytes_max or `bytes_max` at most.

    Raises Problem: 400 malformed_json, 408 too_slow, 413 too_large, 415 unsupported_media, 422 as `parse`.
    """
    if request.content_type and request.mimetype != "application/json":
        raise Problem("unsupported_media", f"send application/json, not {request.mimetype[:80]}")
    most = _http().json_bytes_max
    return parse(kind, await read_whole(request, most if bytes_max is None else min(bytes_max, most)))


async def read_whole(request: Any, limit: int) -> bytes:
    """All of a body of at most `limit` bytes. Raises Problem 408, 413."""
    return b"".join([chunk async for chunk in stream(request, limit)])


async def stream(request: Any, limit: int) -> AsyncIterator[bytes]:
    """The body's chunks as they come, `limit` bytes at most in all.

    While a route does not ask for the next, the client is held back. Raises Problem 413 too_large at once
    where the length is announced, 408 too_slow.
    """
    announced = request.content_length
    if announced is not None and announced > limit:
        raise _too_large(limit, announced)
    http = _http()
    pace = Pace(http.body_stall_s, http.body_stall_bytes)
    seen = 0
    body = aiter(request.body)
    while True:
        began = trio.current_time()
        chunk = b""
        with trio.move_on_after(pace.patience()) as wait:
            try:
                chunk = await anext(body)
            except StopAsyncIteration:
                return
        if wait.cancelled_caught:
            raise Problem(
                "too_slow",
                f"fewer than {http.body_stall_bytes} bytes came in {http.body_stall_s:g} s; {seen} in all",
                {"Connection": "close"},
            )
        pace.heard(len(chunk), trio.current_time() - began)
        seen += len(chunk)
        if seen > limit:
            raise _too_large(limit, None)
        if chunk:
            yield chunk


async def form(request: Any, limit: int) -> AsyncIterator[FormEvent]:
    """A multipart form (RFC 7578), its files in pieces as they come; `limit` bounds the whole body.

    Raises Problem: 400 malformed_form, 408, 413, 415, 422 invalid_field for text that is not UTF-8 or has
    NUL.
    """
    boundary = _boundary(request)
    decoder = multipart.MultipartDecoder(boundary, max_parts=FORM_PARTS_MAX)
    part: multipart.Field | multipart.File | None = None
    text = bytearray()
    try:
        async for chunk in _whole_boundaries(stream(request, limit), b"--" + boundary):
            decoder.receive_data(chunk)
            while not isinstance(event := decoder.next_event(), multipart.NeedData):
                if isinstance(event, multipart.Epilogue):
                    return
                if isinstance(event, multipart.Field | multipart.File):
                    part = event
                    _check_name(part.name)
                    if isinstance(part, multipart.File):
                        content_type = part.headers.get("content-type", "")
                        yield FileStart(part.name, part.filename, content_type)
                elif isinstance(event, multipart.Data):
                    if isinstance(part, multipart.File):
                        if event.data:
                            yield FileChunk(event.data)
                        if not event.more_data:
                            yield FileEnd()
                    elif part is not None:
                        text += event.data
                        if len(text) > FORM_TEXT_BYTES_MAX:
                            raise Problem("too_large", f"the field {part.name} has more than 64 KiB")
                        if not event.more_data:
                            yield Field(part.name, _text(part.name, bytes(text)))
                            text.clear()
            if decoder.state in (multipart.State.PREAMBLE, multipart.State.PART, multipart.State.EPILOGUE):
                _check_held(decoder)
    except RequestEntityTooLarge:
        raise Problem("malformed_form", f"a form may have {FORM_PARTS_MAX} parts") from None
    except (ValueError, AttributeError) as error:
        # What the decoder raises on bytes that are no form; some of its checks are errors on a None.
        raise Problem("malformed_form", f"the multipart form is broken or cut short: {error}") from None


async def _whole_boundaries(chunks: AsyncIterator[bytes], marker: bytes) -> AsyncIterator[bytes | None]:
    """The same bytes, cut so that no piece ends between a boundary and what tells its kind; None at the end.

    The decoder, given a piece that ends there, takes the line break before the boundary for a part's data.
    """
    line = b"\r\n" + marker
    held = b""
    async for chunk in chunks:
        held += chunk
        end = _decided(held, line)
        if end:
            yield held[:end]
        held = held[end:]
    if held:
        yield held
    yield None


def _decided(data: bytes, line: bytes) -> int:
    """How much of `data` may go on: up to a boundary line at its end that is not complete."""
    at = data.rfind(line, max(0, len(data) - len(line) - PADDING_BYTES_MAX))
    if at >= 0 and data[at + len(line) :].strip(b" \t") in (b"", b"-", b"\r"):
        return at
    for length in range(min(len(line), len(data)), 0, -1):
        if data.endswith(line[:length]):
            return len(data) - length
    return len(data)


def _check_held(decoder: multipart.MultipartDecoder) -> None:
    """Outside of a part's data nothing long may pile up unparsed; after the last boundary nothing is of
    interest."""
    if decoder.state is multipart.State.EPILOGUE:
        del decoder.buffer[:]
    elif len(decoder.buffer) > FORM_HEAD_BYTES_MAX:
        raise Problem("malformed_form", "the boundary or the end of a part's headers does not come")


def _boundary(request: Any) -> bytes:
    kind, options = parse_options_header(request.content_type or "")
    if kind != "multipart/form-data":
        raise Problem("unsupported_media", "send multipart/form-data")
    boundary = options.get("boundary", "")
    if not 0 < len(boundary) <= BOUNDARY_CHARACTERS_MAX or not boundary.isascii():
        raise Problem("malformed_form", "the Content-Type names no usable boundary")
    return boundary.encode("ascii")


def _check_name(name: str | None) -> None:
    if not name:
        raise Problem("malformed_form", "a part of the form has no name")


def _text(name: str, data: bytes) -> str:
    try:
        value = data.decode()
    except UnicodeDecodeError:
        raise Problem("invalid_field", f"the field {name[:80]} is not UTF-8") from None
    if "\0" in value:
        raise Problem("invalid_field", f"the field {name[:80]} contains a NUL character; leave it out")
    return value


def _too_large(limit: int, announced: int | None) -> Problem:
    size = "more" if announced is None else f"{announced}"
    return Problem("too_large", f"the body may have {limit} bytes; this one has {size}")


def _http() -> Http:
    """The settings of the listener this request came through."""
    settings: Http = current_app.http  # type: ignore[attr-defined]
    return settings
