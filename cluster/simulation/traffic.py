"""What the simulation is given to replicate: a state machine, clients that use it, and what must hold of it.

The cluster knows no photos, so an application brings its own (`node.social_traffic` does). A client does one
thing after the other; a step that was not answered for certain is repeated if it is remembered.
"""

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, NamedTuple, Protocol

from cluster.commands import Outcome
from cluster.partition import StateMachine
from storage.rows import Reader


class Write(NamedTuple):
    partition: int
    body: bytes
    scope: int = 0  # in which it is remembered; 0: not
    name: str = ""  # for the trace


class Read(NamedTuple):
    """By read index: sees all that was answered before it was asked."""

    partition: int
    look: Callable[[Reader], Any]
    name: str = ""


Step = Write | Read


class Client(Protocol):
    def next(self, now: int) -> Step:
        """What to do next; `now` is µs of the history, as for the others."""
        ...

    def answered(self, step: Step, outcome: Outcome | Any, now: int) -> None:
        """A write's outcome, or what a read saw."""
        ...

    def unsettled(self, step: Step, now: int) -> None:
        """Whether it took effect, or will yet, is not known."""
        ...


class Traffic(Protocol):
    clients: Sequence[Client]

    def wrong(self, rows: Reader, partitions: int) -> Iterable[tuple[str, str]]:
        """After all has healed and come to rest: which law does not hold of the state, and how."""
        ...


class Application(Protocol):
    def machine(self) -> StateMachine: ...

    def traffic(self, random: Random, partitions: int, clients: int) -> Traffic: ...
