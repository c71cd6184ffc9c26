"""Copies of blobs: how many there must be, what is said when there are too few, and who fetches what from
whom; pure.

A blob lies with every member of the partition that decides about it. It counts as stored when a majority of
the voters has it, as an entry of the log does; the others, and learners, get it soon after.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from cluster.raft.messages import Configuration

NAME_LETTERS: Final = 8  # of a node's id or a blob's hash, in what people read


class Wanted(NamedTuple):
    """A blob that rows refer to. A file that is put for it carries `index`: that of the log at which this
    replica saw the reference, so a later `Collect` may take the file and an earlier one may not."""

    digest: bytes
    size: int  # bytes
    index: int  # type: ignore[assignment]


class Copies:
    """One blob on its way from this node to the other members of its partition."""

    def __init__(self, me: bytes, configuration: Configuration) -> None:
        self.others = tuple(node for node in configuration.members if node != me)
        self.needed = configuration.quorum
        self._voters = frozenset(configuration.voters)
        self._durable = {me}
        self._wrong: dict[bytes, str] = {}
        self._given_up: set[bytes] = set()

    @property
    def written(self) -> int:
        """Voters that have it durably."""
        return len(self._voters & self._durable)

    @property
    def is_enough(self) -> bool:
        return self.written >= self.needed

    @property
    def is_hopeless(self) -> bool:
        """It will not become enough, however long one waits."""
        return len(self._voters - self._given_up) < self.needed

    def is_settled(self, node: bytes) -> bool:
        """It has the blob, or never will."""
        return node in self._durable or node in self._given_up

    def done(self, node: bytes) -> None:
        self._durable.add(node)
        self._given_up.discard(node)
        self._wrong.pop(node, None)

    def failed(self, node: bytes, reason: str, *, final: bool) -> None:
        """`final`: the node will not take it however often it is asked."""
        if node in self._durable:
            return
        self._wrong[node] = reason
        if final:
            self._given_up.add(node)

    @property
    def unheard(self) -> tuple[bytes, ...]:
        """Those from which no news came."""
        return tuple(node for node in self.others if node not in self._durable and node not in self._wrong)

    def evidence(self) -> str:
        """What there is and what went wrong, for whoever must be told that it is too little."""
        said = [f"node {name(node)}: {reason}" for node, reason in sorted(self._wrong.items())]
        return "; ".join([f"{self.written} of {self.needed} copies written", *said])


class Errand(NamedTuple):
    """Fetch a blob from the first of these nodes that gives it."""

    wanted: Wanted
    nodes: tuple[bytes, ...]


def divide(wanted: Sequence[Wanted], held: Mapping[bytes, Sequence[int]]) -> tuple[list[Errand], int]:
    """Who is to be asked for what, each node for as much as the others; and how many no node has.

    `held`: per node that answered, the index of its file of each of `wanted` in their order, 0 for none.
    """
    asked = dict.fromkeys(sorted(held), 0)  # bytes to be fetched from each
    errands: list[Errand] = []
    for number, one in enumerate(wanted):
        nodes = [node for node in asked if number < len(held[node]) and held[node][number]]
        if not nodes:
            continue
        nodes.sort(key=asked.__getitem__)
        asked[nodes[0]] += one.size
        errands.append(Errand(one, tuple(nodes)))
    return errands, len(wanted) - len(errands)


def in_turn(nodes: Iterable[bytes], turn: int) -> list[bytes]:
    """The nodes in an order of which each `turn` begins with another."""
    found = sorted(nodes)
    start = turn % len(found) if found else 0
    return found[start:] + found[:start]


def name(digest: bytes) -> str:
    """A node or blob, as people are told of it."""
    return digest.hex()[:NAME_LETTERS]
