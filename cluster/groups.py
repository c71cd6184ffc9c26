"""All groups of a node, driven together; pure.

    groups.propose(7, [command], [ticket]) / groups.step(sender, messages) / groups.tick() / …
    while (batch := groups.ready()) is not None:
        … send batch.messages; write batch.records to the journal in one piece and sync …
        groups.synced()
        … apply batch.committed; hand on the rest …

One Raft core per partition (`cluster.raft.core`), each asked for its `Ready` only after something happened
to it, so a group with nothing to do costs nothing. What many groups have to write is one batch of the
journal; what they have to say to a node is one frame. A ticket is whatever its owner likes: it comes back
with the entry that it was given for, when that is committed, or among `lost` when one of a later term was
committed instead.

A batch's messages may leave before its records are written; those that must not are kept until `synced`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from cluster.raft.core import Raft
from cluster.raft.effects import (
    Change,
    NeedEntries,
    NeedSnapshot,
    NotLeader,
    RaftSettings,
    RaftStatistics,
    Ready,
    Standing,
    Start,
)
from cluster.raft.messages import Configuration, Install, Message
from cluster.raft.quiet import NodeHeartbeat, QuietGroups
from storage.entries import Entry, HardState, Record, Truncation

TICK_MS: Final = 50  # what the shells make a tick
ELECTION_TICKS: Final = 16  # 0.8 to 1.6 s without a leader: the pauses of a busy machine are shorter
HEARTBEAT_TICKS: Final = 2  # of a group that is not quiet: what else is sent in that time stands for one
BEAT_TICKS: Final = 2  # between two heartbeats of the node
SILENT_TICKS: Final = ELECTION_TICKS  # after which a node that was not heard frees the quiet groups it led
ANNOUNCED_MAX: Final = 8  # groups that commit together; with more, the frames that follow tell soon enough
SETTINGS: Final = RaftSettings(
    election_ticks=ELECTION_TICKS, heartbeat_ticks=HEARTBEAT_TICKS, window_bytes=64 << 10
)

Ticket = Any


class Committed(NamedTuple):
    """Entries to be applied, in order. `tickets` has one for each entry, None where it was not proposed here;
    it is empty where none was."""

    partition: int
    first: int
    term: int
    entries: list[bytes]
    tickets: list[Ticket]


class Led(NamedTuple):
    """Who leads a group now. Where it is this node, `begins` is the index from which on all is its own: it
    is in charge once that is applied."""

    partition: int
    standing: Standing
    begins: int


class Batch(msgspec.Struct):
    records: list[Record] = []
    messages: list[tuple[bytes, Message]] = []
    heartbeats: dict[bytes, NodeHeartbeat] = {}
    committed: list[Committed] = []
    installs: list[tuple[int, Install]] = []
    needs: list[tuple[int, NeedEntries | NeedSnapshot]] = []
    reads: list[tuple[Ticket, int]] = []
    reads_lost: list[Ticket] = []
    lost: list[Ticket] = []  # entries of later terms are committed in their place: certainly without effect
    unknown: list[Ticket] = []  # a snapshot took the place of the log: whether they took effect is not known
    led: list[Led] = []


class _Proposed(NamedTuple):
    index: int  # type: ignore[assignment]
    term: int
    ticket: Ticket


class Groups:
    """Of node `me`, in its start number `boot`. `random(n)` draws from 0 to n - 1."""

    def __init__(
        self,
        me: bytes,
        boot: int,
        starts: Mapping[int, Start],
        random: Callable[[int], int],
        settings: RaftSettings = SETTINGS,
        raft_type: type[Raft] = Raft,
    ) -> None:
        self._me = me
        self._rafts = {
            number: raft_type(number, me, start, random, settings) for number, start in starts.items()
        }
        self._quiet = QuietGroups(me, boot)
        self._asleep: dict[int, tuple[int, bytes | None]] = {}  # quiet groups: term, leader
        self._awake: dict[int, Raft] = dict(self._rafts)
        self._touched: dict[int, Raft] = dict(self._rafts)
        self._proposed: dict[int, deque[_Proposed]] = {}
        self._doubtful: dict[int, list[_Proposed]] = {}  # truncated here; another log may have them yet
        self._writing: dict[int, int] = {}  # group: number of its write in the batch that is not synced yet
        self._held: dict[int, int] = {}  # groups that install a snapshot: what is synced beside it
        self._after: dict[int, list[tuple[bytes, Message]]] = {}  # leave when the group's write is synced
        self._out: list[tuple[bytes, Message]] = []
        self._reads: dict[int, Ticket] = {}
        self._reads_asked = 0
        self._heard: dict[bytes, int] = {}  # peers, and the tick at which each was heard last
        self._beats_heard: dict[bytes, NodeHeartbeat] = {}  # the newest of each peer, not yet looked at
        self._ticks = 0
        self._beats = False

    # --- facts -------------------------------------------------------------------------------------------
    @property
    def idle(self) -> bool:
        """No tick would change anything."""
        return not self._awake and not self._heard

    def raft(self, partition: int) -> Raft:
        return self._rafts[partition]

    def configuration(self, partition: int) -> Configuration:
        return self._rafts[partition].configuration

    def statistics(self, partition: int) -> RaftStatistics:
        return self._rafts[partition].statistics()

    def hard_states(self) -> list[HardState]:
        """Of all groups that have one, for a checkpoint of the journal."""
        states = ((number, raft.hard_state()) for number, raft in self._rafts.items())
        return [HardState(number, *state) for number, state in states if state.term]

    # --- what is asked -----------------------------------------------------------------------------------
    def propose(self, partition: int, entries: list[bytes], tickets: Sequence[Ticket], term: int = 0) -> None:
        """Take commands into the log. Raises raft_effects.NotLeader, also where `term` is another than that
        in which this node leads, and Overfull."""
        raft = self._touch(partition)
        if term and raft.term != term:
            raise NotLeader(partition, raft.leader)
        first = raft.propose(entries)
        waiting = self._proposed.get(partition)
        if waiting is None:
            waiting = self._proposed[partition] = deque()
        self._doubt_from(partition, first)
        own = raft.term
        waiting.extend(_Proposed(first + at, own, ticket) for at, ticket in enumerate(tickets))

    def change(self, partition: int, change: Change) -> int:
        """Raises NotLeader, ChangeRefused, Overfull."""
        return self._touch(partition).change(change)

    def transfer(self, partition: int, target: bytes) -> None:
        """Raises NotLeader, ChangeRefused."""
        self._touch(partition).transfer(target)

    def campaign(self, partition: int) -> None:
        self._touch(partition).campaign()

    def campaign_alone(self, *, behind: bool = False) -> None:
        """Groups whose only voter is this node need not wait until nobody was heard; all of them, or those
        whose log holds more than is applied."""
        for number, raft in self._rafts.items():
            if raft.configuration.voters == (self._me,) and not (
                behind and raft.applied_index == raft.group.log.last
            ):
                self.campaign(number)

    def read(self, partition: int, ticket: Ticket) -> None:
        """Raises NotLeader, Overfull. The ticket comes back in `reads` with an index, or in `reads_lost`."""
        self._reads_asked += 1
        self._touch(partition).read(self._reads_asked)
        self._reads[self._reads_asked] = ticket

    # --- what is reported --------------------------------------------------------------------------------
    def synced(self) -> None:
        """The records of the last batch are on disk."""
        writing, self._writing = self._writing, {}
        for number, upto in writing.items():
            if number in self._held:
                self._held[number] = upto
            else:
                self._synced(number, upto)

    def installed(self, partition: int) -> None:
        """The state of the snapshot has taken the place of the partition's."""
        self._synced(partition, self._held.pop(partition))

    def _synced(self, number: int, upto: int) -> None:
        raft = self._rafts[number]
        raft.synced(upto)
        if raft.stirred:  # of most a sync moves nothing but a mark
            self._touched[number] = raft
        if number in self._after:
            self._out += self._after.pop(number)

    def applied(self, partition: int, index: int) -> None:
        self._rafts[partition].applied(index)

    def applied_index(self, partition: int) -> int:
        return self._rafts[partition].applied_index

    def installing(self, partition: int) -> bool:
        return partition in self._held

    def compacted(self, partition: int, index: int) -> None:
        self._rafts[partition].compacted(index)

    def supply(self, partition: int, need: NeedEntries, entries: list[bytes]) -> None:
        self._touch(partition).supply(need, entries)

    def snapshot_sent(self, partition: int, node: bytes, index: int) -> None:
        self._touch(partition).snapshot_sent(node, index)

    def snapshot_failed(self, partition: int, node: bytes) -> None:
        self._touch(partition).snapshot_failed(node)

    # --- time and peers ----------------------------------------------------------------------------------
    def tick(self) -> None:
        self._ticks += 1
        for number, raft in self._awake.items():
            raft.tick()
            if raft.quiet or raft.stirred:
                self._touched[number] = raft
        if self._ticks % BEAT_TICKS == 0 and self._heard:
            self._beats = True
            for node, at in self._heard.items():
                if self._ticks - at > SILENT_TICKS:
                    self.silent(node)
            for node in self._quiet.leaders():
                if node not in self._heard:  # it is no member any more: nobody else would notice its silence
                    self.silent(node)

    def peers(self, nodes: Iterable[bytes]) -> None:
        """The other nodes of the cluster: who gets heartbeats and is expected to send some."""
        self._heard = {node: self._heard.get(node, self._ticks) for node in nodes if node != self._me}

    def silent(self, node: bytes) -> None:
        """`node` was not heard for long, or the link to it broke: whom it led is free to elect another."""
        for number in self._quiet.silent(node):
            self._touch(number).node_silent(node)
        for number, raft in self._awake.items():
            if raft.leader == node:
                raft.node_silent(node)
                self._touched[number] = raft

    def heartbeat(self, sender: bytes, heartbeat: NodeHeartbeat) -> None:
        """It is compared with what is quiet here by the next `ready`, when all that came with it and before
        it has been looked at: groups whose leader has just let them fall quiet would else be missed."""
        if sender in self._heard:
            self._heard[sender] = self._ticks
        self._beats_heard[sender] = heartbeat

    def _compare(self) -> None:
        """What other nodes say that they lead quietly with what is quiet here."""
        heard, self._beats_heard = self._beats_heard, {}
        for sender, heartbeat in heard.items():
            wakes = self._quiet.heard(sender, heartbeat)
            for number in wakes.freed:
                self._touch(number).node_silent(sender)
            for number in wakes.lacking:
                self._touch(number).node_heartbeat(sender, 0)

    def step(self, sender: bytes, messages: Iterable[Message]) -> None:
        """Raises KeyError for a partition that there is not: the peer's fault."""
        rafts, touched = self._rafts, self._touched
        for message in messages:
            raft = touched[message.group] = rafts[message.group]
            raft.step(sender, message)

    def _touch(self, partition: int) -> Raft:
        raft = self._touched[partition] = self._rafts[partition]
        return raft

    # --- out ---------------------------------------------------------------------------------------------
    def ready(self) -> Batch | None:
        """What is to be done now; None: nothing. To be called again after `synced`, until it is None."""
        if self._writing:
            raise AssertionError("the last batch is not synced yet")
        if not (self._touched or self._out or self._beats or self._beats_heard):
            return None
        batch = Batch(messages=self._out)
        self._out = []
        self._take_all(batch)
        if self._beats_heard:
            self._compare()
            self._take_all(batch)
        if 0 < len(batch.committed) <= ANNOUNCED_MAX and self._heard:
            self._announce(batch.committed)
        if self._beats:
            self._beats = False
            batch.heartbeats = {node: self._quiet.heartbeat(node) for node in self._heard}
        if batch == _NOTHING:
            return None
        return batch

    def _take_all(self, batch: Batch) -> None:
        touched, self._touched = self._touched, {}
        for number, raft in touched.items():
            ready = raft.ready()
            if raft.quiet or number in self._asleep:
                self._look_whether_quiet(number, raft)
            if ready is not None:
                self._take(number, raft, ready, batch)

    def _announce(self, runs: list[Committed]) -> None:
        """With little to do, followers are told at once what is committed: their readers wait for it."""
        for run in runs:
            raft = self._rafts[run.partition]
            if raft.leadership is not None:
                raft.announce()
                self._touched[run.partition] = raft

    def _look_whether_quiet(self, number: int, raft: Raft) -> None:
        if not raft.quiet:
            del self._asleep[number]
            self._awake[number] = raft
            self._quiet.woke(number)
            return
        sleeps = (raft.term, raft.leader)
        if self._asleep.get(number) == sleeps:
            return
        self._asleep[number] = sleeps
        self._awake.pop(number, None)
        if raft.leader is not None:
            self._quiet.fell_quiet(number, raft.term, raft.leader, *raft.quiet_with())

    def _take(self, number: int, raft: Raft, ready: Ready, batch: Batch) -> None:
        if ready.writes:
            self._take_records(number, ready, batch)
        if ready.messages:
            batch.messages += ready.messages
        if ready.after_sync:
            if number in self._after:
                self._after[number] += ready.after_sync
            else:
                self._after[number] = ready.after_sync
            if number not in self._writing and number not in self._held:
                raise AssertionError(f"group {number}: messages wait for a write that there is not")
        for first, term, entries in ready.committed:
            batch.committed.append(
                Committed(
                    number, first, term, entries, self._tickets(number, first, term, len(entries), batch)
                )
            )
        if ready.reads or ready.reads_lost:
            batch.reads += [(self._reads.pop(token), index) for token, index in ready.reads]
            batch.reads_lost += [self._reads.pop(token) for token in ready.reads_lost]
        if ready.needs:
            batch.needs += [(number, need) for need in ready.needs]
        if ready.standing is not None:
            begins = raft.leadership.term_start if raft.leadership is not None else 0
            batch.led.append(Led(number, ready.standing, begins))

    def _take_records(self, number: int, ready: Ready, batch: Batch) -> None:
        """Of one group, in the order in which they are to be written."""
        records = batch.records
        if ready.hard_state is not None:
            records.append(HardState(number, *ready.hard_state))
        if ready.truncate:
            records.append(Truncation(number, ready.truncate))
            self._doubt_from(number, ready.truncate)
        for first, term, entries in ready.appends:
            if len(entries) == 1:
                records.append(Entry(number, term, first, entries[0]))
            else:
                records += [Entry(number, term, index, entry) for index, entry in enumerate(entries, first)]
        if ready.install is not None:
            self._install(number, ready.install, batch)
        self._writing[number] = ready.number

    def _install(self, number: int, install: Install, batch: Batch) -> None:
        self._held[number] = 0
        batch.installs.append((number, install))
        self._doubt_from(number, 1)
        for index, _, ticket in self._decided(number, install.last + 1, install.last_term):
            # What lies in the snapshot may have been committed: its result will never be known here.
            (batch.unknown if index <= install.last else batch.lost).append(ticket)

    def _tickets(self, number: int, first: int, term: int, count: int, batch: Batch) -> list[Ticket]:
        found: list[_Proposed] = []
        waiting = self._proposed.get(number)
        while waiting and waiting[0].index < first + count:
            found.append(waiting.popleft())
        found += self._decided(number, first + count, term)
        if not found:
            return []
        tickets: list[Ticket] = [None] * count
        for index, proposed_in, ticket in found:
            if index >= first and proposed_in == term:
                tickets[index - first] = ticket
            else:
                batch.lost.append(ticket)
        return tickets

    def _decided(self, number: int, behind: int, term: int) -> list[_Proposed]:
        """Doubtful ones whose fate is known once an entry of `term` is committed before index `behind`."""
        doubtful = self._doubtful.pop(number, None)
        if doubtful is None:
            return []
        still = [one for one in doubtful if one.index >= behind and one.term >= term]
        if still:
            self._doubtful[number] = still
        return [one for one in doubtful if one.index < behind or one.term < term]

    def _doubt_from(self, number: int, index: int) -> None:
        """Entries from `index` on are truncated here. A majority decided nothing by that: a node that has
        them may be elected next and commit them (figure 8 of the paper), so their tickets wait until an
        entry that is committed tells."""
        waiting = self._proposed.get(number)
        while waiting and waiting[-1].index >= index:
            self._doubtful.setdefault(number, []).append(waiting.pop())


_NOTHING: Final = Batch()
