"""The courier: carries what lies in outboxes to where it is addressed, in order per destination; pure.

It owns no clock and no task: it is told of messages sent, hands out batches to propose, and is told what
became of them. One batch per destination is under way at a time, so the messages of a pair keep their order.
What was taken is trimmed from the outboxes in batches too.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from cluster.commands import MESSAGES_PER_DELIVER_MAX, Delivery, Message

DELIVER_BYTES_MAX: Final = 512 << 10
TRIMS_PER_COMMAND_MAX: Final = 500  # rows; half of what one apply may change
QUEUED_MAX: Final = 500_000  # messages in memory; then new commands are refused until some are taken

Mark = tuple[int, int, int]  # source, destination, sequence: how a message is named while it is under way


class Courier:
    def __init__(self) -> None:
        self._queues: dict[int, deque[Delivery]] = {}
        self._under_way: dict[int, tuple[Delivery, ...]] = {}
        self._ready: deque[int] = deque()  # destinations with messages and nothing under way
        self._trims: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        self._waiters: dict[Mark, list[Callable[[], None]]] = {}
        self._marks: set[Mark] = set()
        self.repeated = 0

    @property
    def queued(self) -> int:
        return len(self._marks)

    @property
    def full(self) -> bool:
        return len(self._marks) >= QUEUED_MAX

    @property
    def at_rest(self) -> bool:
        return not self._marks and not self._trims

    def sent(self, messages: Iterable[Message]) -> None:
        """Take messages of outboxes, each source's in the order of their sequences."""
        for destination, delivery in messages:
            queue = self._queues.get(destination)
            if queue is None:
                queue = self._queues[destination] = deque()
            if not queue and destination not in self._under_way:
                self._ready.append(destination)
            queue.append(delivery)
            self._marks.add((delivery.source, destination, delivery.sequence))

    def next_batch(self) -> tuple[int, tuple[Delivery, ...]] | None:
        """A destination and what to deliver to it now, or None when nothing is ready."""
        if not self._ready:
            return None
        destination = self._ready.popleft()
        queue = self._queues[destination]
        batch: list[Delivery] = []
        size = 0
        while queue and len(batch) < MESSAGES_PER_DELIVER_MAX and size < DELIVER_BYTES_MAX:
            delivery = queue.popleft()
            batch.append(delivery)
            size += len(delivery.body)
        self._under_way[destination] = tuple(batch)
        return destination, tuple(batch)

    def delivered(self, destination: int, cursors: dict[int, int]) -> None:
        """The destination answered with where its cursors stand: what lies behind them was taken.

        What it did not take (its predecessor is missing there) goes back to the front of the queue.
        """
        batch = self._under_way.pop(destination)
        again: list[Delivery] = []
        for delivery in batch:
            if delivery.sequence <= cursors.get(delivery.source, 0):
                self._taken((delivery.source, destination, delivery.sequence))
            else:
                again.append(delivery)
        self.repeated += len(again)
        self._return(destination, again)

    def failed(self, destination: int) -> None:
        """No answer: the same batch will be handed out again."""
        self._return(destination, self._under_way.pop(destination))

    def _return(self, destination: int, deliveries: Sequence[Delivery]) -> None:
        """Put back in front what was not taken, but not what was forgotten meanwhile."""
        marks, queue = self._marks, self._queues[destination]
        queue.extendleft(
            delivery
            for delivery in reversed(deliveries)
            if (delivery.source, destination, delivery.sequence) in marks
        )
        if queue:
            self._ready.append(destination)
        else:
            del self._queues[destination]

    def forget(self, source: int) -> None:
        """The outbox of `source` is another node's to carry now: its leader's."""
        for destination, queue in list(self._queues.items()):
            if any(delivery.source == source for delivery in queue):
                kept = deque(delivery for delivery in queue if delivery.source != source)
                self._queues[destination] = kept
                if not kept and destination not in self._under_way:
                    del self._queues[destination]
                    self._ready.remove(destination)
        self._marks = {mark for mark in self._marks if mark[0] != source}
        self._trims.pop(source, None)
        for mark in [mark for mark in self._waiters if mark[0] == source]:
            for wake in self._waiters.pop(mark):
                wake()

    def _taken(self, mark: Mark) -> None:
        if mark not in self._marks:
            return  # its source was forgotten meanwhile
        source, destination, sequence = mark
        self._trims[source].append((destination, sequence))
        self._marks.discard(mark)
        for wake in self._waiters.pop(mark, ()):
            wake()

    def trims(self) -> Iterable[tuple[int, tuple[tuple[int, int], ...]]]:
        """What to trim, by source; handed out once."""
        trims, self._trims = self._trims, defaultdict(list)
        for source, cuts in trims.items():
            for start in range(0, len(cuts), TRIMS_PER_COMMAND_MAX):
                yield source, tuple(cuts[start : start + TRIMS_PER_COMMAND_MAX])

    def untrimmed(self, source: int, cuts: Iterable[tuple[int, int]]) -> None:
        """They were not trimmed: they will be handed out again."""
        self._trims[source] += cuts

    def when_taken(self, mark: Mark, wake: Callable[[], None]) -> bool:
        """Call `wake` once the message is taken; False (and no call) when it was already."""
        if mark not in self._marks:
            return False
        self._waiters.setdefault(mark, []).append(wake)
        return True

    def forget_waiter(self, mark: Mark, wake: Callable[[], None]) -> None:
        waiters = self._waiters.get(mark)
        if waiters and wake in waiters:
            waiters.remove(wake)
            if not waiters:
                del self._waiters[mark]
