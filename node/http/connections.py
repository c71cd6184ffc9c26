"""One guarded connection: Hypercorn's protocol cores inside a shell that no client can use to hurt the node.

Hypercorn keeps HTTP/1.1, HTTP/2 and WebSocket apart from sockets; those cores are used as they are, with a
few methods replaced where they were found to break. The shell is ours: deadlines per state, sends that end, a
last answer that arrives before the connection closes, and an exception that closes one connection and no
other.
"""

import errno
import itertools
import os
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any

import h2.events
import h11
import trio
from h11._readers import ContentLengthReader
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.events import Body, Response
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import STREAM_ID, H2ProtocolAssumedError, H11Protocol
from hypercorn.trio.task_group import TaskGroup, _handle
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr

from node.http.problems import MEDIA_TYPE, Problem, document
from node.http.sendfile import FileAnswer, FileData, FileSource, send_file
from node.logs import get_logger
from node.settings import Http

RECEIVE_BYTES = 64 * 1024  # one read of the socket between requests
BODY_RECEIVE_BYTES = 256 * 1024  # and within one: large enough that an upload costs few wake-ups
SEND_BYTES = 64 * 1024  # one deadline covers this much, so a slow but living client is not cut
QUEUED_EVENTS_MAX = 1  # reads that wait for the app beside what its body buffer holds: 256 KiB
LINGER_S = 2.0  # how long a closing connection still reads, so that a reset does not destroy the answer
LINGER_BYTES_MAX = 16 * 1024 * 1024  # and how much: a whole photo that was refused at its head
# A GET with one of these is not plain: it has a body, or asks for more than the answer.
NOT_PLAIN = frozenset({b"content-length", b"transfer-encoding", b"upgrade", b"expect", b"origin"})
RESETS_MAX = (
    200  # HTTP/2 streams one connection may reset (CVE-2023-44487: a reset is cheap only for its sender)
)
HELD_FRAME_BYTES_MAX = 2 * RECEIVE_BYTES  # an HTTP/2 frame we allow has 16 KiB; this is one read more, twice
GRACE_S = 0.5  # for the app tasks of a connection that is gone to notice

log = get_logger("http")

Send = Callable[[Any], Awaitable[None]]
_numbers = itertools.count(int.from_bytes(os.urandom(8), "big"))


class AppTasks(TaskGroup):
    """Starts the app for each request of one connection.

    Unlike Hypercorn's, events for an app that has ended vanish instead of waiting forever in a queue nobody
    reads, and an answer that HTTP/2 flow control holds back for too long ends the connection.
    """

    def __init__(self, send_stall_s: float, abort: Callable[[str], None]) -> None:
        super().__init__()
        self._send_stall_s = send_stall_s
        self._abort = abort

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Any, send: Send
    ) -> Callable[[Any], Awaitable[None]]:
        to_app, from_client = trio.open_memory_channel[Any](QUEUED_EVENTS_MAX)
        assert self._nursery is not None

        async def bounded_send(message: Any) -> None:
            with trio.move_on_after(self._send_stall_s) as limit:
                await send(message)
            if limit.cancelled_caught:
                self._abort("the client does not take its answer")

        # On HTTP/1.1 whatever is sent reaches the socket within the call, and has its deadline there.
        to_client = send if scope["http_version"] < "2" else bounded_send

        async def receive() -> Any:
            try:
                return await from_client.receive()
            except trio.EndOfChannel:
                return {"type": "http.disconnect"}

        async def run() -> None:
            with from_client:
                await _handle(
                    app,
                    config,
                    scope,
                    receive,
                    to_client,
                    trio.to_thread.run_sync,
                    trio.from_thread.run,
                )

        async def put(event: Any) -> None:
            if event["type"] == "http.disconnect":
                # Often told by the app's own last send: it must not wait until the app has read the queue.
                to_app.close()
                return
            try:
                await to_app.send(event)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # the app has answered; the rest of the body is for nobody

        self._nursery.start_soon(run)
        return put


class Unsent(Exception):
    """An answer ended before its end: nothing more may be sent on this connection."""


class TwoLengths(Exception):
    """A request says both how long its body is and that it comes in chunks: the client's fault."""


