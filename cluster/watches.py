"""Watches: what became of a command that another node leads, told by what this node applies itself.

A command whose leader fell away before it answered may have taken effect or not. Every node applies every
entry, so it shows here: either the command comes, or an entry of a later term does without it before; then it
is in no log that counts, and may be proposed again (DESIGN §3; `cluster.attempts` says when that is asked).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable

import trio

from cluster.journal_writer import Unknown
from cluster.partition import Applied
from cluster.raft.effects import Lost


class Watch:
    """An eye on one command: what it did is told when it is applied here, whoever leads. A context."""

    def __init__(
        self, close: Callable[["Watch"], None], partition: int, command_id: bytes, term: int
    ) -> None:
        self.partition = partition
        self.command_id = command_id
        self.term = term
        self._close = close
        self._event = trio.Event()
        self._fate: Applied | Exception | None = None

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._close(self)

    def settle(self, fate: Applied | Exception) -> None:
        if self._fate is None:
            self._fate = fate
            self._event.set()

    async def outcome(self) -> Applied:
        """Raises raft_effects.Lost where the command certainly had no effect, journal_writer.Unknown where a
        snapshot hides whether it had, and Stopped."""
        await self._event.wait()
        assert self._fate is not None
        if isinstance(self._fate, Exception):
            raise self._fate
        return self._fate


class Watches:
    """Those of one node. `watched` of a shard is the set in which its writer looks for ids."""

    def __init__(self, terms: dict[int, int], watched: Callable[[int], set[bytes]]) -> None:
        self._terms = terms  # of the last entry applied in each partition
        self._watched = watched
        self._watches: defaultdict[bytes, list[Watch]] = defaultdict(list)

    def open(self, partition: int, command_id: bytes, term: int) -> Watch:
        watch = Watch(self._close, partition, command_id, term)
        if self._terms[partition] > term:
            watch.settle(Lost(f"partition {partition}: term {term} is over"))
        self._watches[command_id].append(watch)
        self._watched(partition).add(command_id)
        return watch

    def _close(self, watch: Watch) -> None:
        watches = self._watches[watch.command_id]
        watches.remove(watch)
        if not watches:
            del self._watches[watch.command_id]
            self._watched(watch.partition).discard(watch.command_id)

    def applied(self, seen: Iterable[Applied]) -> None:
        """Commands that are watched for."""
        for applied in seen:
            for watch in self._watches.get(applied.id, ()):
                if watch.partition == applied.partition:
                    watch.settle(applied)

    def term_began(self, partition: int, term: int) -> None:
        """An entry of `term` was applied; what was seen before it has been told already."""
        self._terms[partition] = term
        for watch in self._of(partition):
            if watch.term < term:
                watch.settle(Lost(f"partition {partition}: term {watch.term} is over"))

    def installed(self, partition: int) -> None:
        for watch in self._of(partition):
            watch.settle(Unknown("a snapshot took the place of the log"))

    def stopped(self, why: Exception) -> None:
        for watches in self._watches.values():
            for watch in watches:
                watch.settle(why)

    def _of(self, partition: int) -> list[Watch]:
        return [
            watch for watches in self._watches.values() for watch in watches if watch.partition == partition
        ]
