"""What one replica knows of its group in any role: term, vote, log, members, and what is to go out.

The roles' rules are in `cluster.raft.core` (follower and candidate) and `cluster.raft.leader`; both work
on this. Here are the invariants that hold in every role, as assertions: terms and commit never go back, a
node votes once in a term, configurations are those of the log.
"""

from cluster.raft.effects import HardState, NeedEntries, NeedSnapshot, RaftSettings, ReadState, Run, Start
from cluster.raft.log import Log
from cluster.raft.messages import (
    CONFIGURATION_MARK,
    Configuration,
    Install,
    Message,
    decode_configuration,
    is_configuration,
)

Outgoing = list[tuple[bytes, Message]]


class Group:
    """Of one group, on one node. `me` is this node's id."""

    __slots__ = (
        "_commit_kept",
        "_configurations",
        "after_sync",
        "commit",
        "configuration",
        "hard_number",
        "hard_unwritten",
        "install",
        "leader",
        "log",
        "me",
        "messages",
        "needs",
        "number",
        "reads",
        "reads_lost",
        "settings",
        "term",
        "vote",
    )

    def __init__(self, number: int, me: bytes, start: Start, settings: RaftSettings) -> None:
        self.number = number
        self.me = me
        self.settings = settings
        self.log = Log(start, settings.window_bytes)
        # A torn write may have left entries of a term without its hard state; no vote left this node then.
        newest = max(start.hard_state.term, self.log.last_term)
        self.term = newest
        self.vote = start.hard_state.vote if newest == start.hard_state.term else b""
        self.commit = min(max(start.hard_state.commit, start.applied), start.last)
        self.leader: bytes | None = None
        self._configurations = [(start.applied, start.configuration)]
        self.configuration = start.configuration
        unapplied = start.recent[len(start.recent) - (start.last - start.applied) :]
        self._learn_configurations(start.applied + 1, unapplied)
        self.hard_unwritten = False  # term or vote changed since the last hard state went out
        self.hard_number = 0  # the write that holds them
        self.messages: Outgoing = []
        self.after_sync: Outgoing = []
        self.reads: list[ReadState] = []
        self.reads_lost: list[int] = []
        self.needs: list[NeedEntries | NeedSnapshot] = []
        self.install: Install | None = None
        self._commit_kept: int | None = None  # while a snapshot is on its way to the disk: the commit before

    # --- term and vote -----------------------------------------------------------------------------------
    def enter(self, term: int, vote: bytes) -> None:
        """A new term, or a vote in this one."""
        if term < self.term:
            raise AssertionError(f"group {self.number}: from term {self.term} back to {term}")
        if term == self.term and self.vote and vote != self.vote:
            raise AssertionError(f"group {self.number}: a second vote in term {term}")
        self.term, self.vote = term, vote
        self.hard_unwritten = True

    @property
    def term_unsynced(self) -> bool:
        return self.hard_unwritten or self.hard_number > self.log.synced_number

    def hard_state(self) -> HardState:
        """Its commit is one that the journal holds already: what follows in the same write may be torn. A
        snapshot's counts when it is installed: after a crash before that, the journal's own entries up to
        there may be another leader's, and nobody committed them."""
        commit = self.commit if self._commit_kept is None else self._commit_kept
        return HardState(self.term, self.vote, min(commit, self.log.synced))

    # --- what goes out -----------------------------------------------------------------------------------
    def send(self, to: bytes, message: Message) -> None:
        """Leaves at once, unless it speaks in a term that a crash could still make this node forget."""
        if self.hard_unwritten or self.hard_number > self.log.synced_number:
            self.after_sync.append((to, message))
        else:
            self.messages.append((to, message))

    def promise(self, to: bytes, message: Message) -> None:
        """Leaves when all that came before it is synced."""
        self.after_sync.append((to, message))

    # --- the log -----------------------------------------------------------------------------------------
    def commit_to(self, index: int) -> None:
        if index > self.log.last:
            raise AssertionError(f"group {self.number}: commit {index} beyond the last entry {self.log.last}")
        if index > self.commit:
            self.commit = index

    def append(self, term: int, entries: list[bytes]) -> bool:
        """Returns whether the members changed."""
        first = self.log.last + 1
        self.log.append(term, entries)
        for entry in entries:
            if entry and entry[0] == CONFIGURATION_MARK:
                return self._learn_configurations(first, entries)
        return False

    def truncate(self, index: int) -> bool:
        """Void the entries from `index` on. Returns whether the members changed: back to what they were."""
        if index <= self.commit:
            raise AssertionError(f"group {self.number}: truncation at {index}, commit {self.commit}")
        self.log.truncate(index)
        before = self.configuration
        while self._configurations[-1][0] >= index and len(self._configurations) > 1:
            self._configurations.pop()
        self.configuration = self._configurations[-1][1]
        return self.configuration != before

    def restore(self, index: int, term: int, configuration: Configuration) -> None:
        """A snapshot takes the place of the log; `restored` says when it has."""
        self._commit_kept = min(self.commit, self.log.synced)
        self.log.reset(index, term)
        self.commit = index
        self._configurations = [(index, configuration)]
        self.configuration = configuration

    def restored(self) -> None:
        self._commit_kept = None

    @property
    def configuration_index(self) -> int:
        """Where the log says who the members are: they take effect when appended, not when committed."""
        return self._configurations[-1][0]

    @property
    def may_be_voter(self) -> bool:
        """By the members as last applied here, or by any since."""
        return any(self.me in configuration.voters for _, configuration in self._configurations)

    def _learn_configurations(self, first: int, entries: list[bytes] | tuple[bytes, ...]) -> bool:
        before = self.configuration
        for index, entry in enumerate(entries, first):
            if is_configuration(entry):
                self._configurations.append((index, decode_configuration(entry)))
        self.configuration = self._configurations[-1][1]
        return self.configuration != before

    def hand_committed(self) -> list[Run]:
        """What may be applied now; older configurations than the last of these can no longer come back."""
        runs = self.log.hand(self.commit)
        configurations = self._configurations
        while len(configurations) > 1 and configurations[1][0] <= self.log.handed:
            del configurations[0]
        return runs
