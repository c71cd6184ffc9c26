"""Bugs planted into what a simulated node is made of: what the simulation must find, or it proves nothing.

Those of the Raft core alone are in `tests.cluster.raft.planted`; here are some of them again, beside what
else a node of a cluster can get wrong: its disk, its mailboxes, its courier, its watches, its members.
"""

from typing import NamedTuple

import msgspec

from cluster import mailbox
from cluster.commands import Trim, encode
from cluster.groups import Groups
from cluster.keys import TakenKey
from cluster.partition import Partition
from cluster.raft.effects import Lost
from cluster.raft.log import Log
from cluster.simulation.belonging import Belonging
from cluster.simulation.build import PRODUCTION, Build, whole_state
from cluster.simulation.errand import Errand, LinkLost
from cluster.simulation.node import Node
from cluster.simulation.service import Service
from cluster.simulation.world import Options
from cluster.snapshots import state_stream
from cluster.snapshots.state_stream import End, Rows, StateCheck
from cluster.starts import Starts
from storage.entries import HardState
from storage.journal import JournalFailed, JournalFull
from tests.cluster.raft import planted as raft

PLANTED = {}
OPTIONS = Options(nodes=0, seconds=40, settle_seconds=25)
CUTS = 4  # the climate of cuts, weather and nodes that stand still
# Who reads what is old must be met by whoever wrote meanwhile, so all fight for a few things.
CROWDED = Options(
    nodes=5, seconds=40, settle_seconds=25, partitions=3, clients=10, pause_ms=120, climate=CUTS
)


class Plant(NamedTuple):
    build: Build
    expected: tuple  # checkers of which one must find it
    options: Options


def plant(name, expected, options=OPTIONS, **parts):
    PLANTED[name] = Plant(msgspec.structs.replace(PRODUCTION, **parts), expected, options)


def planted(part, *expected, options=OPTIONS):
    def take(cls):
        plant(cls.__name__, expected, options, **{part: cls})
        return cls

    return take


CORE = ("AssertionError",)  # a core finds by itself what cannot be
SAFETY = ("state machine safety", "leader completeness", "log matching", "election safety", *CORE)
DURABLE = ("durable before answered", "synced before applied", *SAFETY)

for name, expected in {
    "SkipsTheTermCheck": SAFETY,
    "VotesTwice": SAFETY,
    "VotesForAnyLog": SAFETY,
    "CountsLearners": (*DURABLE,),
    "CountsWhatItHasNotSynced": DURABLE,
    "AcknowledgesBeforeItIsSynced": DURABLE,
    "AppendsWithoutMatching": SAFETY,
    "KeepsConflictingEntries": SAFETY,
    "CommitsBeyondWhatWasMatched": SAFETY,
}.items():
    plant(name, expected, raft=raft.PLANTED[name])

READS = ("linearizable reads", "linearizable names")
plant("ReadsWithoutQuorum", READS, CROWDED, raft=raft.PLANTED["ReadsWithoutQuorum"])


# --- the log ---------------------------------------------------------------------------------------------
@raft.with_log
class AppliesBeforeItIsCommitted(Log):
    __slots__ = ()

    def hand(self, commit):
        return super().hand(self.synced)


plant(
    "AppliesBeforeItIsCommitted", (*DURABLE, "equal results"), raft=raft.PLANTED["AppliesBeforeItIsCommitted"]
)


@planted("starts", "votes", *SAFETY)
class ForgetsTermsAtTheStart(Starts):
    def take(self, record):
        if not isinstance(record, HardState):
            super().take(record)


@planted("groups", "exactly once", *CORE, options=CROWDED)
class ProposesInAnyTerm(Groups):
    """A command that was meant for another term, and given up for lost in it."""

    def propose(self, partition, entries, tickets, term=0):
        super().propose(partition, entries, tickets)


@planted("groups", "liveness")
class ForgetsWhoIsNoMemberAnyMore(Groups):
    """Groups that are quiet under it never wake."""

    def tick(self):
        self._quiet.leaders = list
        super().tick()


# --- the disk --------------------------------------------------------------------------------------------
@planted("node", *DURABLE, "journal")
class AcknowledgesBeforeFsync(Node):
    def write(self, batch):
        try:
            self.disk.journal.append(batch.records)
        except JournalFull:
            super().write(batch)
        else:
            self.after(self.sync_delay(), self._sync_late)
            self._synced(batch)

    def _sync_late(self):
        try:
            self.disk.journal.sync()
        except JournalFailed:
            self.world.kill(self)


