"""Who is heard, and who is fit to lead, as far as this node can tell; pure.

An opinion, never a right (law 6): it says whom to ask first, whom not to wait for and whom to hand a lead.
Signs come in (a frame, a link made or broken, time that passes), turns come out.

    ALIVE     heard lately
    SUSPECT   not heard for a moment, or its link has just broken
    SILENT    not heard for long, or no link to it can be made

A clock goes off when it is more than `OFF_MS_MAX` from the median of all (law 4; `cluster.members.clocks`
says how that is known), and comes back when it is well within, so that one at the limit does not make
leads go to and fro. `now` is any steady clock, in ms; `sent_ms` and `received_ms` are what the two nodes'
clocks said.
"""

from collections.abc import Collection
from enum import Enum
from typing import Final, NamedTuple

import msgspec

from cluster.members.clocks import OFF_MS_MAX, Clocks
from cluster.raft.messages import MEMBERS_MAX

SUSPECT_MS: Final = 300  # three heartbeats of a node
SILENT_MS: Final = 600  # as long as an election waits at least
BACK_MS_MAX: Final = OFF_MS_MAX // 2


class State(Enum):
    ALIVE = "alive"
    SUSPECT = "suspect"
    SILENT = "silent"


class Sign(Enum):
    HEARD = "heard"  # a frame, or a link that was made
    CUT = "cut"  # the link broke, or could not be made
    LATE = "late"  # nothing for SUSPECT_MS
    OVERDUE = "overdue"  # nothing for SILENT_MS


NEXT: Final = {
    (State.ALIVE, Sign.HEARD): State.ALIVE,
    (State.ALIVE, Sign.CUT): State.SUSPECT,
    (State.ALIVE, Sign.LATE): State.SUSPECT,
    (State.ALIVE, Sign.OVERDUE): State.SILENT,
    (State.SUSPECT, Sign.HEARD): State.ALIVE,
    (State.SUSPECT, Sign.CUT): State.SILENT,  # tried again, in vain
    (State.SUSPECT, Sign.LATE): State.SUSPECT,
    (State.SUSPECT, Sign.OVERDUE): State.SILENT,
    (State.SILENT, Sign.HEARD): State.ALIVE,
    (State.SILENT, Sign.CUT): State.SILENT,
    (State.SILENT, Sign.LATE): State.SILENT,
    (State.SILENT, Sign.OVERDUE): State.SILENT,
}


class Turned(NamedTuple):
    """A node is heard otherwise than before."""

    node: bytes
    before: State
    after: State


class ClockTurned(NamedTuple):
    """A clock, this node's or another's, went off or came back. `off_ms`: ahead of the median."""

    node: bytes
    is_off: bool
    off_ms: int


Event = Turned | ClockTurned


class PeerStatistics(msgspec.Struct, frozen=True):
    state: str
    unheard_ms: int  # since it was heard, or since it is a member
    clock_off_ms: int | None  # from the median; None: not to be told


class MembershipStatistics(msgspec.Struct, frozen=True):
    peers: dict[bytes, PeerStatistics]
    clock_off_ms: int  # of this node
    hands_over: bool


class _Peer:
    __slots__ = ("heard", "state")

    def __init__(self, now: int) -> None:
        self.state = State.SUSPECT  # until it is heard, or has had the time
        self.heard = now


