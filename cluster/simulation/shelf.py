"""A shard of a simulated node: what `cluster.shard_writer` does in a thread, in virtual time.

Runs of committed entries are applied inside an open transaction, which is committed at once or lingers, as
under load. Results leave before their commit then, so that whoever was answered may still have to wait to
read.
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cluster.groups import Committed
from cluster.keys import GROUPS, HEADS_PARTITION, GroupKey, GroupRow
from cluster.partition import Applied, Partition
from cluster.raft.messages import Configuration, decode_configuration, is_configuration
from cluster.simulation.kernel import MS
from storage.memory import MemoryRows
from storage.rows import Overlay

if TYPE_CHECKING:
    from cluster.simulation.node import Node

APPLY_US: Final = (50, 800)  # from commit to apply: least and greatest
LINGER_MS_MAX: Final = 50
LINGERS: Final = 0.3  # of the batches


class Outbound:
    """See `cluster.shard_writer.Outbound`."""

    __slots__ = ("applied", "committed", "installed", "seen", "shelf", "terms")

    def __init__(self, shelf: "Shelf") -> None:
        self.shelf = shelf
        self.applied: list[tuple[Any, Applied]] = []
        self.seen: list[Applied] = []
        self.terms: list[tuple[int, int]] = []
        self.committed = False
        self.installed: int | None = None


class Installation:
    def __init__(self, partition: int, pieces: Iterator[list[bytes]], installed: Callable[[], None]) -> None:
        self.partition = partition
        self.pieces = pieces
        self.installed = installed


class Shelf:
    def __init__(self, node: "Node", rows: MemoryRows, partitions: dict[int, Partition]) -> None:
        self.rows = rows
        self.partitions = partitions
        self.committed = {number: replica.head.applied for number, replica in partitions.items()}
        self._node = node
        self._queue: list[Committed] = []
        self._installations: deque[Installation] = deque()
        self._busy = False
        self._overlay: Overlay | None = None
        self._dirty: dict[int, Partition] = {}
        self._out = Outbound(self)
        self._lingering = 0  # number of the linger under way; 0: none
        self._lingers = 0

    def begin(self) -> MemoryRows:
        """A write transaction; it has committed what it applied before."""
        return self.rows

    def submit(self, runs: list[Committed]) -> None:
        self._queue += runs
        self._wake()

    def install(self, installation: Installation) -> None:
        self._installations.append(installation)
        self._wake()

    def _wake(self) -> None:
        if not self._busy:
            self._busy = True
            self._node.after(self._node.kernel.between(*APPLY_US), self._turn)

    def _turn(self) -> None:
        self._busy = False
        runs, self._queue = self._queue, []
        for run in runs:
            self.apply(run)
        if runs:
            applied = {run.partition: run.first + len(run.entries) - 1 for run in runs}
            self._node.put(partial(self._node.report, applied))
        if self._installations:
            self.commit()
            self._install_piece()
        elif self._overlay is None:
            return
        elif self._node.kernel.chance(LINGERS):
            self._hand_out()
            if not self._lingering:
                self._lingers += 1
                self._lingering = self._lingers
                delay = self._node.kernel.between(1, LINGER_MS_MAX) * MS
                self._node.after(delay, self._end_linger, self._lingering)
        else:
            self.commit()

    def _end_linger(self, number: int) -> None:
        if self._lingering == number:
            self.commit()

    def apply(self, run: Committed) -> None:
        overlay = self._overlay
        if overlay is None:
            overlay = self._overlay = Overlay(self.rows)
        partition, index, term, entries, tickets = run
        replica = self._dirty[partition] = self.partitions[partition]
        if replica.head.term != term:
            self._out.terms.append((partition, term))
        checks, node = self._node.world.checks, self._node
        for at, entry in enumerate(entries):
            if not entry or is_configuration(entry):
                self._pass_by(replica, overlay, index + at, term, entry)
                checks.applied(node, partition, index + at, term, entry, None)
                continue
            applied = replica.apply(overlay, index + at, term, entry)
            checks.applied(node, partition, index + at, term, entry, applied)
            if tickets and tickets[at] is not None:
                self._out.applied.append((tickets[at], applied))
            if applied.id and applied.id in node.service.watches.ids:
                self._out.seen.append(applied)

    def _pass_by(self, replica: Partition, rows: Overlay, index: int, term: int, entry: bytes) -> None:
        replica.pass_by(index, term)
        if entry:
            members = decode_configuration(entry)
            key = GroupKey(HEADS_PARTITION, replica.number)
            before = GROUPS.get(rows, key) or GroupRow((), (), 0)
            row = GroupRow(members.voters, members.learners, index, before.base, before.base_term)
            GROUPS.put(rows, key, row)

    def commit(self) -> None:
        self._lingering = 0
        if self._overlay is not None:
            for replica in self._dirty.values():
                replica.store_head(self._overlay)
            self._overlay.flush()
            self._overlay = None
            self.rows.commit()
            for number, replica in self._dirty.items():
                self.committed[number] = replica.head.applied
            self._dirty.clear()
        self._out.committed = True
        self._hand_out()

    def _hand_out(self) -> None:
        out, self._out = self._out, Outbound(self)
        self._node.post(out)

    def _install_piece(self) -> None:
        installation = self._installations[0]
        for _ in installation.pieces:
            self._node.kernel.note(f"{self._node} installs {installation.partition}")
            self._wake()
            return
        self._installations.popleft()
        number = installation.partition
        replica = self.partitions[number] = self.partitions[number].reloaded(self.rows)
        self.committed[number] = replica.head.applied
        self._out.terms.append((number, replica.head.term))
        self._out.installed = number
        self._out.committed = True
        self._node.put(installation.installed)
        self._hand_out()
        if self._installations or self._queue:
            self._wake()


def members_in(rows: MemoryRows, partition: int) -> Configuration | None:
    row = GROUPS.get(rows, GroupKey(HEADS_PARTITION, partition))
    return Configuration(row.voters, row.learners) if row is not None else None
