"""Clients of Redis and PostgreSQL for trio, as thin as can be: they must not slow the pair down.

Redis' protocol (RESP2) is written and parsed here; PostgreSQL is spoken through libpq (psycopg's C binding)
without blocking, with prepared statements. Connections are pooled: a task has one to itself.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Generic, TypeVar

import trio
from psycopg import pq

RECEIVE_BYTES: Final = 64 << 10
C = TypeVar("C")


class Pool(Generic[C]):
    """As many connections as tasks ever wanted at once; `most` at most."""

    def __init__(self, connect: Callable[[], Any], most: int) -> None:
        self._connect = connect
        self._idle: deque[C] = deque()
        self._slots = trio.Semaphore(most)

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[C]:
        async with self._slots:
            one: C = self._idle.pop() if self._idle else await self._connect()
            yield one
            self._idle.append(one)  # a connection whose command failed is not used again


# --- Redis ---------------------------------------------------------------------------------------------
def command(*words: bytes) -> bytes:
    """A command as RESP: an array of bulk strings."""
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


class Redis:
    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._data = b""
        self._at = 0

    @classmethod
    async def connect(cls, port: int) -> "Redis":
        return cls(await trio.open_tcp_stream("127.0.0.1", port))

    async def ask(self, commands: bytes, answers: int) -> list[Any]:
        """Send commands in one piece and return their answers: bytes, int, None or lists of them."""
        await self._stream.send_all(commands)
        return [await self._answer() for _ in range(answers)]

    async def _line(self) -> bytes:
        while (end := self._data.find(b"\r\n", self._at)) < 0:
            await self._more()
        line = self._data[self._at : end]
        self._at = end + 2
        return line

    async def _more(self) -> None:
        data = await self._stream.receive_some(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("Redis closed the connection")
        self._data = self._data[self._at :] + data
        self._at = 0

    async def _answer(self) -> Any:
        line = await self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            size = int(rest)
            if size < 0:
                return None
            while len(self._data) < self._at + size + 2:
                await self._more()
            value = self._data[self._at : self._at + size]
            self._at += size + 2
            return value
        if kind == b"*":
            return [await self._answer() for _ in range(int(rest))]
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        raise RuntimeError(f"Redis: {rest.decode()}")


# --- PostgreSQL ----------------------------------------------------------------------------------------
class Postgres:
    """One libpq connection, never blocking. `prepare` once, then `run` by name."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    async def connect(cls, address: str, statements: dict[str, str]) -> "Postgres":
        connection = pq.PGconn.connect(address.encode())
        if connection.status != pq.ConnStatus.OK:
            raise ConnectionError(connection.error_message.decode())
        for name, statement in statements.items():
            result = connection.prepare(name.encode(), statement.encode())
            if result.status != pq.ExecStatus.COMMAND_OK:
                raise RuntimeError(connection.error_message.decode())
        connection.nonblocking = 1
        return cls(connection)

    async def run(self, name: bytes, parameters: Sequence[bytes]) -> Any:
        """The result of a prepared statement with parameters as text: rows are asked for by number."""
        connection = self._connection
        connection.send_query_prepared(name, parameters)
        while connection.flush():
            await trio.lowlevel.wait_writable(connection.socket)
        while True:
            await trio.lowlevel.wait_readable(connection.socket)
            connection.consume_input()
            if not connection.is_busy():
                break
        result = connection.get_result()
        while connection.get_result() is not None:  # the end of this statement
            pass
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise RuntimeError(result.error_message.decode())
        return result