# --- the state machine -------------------------------------------------------------------------------------
class _Clocked:
    def __init__(self, node, machine):
        self._node, self._machine = node, machine

    def execute(self, apply, body):
        apply.now = self._node.clock_ms()
        return self._machine.execute(apply, body)

    def receive(self, apply, source, body):
        self._machine.receive(apply, source, body)

    def proceed(self, apply, work):
        return self._machine.proceed(apply, work)


plant("UsesTheLocalClock", ("equal results", "equal digests"), machine=_Clocked)


@planted("partition", "exactly once", "equal results")
class ForgetsWhatItDid(Partition):
    """A retried command takes effect again."""

    def _execute(self, rows, index, command):
        return super()._execute(rows, index, msgspec.structs.replace(command, scope=0))


class _Forgetful:
    """Rows in which one inbox cursor in five is not written."""

    def __init__(self, rows):
        self._rows = rows

    def __getattr__(self, name):
        return getattr(self._rows, name)

    def put(self, key, value):
        if len(key) != 5 or key[2] != TakenKey.KIND or key[3:] != b"\x00\x05":
            self._rows.put(key, value)


@planted("partition", "exactly once", "equal results", "liveness")
class DropsAnInboxCursor(Partition):
    def _deliver(self, rows, index, command):
        take, mailbox.take = mailbox.take, lambda rows, *rest: take(_Forgetful(rows), *rest)
        try:
            return super()._deliver(rows, index, command)
        finally:
            mailbox.take = take


# --- the leader's duties -----------------------------------------------------------------------------------
@planted("service", "exactly once", "liveness")
class TrimsBeforeTaken(Service):
    def _carry(self, destination, batch):
        for delivery in batch:
            cuts = ((destination, delivery.sequence),)
            self.propose(delivery.source, encode(Trim(cuts)), _nothing, _nothing)
        super()._carry(destination, batch)


@planted("service", "exactly once", "liveness")
class ForgetsWhatItsPredecessorLeft(Service):
    def _take_charges(self):
        for number, (term, _) in list(self._charges.items()):
            del self._charges[number]
            self.duties.take_charge(number, term, (), has_work=False)


# --- reads and forwarding ----------------------------------------------------------------------------------
@planted("service", *READS, options=CROWDED)
class AnswersReadsOfADeposedLeader(Service):
    def read_index(self, partition, done, failed):
        if self.leader(partition) != self.node.id:
            super().read_index(partition, done, failed)
        else:
            done(self.node.shelf(partition).committed[partition])


@planted("service", *READS, options=CROWDED)
class ReadsWhatIsHere(Service):
    def reached(self, partition, index, call):
        call()


@planted("errand", "exactly once", options=CROWDED)
class AsksAgainBeforeItKnows(Errand):
    """A command whose answer got lost is taken for lost."""

    def _failed(self, asked, wrong):
        super()._failed(asked, Lost(str(wrong)) if isinstance(wrong, LinkLost) else wrong)


# --- members and snapshots ---------------------------------------------------------------------------------
@planted("belonging", "law 5", *SAFETY)
class AcceptsRestoredCopies(Belonging):
    def admits(self, sender):
        super().admits(sender)
        return True


def without_cursors(rows, partition, founder):
    """The state as a stream, but for the inbox cursors."""
    check = StateCheck(partition)
    pieces = [piece for data in whole_state(rows, partition, founder) for piece in check.feed(data)]
    flat = [part for piece in pieces if isinstance(piece, Rows) for part in piece.flat]
    kept = [pair for pair in zip(flat[::2], flat[1::2], strict=True) if pair[0][2] != TakenKey.KIND]
    return framed(pieces[0], kept)


def framed(begin, rows):
    """A stream of these rows. Its digest is that of a stream, so nobody notices on the way."""
    hashed = state_stream.blake3()
    data = [state_stream._framed(begin)]
    if rows:
        data.append(state_stream._framed(Rows([part for pair in rows for part in pair])))
    for piece in data:
        hashed.update(piece)
    return [*data, state_stream._framed(End(len(rows), hashed.digest()))]


plant(
    "InstallsWithoutInboxCursors",
    ("equal digests", "equal results", "exactly once", "liveness"),
    state=without_cursors,
)


def _nothing(_):
    pass
