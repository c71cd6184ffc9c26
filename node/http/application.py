"""The web application without its routes: what happens around every request.

Quart's hooks cost tens of microseconds each, so what every request needs (its id, its measurement, back-
pressure on its body, CORS, security headers) is done once, in the exchange between the server and Quart.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import perf_counter
from typing import Any

import trio
from quart import Response
from quart.utils import encode_headers
from quart.wrappers.response import DataBody
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers.request import TrioBody, TrioRequest
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.routing import BaseConverter

from node.http import problems
from node.http.connections import new_request_id
from node.http.files import FileBody
from node.http.openapi import Route
from node.http.problems import Problem
from node.http.sendfile import FileAnswer
from node.logs import get_logger
from node.settings import Http

UNREAD_BYTES_MAX = 1024 * 1024  # of a body that the route has not yet taken; then the client must wait
DRAIN_BYTES_MAX = 1024 * 1024  # of a body nobody wants, read so that the connection can be used again
DRAIN_S = 1.0  # and for how long
CORS_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
CORS_HEADERS = "Authorization, Content-Type, Idempotency-Key, Heliograph-Token, Range"
CORS_EXPOSED = (
    "X-Request-Id, Heliograph-Token, Heliograph-Stale, Retry-After, RateLimit-Limit, RateLimit-Remaining, "
    "RateLimit-Reset, ETag, Content-Range"
)
CORS_MAX_AGE_S = 3600  # how long a browser may remember the answer to its question

log = get_logger("http")

Observe = Callable[[str, str, int, float], None]  # route, method, status, seconds


class PressedBody(TrioBody):
    """A request body that makes the client wait while more than UNREAD_BYTES_MAX of it lie unread.

    Awaiting it whole is allowed up to that size, and lifts the wait: the reader of a whole body takes nothing
    before its end, so waiting for it to take something would be waiting for ever.
    """

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, None)
        self._room = trio.Event()
        self._whole = False
        self._unwanted: int | None = None

    def append(self, data: bytes) -> None:
        if self._unwanted is not None:
            self._unwanted += len(data)
            self._room.set()
            return
        super().append(data)
        if self._whole:
            self._check_whole()

    async def room(self) -> None:
        """Wait until the route has taken enough for more to be received."""
        while len(self._data) > UNREAD_BYTES_MAX and not self._whole and self._unwanted is None:
            self._room = trio.Event()
            await self._room.wait()

    async def __anext__(self) -> bytes:
        data = await super().__anext__()
        self._room.set()
        return data

    def __await__(self) -> Any:
        self._whole = True
        self._check_whole()
        self._room.set()
        return super().__await__()

    @property
    def complete(self) -> bool:
        """Whether the client has sent all of it."""
        return self._complete.is_set()

    def discard(self) -> None:
        """Nobody will read the rest: let it pass through."""
        if self._unwanted is None:
            self._unwanted = 0
            self._data.clear()
        self._room.set()

    async def drain(self) -> None:
        """Read and drop a bounded rest, so that the connection is at its next request when the answer has
        gone."""
        self.discard()
        if self._complete.is_set():
            return
        with trio.move_on_after(DRAIN_S):
            while not self._complete.is_set() and (self._unwanted or 0) <= DRAIN_BYTES_MAX:
                self._room = trio.Event()
                await self._room.wait()

    def set_complete(self) -> None:
        super().set_complete()
        self._room.set()

    def _check_whole(self) -> None:
        if len(self._data) > UNREAD_BYTES_MAX:
            self._must_raise = RequestEntityTooLarge()
            self.set_complete()


class PressedRequest(TrioRequest):
    """A request whose body presses back."""

    body_class = PressedBody
    began: float = 0.0  # perf_counter at its head
    request_id: str = ""
    answer_headers: dict[
        str, str
    ]  # go out with the answer, whichever it becomes: RateLimit-*, Heliograph-Token


class Exchange(TrioASGIHTTPConnection):
    """One request and its answer, between the server and Quart."""

    app: "Application"

    async def __call__(self, receive: Any, send: Any) -> None:
        size = size_of(self.scope["headers"])
        most = self.app.http.header_bytes_max
        if size + len(self.scope["raw_path"]) + len(self.scope["query_string"]) > most:
            problem = Problem("headers_too_large", f"the request's headers may have {most} bytes")
            await self._refuse(problem, send)
            return
        # One connection of HTTP/2 carries many requests: that connections are bounded bounds not these.
        if self.app.in_flight > self.app.http.connections_max:
            problem = Problem("unavailable", "too many requests at once", {"Retry-After": "5"})
            await self._refuse(problem, send)
            return
        request = self._create_request_from_scope(send)
        if self._has_no_body():
            # Most requests have none, and their answers are short: no task is needed to wait for either.
            if (await receive())["type"] == "http.disconnect":
                return
            request.body.set_complete()
            await self.handle_request(None, request, send, receive)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.handle_messages, nursery, request, receive)
            nursery.start_soon(self.handle_request, nursery, request, send)

    def _has_no_body(self) -> bool:
        """Whether the head alone says so: RFC 9112 §6.3. On HTTP/2 it does not."""
        return self.scope["http_version"] < "2" and not any(
            name in (b"content-length", b"transfer-encoding") for name, _ in self.scope["headers"]
        )

    async def handle_messages(self, nursery: trio.Nursery, request: Any, receive: Any) -> None:  # type: ignore[override]
        body = request.body
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body.append(message.get("body", b""))
            if not message.get("more_body", False):
                body.set_complete()
            await body.room()
        nursery.cancel_scope.cancel()

    async def handle_request(  # type: ignore[override]
        self, nursery: trio.Nursery | None, request: Any, send: Any, receive: Any = None
    ) -> None:
        """In a nursery in which `handle_messages` takes in the body; without one where the body is there."""
        request.began = began = perf_counter()
        request.request_id = new_request_id()
        request.answer_headers = {}
        response: Any = None
        status = 499  # the client left before there was an answer
        try:
            response = await self._answer(request)
            status = response.status_code
            if not request.body.complete:
                await request.body.drain()
            request.body.discard()
            if nursery is None and not isinstance(getattr(response, "response", None), DataBody):
                await self._send_while_there(send, receive, response)
            else:
                await self._send_response(send, response)
        finally:
            rule = request.url_rule
            self.app.observe(rule.rule if rule else "none", request.method, status, perf_counter() - began)
            if isinstance(getattr(response, "response", None), FileBody):
                response.response.close()
        if nursery is not None:
            nursery.cancel_scope.cancel()

    async def _send_while_there(self, send: Any, receive: Any, response: Any) -> None:
        """Send a long answer, and stop when the client leaves."""

        async def watch(sending: trio.Nursery) -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            sending.cancel_scope.cancel()

        async with trio.open_nursery() as sending:
            sending.start_soon(watch, sending)
            await self._send_response(send, response)
            sending.cancel_scope.cancel()

    async def _send_response(self, send: Any, response: Any) -> None:
        body = getattr(response, "response", None)
        if not isinstance(body, DataBody):
            await super()._send_response(send, response)
            return
        # What is in memory goes out as one message instead of two: a twentieth of a small answer.
        headers = encode_headers(response.headers)
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": body.data, "more_body": False})

    async def _answer(self, request: Any) -> Any:
        origin = request.headers.get("Origin")
        if origin and request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            response: Any = Response(b"", status=204)
            response.headers["Access-Control-Allow-Methods"] = CORS_METHODS
            response.headers["Access-Control-Allow-Headers"] = CORS_HEADERS
            response.headers["Access-Control-Max-Age"] = str(CORS_MAX_AGE_S)
        else:
            try:
                response = await self.app.handle_request(request)
            except Exception as error:
                log.error("a request failed", request_id=request.request_id, exc_info=error)
                response = problems.answer(Problem("internal"))
        headers = response.headers
        headers["X-Request-Id"] = request.request_id
        headers["X-Content-Type-Options"] = "nosniff"
        # What an answer shows depends on who asks, and a 404 of today may be a picture tomorrow.
        headers.setdefault("Cache-Control", "no-store")
        for name, value in request.answer_headers.items():
            headers.setdefault(name, value)
        if origin and self.app.http.cors_origins:
            self._allow_origin(origin, headers)
        return response

    def _allow_origin(self, origin: str, headers: Any) -> None:
        allowed = self.app.http.cors_origins
        if "*" in allowed:
            headers["Access-Control-Allow-Origin"] = "*"
        else:
            headers.add("Vary", "Origin")
            if origin not in allowed:
                return
            headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = CORS_EXPOSED

    async def _refuse(self, problem: Problem, send: Any) -> None:
        """Answer without asking the app; nothing of the body is read."""
        body = problems.document(problem)
        headers = [
            (b"content-type", problems.MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", new_request_id().encode()),
        ]
        headers += [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
        self.app.observe("none", self.scope["method"], problem.status, 0.0)
        await send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


def size_of(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Bytes that headers take on the wire."""
    return sum(len(name) + len(value) + 4 for name, value in headers)