class Http1(H11Protocol):
    """HTTP/1.1 that says when it will close, sends head and body in one piece, and explains its own
    refusals."""

    _head: bytes = b""

    async def handle(self, event: Event) -> None:
        """As in the superclass, but bytes within a body of known length go to the app as they came: h11 would
        copy them three times."""
        if isinstance(event, RawData) and self.stream is not None and self._within_body(event.data):
            await self.stream.handle(Body(stream_id=STREAM_ID, data=event.data))
        else:
            await super().handle(event)

    def _within_body(self, data: bytes) -> bool:
        """Whether all of `data` belongs to the body under way, and is not its end, which is h11's to find."""
        if not data or not isinstance(self.connection, h11.Connection):
            return False
        reader = self.connection._reader
        if (
            not isinstance(reader, ContentLengthReader)
            or self.connection.their_state is not h11.SEND_BODY
            or self.connection.they_are_waiting_for_100_continue
            or self.connection._receive_buffer
            or len(data) >= reader._remaining
        ):
            return False
        reader._remaining -= len(data)
        return True

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Response) and event.status_code >= 200:
            unread = self.connection.their_state is h11.SEND_BODY
            if unread or self.context.terminated.is_set():
                event = Response(
                    stream_id=event.stream_id,
                    status_code=event.status_code,
                    headers=[*event.headers, (b"connection", b"close")],
                )
        await super().stream_send(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Where a proxy before us could read the bytes in another way than we do, we read nothing.

        A body with two lengths ends at different places for different readers (RFC 9112 §6.3). The upgrade to
        HTTP/2 without TLS, which RFC 9113 has retired, is not taken: what follows it would pass a proxy that
        forwards it unread. Prior knowledge still speaks HTTP/2.
        """
        names = {name for name, _ in event.headers}
        if b"content-length" in names and b"transfer-encoding" in names:
            raise TwoLengths
        if b"upgrade" not in names:
            await super()._check_protocol(event)

    async def _handle_events(self) -> None:
        try:
            await super()._handle_events()
        except TwoLengths:
            await self._send_error_response(400)
            await self.send(Closed())
        except Unsent:
            await self.send(Closed())

    async def _create_stream(self, request: h11.Request) -> None:
        answer = self._file_for(request)
        if answer is None:
            await super()._create_stream(request)
        else:
            with answer:
                await self._send_file(answer)

    def _file_for(self, request: h11.Request) -> FileAnswer | None:
        """What the application answers without being started; it may for a plain GET, on a plain socket."""
        source: FileSource | None = getattr(getattr(self.app, "app", None), "file_source", None)
        if source is None or self.ssl or request.method != b"GET" or request.http_version != b"1.1":
            return None
        headers = list(request.headers)
        if any(name in NOT_PLAIN for name, _ in headers):
            return None
        return source(request.target, headers)

    async def _send_file(self, answer: FileAnswer) -> None:
        """In the reader's task: no other request of this connection is looked at before the file has gone."""
        end = self.connection.next_event()  # a request without a body ends with its head
        assert isinstance(end, h11.EndOfMessage)
        self.keep_alive_requests += 1
        assert isinstance(self.connection, h11.Connection)
        framing = [(b"content-length", b"%d" % len(answer))]
        if self.keep_alive_requests > self.config.keep_alive_max_requests or self.context.terminated.is_set():
            framing.append((b"connection", b"close"))
        head = self.connection.send(h11.Response(status_code=answer.status, headers=framing))
        # The rest is ours and well-formed; h11 would take longer over it than over all else.
        rest = [*answer.headers, *self.config.response_headers("h11")]
        head = head[:-2] + b"".join([b"%s: %s\r\n" % line for line in rest]) + b"\r\n"
        data: Any = answer  # h11 asks its length and passes it on
        passed: Any = self.connection.send_with_data_passthrough(h11.Data(data=data))
        assert passed == [answer], "a file goes out as it is, not in chunks"
        await self.send(FileData(head, answer))  # type: ignore[arg-type]
        await self._send_h11_event(h11.EndOfMessage())
        await self._maybe_recycle()
        if self.connection.trailing_data[0]:
            await trio.lowlevel.checkpoint()  # requests that came together take turns with other connections

    async def _send_h11_event(self, event: Any) -> None:
        # As in the superclass, but a response head waits for what follows it: one packet instead of two.
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return
        if isinstance(event, h11.Response):
            self._head = data
            return
        data, self._head = self._head + (data or b""), b""
        if data:
            await self.send(RawData(data=data))

    async def _send_error_response(self, status_code: int) -> None:
        code = "headers_too_large" if status_code == 431 else "malformed_request"
        status, headers, body = refusal(Problem(code, "the HTTP request itself was malformed or too large"))
        headers = [*headers, (b"connection", b"close"), *self.config.response_headers("h11")]
        await self._send_h11_event(h11.Response(status_code=status, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class Http2(H2Protocol):
    """HTTP/2 that survives clients which still upload, or reset, what was answered."""

    _resets = 0

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        # h2 asks whether a frame is too long only when all of it is there, and it may announce 16 MiB.
        if len(self.connection.incoming_buffer._data) > HELD_FRAME_BYTES_MAX:
            await self.send(Closed())

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                # The answer went out before the upload ended: give the window back to the other streams.
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self._resets += 1
                await super()._handle_events([event])
                if self._resets > RESETS_MAX:
                    await self.send(Closed())
                    return
            else:
                await super()._handle_events([event])
        await self._flush()


class Protocol(ProtocolWrapper):
    """Chooses between the two as Hypercorn does."""

    def __init__(self, *args: Any) -> None:
        (self.app, self.config, self.context, self.task_group) = args[:4]
        (self.state, self.ssl, self.client, self.server, self.send, alpn_protocol) = args[4:]
        self.protocol = self._make(Http2 if alpn_protocol == "h2" else Http1)

    def _make(self, kind: type[Http1] | type[Http2]) -> Http1 | Http2:
        return kind(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.state,
            self.ssl,
            self.client,
            self.server,
            self.send,
        )

    async def handle(self, event: Event) -> None:
        try:
            await self.protocol.handle(event)
        except H2ProtocolAssumedError as error:
            protocol = self.protocol = self._make(Http2)
            await protocol.initiate()
            await protocol.handle(RawData(data=error.data))


class Connection:
    """The shell of one connection: owns its stream, its deadlines and its end.

    States: handshake (handshake_s) → waiting (idle_s) → head (header_s, from the first byte of a request) →
    busy (no deadline of the connection; bodies and sends have their own) → waiting … → lingering (LINGER_S) →
    closed.
    """

    def __init__(
        self, app: AppWrapper, config: Config, context: WorkerContext, settings: Http, stream: Any
    ) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._settings = settings
        self._stream = stream
        self._send_lock = trio.Lock()
        self._reading = trio.CancelScope()  # around the read under way, or the last one
        self._reads = False  # whether a read is under way
        self._deadline = inf  # of the next read
        self._all = trio.CancelScope()
        self._waiting = True
        self._head_begun = False
        self._closing = False
        self.reason = ""  # why we ended it, where that was not the client's wish
        self.protocol: Protocol

    async def run(self) -> None:
        """Serve until either side ends it. Raises whatever the protocol cores raise; the caller is the
        guard."""
        try:
            with self._all:
                await self._serve()
        except OSError as error:
            self.reason = self.reason or str(error)
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)

    def end_if_waiting(self) -> None:
        """For shutdown: a connection between two requests is ended now, a busy one after its answer."""
        if self._waiting:
            self._closing = True
            self._reading.cancel()

    def abort(self, reason: str) -> None:
        """End it at once."""
        self.reason = self.reason or reason
        self._all.cancel()

    async def _serve(self) -> None:
        alpn_protocol, tls = "http/1.1", False
        socket_stream = self._stream
        if isinstance(self._stream, trio.SSLStream):
            try:
                with trio.fail_after(self._settings.handshake_s):
                    await self._stream.do_handshake()
            except (trio.BrokenResourceError, trio.TooSlowError):
                self.reason = "no TLS handshake"
                return
            alpn_protocol, tls = self._stream.selected_alpn_protocol() or "http/1.1", True
            socket_stream = self._stream.transport_stream
        sock = socket_stream.socket
        client = parse_socket_addr(sock.family, sock.getpeername())
        server = parse_socket_addr(sock.family, sock.getsockname())
        async with AppTasks(self._settings.send_stall_s, self.abort) as tasks:
            self.protocol = Protocol(
                self._app,
                self._config,
                self._context,
                tasks,
                ConnectionState({}),
                tls,
                client,
                server,
                self._from_protocol,
                alpn_protocol,
            )
            await self.protocol.initiate()
            await self._read()
            # The apps have been told; those that do not notice are cancelled.
            self._all.deadline = trio.current_time() + GRACE_S

    async def _read(self) -> None:
        self._wait_for_request()
        while not self._closing:
            with trio.CancelScope(deadline=self._deadline) as self._reading:
                self._reads = True
                try:
                    size = RECEIVE_BYTES if self._waiting else BODY_RECEIVE_BYTES
                    data = await self._stream.receive_some(size)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    data = b""
            self._reads = False
            if self._reading.cancelled_caught:
                self.reason = self.reason or ("" if self._closing else "no request in time")
                break
            if self._waiting and not self._head_begun and isinstance(self.protocol.protocol, Http1):
                self._head_begun = True
                self._set_deadline(self._settings.header_s)
            await self.protocol.handle(RawData(bytes(data)))
            if not data:
                break
        if self._closing:
            await self._linger()
        await self.protocol.handle(Closed())

    async def _from_protocol(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._send(event.data)
        elif isinstance(event, FileData):
            await self._send_file(event)
        elif isinstance(event, Updated):
            if event.idle:
                self._wait_for_request()
            else:
                self._waiting = False
                self._set_deadline(inf)
        elif isinstance(event, Closed):
            # The reader ends the connection, not this task, which is often an app's and may be cancelled.
            self._closing = True
            self._reading.cancel()

    def _wait_for_request(self) -> None:
        self._waiting, self._head_begun = True, False
        self._set_deadline(self._settings.idle_s)
        if self._context.terminated.is_set():
            self.end_if_waiting()

    def _set_deadline(self, seconds: float) -> None:
        """How long the reader may wait from now; `inf` while a request is being answered."""
        self._deadline = trio.current_time() + seconds
        if self._reads:  # else the next read takes it; a scope's deadline is dear to set
            self._reading.deadline = self._deadline

    async def _send(self, data: bytes) -> None:
        """Hand bytes to the client, a deadline for each piece; shielded, for half an answer breaks the
        protocol."""
        async with self._send_lock:
            for at in range(0, len(data), SEND_BYTES):
                piece = data if len(data) <= SEND_BYTES else memoryview(data)[at : at + SEND_BYTES]
                with trio.CancelScope(
                    shield=True, deadline=trio.current_time() + self._settings.send_stall_s
                ) as limit:
                    try:
                        await self._stream.send_all(piece)
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        self._closing = True
                        self._reading.cancel()
                        return
                if limit.cancelled_caught:
                    self.abort("the client does not take its answer")
                    return

    async def _send_file(self, event: FileData) -> None:
        """Send a file, under the same deadlines. Not shielded: only the connection's own end can cut it.

        Raises Unsent where not all of it went.
        """
        sock = self._stream.socket
        try:
            # Without the lock: no app of this connection runs that could send.
            sock.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_CORK, 1)  # head and file in one segment
            await send_file(sock, event.head, event.answer, self._settings.send_stall_s, SEND_BYTES)
            sock.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_CORK, 0)
        except trio.TooSlowError:
            self.abort("the client does not take its answer")
            raise Unsent from None
        except OSError as wrong:
            if wrong.errno == errno.EIO:
                log.error("a file could not be sent", reason=str(wrong))
            raise Unsent from None

    async def _linger(self) -> None:
        """Close our half and read what is still coming for a little: closing with unread bytes resets the
        connection, and a reset destroys an answer the client has not read yet (RFC 9112 §9.6)."""
        with trio.move_on_after(LINGER_S):
            try:
                if not isinstance(self._stream, trio.SSLStream):  # TLS has no half-closed state
                    await self._stream.send_eof()
                seen = 0
                while seen < LINGER_BYTES_MAX:
                    data = await self._stream.receive_some(RECEIVE_BYTES)
                    if not data:
                        return
                    seen += len(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return


def refusal(problem: Problem) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of a problem for where there is no app to send it."""
    body = document(problem)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", new_request_id().encode()),
    ]
    return problem.status, headers, body


def new_request_id() -> str:
    """A name for one request, to find it in the logs: 16 hex digits, unique enough and not secret."""
    return f"{next(_numbers) & 0xFFFFFFFFFFFFFFFF:016x}"
