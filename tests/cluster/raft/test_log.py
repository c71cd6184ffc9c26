"""The log's marks and window against a plain list, and what a sync of replaced entries is worth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.raft.effects import Start
from cluster.raft.log import Log


def flat(runs):
    return [(run.first + at, run.term, data) for run in runs for at, data in enumerate(run.entries)]


def test_a_sync_of_entries_that_were_replaced_counts_for_nothing():
    log = Log(Start(), 1000)
    log.append(1, [b"a", b"b", b"c"])
    log.take_unwritten()
    first = log.mark()
    log.truncate(2)
    log.append(2, [b"B", b"C"])
    assert (log.take_truncation(), flat(log.take_unwritten())) == (2, [(2, 2, b"B"), (3, 2, b"C")])
    second = log.mark()
    log.sync(first)
    assert log.synced == 1
    assert flat(log.hand(3)) == [(1, 1, b"a")]
    log.sync(second)
    assert flat(log.hand(3)) == [(2, 2, b"B"), (3, 2, b"C")]


def test_what_was_never_handed_out_needs_no_truncation():
    log = Log(Start(), 1000)
    log.append(1, [b"a", b"b"])
    log.truncate(1)
    log.append(2, [b"A"])
    assert (log.truncated, flat(log.take_unwritten())) == (0, [(1, 2, b"A")])


def test_what_was_given_out_to_be_applied_is_never_truncated():
    log = Log(Start(), 1000)
    log.append(1, [b"a"])
    log.take_unwritten()
    log.sync(log.mark())
    log.hand(1)
    with pytest.raises(AssertionError, match="given out"):
        log.truncate(1)


def test_terms_do_not_go_back():
    log = Log(Start(base=4, base_term=3, last=4, applied=4), 1000)
    with pytest.raises(AssertionError, match="term"):
        log.append(2, [b"a"])


def test_a_start_must_bring_what_is_not_applied():
    with pytest.raises(ValueError, match="too few"):
        Log(Start(terms=((1, 1),), last=3, recent=(b"c",), applied=1), 1000)


def test_the_window_is_bounded_but_keeps_what_is_needed():
    log = Log(Start(), 10)
    for _ in range(9):
        log.append(1, [b"xxxx"])
    assert log.window_first == 1
    log.take_unwritten()
    log.sync(log.mark())
    log.hand(8)
    assert log.window_first == 9 - 1 or log.window_bytes <= 10
    assert flat(log.hand(9)) == [(9, 1, b"xxxx")]


deeds = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 2), st.integers(1, 4)),
    st.tuples(st.just("truncate"), st.integers(0, 5)),
    st.tuples(st.just("write")),
    st.tuples(st.just("sync"), st.integers(1, 3)),
    st.tuples(st.just("hand"), st.integers(0, 30)),
    st.tuples(st.just("compact"), st.integers(0, 30)),
)


@given(st.lists(deeds, max_size=60))
def test_against_a_plain_list(steps):
    log, model, disk, writes, handed = Log(Start(), 12), [], [], [], 0
    term, count = 1, 0
    for deed, *values in steps:
        if deed == "append":
            term += values[0]
            new = [b"%d" % (count + at) for at in range(values[1])]
            count += values[1]
            log.append(term, new)
            model += [(term, data) for data in new]
        elif deed == "truncate":
            index = max(len(model) - values[0], handed) + 1
            if index <= len(model):
                log.truncate(index)
                del model[index - 1 :]
        elif deed == "write":
            truncate, runs = log.take_truncation(), log.take_unwritten()
            writes.append((log.mark(), truncate, flat(runs)))
        elif deed == "sync" and writes:
            for number, truncate, entries in writes[: values[0]]:
                if truncate:
                    del disk[truncate - 1 :]
                assert not entries or entries[0][0] == len(disk) + 1
                disk += [(term_, data) for _, term_, data in entries]
                log.sync(number)
            del writes[: values[0]]
        elif deed == "hand":
            for index, term_, data in flat(log.hand(min(values[0], len(model)))):
                assert index == handed + 1
                handed = index
                assert model[index - 1] == disk[index - 1] == (term_, data)
        elif deed == "compact":
            log.compact(min(values[0], handed))
        assert log.last == len(model)
        assert disk[: log.synced] == model[: log.synced]
        for index in range(log.base + 1, len(model) + 1):
            assert log.term_at(index) == model[index - 1][0]
        for first in range(max(log.window_first, log.base + 1), len(model) + 1):
            term_, entries, size = log.cut(first, 3, 4)
            assert entries and size == sum(map(len, entries))
            assert model[first - 1 : first - 1 + len(entries)] == [(term_, data) for data in entries]
        assert log.window_first <= handed + 1
