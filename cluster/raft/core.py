"""Raft for one group, without I/O: messages and ticks in, `Ready` out (Ongaro & Ousterhout 2014, "the paper";
Ongaro's dissertation of the same year for the sections named).

    raft.step(sender, message) / raft.tick() / raft.propose([command])
    ready = raft.ready()                    # None: nothing to do
    … journal, send, apply as `cluster.raft.effects` says …
    raft.synced(ready.number); raft.applied(index)

Nothing here knows a clock, a file or a network. A tick is what the shell says it is, and decides only when
somebody asks to be elected or stops leading; who may lead, what is committed and what may be read follows
from terms, indexes and majorities alone. Chance comes in as a function.

**Quiet groups.** A group with nothing to do says so once and then neither sends nor ticks; one heartbeat
between two nodes stands for those of all their quiet groups (`cluster.raft.quiet`). A quiet follower does not
campaign while the leader's node is heard to lead it in the same term. That is safe whatever clocks do: being
quiet is only ever a reason not to campaign, or to refuse another the chance to; it grants no vote, commits
nothing and confirms no read. A leader that was deposed unnoticed, or is cut off, still needs a majority in
its own term for each of these. And it is live: a group wakes when its leader's node falls silent, restarts or
no longer names it, and by messages that concern it; a follower that wakes alone wakes its leader by asking.
"""

from collections.abc import Callable
from typing import Any

from cluster.raft.effects import (
    DEFAULTS,
    Change,
    HardState,
    NeedEntries,
    NotLeader,
    RaftSettings,
    RaftStatistics,
    Ready,
    Standing,
    Start,
)
from cluster.raft.elections import FROM_LEADER, Elections
from cluster.raft.leader import Leadership
from cluster.raft.messages import (
    CONFIGURATION_MARK,
    Append,
    Appended,
    Commit,
    Configuration,
    Heard,
    Heartbeat,
    Install,
    Message,
    Mismatch,
    PreVote,
    PreVoteAnswer,
    Stale,
    TimeoutNow,
    Vote,
    VoteAnswer,
)
from cluster.raft.roles import Event, Role


