"""What the leader of a partition owes it: messages carried, work continued, outboxes trimmed; pure.

A node takes charge of a partition when it leads it and has applied all that earlier leaders left; it begins
with what lies in the state (outbox and work rows) and is told what each further command did. When it leads
no longer, all of this is forgotten: the next leader finds it in the same state. What two leaders do twice has
effect once, since cursors, not couriers, decide (`cluster.mailbox`).
"""

from collections import deque
from collections.abc import Iterable, Iterator

from cluster.commands import Delivery, Message
from cluster.courier import Courier
from cluster.partition import Applied


class Duties:
    """Of one node, for all partitions that it is in charge of."""

    def __init__(self) -> None:
        self.courier = Courier()
        self._charges: dict[int, int] = {}  # partition: the term in which this node leads it
        self._working: set[int] = set()  # a Continue is under way, or about to be
        self._to_continue: deque[int] = deque()

    @property
    def at_rest(self) -> bool:
        return self.courier.at_rest and not self._working

    @property
    def working(self) -> int:
        """Partitions with work under way."""
        return len(self._working)

    @property
    def charges(self) -> list[int]:
        return list(self._charges)

    def in_charge(self, partition: int) -> bool:
        return partition in self._charges

    def take_charge(self, partition: int, term: int, messages: Iterable[Message], *, has_work: bool) -> None:
        """`messages` is the whole outbox, as of a commit at or after the leader's first entry."""
        self.give_up(partition)
        self._charges[partition] = term
        self.courier.sent(messages)
        if has_work:
            self._work(partition)

    def give_up(self, partition: int) -> None:
        if self._charges.pop(partition, None) is not None:
            self.courier.forget(partition)
            self._working.discard(partition)

    def applied(self, applied: Applied) -> None:
        """A command of a partition did this. What was proposed before this node took charge is in the outbox
        that it began with, or was not applied yet then: nothing is missed."""
        if applied.partition not in self._charges:
            return
        if applied.sent:
            self.courier.sent(applied.sent)
        if applied.work and applied.partition not in self._working:
            self._work(applied.partition)

    # --- errands ---------------------------------------------------------------------------------------
    def deliveries(self) -> Iterator[tuple[int, tuple[Delivery, ...]]]:
        """What is to be delivered now, one batch per destination: each is answered by `delivered` or
        `undelivered`."""
        while (batch := self.courier.next_batch()) is not None:
            yield batch

    def delivered(self, destination: int, cursors: dict[int, int]) -> None:
        self.courier.delivered(destination, cursors)

    def undelivered(self, destination: int) -> None:
        self.courier.failed(destination)

    def continuations(self) -> Iterator[int]:
        """Partitions whose oldest work row is to be continued now: each is answered by `continued`."""
        while self._to_continue:
            partition = self._to_continue.popleft()
            if partition in self._working:
                yield partition

    def continued(self, partition: int, *, has_work: bool) -> None:
        if partition not in self._working:
            return
        self._working.discard(partition)
        if has_work and partition in self._charges:
            self._work(partition)

    def trims(self) -> Iterable[tuple[int, tuple[tuple[int, int], ...]]]:
        """(source, what to trim from its outbox); handed out once. What is not trimmed comes back by
        `untrimmed`. If this node leads no longer it is not missed: the next leader finds these messages,
        learns that they were taken, and trims them."""
        return self.courier.trims()

    def untrimmed(self, source: int, cuts: tuple[tuple[int, int], ...]) -> None:
        if source in self._charges:
            self.courier.untrimmed(source, cuts)

    def _work(self, partition: int) -> None:
        self._working.add(partition)
        self._to_continue.append(partition)
