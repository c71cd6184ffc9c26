"""What a node's groups promise beside what one core does: tickets, hard states, late reports."""

from random import Random

import pytest

from cluster.groups import ELECTION_TICKS, Groups
from cluster.raft.effects import Start
from cluster.raft.messages import Append, Configuration, Install, PreVoteAnswer, VoteAnswer
from storage.entries import HardState
from tests.cluster.raft.cores import node

A, B, C, D, E = map(node, range(1, 6))
GROUP = 7
FIVE = Configuration((A, B, C, D, E))


def of_five(**start):
    return Groups(A, 1, {GROUP: Start(configuration=FIVE, **start)}, Random(1).randrange)


def drive(groups):
    """All batches that there are, synced at once."""
    batches = []
    while (batch := groups.ready()) is not None:
        groups.synced()
        batches.append(batch)
    return batches


def lead(groups):
    for _ in range(2 * ELECTION_TICKS):
        groups.tick()
    term = groups.raft(GROUP).term + 1
    groups.step(B, [PreVoteAnswer(GROUP, term, True)])
    groups.step(C, [PreVoteAnswer(GROUP, term, True)])
    drive(groups)
    groups.step(B, [VoteAnswer(GROUP, term, True)])
    groups.step(C, [VoteAnswer(GROUP, term, True)])
    drive(groups)
    assert groups.raft(GROUP).leadership is not None


@pytest.fixture
def doubtful():
    """This node led and proposed an entry; another leader's took its place here, uncommitted."""
    groups = of_five()
    lead(groups)
    groups.propose(GROUP, [b"\x01mine"], ["ticket"])
    drive(groups)
    groups.step(C, [Append(GROUP, 2, 0, 0, 0, 2, [b""])])
    batches = drive(groups)
    assert groups.raft(GROUP).group.log.last == 1
    assert [batch.lost for batch in batches] == [[] for _ in batches]
    return groups


def test_a_command_whose_entry_was_truncated_may_yet_take_effect(doubtful):
    """Figure 8 of the paper: D has it, is elected after C, and commits it. Whoever was told that it had no
    effect would have proposed it again."""
    doubtful.step(D, [Append(GROUP, 3, 0, 0, 0, 1, [b"", b"\x01mine"])])
    doubtful.step(D, [Append(GROUP, 3, 2, 1, 3, 3, [b""])])
    batches = drive(doubtful)
    found = [ticket for batch in batches for run in batch.committed for ticket in run.tickets]
    assert [ticket for ticket in found if ticket] == ["ticket"]
    assert not any(batch.lost for batch in batches)


def test_a_command_is_lost_when_an_entry_of_a_later_term_is_committed_in_its_place(doubtful):
    doubtful.step(C, [Append(GROUP, 2, 1, 2, 1, 2, [])])
    assert [ticket for batch in drive(doubtful) for ticket in batch.lost] == ["ticket"]


def test_a_snapshot_of_a_later_term_decides_what_lies_behind_it(doubtful):
    doubtful.step(D, [Install(GROUP, 3, 1, 3, FIVE)])
    batches = drive(doubtful)
    assert [ticket for batch in batches for ticket in batch.lost] == ["ticket"]
    assert not any(batch.unknown for batch in batches)


def test_a_snapshot_hides_what_became_of_what_it_covers(doubtful):
    doubtful.step(D, [Install(GROUP, 3, 5, 3, FIVE)])
    assert [ticket for batch in drive(doubtful) for ticket in batch.unknown] == ["ticket"]


def test_the_commit_of_a_snapshot_is_not_written_down_before_it_is_installed():
    """A crash in between leaves the journal with entries that nobody committed: they must not be applied."""
    stale = (b"\x01old",) * 5
    groups = of_five(terms=((1, 1),), last=5, recent=stale)
    groups.step(D, [Install(GROUP, 4, 9, 3, FIVE)])
    written = [record for batch in drive(groups) for record in batch.records if isinstance(record, HardState)]
    assert [(one.term, one.commit) for one in written] == [(4, 0)]
    assert [(one.term, one.commit) for one in groups.hard_states()] == [(4, 0)]
    groups.installed(GROUP)
    assert [(one.term, one.commit) for one in groups.hard_states()] == [(4, 9)]


def test_a_report_from_before_a_snapshot_may_come_after_it():
    """A shard that is behind says how far it is while its partition is being replaced."""
    groups = of_five()
    groups.step(B, [Append(GROUP, 1, 0, 0, 2, 1, [b"", b"\x01one"])])
    drive(groups)
    groups.step(B, [Install(GROUP, 1, 9, 1, FIVE)])
    drive(groups)
    groups.applied(GROUP, 2)
    assert groups.applied_index(GROUP) == 9
