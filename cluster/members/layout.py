"""The layout: which members vote on each partition, who of them is to lead it, who only learns; pure.

It is a function of the members and the replication factor, so every node that has the same rows of the meta
group has the same layout, and nobody has to store it (law 6: one layout per version). Who votes follows from
`cluster.members.ring`, corrected in two ways: no two voters share a zone while there are zones enough, and
where chance gave a node more or less than `_TOLERANCE` around its share, the partitions that it is least
(most) inclined to are given away (taken). Corrections are few, so a node that comes or goes moves little
more than its own share.

Two members are a case of their own: there is one voter, and it is the elder one of all partitions. Spread
over both, either's death would stop half of all writes; so the younger one's death stops none.
"""

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor
from typing import Final, NamedTuple, TypeVar

import msgspec

from cluster.keys import META_PARTITION
from cluster.members import ring

META_VOTERS_MAX: Final = 5
REPLICATION_FACTOR_MAX: Final = 7
Name = TypeVar("Name")
_TOLERANCE: Final = Fraction(2, 25)  # of a node's share, both ways; closer moves more when members change


class Placed(NamedTuple):
    """A member, as the layout sees it."""

    zone: str  # what fails together; all who name none are of one zone
    weight: int
    joined_ms: int = 0


class Placement(NamedTuple):
    voters: tuple[bytes, ...]  # the first is to lead
    learners: tuple[bytes, ...]  # all other members

    @property
    def members(self) -> tuple[bytes, ...]:
        return self.voters + self.learners


class Layout(msgspec.Struct, frozen=True):
    version: int
    placements: dict[int, Placement]  # by partition, the meta group's among them
    members: tuple[bytes, ...]

    def of(self, partition: int) -> Placement:
        return self.placements[partition]


class Moved(NamedTuple):
    """What differs for one partition."""

    partition: int
    came: tuple[bytes, ...]  # voters that were none
    left: tuple[bytes, ...]
    leader: tuple[bytes, bytes] | None  # who was to lead, who is; None: the same


class Difference(msgspec.Struct, frozen=True):
    old: int
    new: int
    joined: tuple[bytes, ...]
    gone: tuple[bytes, ...]
    moved: tuple[Moved, ...]


def voters_count(replication_factor: int, members: int) -> int:
    """The largest odd number that is neither above the replication factor nor above the members."""
    count = min(replication_factor, members)
    return count - 1 + count % 2


def layout_of(
    version: int, members: Mapping[bytes, Placed], replication_factor: int, partitions: int
) -> Layout:
    """Node ids in `members`; an empty one gives an empty layout."""
    ids = tuple(sorted(members))
    if not ids:
        return Layout(version, {}, ())
    if len(ids) <= 2:
        elder = min(ids, key=lambda node: (members[node].joined_ms, node))
        alone = Placement((elder,), tuple(node for node in ids if node != elder))
        return Layout(version, dict.fromkeys((*range(partitions), META_PARTITION), alone), ids)
    voters = _Chosen(members, range(partitions), voters_count(replication_factor, len(ids))).placements()
    meta = _Chosen(members, (META_PARTITION,), voters_count(META_VOTERS_MAX, len(ids))).placements()
    return Layout(version, voters | meta, ids)


def difference(old: Layout, new: Layout) -> Difference:
    """What a change of layout moves; partitions that one of them has not are left out."""
    moved = []
    for partition in sorted(old.placements.keys() & new.placements.keys()):
        before, after = old.of(partition).voters, new.of(partition).voters
        if before != after:
            came = tuple(node for node in after if node not in before)
            left = tuple(node for node in before if node not in after)
            leader = None if before[0] == after[0] else (before[0], after[0])
            if came or left or leader:
                moved.append(Moved(partition, came, left, leader))
    joined = tuple(node for node in new.members if node not in old.members)
    gone = tuple(node for node in old.members if node not in new.members)
    return Difference(old.version, new.version, joined, gone, tuple(moved))


