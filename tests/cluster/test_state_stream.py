"""A partition's state as a stream: nothing but a whole one is taken, however it is cut or bent."""

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from cluster.keys import HEADS, HEADS_PARTITION, META_PARTITION, GroupRow, Head, HeadKey
from cluster.snapshots import state_stream
from cluster.snapshots.state_stream import (
    Begin,
    End,
    Rows,
    StateCheck,
    StateDamaged,
    StateTooLarge,
    StateTooNew,
    read_state,
)
from storage.keys import partition_range
from storage.memory import MemoryRows
from storage.records import RecordDamaged
from tests.cluster.states import ALICE, BOB, CAROL, FOUNDER, PARTITION, fill, some_notes, stream
from tests.cluster.toy import NOTES, NoteKey


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(state_stream, "PIECE_BYTES", 1 << 10)


@pytest.fixture
def rows():
    rows = MemoryRows()
    for partition in (PARTITION - 1, PARTITION, PARTITION + 1, META_PARTITION):
        fill(rows, partition, some_notes(100, partition))
    rows.commit()
    return rows


def checked(data, *, partition=PARTITION, bytes_max=10**9):
    check = StateCheck(partition, bytes_max=bytes_max)
    pieces = [piece for portion in data for piece in check.feed(portion)]
    return check.finish(), pieces


def row_pairs(pieces):
    return [
        pair
        for piece in pieces
        if isinstance(piece, Rows)
        for pair in zip(piece.flat[::2], piece.flat[1::2], strict=True)
    ]


def framed(piece):
    body = msgspec.msgpack.encode(piece)
    return len(body).to_bytes(4, "big") + body


