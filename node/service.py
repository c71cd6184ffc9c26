"""The service: typed commands to the cluster and consistent reads, for the routes and the node's own tasks.

It turns a command struct into bytes for the router and the result back into a struct, derives command ids
from an `Idempotency-Key`, and knows what a client must be told to find its own writes again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar, overload

import msgspec
from blake3 import blake3

from cluster.courier import Mark
from cluster.router import Router
from node.social.machine import encode
from storage.ids import PARTITIONS_MAX
from storage.shard import Snapshot

T = TypeVar("T")
TOKEN_MARKS_MAX: Final = 8
_COMMAND_ID_BYTES: Final = 16


class Retry(msgspec.Struct, frozen=True):
    """What makes a retried request the same request: its key, and what it asked for.

    `base` is a keyed digest of user, route and `Idempotency-Key`; `fingerprint` one of the body.
    """

    base: bytes
    fingerprint: bytes

    def step(self, name: str) -> bytes:
        """The id of one of the request's commands: the same each time the request comes."""
        return blake3(name.encode(), key=self.base).digest(length=_COMMAND_ID_BYTES)


class Done(msgspec.Struct, Generic[T], frozen=True):
    """A command's result, and the marks of what it did: `partition:index` and messages still under way."""

    result: T
    partition: int
    index: int
    under_way: tuple[Mark, ...]

    @property
    def token(self) -> str:
        """The value of `Heliograph-Token` for reads that must see this write."""
        marks = [f"{self.partition}:{self.index}"]
        marks += [f"{source}>{destination}:{sequence}" for source, destination, sequence in self.under_way]
        return ",".join(marks[:TOKEN_MARKS_MAX])


class Service:
    """Raises what the router raises: Refused, Overloaded, StorageFull."""

    def __init__(self, router: Router) -> None:
        self.router = router

    @overload
    async def do(
        self,
        partition: int,
        command: msgspec.Struct,
        result: type[T],
        *,
        scope: int = 0,
        retry: Retry | None = None,
        step: str = "",
        grows: bool = True,
        told: int | None = None,
    ) -> Done[T]: ...

    @overload
    async def do(
        self,
        partition: int,
        command: msgspec.Struct,
        result: Any = None,
        *,
        scope: int = 0,
        retry: Retry | None = None,
        step: str = "",
        grows: bool = True,
        told: int | None = None,
    ) -> Done[Any]: ...

    async def do(
        self,
        partition: int,
        command: msgspec.Struct,
        result: Any = None,
        *,
        scope: int = 0,
        retry: Retry | None = None,
        step: str = "",
        grows: bool = True,
        told: int | None = None,
    ) -> Done[Any]:
        """Execute a command in `partition` and wait, 1 s at most, for its messages to `told` (the acting
        user's partition), so that what is their own shows it.

        `scope` is the user in whose memory the command is kept: a user of that partition, or 0. A command
        of a retried request carries an id derived from `step`. A read that must see the write asks
        `caught_up` first.
        """
        executed = await self.router.execute(
            partition,
            encode(command),
            scope=scope,
            command_id=retry.step(step or type(command).__name__) if retry else b"",
            fingerprint=retry.fingerprint if retry else b"",
            grows=grows,
        )
        under_way: tuple[Mark, ...] = ()
        if told is not None and executed.marks:
            under_way = await self.router.taken(executed, told)
        kind: Any = type(None) if result is None else result
        decoded: Any = msgspec.msgpack.decode(executed.result, type=kind)
        return Done(decoded, executed.partition, executed.index, under_way)

    @contextmanager
    def read(self) -> Iterator[Snapshot]:
        """The rows as last committed, for one synchronous block."""
        with self.router.read() as rows:
            yield rows

    async def caught_up(self, token: str, own: Sequence[int] = ()) -> None:
        """Wait (1 s at most) until a client's token holds here, and its own partitions are readable.

        Raises ValueError for a token that is none of ours.
        """
        marks = parse_token(token) if token else []
        for mark in marks:
            if isinstance(mark, tuple):
                await self.router.taken_mark(mark)
        partitions = {mark if isinstance(mark, int) else mark[1] for mark in marks}
        await self.router.visible(*partitions, *own)


def parse_token(token: str) -> list[int | Mark]:
    """The marks of a `Heliograph-Token`: a partition for `partition:index`, a Mark for a message.

    A lone node has applied every index that it ever answered, so only the partition matters here.
    Raises ValueError with what would be right.
    """
    marks: list[int | Mark] = []
    for text in token.split(","):
        place, separator, number = text.strip().partition(":")
        source, arrow, destination = place.partition(">")
        numbers = [source, number, *([destination] if arrow else [])]
        if not separator or not all(n.isascii() and n.isdigit() and len(n) <= 20 for n in numbers):
            raise ValueError(
                f"{text[:40]!r} is not a mark: want partition:index or source>destination:sequence"
            )
        values = [int(n) for n in numbers]
        if max(values[0], *values[2:], 0) >= PARTITIONS_MAX:
            raise ValueError(f"{text[:40]!r}: a partition is below {PARTITIONS_MAX}")
        marks.append((values[0], values[2], values[1]) if arrow else values[0])
    if len(marks) > TOKEN_MARKS_MAX:
        raise ValueError(f"{len(marks)} marks: a token has at most {TOKEN_MARKS_MAX}")
    return marks