class _Chosen:
    """Voters and leaders of some partitions, chosen and evened out."""

    def __init__(self, members: Mapping[bytes, Placed], partitions: Iterable[int], count: int) -> None:
        self._members = members
        self._weights = {node: members[node].weight for node in sorted(members)}
        self._count = count
        self._sizes: dict[str, int] = {}
        for node in self._weights:
            zone = members[node].zone
            self._sizes[zone] = self._sizes.get(zone, 0) + 1
        self._per_zone = next(
            most
            for most in range(1, count + 1)
            if sum(min(size, most) for size in self._sizes.values()) >= count
        )
        self._draws = {partition: ring.draws(partition, self._weights) for partition in partitions}
        self._voters = {partition: self._first(drawn) for partition, drawn in self._draws.items()}

    def placements(self) -> dict[int, Placement]:
        _even(self._voters, self._draws, self._shares(), self._may_replace)
        led = self._leaders()
        placements = {}
        for partition, drawn in self._draws.items():
            inside = self._voters[partition]
            (leader,) = led[partition]
            voters = (leader, *(node for node in ring.order(drawn) if node in inside and node != leader))
            learners = tuple(node for node in self._weights if node not in inside)
            placements[partition] = Placement(voters, learners)
        return placements

    def _first(self, drawn: Mapping[bytes, int]) -> set[bytes]:
        """The first of the order, with as few as possible of one zone."""
        chosen: set[bytes] = set()
        order = ring.order(drawn)
        for most in range(1, self._per_zone + 1):
            for node in order:
                if len(chosen) < self._count and node not in chosen and self._of_zone(chosen, node) < most:
                    chosen.add(node)
        return chosen

    def _of_zone(self, nodes: set[bytes], like: bytes) -> int:
        zone = self._members[like].zone
        return sum(self._members[node].zone == zone for node in nodes)

    def _may_replace(self, partition: int, old: bytes, new: bytes) -> bool:
        voters = self._voters[partition]
        if new in voters:
            return False
        zone = self._members[old].zone
        if zone == self._members[new].zone:
            return True
        least = min(self._sizes[zone], self._per_zone - 1)
        return self._of_zone(voters, old) > least and self._of_zone(voters, new) < self._per_zone

    def _shares(self) -> dict[bytes, Fraction]:
        """How many partitions each node should vote on: by weight, as far as zones and numbers allow."""
        rows, sizes = len(self._draws), self._sizes
        weights = dict.fromkeys(sizes, 0)
        for node, weight in self._weights.items():
            weights[self._members[node].zone] += weight
        low = {zone: rows * min(size, self._per_zone - 1) for zone, size in sizes.items()}
        high = {zone: rows * min(size, self._per_zone) for zone, size in sizes.items()}
        shares: dict[bytes, Fraction] = {}
        for zone, total in _fill(Fraction(rows * self._count), weights, low, high).items():
            inside = {n: weight for n, weight in self._weights.items() if self._members[n].zone == zone}
            shares |= _fill(total, inside, dict.fromkeys(inside, 0), dict.fromkeys(inside, rows))
        return shares

    def _leaders(self) -> dict[int, set[bytes]]:
        """Who leads each partition: the first of its voters, evened out."""
        led = {
            partition: {min(inside, key=lambda node: (self._draws[partition][node], node))}
            for partition, inside in self._voters.items()
        }
        loads = _loads(self._voters, self._weights)
        shares = _fill(Fraction(len(led)), self._weights, dict.fromkeys(loads, 0), loads)
        _even(led, self._draws, shares, lambda partition, _, new: new in self._voters[partition])
        return led