class Raft(Elections):
    """One replica of one group. `random(n)` draws from 0 to n - 1, and decides timeouts only."""

    def __init__(
        self,
        group: int,
        me: bytes,
        start: Start,
        random: Callable[[int], int],
        settings: RaftSettings = DEFAULTS,
    ) -> None:
        super().__init__(group, me, start, random, settings)
        self._applied = start.applied
        self._standing = self.standing
        self._install_number = 0  # the write of a snapshot's install
        self._steps: dict[type, Callable[[bytes, Any], None]] = {
            Append: self._on_append,
            Appended: self._on_appended,
            Mismatch: self._on_mismatch,
            Heartbeat: self._on_heartbeat,
            Heard: self._on_heard,
            Vote: self._on_vote,
            VoteAnswer: self._on_vote_answer,
            PreVote: self._on_pre_vote,
            PreVoteAnswer: self._on_pre_vote_answer,
            Install: self._on_install,
            TimeoutNow: self._on_timeout_now,
            Stale: self._on_stale,
            Commit: self._on_commit,
        }

    # --- facts -------------------------------------------------------------------------------------------
    @property
    def term(self) -> int:
        return self.group.term

    @property
    def leader(self) -> bytes | None:
        return self.group.leader

    @property
    def commit(self) -> int:
        return self.group.commit

    @property
    def applied_index(self) -> int:
        return self._applied

    @property
    def configuration(self) -> Configuration:
        return self.group.configuration

    @property
    def standing(self) -> Standing:
        return Standing(self.role, self.group.term, self.group.leader)

    def quiet_with(self) -> tuple[list[bytes], list[bytes]]:
        """Of a leader: followers that have all there is, and those left behind."""
        if self.leadership is None:
            return [], []
        behind = self.leadership.left_behind()
        return [node for node in self.leadership.progress if node not in behind], behind

    def hard_state(self) -> HardState:
        """For a checkpoint of the journal: what is written, or is about to be."""
        return self.group.hard_state()

    # --- the shell asks ----------------------------------------------------------------------------------
    def propose(self, entries: list[bytes]) -> int:
        """Append commands; returns the first one's index. They took effect if, and only if, entries of this
        term are handed out as committed at these indexes. Raises NotLeader, Overfull."""
        for entry in entries:
            if not entry or entry[0] == CONFIGURATION_MARK:
                raise ValueError("a command is not empty and does not begin with the mark of configurations")
        return self._lead().propose(entries)

    def change(self, change: Change) -> int:
        """Change the members, one at a time; returns the index. Raises NotLeader, ChangeRefused, Overfull."""
        return self._lead().change(change)

    def read(self, token: int) -> None:
        """Ask for a linearizable read; `Ready.reads` or `Ready.reads_lost` will carry the token (§6.4).
        Raises NotLeader, Overfull."""
        self._lead().read(token)

    def transfer(self, target: bytes) -> None:
        """Hand the lead over, for which proposals are refused up to an election timeout (§3.10).
        Raises NotLeader, ChangeRefused."""
        self._lead().transfer(target)

    def announce(self) -> None:
        """Tell followers how far all is committed, instead of leaving it to the next Append or heartbeat."""
        if self.leadership is not None:
            self.leadership.announce()

    def campaign(self) -> None:
        """Do not wait for a timeout. Nothing happens on a leader, or where this node is no voter."""
        if self.role is not Role.LEADER:
            self._campaign()

    def _lead(self) -> Leadership:
        if self.leadership is None:
            raise NotLeader(self.group.number, self.group.leader)
        self.wake()
        return self.leadership

    # --- what the shell reports --------------------------------------------------------------------------
    def synced(self, number: int) -> None:
        """All that Readys up to `number` had to write is on disk, and their snapshot is installed."""
        self.group.log.sync(number)
        if self._installing and number >= self._install_number:
            self._installing = False
            self.group.restored()
        if self.leadership is not None:
            self.leadership.advance()

    @property
    def stirred(self) -> bool:
        """After a sync or a tick, of which most change nothing but a mark: does `ready` have something?"""
        group, leadership = self.group, self.leadership
        return bool(
            group.messages
            or group.after_sync
            or (group.log.handed < group.commit and not self._installing)
            or (leadership is not None and leadership.fresh)
            or group.hard_unwritten
            or group.log.written < group.log.last
            or self._stands_otherwise()
        )

    def applied(self, index: int) -> None:
        """The state machine has taken all entries up to `index`; a snapshot may have come since."""
        if index > self.group.log.handed:
            limits = f"but {self.group.log.handed} was given out"
            raise AssertionError(f"group {self.group.number}: applied {index}, {limits}")
        self._applied = max(self._applied, index)

    def compacted(self, index: int) -> None:
        """The journal no longer has the entries up to `index`; the state has them, so they are applied."""
        if index > self._applied:
            raise AssertionError(f"group {self.group.number}: compacted {index}, applied {self._applied}")
        self.group.log.compact(index)

    def supply(self, need: NeedEntries, entries: list[bytes]) -> None:
        """The answer to a need; empty if the journal has them no longer. Old needs are ignored."""
        if self.leadership is not None:
            self.leadership.supply(need, entries)

    def snapshot_sent(self, node: bytes, index: int) -> None:
        """The stream of state up to `index`, with its Install, was taken by `node`."""
        if self.leadership is not None:
            self.leadership.snapshot_sent(node, index)

    def snapshot_failed(self, node: bytes) -> None:
        """The stream of state to `node` broke off: a new one will be asked for."""
        if self.leadership is not None:
            self.leadership.snapshot_failed(node)

    # --- time --------------------------------------------------------------------------------------------
    def tick(self) -> None:
        """A quiet group needs none."""
        if self.quiet:
            return
        if self.leadership is not None:
            if not self.leadership.tick():
                self._follow(Event.NO_QUORUM, self.group.term, None)
            elif self._applied == self.group.log.last and self.leadership.falls_quiet():
                self.quiet = True
            return
        self._elapsed += 1
        if self._elapsed >= self._timeout:
            self._campaign()

    # --- messages ----------------------------------------------------------------------------------------
    def step(self, sender: bytes, message: Message) -> None:
        kind = type(message)
        if self.quiet and kind is PreVote and (self.leadership is not None or sender == self.group.leader):
            self.wake()  # who asks may lack something; a leader that asks leads no more
        if message.term != self.group.term and not self._settle_term(sender, message):
            return
        if self.quiet and self._wakes(sender, message):
            self.wake()
        if kind in FROM_LEADER and (self.group.leader != sender or self.role is not Role.FOLLOWER):
            self._meet_leader(sender)
        self._steps[kind](sender, message)

    def _wakes(self, sender: bytes, message: Message) -> bool:
        """Heartbeats and questions decide for themselves; late answers of those who have all say nothing."""
        if isinstance(message, Heard | Appended) and self.leadership is not None:
            return sender in self.leadership.left_behind()
        return not isinstance(message, PreVote | Heartbeat)

    def _on_append(self, sender: bytes, message: Append) -> None:
        self._elapsed = 0
        if self._installing:
            return
        group, log, previous = self.group, self.group.log, message.previous
        if previous == log.last and message.previous_term == log.last_term:
            if message.entries:
                group.append(message.entries_term, message.entries)
        elif previous < log.base:  # compacted here, hence committed and the same
            group.promise(sender, Appended(group.number, group.term, group.commit))
            return
        elif not self._matches(previous, message.previous_term):
            hint, hint_term = log.agreement(previous, message.previous_term)
            group.send(sender, Mismatch(group.number, group.term, previous, hint, hint_term))
            return
        else:
            self._merge(message)
        match = previous + len(message.entries)
        if message.commit > group.commit:
            group.commit_to(min(message.commit, match))
        self._acknowledge(sender, Appended(group.number, group.term, match))

    def _acknowledge(self, leader: bytes, message: Appended) -> None:
        self.group.promise(leader, message)

    def _matches(self, index: int, term: int) -> bool:
        return self.group.log.term_at(index) == term

    def _merge(self, message: Append) -> None:
        """Keep what is the same; where terms differ, the leader's entries take the place of ours."""
        log, term = self.group.log, message.entries_term
        index = message.previous + 1
        end = message.previous + len(message.entries)
        while index <= min(end, log.last) and log.term_at(index) == term:
            index = log.run_end(index, end)[1] + 1
        if index > end:
            return
        if index <= log.last:
            self.group.truncate(index)
        self.group.append(term, message.entries[index - message.previous - 1 :])

    def _on_appended(self, sender: bytes, message: Appended) -> None:
        if self.leadership is not None:
            self.leadership.appended(sender, message)

    def _on_mismatch(self, sender: bytes, message: Mismatch) -> None:
        if self.leadership is not None:
            self.leadership.mismatch(sender, message)

    def _on_heartbeat(self, sender: bytes, message: Heartbeat) -> None:
        group = self.group
        self._elapsed = 0
        if message.commit > group.commit and not self._installing:
            group.commit_to(message.commit)
        self.quiet = message.quiet and group.log.last == message.commit and not self._installing
        if self.quiet:
            return
        group.send(sender, Heard(group.number, group.term, message.round))

    def _on_commit(self, sender: bytes, message: Commit) -> None:
        self._elapsed = 0
        if message.commit > self.group.commit and not self._installing:
            self.group.commit_to(message.commit)

    def _on_heard(self, sender: bytes, message: Heard) -> None:
        if self.leadership is not None:
            self.leadership.heard(sender, message)

    def _on_install(self, sender: bytes, message: Install) -> None:
        group = self.group
        self._elapsed = 0
        if self._installing:
            return
        if message.last > group.commit:
            if group.log.term_at(message.last) == message.last_term:
                group.commit_to(message.last)  # all of it is here already
            else:
                group.restore(message.last, message.last_term, message.configuration)
                group.install = message
                self._installing = True
                self._install_number = group.log.number + 1
                self._applied = message.last
        group.promise(sender, Appended(group.number, group.term, group.commit))

    def _on_stale(self, sender: bytes, message: Stale) -> None:
        """Of this very term: whoever said it has learned of it meanwhile."""

    # --- out ---------------------------------------------------------------------------------------------
    def ready(self) -> Ready | None:
        """What is to be done now; None if nothing is. To be called after every input."""
        if self.leadership is not None:
            if self.leadership.removed:
                self._follow(Event.REMOVED, self.group.term, None)
            else:
                self.leadership.flush()
        group, log = self.group, self.group.log
        runs = log.take_unwritten() if log.written < log.last else []
        truncate = log.take_truncation() if log.truncated else 0
        hard_state = group.hard_state() if group.hard_unwritten else None
        writes = bool(runs or truncate or hard_state is not None or group.install is not None)
        if writes:
            number = log.mark()
            if hard_state is not None:
                group.hard_unwritten = False
                group.hard_number = number
        committed = group.hand_committed() if log.handed < group.commit and not self._installing else []
        messages, after_sync = group.messages, group.after_sync
        if after_sync and not log.unsynced:  # nothing is under way that they would have to wait for
            messages, after_sync = messages + after_sync, []
        standing = self.standing if self._stands_otherwise() else None
        if not (
            writes
            or committed
            or messages
            or after_sync
            or standing
            or group.needs
            or group.reads
            or group.reads_lost
        ):
            return None
        ready = Ready(
            log.number,
            hard_state,
            truncate,
            runs,
            messages,
            after_sync,
            committed,
            group.reads,
            group.reads_lost,
            group.install,
            group.needs,
            standing,
            writes,
        )
        self._clear(standing)
        return ready

    def _stands_otherwise(self) -> bool:
        role, term, leader = self._standing
        group = self.group
        return role is not self.role or term != group.term or leader != group.leader

    def _clear(self, standing: Standing | None) -> None:
        group = self.group
        group.messages, group.after_sync = [], []
        if group.reads or group.reads_lost:
            group.reads, group.reads_lost = [], []
        if group.needs:
            group.needs = []
        group.install = None
        if standing is not None:
            self._standing = standing

    def statistics(self) -> RaftStatistics:
        group, log = self.group, self.group.log
        progress = self.leadership.progress if self.leadership is not None else {}
        return RaftStatistics(
            role=self.role.value,
            term=group.term,
            leader=group.leader,
            quiet=self.quiet,
            last=log.last,
            synced=log.synced,
            commit=group.commit,
            applied=self._applied,
            base=log.base,
            window_entries=log.last + 1 - log.window_first,
            window_bytes=log.window_bytes,
            followers={node: (one.flow.value, one.match, one.next) for node, one in progress.items()},
        )
