"""The HTTP server: listeners, the guard around every connection, and an orderly end.

Hypercorn's own `serve` ends when one connection raises, has no limit on connections and cuts requests at
shutdown. This one runs in the node's nursery, counts what it refuses and loses, and drains before it stops.
"""

import logging
import resource
import ssl
from typing import Any

import msgspec
import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import wrap_app

from node.http.connections import Connection, refusal
from node.http.limits import Crowd, Proxies
from node.http.problems import Problem
from node.logs import get_logger
from node.settings import Http

BACKLOG = 1024  # connections the kernel holds until they are accepted: one burst of clients
DESCRIPTORS_SPARE = 512  # for files, LMDB and peers, beside one descriptor per connection
REQUESTS_PER_CONNECTION_MAX = 100_000  # then a client reconnects, so that load spreads anew
STREAMS_PER_CONNECTION_MAX = 100  # HTTP/2 requests at once on one connection
FULL_S = 1.0  # for telling a client that there is no room for it

log = get_logger("http")


class Statistics(msgspec.Struct, frozen=True):
    """A snapshot of the server. Totals count from its start."""

    connections: int  # open now
    accepted_total: int
    refused_total: int  # over connections_max, or over one address's part of it
    failed_total: int  # closed by the guard: an exception that would have ended the server
    cut_total: int  # by a deadline or for taking no bytes


class Address(msgspec.Struct, frozen=True):
    """Where the server listens, with the real port."""

    scheme: str
    host: str
    port: int

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class CannotListen(Exception):
    """The address is taken, or not one of this machine's."""

    def __init__(self, host: str, port: int, wrong: OSError) -> None:
        at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        super().__init__(f"cannot listen on {at}: {wrong.strerror or wrong}")


async def _listeners(host: str, port: int) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except OSError as wrong:
        raise CannotListen(host, port, wrong) from wrong


async def check_free(host: str, port: int) -> None:
    """For a start that would otherwise learn it late, after its journal was read or its invitation was used.
    Raises CannotListen."""
    for listener in await _listeners(host, port):
        listener.socket.close()


class Server:
    """One public or admin listener and its connections."""

    def __init__(self, app: Any, settings: Http) -> None:
        self._app = wrap_app(app, 0, "asgi")
        self._settings = settings
        self._config = _hypercorn_config(settings)
        self._context = WorkerContext(None)
        self._open: set[Connection] = set()
        most_each = settings.connections_per_address_max or settings.connections_max
        self._crowd = Crowd(most_each, Proxies(settings.trusted_proxies))
        self._accepted = self._refused = self._failed = self._cut = 0

    def statistics(self) -> Statistics:
        return Statistics(len(self._open), self._accepted, self._refused, self._failed, self._cut)

    async def run(
        self,
        *,
        host: str,
        port: int,
        shutdown: trio.Event,
        task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `shutdown`, then drain. Raises CannotListen, ssl.SSLError on bad TLS files.

        After `shutdown` new connections are taken for ready_delay_s more (a load balancer needs that long to
        see /readyz turn 503), then running requests have graceful_s.
        """
        _allow_descriptors(self._settings.connections_max)
        tls = _tls_context(self._settings)
        tcp = await _listeners(host, port)
        listeners: list[Any] = (
            [trio.SSLListener(one, tls, https_compatible=True) for one in tcp] if tls else list(tcp)
        )
        bound = tcp[0].socket.getsockname()
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(self._accept, listener, connections)
                task_status.started(Address("https" if tls else "http", bound[0], bound[1]))
                await shutdown.wait()
                await trio.sleep(self._settings.ready_delay_s)
                accepting.cancel_scope.cancel()
            await self._context.terminated.set()
            for connection in list(self._open):
                connection.end_if_waiting()
            connections.cancel_scope.deadline = trio.current_time() + self._settings.graceful_s

    async def _accept(self, listener: Any, connections: trio.Nursery) -> None:
        # serve_listeners waits and goes on when descriptors run out, and closes the listener in the end.
        await trio.serve_listeners(self._guard, [listener], handler_nursery=connections)

    async def _guard(self, stream: Any) -> None:
        """Run one connection; whatever it raises ends that one, is counted and logged."""
        try:
            peer = _peer_of(stream)
        except OSError:  # it left while it waited to be accepted
            await trio.aclose_forcefully(stream)
            return
        if len(self._open) >= self._settings.connections_max or not self._crowd.enter(peer):
            self._refused += 1
            await _refuse(stream)
            return
        self._accepted += 1
        connection = Connection(self._app, self._config, self._context, self._settings, stream)
        self._open.add(connection)
        try:
            await connection.run()
        except Exception as error:
            self._failed += 1
            log.warning("a connection failed and was closed", exc_info=error)
        except BaseExceptionGroup as group:
            cancelled, rest = group.split(trio.Cancelled)
            if rest is not None:
                self._failed += 1
                log.warning("a connection failed and was closed", exc_info=rest)
            if cancelled is not None:
                raise cancelled from None
        finally:
            self._crowd.leave(peer)
            self._open.discard(connection)
            if connection.reason:
                self._cut += 1
                log.debug("a connection was cut", reason=connection.reason)


async def serve(
    app: Any,
    *,
    host: str,
    port: int,
    settings: Http,
    shutdown: trio.Event,
    task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the ASGI `app` on host:port (0: a free port, reported through `task_status`) until `shutdown` is
    set."""
    await Server(app, settings).run(host=host, port=port, shutdown=shutdown, task_status=task_status)


def _hypercorn_config(settings: Http) -> Config:
    config = Config()
    config.h11_max_incomplete_size = settings.header_bytes_max
    config.h2_max_header_list_size = settings.header_bytes_max
    config.h2_max_concurrent_streams = STREAMS_PER_CONNECTION_MAX
    config.keep_alive_max_requests = REQUESTS_PER_CONNECTION_MAX
    config.include_server_header = False
    config.errorlog = logging.getLogger("heliograph.http")
    return config


def _tls_context(settings: Http) -> ssl.SSLContext | None:
    if not settings.tls_cert:
        return None
    config = Config()
    config.certfile, config.keyfile = settings.tls_cert, settings.tls_key
    return config.create_ssl_context()


def _allow_descriptors(connections_max: int) -> None:
    """Raise this process's soft limit of open files towards what the cap on connections needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + DESCRIPTORS_SPARE
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("fewer open files are allowed than connections need", allowed=allowed, wanted=wanted)


def _peer_of(stream: Any) -> str:
    """The address at the other end. Raises OSError where there is none any more."""
    below = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    peer: str = below.socket.getpeername()[0]
    return peer


async def _refuse(stream: Any) -> None:
    """Say 503 to a client beyond the cap, where that needs no TLS handshake, and close."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + FULL_S):
        try:
            if isinstance(stream, trio.SocketStream):
                problem = Problem("unavailable", "too many connections; try again in a few seconds")
                status, headers, body = refusal(problem)
                head = [b"HTTP/1.1 %d Service Unavailable" % status, b"connection: close", b"retry-after: 5"]
                head += [name + b": " + value for name, value in headers]
                await stream.send_all(b"\r\n".join(head) + b"\r\n\r\n" + body)
                await stream.send_eof()
                await stream.receive_some(1)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("a refused client was gone already")
        finally:
            await trio.aclose_forcefully(stream)
