"""Ids sort by time, carry their partition, and never come twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.ids import (
    EPOCH_MS,
    ID_MAX,
    NOTHING_MINTED,
    PARTITIONS_MAX,
    SEQUENCE_MAX,
    TIME_MAX,
    IdError,
    Minted,
    compose,
    mint,
    parse_id,
    partition_of,
    time_of,
)

NOW = EPOCH_MS + 90_000_000_000


@given(st.integers(0, TIME_MAX), st.integers(0, PARTITIONS_MAX - 1), st.integers(0, SEQUENCE_MAX))
def test_an_id_gives_back_its_parts(time, partition, sequence):
    identifier = compose(time, partition, sequence)
    assert 0 <= identifier <= ID_MAX
    assert partition_of(identifier) == partition
    assert time_of(identifier) == time + EPOCH_MS
    assert identifier & SEQUENCE_MAX == sequence


@given(st.lists(st.integers(-5000, 5000), min_size=1, max_size=60), st.integers(0, PARTITIONS_MAX - 1))
def test_ids_of_a_partition_grow_whatever_the_clock_does(steps, partition):
    now, last, before = NOW, NOTHING_MINTED, -1
    for step in steps:
        now += step
        identifier, last = mint(now, partition, last)
        assert identifier > before
        assert partition_of(identifier) == partition
        assert time_of(identifier) >= now
        before = identifier


def test_a_used_up_millisecond_moves_the_time_on():
    last, minted = NOTHING_MINTED, []
    for _ in range(2 * (SEQUENCE_MAX + 1) + 1):
        identifier, last = mint(NOW, 5, last)
        minted.append(identifier)
    assert sorted(set(minted)) == minted
    assert [time_of(minted[i]) - NOW for i in (0, SEQUENCE_MAX, SEQUENCE_MAX + 1, -1)] == [0, 0, 1, 2]


def test_a_clock_before_the_epoch_mints_at_the_epoch():
    identifier, last = mint(0, 3, NOTHING_MINTED)
    assert (identifier, last) == (compose(0, 3, 0), Minted(0, 0))


def test_the_end_of_time_is_said():
    with pytest.raises(OverflowError, match="41 bits"):
        mint(EPOCH_MS + TIME_MAX, 0, Minted(TIME_MAX, SEQUENCE_MAX))


def test_the_top_bit_is_clear_until_2058():
    in_2058 = 2_776_000_000_000
    assert mint(in_2058, PARTITIONS_MAX - 1, NOTHING_MINTED)[0] < 1 << 63


@given(st.integers(0, ID_MAX))
def test_an_id_has_one_spelling(identifier):
    assert parse_id(str(identifier)) == identifier


@pytest.mark.parametrize(
    "text",
    [
        *("", " 1", "1 ", "+1", "-1", "01", "00", "1.0", "1e3", "0x1", "1_000", "٣", "１", "\x001", "x" * 90),
        *(str(ID_MAX + 1), "9" * 20, "9" * 21, "1\n"),
    ],
)
def test_all_else_is_refused(text):
    with pytest.raises(IdError):
        parse_id(text)
