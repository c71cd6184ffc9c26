"""Change streams: offsets without gaps, followed from anywhere, forgotten by age and in pieces."""

import pytest

from cluster import streams
from cluster.keys import Head
from storage.memory import MemoryRows
from storage.rows import Overlay

NOW = 1_800_000_000_000
KEPT, OLD = NOW - streams.KEEP_MS + 1, NOW - streams.KEEP_MS
PARTITION = 4


@pytest.fixture
def rows():
    return Overlay(MemoryRows())


def fill(rows, head, *times):
    for at in times:
        streams.append(rows, head, PARTITION, at, b"%d" % head.stream_next)


def offsets(rows, start=0):
    return [published.offset for published in streams.follow(rows, PARTITION, start)]


def test_offsets_count_from_one(rows):
    head = Head()
    published = [streams.append(rows, head, PARTITION, NOW, body) for body in (b"a", b"b", b"c")]
    assert published == [(PARTITION, 1, b"a"), (PARTITION, 2, b"b"), (PARTITION, 3, b"c")]
    assert list(streams.follow(rows, PARTITION, 1)) == published
    streams.append(rows, Head(), PARTITION + 1, NOW, b"another partition's")
    assert list(streams.follow(rows, PARTITION, 2)) == published[1:]


@pytest.mark.parametrize(("start", "found"), [(0, [1, 2]), (1, [1, 2]), (2, [2]), (3, []), (99, [])])
def test_following_from_an_offset(rows, start, found):
    fill(rows, Head(), NOW, NOW)
    assert offsets(rows, start) == found


@pytest.mark.parametrize(
    ("times", "below"),
    [
        ([], 1),
        ([KEPT], 1),
        ([OLD], 2),
        ([OLD, OLD, KEPT, KEPT], 3),
        ([OLD] * streams.FORGET_PER_COMMAND_MAX, streams.FORGET_PER_COMMAND_MAX + 1),
        ([OLD] * (streams.FORGET_PER_COMMAND_MAX + 9), streams.FORGET_PER_COMMAND_MAX + 1),
    ],
)
def test_what_may_be_forgotten(rows, times, below):
    head = Head()
    fill(rows, head, *times)
    assert streams.forgettable(rows, head, PARTITION, NOW) == below


def test_forgetting_goes_on_until_nothing_is_old(rows):
    head = Head()
    fill(rows, head, *[OLD] * 1200, KEPT, KEPT)
    rounds = 0
    while (below := streams.forgettable(rows, head, PARTITION, NOW)) > head.stream_first:
        rows.savepoint()
        streams.forget(rows, head, PARTITION, below)
        assert rows.changed <= streams.FORGET_PER_COMMAND_MAX
        rounds += 1
    assert (rounds, head.stream_first, head.stream_next) == (3, 1201, 1203)
    assert offsets(rows) == [1201, 1202]
    fill(rows, head, NOW)
    assert offsets(rows) == [1201, 1202, 1203]


@pytest.mark.parametrize(
    ("below", "first"),
    [(0, 1), (1, 1), (3, 3), (6, 6), (1000, 6), (2**63, 6)],
)
def test_forgetting_stops_at_what_there_is(rows, below, first):
    head = Head()
    fill(rows, head, *[NOW] * 5)
    streams.forget(rows, head, PARTITION, below)
    assert head.stream_first == first
    assert offsets(rows) == list(range(first, 6))
    streams.forget(rows, head, PARTITION, below)  # once more changes nothing
    assert head.stream_first == first
