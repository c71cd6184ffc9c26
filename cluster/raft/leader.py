"""A leader's part of Raft: it exists while this replica leads, and all of it is forgotten after.

Replication with flow control, commit by counting (§5.4.2 of the paper), changes of members (§4.1 of the
dissertation), check-quorum (§6.2), reads by index (§6.4), leadership transfer (§3.10), and falling quiet.

The leader's entries go to the followers while it still writes them itself (§10.2.1): it counts itself only up
to what it has synced, so an entry may even be committed by the others first.
"""

from collections import deque
from typing import Final

from cluster.raft.effects import (
    AddLearner,
    Change,
    ChangeRefused,
    Demote,
    HandingOver,
    NeedEntries,
    NeedSnapshot,
    Overfull,
    Promote,
    ReadState,
    Remove,
)
from cluster.raft.group import Group
from cluster.raft.messages import (
    MEMBERS_MAX,
    NO_OP,
    Append,
    Appended,
    Commit,
    Configuration,
    Heard,
    Heartbeat,
    Mismatch,
    TimeoutNow,
    encode_configuration,
)
from cluster.raft.progress import Flow, Progress, Sign

READS_MAX: Final = 8192  # waiting for a round of heartbeats
MISSED_TO_BE_LEFT: Final = 2  # checks without a word from a follower; then a group falls quiet without it
ROUNDS_MAX: Final = 2  # of reads under way; later reads share the next one


