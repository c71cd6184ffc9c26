"""Real servers on loopback for the tests: ours, and Hypercorn bare to show what it is guarded against."""

from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events
import hypercorn.trio
import trio
from hypercorn.config import Config

from node.http.application import make_application
from node.http.server import Server
from node.settings import Http


def make_settings(**changes):
    return Http(**{"host": "127.0.0.1", "port": 0, **changes})


class Running:
    """A server that runs, and where."""

    def __init__(self, server, address, shutdown, ended):
        self.server, self.address, self.shutdown, self.ended = server, address, shutdown, ended

    async def connect(self):
        return await trio.open_tcp_stream(self.address.host, self.address.port)

    @property
    def url(self):
        return self.address.url


@asynccontextmanager
async def ours(app=None, **changes):
    """Our server with `app` (ASGI or Application); settings by name."""
    settings = make_settings(**changes)
    app = app if app is not None else make_application(settings)
    if hasattr(app, "http"):
        app.http = settings
    server, shutdown, ended = Server(app, settings), trio.Event(), trio.Event()

    async def run(task_status):
        await server.run(host="127.0.0.1", port=0, shutdown=shutdown, task_status=task_status)
        ended.set()

    async with trio.open_nursery() as nursery:
        address = await nursery.start(run)
        yield Running(server, address, shutdown, ended)
        nursery.cancel_scope.cancel()


async def bare(app, attack):
    """Run Hypercorn as it comes, let `attack(stream)` at it; the exception that ended the server, or None."""
    config = Config()
    config.bind, config.errorlog = ["127.0.0.1:0"], None
    try:
        async with trio.open_nursery() as nursery:
            binds = await nursery.start(
                lambda task_status: hypercorn.trio.serve(app, config, task_status=task_status)
            )
            port = int(binds[0].rpartition(":")[2])
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            with trio.move_on_after(2):
                await attack(stream)
                await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        return flat(group)
    return []


def flat(error):
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in flat(part)]
    return [error]


async def exchange(stream, request, most=2**20):
    """Send bytes, read until the other side closes."""
    await stream.send_all(request)
    return await read_all(stream, most)


async def read_all(stream, most=2**20):
    got = b""
    while len(got) < most:
        data = await stream.receive_some(65536)
        if not data:
            break
        got += data
    return got


class H2:
    """A small HTTP/2 client over cleartext, one that can misbehave."""

    def __init__(self, stream):
        self.stream = stream
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.h2.initiate_connection()

    async def flush(self):
        await self.stream.send_all(self.h2.data_to_send())

    async def post(self, path, length):
        number = self.h2.get_next_available_stream_id()
        headers = [(":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "x")]
        self.h2.send_headers(number, [*headers, ("content-length", str(length))])
        await self.flush()
        return number

    async def events_until(self, kind, stream_id=None):
        """Read until an event of `kind` (on that stream); the events before it and itself, or None at the
        end."""
        seen = []
        while True:
            data = await self.stream.receive_some(65536)
            if not data:
                return None
            for event in self.h2.receive_data(data):
                seen.append(event)
                if isinstance(event, kind) and stream_id in (None, event.stream_id):
                    await self.flush()
                    return seen
            await self.flush()