def _fill(
    total: Fraction, weights: Mapping[Name, int], low: Mapping[Name, int], high: Mapping[Name, int]
) -> dict[Name, Fraction]:
    """Divide `total` by weight, each part within its bounds, whose sums enclose it."""
    fixed: dict[Name, Fraction] = {}
    free = dict(weights)
    while free:
        rest, weight = total - sum(fixed.values()), sum(free.values())
        parts = {name: Fraction(rest * share, weight) for name, share in free.items()}
        above = {name: high[name] for name, part in parts.items() if part > high[name]}
        below = {name: low[name] for name, part in parts.items() if part < low[name]}
        if not above and not below:
            return fixed | parts
        too_much = sum(parts[name] - bound for name, bound in above.items())
        too_little = sum(bound - parts[name] for name, bound in below.items())
        for name, bound in (above if too_much >= too_little else below).items():
            fixed[name] = Fraction(bound)
            del free[name]
    return fixed


# --- evening out ---------------------------------------------------------------------------------------
Holders = dict[int, set[bytes]]  # by partition, who has it
Draws = Mapping[int, Mapping[bytes, int]]
MayReplace = Callable[[int, bytes, bytes], bool]  # partition, who has it, who would get it


def _loads(holders: Holders, nodes: Iterable[bytes]) -> dict[bytes, int]:
    loads = dict.fromkeys(nodes, 0)
    for inside in holders.values():
        for node in inside:
            loads[node] += 1
    return loads


def _even(holders: Holders, draws: Draws, shares: Mapping[bytes, Fraction], may: MayReplace) -> None:
    """Give from nodes above their share to nodes below, until all are within `_TOLERANCE` of it or the next
    whole number. Each round ends with less that is outside; where nothing more can be given, it is left."""
    most = {node: max(ceil(share), floor(share * (1 + _TOLERANCE))) for node, share in shares.items()}
    least = {node: min(floor(share), ceil(share * (1 - _TOLERANCE))) for node, share in shares.items()}
    while True:
        loads = _loads(holders, shares)
        givers = {node: load - most[node] for node, load in loads.items() if load > most[node]}
        takers = {node: least[node] - load for node, load in loads.items() if load < least[node]}
        if not givers and not takers:
            return
        if not givers:
            givers = {node: load - ceil(shares[node]) for node, load in loads.items() if load > shares[node]}
        if not takers:
            takers = {node: floor(shares[node]) - load for node, load in loads.items() if load < shares[node]}
        path = _path(holders, givers, takers, may)
        if not path:
            return
        wanted = max(1, min(givers[path[0]], takers[path[-1]])) if len(path) == 2 else 1
        for old, new in pairwise(path):
            _hand_on(holders, draws, old, new, wanted, may)


def _path(
    holders: Holders, givers: Mapping[bytes, int], takers: Mapping[bytes, int], may: MayReplace
) -> list[bytes]:
    """The shortest way from one who gives to one who takes, over nodes that can pass something on; those who
    give or take most come first. Empty: there is none."""
    nodes = sorted({node for inside in holders.values() for node in inside} | takers.keys())
    came: dict[bytes, bytes] = {}
    front = sorted(givers, key=lambda node: (-givers[node], node))
    seen = set(front)
    while front:
        following: list[bytes] = []
        for old in front:
            has = [partition for partition, inside in holders.items() if old in inside]
            reached = [n for n in nodes if n not in seen and any(may(p, old, n) for p in has)]
            came |= dict.fromkeys(reached, old)
            seen.update(reached)
            following += reached
        found = sorted((node for node in following if node in takers), key=lambda node: (-takers[node], node))
        if found:
            path = [found[0]]
            while path[0] in came:
                path.insert(0, came[path[0]])
            return path
        front = following
    return []


def _hand_on(holders: Holders, draws: Draws, old: bytes, new: bytes, wanted: int, may: MayReplace) -> None:
    """Those partitions change hands for which it takes least: so much the same ones when members change."""
    fit = [p for p, inside in holders.items() if old in inside and may(p, old, new)]
    fit.sort(key=lambda p: (draws[p][new] - draws[p][old], p))
    for partition in fit[:wanted]:
        holders[partition].remove(old)
        holders[partition].add(new)