class Leadership:
    """Of this node over its group in one term."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self.progress: dict[bytes, Progress] = {}
        self._round = 0
        self._reads: list[int] = []  # tokens, not yet in a round
        self._rounds: deque[tuple[int, int, list[int]]] = deque()  # round, index, tokens
        self.transferring: bytes | None = None
        self._transfer_ticks = 0
        self._ticks = 0  # since the last check of the quorum
        self._beat = 0  # since the last heartbeat
        self._idle = 0  # ticks with nothing to do
        self.fresh = True  # there may be something to send
        self._outside = False  # it is no voter any more
        self.term_start = group.log.last + 1  # index of this term's no-op
        group.append(group.term, [NO_OP])
        self.members_changed()

    # --- what the shell asks for -------------------------------------------------------------------------
    def propose(self, entries: list[bytes]) -> int:
        """Append; returns the first index. Raises Overfull; HandingOver while the lead goes to another."""
        group, settings = self._group, self._group.settings
        log = group.log
        if self.transferring is not None:
            raise HandingOver(group.number)
        if (
            log.unhanded_bytes > settings.uncommitted_bytes
            or log.last - log.handed > settings.uncommitted_entries
        ):
            waiting = log.last - log.handed
            raise Overfull(f"group {group.number}: {waiting} entries wait for a majority or for the disk")
        first = log.last + 1
        log.append(group.term, entries)
        self.fresh = True
        self._idle = 0
        return first

    def change(self, change: Change) -> int:
        """Propose new members; returns the entry's index. Raises ChangeRefused, Overfull."""
        group = self._group
        if group.configuration_index > group.commit:
            raise ChangeRefused(f"the change at index {group.configuration_index} is not committed yet")
        if not self.committed_in_term:
            # Two leaders could otherwise each make a change of their own, with majorities that do not meet.
            raise ChangeRefused("nothing of this term is committed yet")
        configuration = self._changed(group.configuration, change)
        if self.transferring is not None:
            raise HandingOver(group.number)
        group.append(group.term, [encode_configuration(configuration)])
        self.members_changed()
        self._idle = 0
        return group.log.last

    def _changed(self, now: Configuration, change: Change) -> Configuration:
        voters, learners, node = set(now.voters), set(now.learners), change.node
        match change:
            case AddLearner():
                if node in voters | learners or len(now.members) >= MEMBERS_MAX:
                    raise ChangeRefused(f"{node.hex()} is a member, or there are {MEMBERS_MAX} already")
                learners.add(node)
            case Promote():
                self._check_caught_up(node, learners)
                learners.remove(node)
                voters.add(node)
            case Demote():
                if node not in voters or len(voters) == 1:
                    raise ChangeRefused(f"{node.hex()} is not a voter, or the last one")
                voters.remove(node)
                learners.add(node)
            case Remove():
                if node not in voters | learners or voters == {node}:
                    raise ChangeRefused(f"{node.hex()} is not a member, or the last voter")
                voters.discard(node)
                learners.discard(node)
        return Configuration(tuple(sorted(voters)), tuple(sorted(learners)))

    def _check_caught_up(self, node: bytes, learners: set[bytes]) -> None:
        progress = self.progress.get(node)
        if node not in learners or progress is None:
            raise ChangeRefused(f"{node.hex()} is not a learner")
        lag = self._group.log.last - progress.match
        if progress.flow is not Flow.REPLICATE or lag > self._group.settings.promote_lag:
            raise ChangeRefused(f"{node.hex()} lacks {lag} entries: it would only be counted, not count")

    def read(self, token: int) -> None:
        """Raises Overfull."""
        if len(self._reads) >= READS_MAX:
            raise Overfull(f"group {self._group.number}: {READS_MAX} reads wait for a majority")
        self._reads.append(token)
        self._idle = 0

    def transfer(self, target: bytes) -> None:
        """Hand the lead to another voter; given up after an election timeout. Raises ChangeRefused."""
        if target == self._group.me or target not in self._group.configuration.voters:
            raise ChangeRefused(f"{target.hex()} is not another voter")
        self.transferring = target
        self._transfer_ticks = 0
        self._idle = 0
        self.fresh = True
        self._hand_over()

    def _hand_over(self) -> None:
        progress = self.progress.get(self.transferring or b"")
        if progress is not None and progress.match == self._group.log.last:
            self._group.send(progress.node, TimeoutNow(self._group.number, self._group.term))

    # --- members -----------------------------------------------------------------------------------------
    def members_changed(self) -> None:
        members = self._group.configuration.members
        self._outside = self._group.me not in self._group.configuration.voters
        for node in members:
            if node not in self.progress and node != self._group.me:
                self.progress[node] = Progress(node, self._group.log.last)  # the entry that made it so
        for node in [node for node in self.progress if node not in members]:
            del self.progress[node]
        if self.transferring is not None and self.transferring not in self._group.configuration.voters:
            self.transferring = None
        self.fresh = True
        self.advance()

    @property
    def removed(self) -> bool:
        """It manages a group that it is no voter of, until that is committed (§4.2.2)."""
        return self._outside and self._group.commit >= self._group.configuration_index

    # --- what followers say ------------------------------------------------------------------------------
    def appended(self, sender: bytes, message: Appended) -> None:
        progress = self.progress.get(sender)
        if progress is None:
            return
        progress.active = True
        if message.match > self._group.log.last:
            raise AssertionError(f"{sender.hex()} says it has {message.match} of {self._group.log.last}")
        if progress.flow is Flow.SNAPSHOT and message.match < self._group.log.base:
            return  # said before the snapshot arrived
        if progress.accepted(message.match):
            self.advance()
        if progress.lacks(self._group.log.last):
            self.fresh = True
        if sender == self.transferring:
            self._hand_over()

    def mismatch(self, sender: bytes, message: Mismatch) -> None:
        progress = self.progress.get(sender)
        if progress is None:
            return
        progress.active = True
        agreement, _ = self._group.log.agreement(message.hint, message.hint_term)
        if progress.refused(message.previous, agreement):
            self.fresh = True

    def heard(self, sender: bytes, message: Heard) -> None:
        progress = self.progress.get(sender)
        if progress is None:
            return
        progress.active = True
        if message.round > progress.round:
            progress.round = message.round
            self._finish_rounds()
        if progress.match < self._group.log.last:  # an Append or its answer may be lost: ask again
            if progress.flow is Flow.PROBE:
                progress.waiting = False
                self.fresh = True
            elif progress.flow is Flow.REPLICATE and not progress.told and not progress.reading:
                self._append_to(progress, entries_max=0)

    # --- commit ------------------------------------------------------------------------------------------
    def own_match(self) -> int:
        """How far this node may count itself: what it has synced."""
        return self._group.log.synced

    def counted(self) -> int:
        """The greatest index that a majority of voters has synced, the same entries as here."""
        voters, progress = self._group.configuration.voters, self.progress
        if not voters:
            return 0
        own = self.own_match()
        matches = [progress[node].match if node in progress else own for node in voters]
        matches.sort()
        return matches[(len(matches) - 1) // 2]

    def may_commit(self, index: int) -> bool:
        """Only an entry of this term is committed by counting; those before it follow (§5.4.2)."""
        return index >= self.term_start

    def advance(self) -> None:
        index = self.counted()
        if index > self._group.commit and self.may_commit(index):
            self._group.commit_to(index)
            self.fresh = True

    @property
    def committed_in_term(self) -> bool:
        return self._group.commit >= self.term_start

    # --- sending -----------------------------------------------------------------------------------------
    def flush(self) -> None:
        """Turn what is new into messages; called before each `Ready`."""
        if self._reads and self.committed_in_term and len(self._rounds) < ROUNDS_MAX:
            self._round += 1
            self._rounds.append((self._round, self._group.commit, self._reads))
            self._reads = []
            self._heartbeat_all()
            self._finish_rounds()
        if self.fresh:
            self.fresh = False
            last, settings = self._group.log.last, self._group.settings
            for progress in self.progress.values():
                while progress.lacks(last) and progress.may_send(settings):
                    self._append_to(progress, settings.append_entries)

    def _append_to(self, progress: Progress, entries_max: int) -> None:
        """The next entries; with `entries_max` 0 none, to learn whether those before have arrived."""
        group = self._group
        log, first = group.log, progress.next
        previous_term = log.term_at(first - 1)
        if previous_term is None:
            progress.turn(Sign.COMPACTED)
            group.needs.append(NeedSnapshot(progress.node, group.term))
            return
        if entries_max == 0 or first > log.last:
            self._send_append(progress, previous_term, group.term, [], 0)
        elif first < log.window_first:
            _, last = log.run_end(first, min(log.window_first - 1, first + entries_max - 1))
            progress.reading = True
            wanted = group.settings.append_bytes
            group.needs.append(NeedEntries(progress.node, group.term, first, last, wanted))
        else:
            cut = log.cut(first, entries_max, group.settings.append_bytes)
            self._send_append(progress, previous_term, *cut)

    def _send_append(
        self, progress: Progress, previous_term: int, term: int, entries: list[bytes], size: int
    ) -> None:
        group, previous = self._group, progress.next - 1
        message = Append(group.number, group.term, previous, previous_term, group.commit, term, entries)
        waiting = group.messages or group.after_sync
        if waiting:  # followers in step get the same message, which the shell then encodes once
            other = waiting[-1][1]
            if type(other) is Append and other.previous == previous and other == message:
                message = other
        group.send(progress.node, message)
        progress.sent(previous + len(entries), size)

    def supply(self, need: NeedEntries, entries: list[bytes]) -> None:
        """What the journal had, from `need.first` on; nothing: it was released meanwhile."""
        group = self._group
        progress = self.progress.get(need.node)
        if need.term != group.term or progress is None or not progress.reading:
            return
        progress.reading = False
        self.fresh = True
        if progress.next != need.first:
            return
        previous_term = group.log.term_at(need.first - 1)
        if not entries or previous_term is None:
            progress.turn(Sign.COMPACTED)
            group.needs.append(NeedSnapshot(progress.node, group.term))
            return
        term, last = group.log.run_end(need.first, need.first + len(entries) - 1)
        entries = entries[: last - need.first + 1]
        self._send_append(progress, previous_term, term, entries, sum(map(len, entries)))

    def snapshot_sent(self, node: bytes, index: int) -> None:
        """The node's own word may be lost: ask it whether it goes on from there."""
        progress = self.progress.get(node)
        if progress is not None and progress.flow is Flow.SNAPSHOT:
            progress.turn(Sign.SENT)
            progress.next = max(progress.match, min(index, self._group.log.last)) + 1
            self._append_to(progress, entries_max=0)

    def snapshot_failed(self, node: bytes) -> None:
        """It is tried again at the next answer to a heartbeat."""
        progress = self.progress.get(node)
        if progress is not None and progress.flow is Flow.SNAPSHOT:
            progress.turn(Sign.FAILED)
            progress.next = progress.match + 1
            progress.waiting = True

    # --- reads (§6.4) ------------------------------------------------------------------------------------
    def _finish_rounds(self) -> None:
        """A majority that answers a round sent after a read came proves that nobody led beside us then."""
        group = self._group
        if not self._rounds:
            return
        confirmed = self.confirmed_round()
        while self._rounds and self._rounds[0][0] <= confirmed:
            _, index, tokens = self._rounds.popleft()
            group.reads.extend(ReadState(token, index) for token in tokens)

    def confirmed_round(self) -> int:
        """The last round that a majority of voters has answered."""
        voters = self._group.configuration.voters
        me = self._group.me
        rounds = sorted(self._round if node == me else self.progress[node].round for node in voters)
        return rounds[(len(rounds) - 1) // 2] if rounds else 0

    def lose_reads(self) -> None:
        """The lead is lost, and with it what was to be confirmed."""
        lost = self._group.reads_lost
        for _, _, tokens in self._rounds:
            lost.extend(tokens)
        lost.extend(self._reads)

    # --- time --------------------------------------------------------------------------------------------
    def tick(self) -> bool:
        """Returns False where no majority was heard for an election timeout: then nobody is led (§6.2)."""
        settings = self._group.settings
        self._ticks += 1
        self._beat += 1
        self._idle += 1
        if self.transferring is not None:
            self._transfer_ticks += 1
            if self._transfer_ticks >= settings.election_ticks:
                self.transferring = None
        if self._beat >= settings.heartbeat_ticks:
            self._beat = 0
            self._heartbeat_all(spare_told=True)
        if self._ticks >= settings.election_ticks:
            self._ticks = 0
            return self._check_quorum()
        return True

    def _check_quorum(self) -> bool:
        group = self._group
        active = sum(node == group.me or self.progress[node].active for node in group.configuration.voters)
        for progress in self.progress.values():
            progress.missed = 0 if progress.active else progress.missed + 1
            progress.active = False
        return active >= group.configuration.quorum

    def _heartbeat_all(self, *, spare_told: bool = False) -> None:
        for progress in self.progress.values():
            spared = spare_told and progress.told and not self._rounds
            progress.told = False
            if not spared:
                self._heartbeat(progress, quiet=False)

    def _heartbeat(self, progress: Progress, *, quiet: bool) -> None:
        group = self._group
        commit = min(progress.match, group.commit)
        group.send(progress.node, Heartbeat(group.number, group.term, commit, self._round, quiet))

    def announce(self) -> None:
        """To followers that have all that is committed; others are told by the Appends that they get."""
        group = self._group
        for progress in self.progress.values():
            if progress.match >= group.commit:
                group.send(progress.node, Commit(group.number, group.term, group.commit))

    def falls_quiet(self) -> bool:
        """Nothing to do for a while, and whoever is alive has all there is. Tells them, and returns True."""
        group = self._group
        log = group.log
        limit = group.settings.quiet_ticks
        if not limit or self._idle < limit or self.transferring is not None or self._reads or self._rounds:
            return False
        if not log.last == group.commit == log.handed or group.configuration_index > group.commit:
            return False
        voters = group.configuration.voters
        level = [p.node for p in self.progress.values() if p.match == log.last]
        behind = [p for p in self.progress.values() if p.match < log.last]
        if any(p.missed < MISSED_TO_BE_LEFT or p.flow is Flow.SNAPSHOT for p in behind):
            return False
        if sum(node == group.me or node in level for node in voters) < group.configuration.quorum:
            return False
        for node in level:
            self._heartbeat(self.progress[node], quiet=True)
        log.trim(log.last + 1)
        return True

    def left_behind(self) -> list[bytes]:
        """Followers that lack entries."""
        last = self._group.log.last
        return [progress.node for progress in self.progress.values() if progress.match < last]

    def wakes(self) -> None:
        """From being quiet: whoever was not heard meanwhile had nothing to say."""
        self._idle = self._ticks = 0
        self._beat = self._group.settings.heartbeat_ticks
        self.fresh = True
        for progress in self.progress.values():
            progress.active = True
            progress.missed = 0
