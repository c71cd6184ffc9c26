"""What a leader knows of one follower, and how much it may send it: flow control.

PROBE       where the logs agree is not known: one Append at a time
REPLICATE   it takes all: Appends go out without waiting, up to the in-flight bounds
SNAPSHOT    it needs what is compacted: nothing is sent until the state has arrived
"""

from collections import deque
from enum import Enum

from cluster.raft.effects import RaftSettings


class Flow(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Sign(Enum):
    ACCEPTED = "accepted"  # an Append, or a snapshot, has reached `match`
    REFUSED = "refused"  # something before an Append is missing
    COMPACTED = "compacted"  # what it needs is not in the log any more
    SENT = "sent"  # the snapshot has arrived, as far as the sender knows
    FAILED = "failed"  # … or has not


NEXT = {
    (Flow.PROBE, Sign.ACCEPTED): Flow.REPLICATE,
    (Flow.PROBE, Sign.REFUSED): Flow.PROBE,
    (Flow.PROBE, Sign.COMPACTED): Flow.SNAPSHOT,
    (Flow.REPLICATE, Sign.ACCEPTED): Flow.REPLICATE,
    (Flow.REPLICATE, Sign.REFUSED): Flow.PROBE,
    (Flow.REPLICATE, Sign.COMPACTED): Flow.SNAPSHOT,
    (Flow.SNAPSHOT, Sign.ACCEPTED): Flow.REPLICATE,
    (Flow.SNAPSHOT, Sign.SENT): Flow.PROBE,
    (Flow.SNAPSHOT, Sign.FAILED): Flow.PROBE,
}


class Progress:
    """`match`: it has synced the leader's log up to there. `next`: what to send first."""

    __slots__ = (
        "active",
        "flow",
        "inflight",
        "inflight_bytes",
        "match",
        "missed",
        "next",
        "node",
        "reading",
        "round",
        "told",
        "waiting",
    )

    def __init__(self, node: bytes, next_index: int) -> None:
        self.node = node
        self.flow = Flow.PROBE
        self.match = 0
        self.next = next_index
        self.inflight: deque[tuple[int, int]] = deque()  # last index of an Append, its bytes
        self.inflight_bytes = 0
        self.waiting = False  # PROBE: the one Append is under way
        self.reading = False  # its entries are being read from the journal
        self.active = True  # it was heard since the last check of the quorum
        self.missed = 0  # checks of the quorum, one after the other, at which it had not been heard
        self.round = 0  # the last heartbeat round that it answered
        self.told = False  # something was sent since the last tick: that stands for a heartbeat

    def turn(self, sign: Sign) -> None:
        """Raises AssertionError where the sign means nothing in this state."""
        flow = NEXT.get((self.flow, sign))
        if flow is None:
            raise AssertionError(f"a follower in {self.flow.value} cannot have {sign.value}")
        if flow is not self.flow or flow is Flow.PROBE:
            self.inflight.clear()
            self.inflight_bytes = 0
            self.waiting = self.reading = False
        self.flow = flow

    def may_send(self, settings: RaftSettings) -> bool:
        if self.flow is Flow.REPLICATE:
            return (
                not self.reading
                and len(self.inflight) < settings.inflight_messages
                and self.inflight_bytes < settings.inflight_bytes
            )
        return self.flow is Flow.PROBE and not self.waiting and not self.reading

    def lacks(self, last: int) -> bool:
        """Is there anything to send? A probe goes out even if it carries no entries."""
        return self.next <= last or (self.flow is Flow.PROBE and self.match < last)

    def sent(self, last: int, size: int) -> None:
        """An Append with entries up to `last` has gone out."""
        self.told = True
        if self.flow is not Flow.REPLICATE:
            self.waiting = True
        elif last >= self.next:
            self.next = last + 1
            self.inflight.append((last, size))
            self.inflight_bytes += size

    def accepted(self, match: int) -> bool:
        """Returns whether that is news."""
        inflight = self.inflight
        while inflight and inflight[0][0] <= match:
            self.inflight_bytes -= inflight.popleft()[1]
        if match < self.match:
            return False
        news = match > self.match
        self.match = match
        if self.flow is not Flow.REPLICATE:
            self.turn(Sign.ACCEPTED)
            self.next = match + 1
        elif match >= self.next:
            self.next = match + 1
        return news

    def refused(self, previous: int, agreement: int) -> bool:
        """It has no such entry at `previous`; the logs may agree at `agreement`. Returns whether that is to
        be answered: an old refusal says nothing."""
        if self.flow is Flow.SNAPSHOT or previous <= self.match:
            return False
        if self.flow is Flow.PROBE and previous != self.next - 1:
            return False
        if self.flow is Flow.REPLICATE:
            agreement = self.match
        self.turn(Sign.REFUSED)
        self.next = max(min(agreement, previous - 1), self.match) + 1
        return True
