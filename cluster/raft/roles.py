"""The roles of a replica and what turns one into another, as a table.

A learner is a follower: whether a replica counts is a matter of the configuration, not of its role. What is
absent from the table cannot happen; a leader that sees another one in its own term, above all.
"""

from enum import Enum


class Role(Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"  # asks whether an election could be won (§9.6)
    CANDIDATE = "candidate"
    LEADER = "leader"


class Event(Enum):
    TIMEOUT = "timeout"  # no leader was heard, or no election was decided
    TOLD = "told"  # the leader hands over
    WON = "won"
    LOST = "lost"
    HIGHER_TERM = "higher term"
    LEADER_SEEN = "leader seen"
    NO_QUORUM = "no quorum"
    REMOVED = "removed"


NEXT = {
    (Role.FOLLOWER, Event.TIMEOUT): Role.PRE_CANDIDATE,
    (Role.FOLLOWER, Event.TOLD): Role.CANDIDATE,
    (Role.FOLLOWER, Event.HIGHER_TERM): Role.FOLLOWER,
    (Role.FOLLOWER, Event.LEADER_SEEN): Role.FOLLOWER,
    (Role.PRE_CANDIDATE, Event.TIMEOUT): Role.PRE_CANDIDATE,
    (Role.PRE_CANDIDATE, Event.TOLD): Role.CANDIDATE,
    (Role.PRE_CANDIDATE, Event.WON): Role.CANDIDATE,
    (Role.PRE_CANDIDATE, Event.LOST): Role.FOLLOWER,
    (Role.PRE_CANDIDATE, Event.HIGHER_TERM): Role.FOLLOWER,
    (Role.PRE_CANDIDATE, Event.LEADER_SEEN): Role.FOLLOWER,
    (Role.CANDIDATE, Event.TIMEOUT): Role.PRE_CANDIDATE,
    (Role.CANDIDATE, Event.WON): Role.LEADER,
    (Role.CANDIDATE, Event.LOST): Role.FOLLOWER,
    (Role.CANDIDATE, Event.HIGHER_TERM): Role.FOLLOWER,
    (Role.CANDIDATE, Event.LEADER_SEEN): Role.FOLLOWER,
    (Role.LEADER, Event.HIGHER_TERM): Role.FOLLOWER,
    (Role.LEADER, Event.NO_QUORUM): Role.FOLLOWER,
    (Role.LEADER, Event.REMOVED): Role.FOLLOWER,
}