class Membership:
    """As the node `me` sees the other members, which `keep` names; what others say is not listened to."""

    def __init__(self, me: bytes) -> None:
        self._me = me
        self._peers: dict[bytes, _Peer] = {}
        self._clocks = Clocks()
        self._off: dict[bytes, int] = {}  # clocks that are off, and how far

    # --- signs -------------------------------------------------------------------------------------------
    def keep(self, members: Collection[bytes], now: int) -> None:
        """These are the members now, at most MEMBERS_MAX; the others are forgotten."""
        if len(members) > MEMBERS_MAX:
            raise AssertionError(f"{len(members)} members: at most {MEMBERS_MAX}")
        for node in [node for node in self._peers if node not in members]:
            del self._peers[node]
            self._clocks.forget(node)
            self._off.pop(node, None)
        for node in members:
            if node != self._me:
                self._peers.setdefault(node, _Peer(now))

    def heard(self, node: bytes, now: int) -> list[Event]:
        """A frame of it has arrived."""
        peer = self._peers.get(node)
        if peer is None:
            return []
        peer.heard = now
        return self._turn(node, peer, Sign.HEARD)

    def wants_clock(self, node: bytes, now: int) -> bool:
        """Whether to look into the frame for when it was sent."""
        return node in self._peers and self._clocks.wants(node, now)

    def observe(self, node: bytes, sent_ms: int, received_ms: int, now: int) -> list[Event]:
        """A frame of it has arrived, and says when it was sent."""
        if node in self._peers:
            self._clocks.heard(node, sent_ms, received_ms, now)
        return self.heard(node, now)

    def connected(self, node: bytes, is_connected: bool, now: int) -> list[Event]:
        """A link to it was made; or it broke, or could not be made."""
        if is_connected:
            return self.heard(node, now)
        peer = self._peers.get(node)
        return self._turn(node, peer, Sign.CUT) if peer is not None else []

    def tick(self, now: int) -> list[Event]:
        """Time passes: to be called every SUSPECT_MS or more often."""
        events: list[Event] = []
        for node, peer in self._peers.items():
            unheard = now - peer.heard
            if unheard >= SILENT_MS:
                events += self._turn(node, peer, Sign.OVERDUE)
            elif unheard >= SUSPECT_MS:
                events += self._turn(node, peer, Sign.LATE)
        return events + self._judge_clocks(now)

    def _turn(self, node: bytes, peer: _Peer, sign: Sign) -> list[Event]:
        before, peer.state = peer.state, NEXT[peer.state, sign]
        return [] if peer.state is before else [Turned(node, before, peer.state)]

    def _judge_clocks(self, now: int) -> list[Event]:
        events: list[Event] = []
        told = {self._me: self._clocks.off_ms(now)} | self._clocks.peers_off_ms(now)
        for node, off in told.items():
            if node not in self._off and abs(off) > OFF_MS_MAX:
                self._off[node] = off
                events.append(ClockTurned(node, True, off))
            elif node in self._off and abs(off) <= BACK_MS_MAX:
                del self._off[node]
                events.append(ClockTurned(node, False, off))
        for node in [node for node in self._off if node not in told]:
            del self._off[node]  # it is not heard any more: nothing can be said of it
            events.append(ClockTurned(node, False, 0))
        return events

    # --- what follows ------------------------------------------------------------------------------------
    def state(self, node: bytes) -> State:
        """Of a node that is no member: silent. This node hears itself."""
        if node == self._me:
            return State.ALIVE
        peer = self._peers.get(node)
        return peer.state if peer is not None else State.SILENT

    def alive(self) -> frozenset[bytes]:
        """This node and those that are heard."""
        heard = (node for node, peer in self._peers.items() if peer.state is State.ALIVE)
        return frozenset((self._me, *heard))

    def unfit(self) -> frozenset[bytes]:
        """Whose clocks are off: they lead nothing, and are given nothing to lead."""
        return frozenset(self._off)

    @property
    def hands_over(self) -> bool:
        """This node's clock is off: it gives its leads away (law 4)."""
        return self._me in self._off

    def clock_off_ms(self, now: int) -> int:
        """How far this node's clock is ahead of the median of all; 0 where that cannot be told."""
        return self._clocks.off_ms(now)

    def statistics(self, now: int) -> MembershipStatistics:
        off = self._clocks.peers_off_ms(now)
        peers = {
            node: PeerStatistics(peer.state.value, now - peer.heard, off.get(node))
            for node, peer in self._peers.items()
        }
        return MembershipStatistics(peers, self._clocks.off_ms(now), self.hands_over)
