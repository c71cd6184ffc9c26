"""What each node says of itself, and what follows for the whole cluster: the words of `cluster status`; pure.

A report is small enough for one frame and says only what its node knows for certain: which groups it leads,
and how far their other members are. Put together they show the cluster as the asking node sees it: a node
that is not heard leads nothing, as far as can be told from here.
"""

from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from cluster.keys import META_PARTITION
from cluster.raft.effects import RaftStatistics

BEHIND_ENTRIES: Final = 256  # a replica that lacks more has fallen behind; fewer are on their way
CLOCK_OFF_MS_MAX: Final = 500  # law 4: who is further off its peers' median leads nothing
NAMED_MAX: Final = 8  # partitions in one sentence
NAME_LETTERS: Final = 8


class Report(msgspec.Struct, frozen=True):
    """Times in ms; ids in hex."""

    node_id: str
    version: str = ""  # of the program
    level: int = 1  # the feature level that it speaks
    boot: int = 0
    leads: tuple[int, ...] = ()  # groups that it leads, and a majority of whose voters it reaches
    votes: int = 0  # groups in which it votes, as far as it knows
    learns: int = 0
    behind: dict[str, tuple[int, ...]] = {}  # node → groups led here in which that node lacks much
    changing: int = 0  # groups led here whose members are not yet those of the layout
    clock_off_ms: int = 0  # from its peers' median
    full: str = ""  # why it takes no writes
    disk_free_bytes: int = 0
    used_bytes: int = 0
    blobs_wanted: int = 0  # that it should have and has not
    blobs_damaged: int = 0  # found since its start
    refused: dict[str, int] = {}  # who knocked and was not let in, by reason
    up_s: float = 0.0  # since its start, as are the next two
    cpu_s: float = 0.0  # spent by the process, all threads together
    applied: int = 0  # commands
    repairing: bool = False  # looks for blobs that it lacks
    repaired_ms: int = 0  # Unix; when it last had looked; 0: not since its start
    scrubbing: bool = False  # reads all its blobs
    scrubbed_ms: int = 0


class Seen(msgspec.Struct, frozen=True):
    """A member, as the whole sees it."""

    node_id: str
    address: str
    heard: bool
    why: str = ""  # it is not heard
    leads: int = 0
    votes: int = 0
    learns: int = 0
    behind: int = 0  # groups in which it lacks much, as their leaders say
    clock_off_ms: int = 0
    full: str = ""
    disk_free_bytes: int = 0
    used_bytes: int = 0
    blobs_wanted: int = 0
    version: str = ""
    level: int = 0


class Picture(msgspec.Struct, frozen=True):
    """The cluster, as one node sees it."""

    cluster_id: str  # empty: the node is alone
    node_id: str
    alone: bool
    healthy: bool
    writes: str  # "taken" | "stopped" | "stopped in … of … groups"
    nodes: int
    heard: int
    groups: int
    groups_without_leader: int
    replicas_behind: int
    changing: int
    words: tuple[str, ...]  # what is wrong, a sentence each
    members: tuple[Seen, ...]


class Overview(msgspec.Struct, frozen=True):
    """All that the asking node can tell: the picture, and what it was made of."""

    picture: Picture
    reports: dict[str, Report]  # of the nodes that are heard
    zones: dict[str, str]  # of the members, in the order in which they joined
    away_s: dict[str, float]  # of the nodes that are not heard, where it is known since when
    voters: dict[int, tuple[str, ...]]  # of each group, as the asking node was told


def is_behind(leader: RaftStatistics, node: bytes) -> bool:
    """Whether a member of a group lacks so much that it counts as behind."""
    flow, match, _ = leader.followers[node]
    return flow == "snapshot" or leader.commit - match > BEHIND_ENTRIES


