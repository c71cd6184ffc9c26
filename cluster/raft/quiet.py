"""The quiet groups of a node: one heartbeat to each other node stands for all of them.

A node keeps, for each other node, which groups are quiet between the two: led here with that node as a
level follower, or led there with this one. Both sides sum the same pairs (group, term) into a digest, so
that a heartbeat of three numbers says "all that you think I lead quietly, I do", and costs nothing per
group. Where the sums differ twice in a row though nothing has changed on either side in between (else a
message is under way, and with many groups always one), or the other node was started anew, or falls silent,
the groups that are quiet under it wake and find out one by one. This decides nothing else: see
`cluster.raft.core` on why that is safe. The byte form of a heartbeat is the msgpack array `[boot,
groups, digest]`.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

DIFFERENT_MAX: Final = 2  # equal heartbeats in a row that do not agree, before the groups wake
_MASK: Final = (1 << 64) - 1
_SPREAD: Final = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio: neighbouring numbers fall far apart


class NodeHeartbeat(msgspec.Struct, array_like=True, frozen=True):
    boot: int  # counts the starts of the sender
    groups: int  # that it leads quietly with the receiver as a follower
    digest: int  # u64, of these groups and their terms


class Wakes(NamedTuple):
    """Groups whose cores are to hear of it: `freed` by `node_silent`, `lacking` by `node_heartbeat`."""

    freed: list[int]
    lacking: list[int]


class _Peer:
    """What is quiet between this node and another. Sums are kept as groups come and go."""

    __slots__ = ("boot", "differed", "different", "led", "led_sum", "left", "under", "under_sum")

    def __init__(self) -> None:
        self.boot = 0
        self.different = 0
        self.differed: tuple[int, int, int] | None = None  # what did not agree: its sum and groups, ours
        self.led: dict[int, int] = {}  # group: term, led here
        self.led_sum = 0
        self.under: dict[int, int] = {}  # group: term, led there
        self.under_sum = 0
        self.left: set[int] = set()  # groups led here that fell quiet without that node


class QuietGroups:
    """Of one node, `me`. The shell tells it when a core falls quiet or wakes."""

    def __init__(self, me: bytes, boot: int) -> None:
        self._me = me
        self._boot = boot
        self._peers: dict[bytes, _Peer] = {}
        self._groups: dict[int, tuple[bytes, ...]] = {}  # which peers a quiet group concerns

    def fell_quiet(
        self,
        group: int,
        term: int,
        leader: bytes,
        followers: Iterable[bytes] = (),
        left: Iterable[bytes] = (),
    ) -> None:
        """A core is quiet. If it leads: `followers` are level, `left` lack entries and were not heard."""
        self.woke(group)
        if leader != self._me:
            peer = self._peer(leader)
            peer.under[group] = term
            peer.under_sum = (peer.under_sum + _mix(group, term)) & _MASK
            self._groups[group] = (leader,)
            return
        level, behind = tuple(followers), tuple(left)
        for node in level:
            peer = self._peer(node)
            peer.led[group] = term
            peer.led_sum = (peer.led_sum + _mix(group, term)) & _MASK
        for node in behind:
            self._peer(node).left.add(group)
        self._groups[group] = level + behind

    def woke(self, group: int) -> None:
        for node in self._groups.pop(group, ()):
            peer = self._peers[node]
            peer.left.discard(group)
            if (term := peer.led.pop(group, None)) is not None:
                peer.led_sum = (peer.led_sum - _mix(group, term)) & _MASK
            if (term := peer.under.pop(group, None)) is not None:
                peer.under_sum = (peer.under_sum - _mix(group, term)) & _MASK

    def heartbeat(self, to: bytes) -> NodeHeartbeat:
        peer = self._peer(to)
        return NodeHeartbeat(self._boot, len(peer.led), peer.led_sum)

    def heard(self, sender: bytes, heartbeat: NodeHeartbeat) -> Wakes:
        peer = self._peer(sender)
        restarted = peer.boot not in (0, heartbeat.boot)
        peer.boot = heartbeat.boot
        agrees = heartbeat.digest == peer.under_sum and heartbeat.groups == len(peer.under)
        differs = None if agrees else (heartbeat.digest, heartbeat.groups, peer.under_sum)
        peer.different = 0 if agrees else peer.different + 1 if differs == peer.differed else 1
        peer.differed = differs
        if not restarted and peer.different < DIFFERENT_MAX:
            return Wakes([], sorted(peer.left))
        peer.different = 0
        return Wakes(sorted(peer.under), sorted(peer.left))

    def leaders(self) -> list[bytes]:
        """The nodes under which groups are quiet here."""
        return [node for node, peer in self._peers.items() if peer.under]

    def silent(self, node: bytes) -> list[int]:
        """`node` was not heard for an election timeout: the groups that are quiet under it."""
        return sorted(self._peer(node).under)

    def _peer(self, node: bytes) -> _Peer:
        peer = self._peers.get(node)
        if peer is None:
            peer = self._peers[node] = _Peer()
        return peer


def _mix(group: int, term: int) -> int:
    return ((term << 16 | group) + 1) * _SPREAD & _MASK
