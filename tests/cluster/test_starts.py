"""Where cores begin: against a model that keeps every log whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.keys import GroupRow, Head
from cluster.raft.core import Raft
from cluster.raft.effects import HardState
from cluster.raft.messages import Configuration
from cluster.starts import LogGap, Starts
from storage.entries import Entry, Truncation
from storage.entries import HardState as HardStateRecord

ME = b"m" * 16
FOUNDER = Configuration((ME,))


def start(records, *, applied=0, term=0, group=None, members=FOUNDER):
    heads = {7: Head(applied=applied, term=term)} if applied else {}
    starts = Starts([7], heads, {7: group} if group else {}, members)
    for record in records:
        starts.take(record)
    return starts.starts()[7]


def entries(first, last, term):
    return [Entry(7, term, index, b"%d" % index) for index in range(first, last + 1)]


def test_nothing_anywhere_is_an_empty_replica_of_the_founder():
    begun = start([])
    assert (begun.base, begun.last, begun.applied, begun.configuration) == (0, 0, 0, FOUNDER)


def test_a_joiner_has_no_members_until_it_is_told():
    assert start([], members=Configuration(())).configuration.voters == ()


def test_a_released_journal_begins_where_the_shard_ends():
    begun = start([HardStateRecord(7, 3, ME, 9)], applied=9, term=3)
    assert (begun.base, begun.base_term, begun.last, begun.recent) == (9, 3, 9, ())
    assert begun.hard_state == HardState(3, ME, 9)


def test_the_first_entry_that_is_left_stands_for_those_that_went():
    begun = start(entries(5, 9, 2), applied=7, term=2)
    assert (begun.base, begun.base_term, begun.last) == (5, 2, 9)
    assert begun.recent == (b"8", b"9")
    assert begun.terms == ()


def test_entries_right_behind_the_shard_begin_at_its_head():
    begun = start(entries(8, 9, 3), applied=7, term=2)
    assert (begun.base, begun.base_term, begun.terms) == (7, 2, ((8, 3),))


def test_a_shard_behind_its_journal_is_not_its_own():
    with pytest.raises(LogGap, match="ends at 3, its journal begins at 5"):
        start(entries(5, 9, 2), applied=3, term=1)


def test_what_a_snapshot_replaced_is_not_named():
    group = GroupRow((ME,), (), 4, 10, 5)
    begun = start([*entries(3, 8, 2), *entries(11, 12, 5)], applied=11, term=5, group=group)
    assert (begun.base, begun.base_term, begun.last, begun.recent) == (10, 5, 12, (b"12",))


@st.composite
def histories(draw):
    """Records as a core writes them, the log that they leave, and an applied index within it."""
    log, records, term = [], [], 1
    for _ in range(draw(st.integers(1, 12))):
        term += draw(st.integers(0, 1))
        if log and draw(st.booleans()):
            cut = draw(st.integers(1, len(log)))
            if draw(st.booleans()):
                records.append(Truncation(7, cut))
            del log[cut - 1 :]
            if not isinstance(records[-1], Truncation):
                log.append((term, b"r"))
                records.append(Entry(7, term, len(log), b"r"))
        for _ in range(draw(st.integers(0, 4))):
            log.append((term, b"c%d" % len(log)))
            records.append(Entry(7, term, len(log), log[-1][1]))
    return records, log, draw(st.integers(0, len(log)))


@given(histories())
def test_a_core_begins_with_the_log_that_was_written(history):
    records, log, applied = history
    term = log[applied - 1][0] if applied else 0
    begun = start(records, applied=applied, term=term)
    assert begun.last == len(log)
    assert list(begun.recent) == [command for _, command in log[applied:]]
    core = Raft(7, ME, begun, lambda bound: 0)
    for index, (entry_term, _) in enumerate(log, 1):
        if index > begun.base:
            assert core.group.log.term_at(index) == entry_term