def bent(data, change):
    """The stream with its pieces changed and its end made right again."""
    pieces = list(change(list(read_state(PARTITION, data))[:-1]))
    raw = b"".join(framed(piece) for piece in pieces)
    count = sum(len(piece.flat) // 2 for piece in pieces if isinstance(piece, Rows))
    return [raw, framed(End(count, blake3(raw).digest()))]


@pytest.mark.parametrize("partition", [PARTITION, META_PARTITION, 77])
def test_what_is_sent_arrives(rows, partition):
    begin, pieces = checked(stream(rows, partition), partition=partition)
    assert row_pairs(pieces) == list(rows.scan(*partition_range(partition)))
    stand = HEADS.get(rows, HeadKey(HEADS_PARTITION, partition)) or Head()
    assert (begin.index, begin.term, begin.configuration) == (stand.applied, stand.term, FOUNDER)
    assert len(pieces) > 4 or partition == 77


def test_members_go_with_it():
    rows = MemoryRows()
    fill(rows, PARTITION, {1: b"x"}, group=GroupRow((ALICE, BOB), (CAROL,), 4, 2, 1))
    begin, _ = checked(stream(rows))
    assert (begin.voters, begin.learners, begin.members_since) == ((ALICE, BOB), (CAROL,), 4)


def test_pieces_are_bounded(rows):
    sizes = [len(piece) for piece in stream(rows)]
    assert max(sizes) < 1 << 11 and len(sizes) > 4


@given(cuts=st.lists(st.integers(0, 12_000), max_size=20))
def test_it_may_be_cut_anywhere_on_the_way(cuts):
    rows = MemoryRows()
    fill(rows, PARTITION, some_notes(60, 1))
    whole = b"".join(stream(rows))
    edges = sorted({0, len(whole), *(cut % len(whole) for cut in cuts)})
    portions = [whole[start:end] for start, end in pairwise(edges)]
    assert row_pairs(checked(portions)[1]) == list(rows.scan(*partition_range(PARTITION)))


def test_one_that_ends_early_is_not_whole():
    rows = MemoryRows()
    fill(rows, PARTITION, some_notes(40, 1))
    whole = b"".join(stream(rows))
    for length in range(len(whole)):
        check = StateCheck(PARTITION)
        check.feed(whole[:length])
        with pytest.raises(StateDamaged, match="without its end"):
            check.finish()


def test_nothing_may_follow_the_end(rows):
    data = stream(rows)
    with pytest.raises(StateDamaged, match="out of place"):
        checked([*data, data[1]])
    with pytest.raises(StateDamaged, match="without its end"):
        checked([*data, b"\0"])


def test_a_bent_bit_is_noticed():
    rows = MemoryRows()
    fill(rows, PARTITION, some_notes(12, 1))
    whole = b"".join(stream(rows))
    for place in range(len(whole)):
        for bit in (0x01, 0x80):
            bent_bytes = bytearray(whole)
            bent_bytes[place] ^= bit
            with pytest.raises((StateDamaged, StateTooNew)):
                checked([bytes(bent_bytes)])


def swapped_rows(pieces):
    first, second = pieces[1].flat[:2], pieces[1].flat[2:4]
    return [pieces[0], Rows([*second, *first, *pieces[1].flat[4:]]), *pieces[2:]]


BENT = {
    "rows out of order": (swapped_rows, "out of order"),
    "a row twice": (lambda p: [p[0], Rows(p[1].flat[:2] * 2)], "out of order"),
    "pieces out of order": (lambda p: [p[0], p[2], p[1], *p[3:]], "out of place"),
    "a piece twice": (lambda p: [p[0], p[1], *p[1:]], "out of place"),
    "a key without a value": (lambda p: [p[0], Rows(p[1].flat[:3])], "2 keys and 1 values"),
    "a piece without rows": (lambda p: [p[0], Rows([]), *p[1:]], "0 keys"),
    "another partition's row": (
        lambda p: [*p, Rows([NoteKey(PARTITION + 1, 1).encode(), b"x"])],
        "out of place",
    ),
    "a lower partition's row": (
        lambda p: [p[0], Rows([NoteKey(PARTITION - 1, 1).encode(), b"x"])],
        "out of place",
    ),
    "another partition": (lambda p: [msgspec.structs.replace(p[0], partition=6), *p[1:]], "of partition 6"),
    "another index": (
        lambda p: [msgspec.structs.replace(p[0], index=9), *p[1:]],
        "as of 9, its head as of 7",
    ),
    "a head that is none": (lambda p: [msgspec.structs.replace(p[0], head=b"head"), *p[1:]], "checksum"),
    "no beginning": (lambda p: p[1:], "out of place"),
    "two beginnings": (lambda p: [p[0], *p], "out of place"),
}


@pytest.mark.parametrize("name", BENT)
def test_what_is_wrong_is_refused_though_its_sum_is_right(rows, name):
    change, why = BENT[name]
    with pytest.raises(StateDamaged, match=why):
        checked(bent(stream(rows), change))


def test_rows_left_out_are_missed(rows):
    data = stream(rows)
    with pytest.raises(StateDamaged, match="rows are not the"):
        checked([*data[:2], *data[3:]])


def test_a_newer_format_is_said_to_be_one(rows):
    newer = bent(stream(rows), lambda p: [msgspec.structs.replace(p[0], format=2), *p[1:]])
    with pytest.raises(StateTooNew, match="format 2"):
        checked(newer)


def test_there_is_an_end_to_what_is_taken(rows):
    data = stream(rows)
    size = sum(map(len, data))
    checked(data, bytes_max=size)
    with pytest.raises(StateTooLarge, match=f"over {size - 1} bytes"):
        checked(data, bytes_max=size - 1)
    with pytest.raises(StateDamaged, match="at most"):
        checked([b"\xff\xff\xff\xff"])


def test_a_damaged_row_is_not_passed_on(rows):
    key = NoteKey(PARTITION, 1000).encode()
    rows.write({key: NOTES.codec.encode(key, b"text")[:-1] + b"!"})
    with pytest.raises(RecordDamaged, match=key.hex()):
        stream(rows)


def test_a_stream_begins_with_what_it_is(rows):
    (begin, *_) = read_state(PARTITION, stream(rows))
    assert isinstance(begin, Begin) and begin.format == state_stream.FORMAT


def test_the_example_in_the_docs_is_one():
    text = Path(__file__).resolve().parents[2].joinpath("docs/protocol.md").read_text()
    _, _, section = text.partition("## The state of a partition")
    example = bytes.fromhex(section.split("```")[1])
    rows = MemoryRows()
    key, head = b"\x00\x07\x60\x01", HeadKey(HEADS_PARTITION, 7).encode()
    rows.write({key: NOTES.codec.encode(key, b"row")})
    rows.write({head: HEADS.codec.encode(head, Head(applied=900, term=3))})
    assert b"".join(stream(rows, 7)) == example
