"""What becomes of a command whose leader may fall away at any moment: try again, wait, or answer; pure.

A command that nobody remembers must still take effect once. So it is sent again only when it is certain
that the last attempt had no effect: nothing was taken, or an entry of a higher term was applied here and the
command was not among what came before it (a leader's entries that are not committed then never will be).
Until this or its own effect is seen, its fate is open, and it waits.

    SEEKING      in no log; somebody must be found who leads the partition
    UNDER_WAY    a leader was asked, or this node is the leader
    OPEN         the asking broke off: only what is applied here can tell

The other states are ends. `cluster.router` drives this table in a node, and the simulation in its own time.
"""

from enum import Enum
from typing import Final

WRITE_WITHIN_MS: Final = (
    10_000  # of one command: longer no client waits, and a majority needs seconds to return
)
LEADERLESS_MS: Final = (
    2_000  # longer than an election and its repetition: then there is no majority to be had
)


class State(Enum):
    SEEKING = "seeking"
    UNDER_WAY = "under way"
    OPEN = "open"
    ANSWERED = "answered"  # applied: here is what it did
    TURNED_AWAY = "turned away"  # the leader refused it, for load or space; in no log
    WITHOUT_EFFECT = "without effect"  # no leader was found in time; in no log
    UNSETTLED = "unsettled"  # time is up, and it may have taken effect or may do so yet


class Event(Enum):
    LEADER = "leader"  # one is known, and is asked
    APPLIED = "applied"  # with its result; whoever told it
    NOT_LEADER = "not leader"  # who was asked does not lead, or not in that term: nothing was taken
    UNREACHABLE = "unreachable"  # nothing was sent
    LOST = "lost"  # certainly in no log, though it was sent
    LINK_LOST = "link lost"  # it was sent, and nobody is left to answer: link, term or peer are gone
    OVERLOADED = "overloaded"
    FULL = "full"
    UNKNOWN = "unknown"  # a snapshot took the place of the log in which it may have been
    NO_LEADER = "no leader"  # for LEADERLESS_MS
    DEADLINE = "deadline"  # WRITE_WITHIN_MS


# What is absent cannot happen.
NEXT: Final = {
    (State.SEEKING, Event.LEADER): State.UNDER_WAY,
    (State.SEEKING, Event.NO_LEADER): State.WITHOUT_EFFECT,
    (State.SEEKING, Event.DEADLINE): State.WITHOUT_EFFECT,
    (State.UNDER_WAY, Event.APPLIED): State.ANSWERED,
    (State.UNDER_WAY, Event.NOT_LEADER): State.SEEKING,
    (State.UNDER_WAY, Event.UNREACHABLE): State.SEEKING,
    (State.UNDER_WAY, Event.LOST): State.SEEKING,
    (State.UNDER_WAY, Event.LINK_LOST): State.OPEN,
    (State.UNDER_WAY, Event.OVERLOADED): State.TURNED_AWAY,
    (State.UNDER_WAY, Event.FULL): State.TURNED_AWAY,
    (State.UNDER_WAY, Event.UNKNOWN): State.UNSETTLED,
    (State.UNDER_WAY, Event.NO_LEADER): State.UNSETTLED,
    (State.UNDER_WAY, Event.DEADLINE): State.UNSETTLED,
    (State.OPEN, Event.APPLIED): State.ANSWERED,
    (State.OPEN, Event.LOST): State.SEEKING,
    (State.OPEN, Event.UNKNOWN): State.UNSETTLED,
    (State.OPEN, Event.NO_LEADER): State.UNSETTLED,
    (State.OPEN, Event.DEADLINE): State.UNSETTLED,
}
ENDS: Final = frozenset(State) - {State.SEEKING, State.UNDER_WAY, State.OPEN}


class Attempts:
    """Of one command."""

    def __init__(self) -> None:
        self.state = State.SEEKING
        self.asked = 0  # how often a leader was asked

    def on(self, event: Event) -> State:
        """Raises AssertionError where the event cannot happen: a bug of the caller."""
        state = NEXT.get((self.state, event))
        if state is None:
            raise AssertionError(f"a command that is {self.state.value} meets {event.value}")
        self.state = state
        self.asked += state is State.UNDER_WAY
        return state


def ends_at(now: int, began: int, leaderless_since: int | None) -> tuple[int, Event]:
    """When waiting ends and as what, where no leader has been known since then (None: one is). Times are in
    ms of any clock."""
    ends = began + WRITE_WITHIN_MS
    if leaderless_since is None:
        return ends, Event.DEADLINE
    gone = max(now, leaderless_since + LEADERLESS_MS)
    return (gone, Event.NO_LEADER) if gone < ends else (ends, Event.DEADLINE)