class IdConverter(BaseConverter):
    """An id in a path: decimal, within 64 bits. What is none leads nowhere (404), as an id nobody has.

    The pattern alone decides: where `to_python` refuses, werkzeug takes the path for one of another method.
    """

    regex = "(?:0|[1-9][0-9]{0,18})"

    def to_python(self, value: str) -> int:
        return int(value)


# Path, query (as they were sent) and headers of a plain GET → the pattern of its route, and the file.
FindFile = Callable[[str, str, Sequence[tuple[bytes, bytes]]], tuple[str, FileAnswer] | None]


async def admit_all(_route: Route) -> None:
    """Until the composition root puts sign-in and limits in its place."""


class Application(QuartTrio):
    """A QuartTrio with the exchange above and problem answers for every error. Add blueprints to it."""

    request_class = PressedRequest
    asgi_http_class = Exchange

    def __init__(self, name: str, http: Http, observe: Observe) -> None:
        super().__init__(name, static_folder=None)
        self.http = http
        self.observe = observe
        self.admit: Callable[[Route], Awaitable[None]] = admit_all  # asked before every described route
        self.find_file: FindFile | None = None  # asked before the routes: sendfile.py
        self.in_flight = 0  # requests that have begun and not ended
        # Bodies are counted by the routes (bodies.py) and answers have deadlines per piece (connections.py).
        self.config.update(MAX_CONTENT_LENGTH=None, BODY_TIMEOUT=None, RESPONSE_TIMEOUT=None)
        self.config["PROVIDE_AUTOMATIC_OPTIONS"] = True
        self.url_map.merge_slashes = False
        self.url_map.converters["id"] = IdConverter
        problems.install(self)

    def file_source(self, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> FileAnswer | None:
        """The file that answers this plain GET of HTTP/1.1, with all the headers that a route would give it;
        None where the routes must answer. Asked by the connection."""
        if self.find_file is None or size_of(headers) + len(target) > self.http.header_bytes_max:
            return None
        began = perf_counter()
        path, _, query = target.decode("latin-1").partition("?")
        try:
            found = self.find_file(path, query, headers)
        except Exception as error:
            log.error("a file was not found directly", exc_info=error)
            return None  # the route meets the same trouble, and has an answer for it
        if found is None:
            return None
        route, answer = found
        answer.headers += [
            (b"x-request-id", new_request_id().encode()),
            (b"x-content-type-options", b"nosniff"),
        ]
        answer.ended = lambda: self.observe(route, "GET", answer.status, perf_counter() - began)
        return answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.in_flight += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.in_flight -= 1


def make_application(http: Http, observe: Observe | None = None, name: str = "heliograph") -> Application:
    """The application to add blueprints to. `observe` is told of every request (Metrics.observe)."""
    return Application(name, http, observe or (lambda _route, _method, _status, _seconds: None))
