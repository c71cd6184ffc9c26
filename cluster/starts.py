"""Where each Raft core of a node begins, from what its shards and its journal hold; pure.

The shard says how far a partition has applied and who its members were then; the journal has the log behind
that, and of the log before it what is not yet released. Of entries that are applied only the terms matter
here; the journal is read again when a follower needs their bytes.
"""

from collections.abc import Iterable, Mapping

from cluster.keys import GroupRow, Head
from cluster.raft.effects import HardState, Start
from cluster.raft.messages import Configuration
from storage.entries import Entry, Record
from storage.entries import HardState as HardStateRecord


class LogGap(Exception):
    """The shard stands before what the journal still has: it is not the one that belongs to this journal."""


class _Log:
    """Of one partition, as its records are read one by one."""

    __slots__ = ("_applied", "_base", "first", "hard_state", "last", "recent", "runs")

    def __init__(self, applied: int, base: int) -> None:
        self._applied = applied
        self._base = base
        self.hard_state = HardState(0, b"", 0)
        self.first = self.last = 0  # 0: the journal has nothing of it
        self.runs: list[tuple[int, int]] = []  # first index, term
        self.recent: list[bytes] = []  # the entries after `applied`

    def append(self, index: int, term: int, command: bytes) -> None:
        if index <= self._base:
            return
        if self.first and index <= self.last:
            self.truncate(index)
        if not self.first or index > self.last + 1:
            self.first, self.runs, self.recent = index, [], []
        self.last = index
        if not self.runs or self.runs[-1][1] != term:
            self.runs.append((index, term))
        if index > self._applied:
            self.recent.append(command)

    def truncate(self, index: int) -> None:
        if not self.first or index > self.last:
            return
        gone = self.last - index + 1
        del self.recent[max(0, len(self.recent) - gone) :]
        while self.runs and self.runs[-1][0] >= index:
            self.runs.pop()
        self.last = index - 1
        if self.last < self.first:
            self.first = self.last = 0


class Starts:
    """`members` are those of a group whose state names none: the founder alone, or nobody yet."""

    def __init__(
        self,
        partitions: Iterable[int],
        heads: Mapping[int, Head],
        groups: Mapping[int, GroupRow],
        members: Configuration,
    ) -> None:
        self._heads = heads
        self._groups = groups
        self._members = members
        nothing = GroupRow((), (), 0)
        self._logs = {
            number: _Log(heads.get(number, Head()).applied, groups.get(number, nothing).base)
            for number in partitions
        }

    def take(self, record: Record) -> None:
        """The journal's records, in order. Raises KeyError for a partition that there is not."""
        log = self._logs[record.partition]
        if isinstance(record, Entry):
            log.append(record.index, record.term, record.command)
        elif isinstance(record, HardStateRecord):
            log.hard_state = HardState(record.term, record.vote, record.commit)
        else:
            log.truncate(record.index)

    def starts(self) -> dict[int, Start]:
        """Raises LogGap."""
        return {number: self._start(number, log) for number, log in self._logs.items()}

    def _start(self, number: int, log: _Log) -> Start:
        head = self._heads.get(number, Head())
        group = self._groups.get(number)
        members = Configuration(group.voters, group.learners) if group else self._members
        if not log.first or log.last < head.applied:
            return Start(
                configuration=members,
                hard_state=log.hard_state,
                base=head.applied,
                base_term=head.term,
                last=head.applied,
                applied=head.applied,
            )
        if log.first > head.applied + 1:
            raise LogGap(f"partition {number} ends at {head.applied}, its journal begins at {log.first}")
        base, base_term = self._base(log, head, group)
        return Start(
            configuration=members,
            hard_state=log.hard_state,
            base=base,
            base_term=base_term,
            terms=tuple((first, term) for first, term in log.runs if first > base),
            last=log.last,
            recent=tuple(log.recent),
            applied=head.applied,
        )

    def _base(self, log: _Log, head: Head, group: GroupRow | None) -> tuple[int, int]:
        """The last entry that is compacted, whose term must be known: the one before the first that the
        journal has, or that one itself."""
        if log.first == 1:
            return 0, 0
        if log.first == head.applied + 1:
            return head.applied, head.term
        if group is not None and log.first == group.base + 1:
            return group.base, group.base_term
        return log.first, log.runs[0][1]
