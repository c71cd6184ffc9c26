"""PostgreSQL for trio, and a pool of connections, as thin as can be: they must not slow the pair down.

PostgreSQL is spoken through libpq (psycopg's C binding) without blocking, with prepared statements.
Connections are pooled: a task has one to itself.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import trio
from psycopg import pq

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