def median(values: Collection[int]) -> int:
    """The lower of the two in the middle, where there are two."""
    return sorted(values)[(len(values) - 1) // 2] if values else 0


def picture(
    me: str,
    cluster_id: str,
    addresses: Mapping[str, str],
    reports: Mapping[str, Report],
    unheard: Mapping[str, str],
    groups: Collection[int],
) -> Picture:
    """`addresses`: of all members; `reports`: of those heard, this node's own among them; `unheard`: why
    not, of the others."""
    leaderless = sorted(set(groups) - set(leaders(reports)))
    behind = _behind(reports)
    members = tuple(
        _seen(node, addresses[node], reports.get(node), unheard.get(node, ""), behind.get(node, 0))
        for node in sorted(addresses)
    )
    changing = sum(report.changing for report in reports.values())
    words = (
        *_words_of_groups(leaderless, len(groups), len(reports), len(addresses)),
        *(word for member in members for word in _words_of(member, reports.get(member.node_id))),
    )
    healthy = not words and not changing and not any(behind.values())
    return Picture(
        cluster_id=cluster_id,
        node_id=me,
        alone=not cluster_id,
        healthy=healthy,
        writes=_writes(len(leaderless), len(groups)),
        nodes=len(addresses),
        heard=len(reports),
        groups=len(groups),
        groups_without_leader=len(leaderless),
        replicas_behind=sum(behind.values()),
        changing=changing,
        words=words,
        members=members,
    )


def leaders(reports: Mapping[str, Report]) -> dict[int, str]:
    """Who leads each group. Of two that say so one was not told of its successor yet; either is named."""
    return {partition: node for node, report in reports.items() for partition in report.leads}


def lagging(reports: Mapping[str, Report]) -> dict[int, set[str]]:
    """The nodes that lack much, of each group that has such."""
    found: dict[int, set[str]] = {}
    for report in reports.values():
        for node, partitions in report.behind.items():
            for partition in partitions:
                found.setdefault(partition, set()).add(node)
    return found


def _behind(reports: Mapping[str, Report]) -> dict[str, int]:
    """How many groups each node lacks much in."""
    found: dict[str, int] = {}
    for report in reports.values():
        for node, partitions in report.behind.items():
            found[node] = found.get(node, 0) + len(partitions)
    return found


def _seen(node: str, address: str, report: Report | None, why: str, behind: int) -> Seen:
    if report is None:
        return Seen(node, address, heard=False, why=why or "it does not answer", behind=behind)
    return Seen(
        node_id=node,
        address=address,
        heard=True,
        leads=len(report.leads),
        votes=report.votes,
        learns=report.learns,
        behind=behind,
        clock_off_ms=report.clock_off_ms,
        full=report.full,
        disk_free_bytes=report.disk_free_bytes,
        used_bytes=report.used_bytes,
        blobs_wanted=report.blobs_wanted,
        version=report.version,
        level=report.level,
    )


def _writes(leaderless: int, groups: int) -> str:
    if not leaderless:
        return "taken"
    return "stopped" if leaderless == groups else f"stopped in {leaderless} of {groups} groups"


def _words_of_groups(leaderless: list[int], groups: int, heard: int, nodes: int) -> list[str]:
    if not leaderless:
        return []
    named = ", ".join(
        "meta" if number == META_PARTITION else str(number) for number in leaderless[:NAMED_MAX]
    )
    if len(leaderless) > NAMED_MAX:
        named += ", …"
    which = "all groups have" if len(leaderless) == groups else f"{len(leaderless)} groups ({named}) have"
    words = f"{which} no leader that is heard from here: their writes are stopped, reads answer"
    if heard < nodes:
        words += (
            f". {nodes - heard} of {nodes} nodes are not heard; writes go on when a majority of voters is"
        )
    return [words]


def _words_of(member: Seen, report: Report | None) -> list[str]:
    name = f"node {member.node_id[:NAME_LETTERS]} ({member.address})"
    if report is None:
        return [f"{name} is not heard: {member.why}"]
    words = []
    if member.full:
        words.append(f"{name} takes no writes: {member.full}")
    if abs(member.clock_off_ms) > CLOCK_OFF_MS_MAX:
        words.append(
            f"{name}: its clock is {member.clock_off_ms:+d} ms off its peers' median: it hands its "
            "leaderships over until that is mended"
        )
    if member.blobs_wanted:
        words.append(f"{name} lacks {member.blobs_wanted} blobs and fetches them")
    if report.blobs_damaged:
        words.append(f"{name} found {report.blobs_damaged} damaged blobs since its start: look at its disk")
    return words
