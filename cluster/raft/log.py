"""The log of one group as its core sees it: terms of all entries, bytes of the recent ones.

The entries themselves lie in the node's journal, which all groups share. Here are their terms, as runs (a
group has few terms), and a window with the bytes of those that somebody may still want: what is not yet
handed out to be written or applied, and of the rest what `window_bytes` allows. Older ones are read from the
journal on demand.

Four marks move through the log, each at most as far as the one before it allows:
`written` (handed out to be journalled) ≥ `synced`, and `handed` (handed out to be applied) ≤ `synced`.
Several writes may be under way at once; a truncation takes back what they promised, so that the sync of an
entry that was replaced meanwhile counts for nothing.
"""

from bisect import bisect_right
from collections import deque

from cluster.raft.effects import Run, Start


class Log:
    """Indexes count from 1. `base` is the last entry that is compacted; its term is still known."""

    __slots__ = (
        "_first",
        "_outstanding",
        "_starts",
        "_terms",
        "_unhanded_bytes",
        "_window",
        "_window_bytes",
        "_window_bytes_max",
        "base",
        "handed",
        "last",
        "last_term",
        "number",
        "synced",
        "synced_number",
        "truncated",
        "written",
    )

    def __init__(self, start: Start, window_bytes: int) -> None:
        if start.last - len(start.recent) > start.applied or start.applied < start.base:
            raise ValueError(
                f"applied {start.applied}, base {start.base}, last {start.last}: {len(start.recent)} recent "
                "entries are too few; all that were not applied are needed"
            )
        self.base = start.base
        self.last = start.last
        self._starts = [start.base]
        self._terms = [start.base_term]
        for first, term in start.terms:
            if first <= self._starts[-1] or term < self._terms[-1]:
                raise ValueError(f"terms {start.terms} after base {start.base} do not grow")
            self._starts.append(first)
            self._terms.append(term)
        self.last_term = self._terms[-1]
        self.written = self.synced = start.last
        self.handed = start.applied
        self.truncated = 0  # the lowest index voided since `take_truncation`; 0: none
        self.number = self.synced_number = 0
        self._outstanding: deque[tuple[int, int]] = deque()  # (number, last index written) not yet synced
        self._window = list(start.recent)
        self._first = start.last - len(start.recent) + 1  # index of the window's first entry
        self._window_bytes = sum(map(len, self._window))
        self._unhanded_bytes = sum(map(len, self._window[self.handed + 1 - self._first :]))
        self._window_bytes_max = window_bytes

    # --- reading -----------------------------------------------------------------------------------------
    def term_at(self, index: int) -> int | None:
        """None where the log does not reach, or is compacted."""
        if index >= self._starts[-1]:
            return self.last_term if index <= self.last else None
        if index < self.base:
            return None
        return self._terms[bisect_right(self._starts, index) - 1]

    @property
    def window_first(self) -> int:
        """Entries from here on are in memory."""
        return self._first

    @property
    def window_bytes(self) -> int:
        return self._window_bytes

    @property
    def unhanded_bytes(self) -> int:
        """Bytes of the entries that are not yet applied: what a leader bounds."""
        return self._unhanded_bytes

    @property
    def unsynced(self) -> bool:
        return self.synced_number < self.number

    def up_to_date(self, last: int, last_term: int) -> bool:
        """Is a log that ends so at least as good as this one (§5.4.1)?"""
        return last_term > self.last_term or (last_term == self.last_term and last >= self.last)

    def agreement(self, index: int, term: int) -> tuple[int, int]:
        """The last place at or before `index` whose term is at most `term`, and its term: before it two
        logs may agree, behind it they cannot. Ends at `base`."""
        at = min(index, self.last)
        while at > self.base:
            run = bisect_right(self._starts, at) - 1
            if self._terms[run] <= term:
                return at, self._terms[run]
            at = self._starts[run] - 1
        return self.base, self._terms[0]

    def cut(self, first: int, entries_max: int, bytes_max: int) -> tuple[int, list[bytes], int]:
        """Entries of one term from `first` on, for one message: term, entries, their bytes.

        At least one; `first` must be in the window.
        """
        if first >= self._starts[-1]:
            term, stop = self.last_term, self.last + 1
        else:
            run = bisect_right(self._starts, first)
            term, stop = self._terms[run - 1], self._starts[run]
        at = first - self._first
        entries = self._window[at : min(stop - self._first, at + entries_max)]
        size = sum(map(len, entries))
        while size > bytes_max and len(entries) > 1:
            size -= len(entries.pop())
        return term, entries, size

    def run_end(self, first: int, last: int) -> tuple[int, int]:
        """The term of `first` and the last index, at most `last`, that has it too."""
        run = bisect_right(self._starts, first)
        end = self._starts[run] - 1 if run < len(self._starts) else self.last
        return self._terms[run - 1], min(end, last)

    def _runs(self, first: int, last: int) -> list[Run]:
        if first >= self._starts[-1]:  # as a rule
            return [Run(first, self.last_term, self._window[first - self._first : last + 1 - self._first])]
        runs = []
        while first <= last:
            term, end = self.run_end(first, last)
            runs.append(Run(first, term, self._window[first - self._first : end + 1 - self._first]))
            first = end + 1
        return runs

    # --- growing and shrinking ---------------------------------------------------------------------------
    def append(self, term: int, entries: list[bytes]) -> None:
        if term != self.last_term:
            if term < self.last_term:
                raise AssertionError(f"an entry of term {term} behind one of term {self.last_term}")
            self._starts.append(self.last + 1)
            self._terms.append(term)
            self.last_term = term
        self._window += entries
        self.last += len(entries)
        size = sum(map(len, entries))
        self._window_bytes += size
        self._unhanded_bytes += size

    def truncate(self, index: int) -> None:
        """Void the entries from `index` on. They must not have been handed out to be applied."""
        if index <= self.handed:
            raise AssertionError(f"truncation at {index}, but {self.handed} was given out to be applied")
        size = sum(map(len, self._window[index - self._first :]))
        del self._window[index - self._first :]
        self._window_bytes -= size
        self._unhanded_bytes -= size
        if index <= self.written:
            self.truncated = min(self.truncated or index, index)
            self.written = index - 1
            self.synced = min(self.synced, index - 1)
            self._outstanding = deque((number, min(last, index - 1)) for number, last in self._outstanding)
        while self._starts[-1] >= index and len(self._starts) > 1:
            self._starts.pop()
            self._terms.pop()
        self.last = index - 1
        self.last_term = self._terms[-1]

    def compact(self, index: int) -> None:
        """Forget the entries up to `index`, which were handed out to be applied."""
        if index > self.handed:
            raise AssertionError(f"compaction up to {index}, but only {self.handed} was given out")
        if index <= self.base:
            return
        term = self.term_at(index)
        assert term is not None  # base < index <= handed <= last
        run = bisect_right(self._starts, index)
        self._starts[:run] = [index]
        self._terms[:run] = [term]
        self.base = index
        self._drop(index + 1)

    def reset(self, index: int, term: int) -> None:
        """A snapshot takes the place of the whole log."""
        if self.written > index:
            self.truncated = min(self.truncated or index + 1, index + 1)
        self._window.clear()
        self._window_bytes = self._unhanded_bytes = 0
        self._first = index + 1
        self._starts, self._terms = [index], [term]
        self._outstanding = deque((number, index) for number, _ in self._outstanding)
        self.base = self.last = self.written = self.synced = self.handed = index
        self.last_term = term

    def trim(self, keep_from: int | None = None) -> None:
        """Let go of bytes that the journal has and nobody waits for: all before `keep_from`, or as many as
        are over the bound."""
        free = min(self.handed, self.synced) + 1
        if keep_from is not None:
            self._drop(min(keep_from, free))
            return
        first, size = self._first, self._window_bytes
        goal = self._window_bytes_max * 3 // 4  # so that not every entry moves the window
        while size > goal and first < free:
            size -= len(self._window[first - self._first])
            first += 1
        self._drop(first)

    def _drop(self, first: int) -> None:
        count = min(first - self._first, len(self._window))
        if count > 0:
            self._window_bytes -= sum(map(len, self._window[:count]))
            del self._window[:count]
        self._first = max(self._first, first)

    # --- to the journal and the state machine --------------------------------------------------------------
    def take_unwritten(self) -> list[Run]:
        runs = self._runs(self.written + 1, self.last)
        self.written = self.last
        return runs

    def take_truncation(self) -> int:
        index, self.truncated = self.truncated, 0
        return index

    def mark(self) -> int:
        """What was taken since the last mark is one write, by the number returned."""
        self.number += 1
        self._outstanding.append((self.number, self.written))
        return self.number

    def sync(self, number: int) -> None:
        """The writes up to `number` are on disk."""
        if not self.synced_number < number <= self.number:
            raise AssertionError(f"write {number} synced, after {self.synced_number} of {self.number}")
        self.synced_number = number
        while self._outstanding and self._outstanding[0][0] <= number:
            self.synced = max(self.synced, self._outstanding.popleft()[1])

    def hand(self, commit: int) -> list[Run]:
        """What may be applied now: committed, and synced here."""
        upto = min(commit, self.synced)
        if upto <= self.handed:
            return []
        runs = self._runs(self.handed + 1, upto)
        self.handed = upto
        for run in runs:
            self._unhanded_bytes -= sum(map(len, run.entries))
        if self._window_bytes > self._window_bytes_max:
            self.trim()
        return runs
