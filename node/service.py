"""The service: typed commands to the cluster and consistent reads, for the routes and the node's own tasks.

It turns a command struct into bytes for the router and the result back into a struct, derives command ids
from an `Idempotency-Key`, and knows what a client must be told to find its own writes again.
"""

import re
from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar, overload

import msgspec
import trio
from blake3 import blake3

from cluster.commands import Refused
from cluster.courier import Mark
from cluster.keys import META_PARTITION
from cluster.router import Router
from node.social.machine import encode
from storage.ids import PARTITIONS_MAX, SEQUENCE_BITS
from storage.shard import Snapshot

T = TypeVar("T")
TOKEN_MARKS_MAX: Final = 8
CAUGHT_UP_WITHIN_S: Final = 1.0  # how long a read waits for writes that it must see
_MARK: Final = "[0-9]{1,4}(?:>[0-9]{1,4})?:[0-9]{1,20}"
TOKEN_PATTERN: Final = f"{_MARK}(?:, ?{_MARK}){{0,{TOKEN_MARKS_MAX - 1}}}"
_TOKEN: Final = re.compile(TOKEN_PATTERN)
EVERYBODY: Final = -1  # told: all partitions to which the command sends
_COMMAND_ID_BYTES: Final = 16


class Retry(msgspec.Struct, frozen=True):
    """What makes a retried request the same request: its key, and what it asked for.

    `base` is a keyed digest of user, route and `Idempotency-Key`; `fingerprint` one of the body, keyed
    too: bodies may hold passwords, and fingerprints are kept.
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
    """Raises what the router raises: Refused, Overloaded, StorageFull, Unavailable."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self._homes = frozenset(router.replicas.partitions) - {META_PARTITION}

    @overload
    async def do(
        self,
        partition: int,
        command: msgspec.Struct,
        result: type[T],
        *,
        by: int = 0,
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
        by: int = 0,
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
        by: int = 0,
        retry: Retry | None = None,
        step: str = "",
        grows: bool = True,
        told: int | None = None,
    ) -> Done[Any]:
        """Execute a command in `partition` and wait, 1 s at most, for its messages to `told` (the acting
        user's partition), so that what is their own shows it. EVERYBODY also waits until it can be read.

        A command of a request with a key is remembered as one `by` the acting user, under an id derived from
        `step`; a retry gets the result that it had. A read that must see the write asks `visible` first.
        An id from outside may name a partition that there is not: Refused `not_found`.
        """
        if partition not in self._homes:
            raise Refused("not_found", "there is no such id")
        executed = await self.router.execute(
            partition,
            encode(command),
            scope=memory_of(by, partition) if retry else 0,
            command_id=retry.step(step or type(command).__name__) if retry else b"",
            fingerprint=retry.fingerprint if retry else b"",
            grows=grows,
        )
        under_way: tuple[Mark, ...] = ()
        if told == EVERYBODY:
            under_way = await self.router.taken(executed)
            await self.router.visible(partition, *{destination for _, destination, _ in executed.marks})
        elif told is not None and executed.marks:
            under_way = await self.router.taken(executed, told)
        kind: Any = type(None) if result is None else result
        decoded: Any = msgspec.msgpack.decode(executed.result, type=kind)
        return Done(decoded, executed.partition, executed.index, under_way)

    def read(self) -> Snapshot:
        """The rows as last committed, for one synchronous block (`with`)."""
        return self.router.read()

    def require_room(self) -> None:
        """Before bytes are taken that would have to be stored. Raises StorageFull."""
        self.router.require_room()

    async def visible(self, *partitions: int) -> None:
        """Wait (1 s at most) until all that this node answered in these partitions can be read here. Longer
        it takes where a full disk holds up a commit: reads go on then (law 9)."""
        if not self.router.readable(*partitions):
            with trio.move_on_after(CAUGHT_UP_WITHIN_S):
                await self.router.visible(*partitions)

    async def caught_up(self, token: str | None, own: Sequence[int] = ()) -> bool:
        """Wait until what is read here is as new as it must be: until a client's token holds (1 s at most),
        and until what is its own is what the leader has (router.READ_INDEX_WITHIN_S at most).

        False where it is not, for want of a leader: then what is read is stale. Never so on a lone node.
        Raises ValueError for a token that is none of ours.
        """
        router = self.router
        if token is None:
            if router.alone:
                await self.visible(*own)
                return True
            return await router.newest(*own)
        marks = parse_token(token)
        with trio.move_on_after(CAUGHT_UP_WITHIN_S) as patience:
            for mark in marks:
                await router.reached(mark)
            if router.alone:
                await router.visible(*own)
        if router.alone:
            return True
        named = {mark[0] for mark in marks if len(mark) == 2}  # its own writes there are seen
        confirmed = await router.newest(*[partition for partition in own if partition not in named])
        return confirmed and not patience.cancelled_caught

    @property
    def ready(self) -> bool:
        """Whether this node has a state of everything: one that has just joined is filled first."""
        return self.router.ready


def memory_of(user: int, partition: int) -> int:
    """Under whose number `partition` remembers the requests of this user: each user's apart, so nobody's
    requests push out another's; the user's own id at home."""
    others = ~((PARTITIONS_MAX - 1) << SEQUENCE_BITS)
    return user & others | partition << SEQUENCE_BITS


def parse_token(token: str) -> list[tuple[int, int] | Mark]:
    """The marks of a `Heliograph-Token`: (partition, index), or a Mark for a message.

    Raises ValueError with what would be right.
    """
    if not _TOKEN.fullmatch(token):
        raise ValueError(
            f"{token[:40]!r}: want 1 to {TOKEN_MARKS_MAX} of partition:index or source>destination:sequence"
        )
    marks: list[tuple[int, int] | Mark] = []
    for text in token.split(","):
        place, _, written = text.strip(" ").partition(":")
        number = int(written)
        partitions = [int(partition) for partition in place.split(">")]
        if max(partitions) >= PARTITIONS_MAX:
            raise ValueError(f"{text[:40]!r}: a partition is below {PARTITIONS_MAX}")
        if len(partitions) == 1:
            marks.append((partitions[0], number))
        else:
            marks.append((partitions[0], partitions[1], number))
    return marks
