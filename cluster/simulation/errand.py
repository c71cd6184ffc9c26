"""One command of a client, from its arrival at a node to its answer: `cluster.attempts`, in virtual time.

What `cluster.forwarding` does with tasks. A command is asked of whoever leads; from before it is sent, it is
watched for in what this replica applies, so that its fate is known though nobody answers.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from cluster import commands
from cluster.attempts import ENDS, LEADERLESS_MS, WRITE_WITHIN_MS, Attempts, Event, State
from cluster.commands import Execute
from cluster.partition import Applied
from cluster.raft.effects import Lost, NotLeader, Overfull
from cluster.simulation.kernel import MS
from storage.journal import JournalFull

if TYPE_CHECKING:
    from cluster.simulation.service import Service

SEEK_MS: Final = 40  # between two looks whether somebody leads

Ended = Callable[[State, Applied | None], None]


class LinkLost(Exception):
    """It was sent, and nobody is left to answer."""


class Unreachable(Exception):
    """Nothing was sent."""


def event_of(wrong: Exception) -> Event:
    match wrong:
        case NotLeader():
            return Event.NOT_LEADER
        case Unreachable():
            return Event.UNREACHABLE
        case Lost():
            return Event.LOST
        case LinkLost():
            return Event.LINK_LOST
        case Overfull():
            return Event.OVERLOADED
        case JournalFull():
            return Event.FULL
    return Event.UNKNOWN


class Watch:
    """Until the command is applied here, or cannot be any more."""

    __slots__ = ("id", "partition", "seen", "term")

    def __init__(
        self, partition: int, id_: bytes, term: int, seen: Callable[[Event, Applied | None], None]
    ) -> None:
        self.partition = partition
        self.id = id_
        self.term = term
        self.seen = seen


class Watches:
    """Those of one node: the twin of `cluster.watches`."""

    def __init__(self) -> None:
        self.ids: dict[bytes, list[Watch]] = {}
        self._of: dict[int, list[Watch]] = {}

    def open(self, watch: Watch) -> None:
        self.ids.setdefault(watch.id, []).append(watch)
        self._of.setdefault(watch.partition, []).append(watch)

    def close(self, watch: Watch) -> None:
        self._of[watch.partition].remove(watch)
        known = self.ids[watch.id]
        known.remove(watch)
        if not known:
            del self.ids[watch.id]

    def applied(self, applied: Applied) -> None:
        for watch in list(self.ids.get(applied.id, ())):
            if watch.partition == applied.partition:
                watch.seen(Event.APPLIED, applied)

    def term_began(self, partition: int, term: int) -> None:
        for watch in list(self._of.get(partition, ())):
            if watch.term < term:
                watch.seen(Event.LOST, None)

    def installed(self, partition: int) -> None:
        """What was skipped may have held what is watched for."""
        for watch in list(self._of.get(partition, ())):
            watch.seen(Event.UNKNOWN, None)


class Errand:
    def __init__(self, service: "Service", partition: int, command: Execute, ended: Ended) -> None:
        self.attempts = Attempts()
        self._service = service
        self._partition = partition
        self._command = command
        self._data = commands.encode(command)
        self._ended = ended
        self._watch: Watch | None = None
        self._leaderless_since: int | None = None
        self._asks = 0
        service.node.after(WRITE_WITHIN_MS * MS, self._on, Event.DEADLINE, None)
        self._seek()

    def _seek(self) -> None:
        """Look whether somebody leads, now and again until the end."""
        if self.attempts.state in ENDS:
            return
        service = self._service
        leader = service.leader(self._partition)
        now = service.node.kernel.now
        if leader is not None:
            self._leaderless_since = None
        elif self._leaderless_since is None:
            self._leaderless_since = now
        elif now - self._leaderless_since >= LEADERLESS_MS * MS:
            self._on(Event.NO_LEADER, None)
            return
        if self.attempts.state is State.SEEKING and leader is not None:
            self._ask(leader)
        service.node.after(SEEK_MS * MS, self._seek)

    def _ask(self, leader: bytes) -> None:
        service, partition = self._service, self._partition
        term = service.standings[partition].term
        self._asks += 1
        asked = self._asks
        self.attempts.on(Event.LEADER)
        self._unwatch()
        self._watch = Watch(partition, self._command.id, term, partial(self._seen, asked))
        service.watches.open(self._watch)
        done, failed = partial(self._done, asked), partial(self._failed, asked)
        if leader == service.node.id:
            service.propose(partition, self._data, done, failed, term=term)
        else:
            service.node.world.history.forwarded += 1
            service.calls.call(leader, "propose", (partition, term, self._data), done, failed)

    def _done(self, asked: int, applied: Applied) -> None:
        if asked == self._asks:
            self._on(Event.APPLIED, applied)

    def _failed(self, asked: int, wrong: Exception) -> None:
        if asked == self._asks and self.attempts.state is State.UNDER_WAY:
            self._on(event_of(wrong), None)

    def _seen(self, asked: int, event: Event, applied: Applied | None) -> None:
        if asked == self._asks and self.attempts.state in (State.UNDER_WAY, State.OPEN):
            self._on(event, applied)

    def _on(self, event: Event, applied: Applied | None) -> None:
        if self.attempts.state in ENDS:
            return
        state = self.attempts.on(event)
        if state in ENDS:
            self._unwatch()
            self._ended(state, applied)

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._service.watches.close(self._watch)
            self._watch = None
