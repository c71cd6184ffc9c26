"""Records: every flipped bit is found, and what older versions wrote is still read."""

import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.records import Codec, RecordDamaged, RecordTooNew
from tests.storage.declared import TABLES, record_example
from tests.storage.freeze import frozen

KEY = b"\x00\x07\x24key"
FROZEN = frozen()


class First(msgspec.Struct, array_like=True, frozen=True):
    name: str


class Second(msgspec.Struct, array_like=True, frozen=True):
    name: str
    size: int


class Third(msgspec.Struct, array_like=True, frozen=True):
    size: int
    names: tuple[str, ...]


FIRST = Codec(First)
SECOND = Codec(Second, 2, {1: lambda old: [old[0], 0]})
THIRD = Codec(Third, 3, {1: lambda old: [old[0], 0], 2: lambda old: [old[1], [old[0]]]})


@given(st.binary(max_size=60), st.text(), st.integers(-(2**63), 2**64 - 1))
def test_round_trip(key, name, size):
    assert SECOND.decode(key, SECOND.encode(key, Second(name, size))) == Second(name, size)


def test_the_layout_is_the_documented_one():
    body = b"\x02" + msgspec.msgpack.encode(["n", 5])
    checksum = zlib.crc32(KEY + body).to_bytes(4, "big")
    assert SECOND.encode(KEY, Second("n", 5)) == checksum + body


def test_every_flipped_bit_is_found():
    data = SECOND.encode(KEY, Second("a name", 1 << 40))
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RecordDamaged):
            SECOND.decode(KEY, bytes(damaged))


def test_every_cut_is_found():
    data = SECOND.encode(KEY, Second("a name", 1 << 40))
    for size in range(len(data)):
        with pytest.raises(RecordDamaged):
            SECOND.decode(KEY, data[:size])
    with pytest.raises(RecordDamaged):
        SECOND.decode(KEY, data + b"\0")


@given(st.binary(min_size=1, max_size=30), st.binary(min_size=1, max_size=30))
def test_a_record_under_another_key_is_damage(one, other):
    data = FIRST.encode(one, First("x"))
    if one == other:
        assert FIRST.decode(other, data) == First("x")
    else:
        with pytest.raises(RecordDamaged, match=other.hex()):
            FIRST.decode(other, data)


def test_nothing_is_damage_under_every_key():
    for key in (b"", b"\0", KEY):
        with pytest.raises(RecordDamaged):
            FIRST.decode(key, b"")


def test_upgrades_go_step_by_step():
    old = FIRST.encode(KEY, First("ada"))
    assert SECOND.decode(KEY, old) == Second("ada", 0)
    assert THIRD.decode(KEY, old) == Third(0, ("ada",))
    assert THIRD.decode(KEY, SECOND.encode(KEY, Second("ada", 5))) == Third(5, ("ada",))


def test_a_later_version_is_not_guessed_at():
    with pytest.raises(RecordTooNew, match="version 3 > 2"):
        SECOND.decode(KEY, THIRD.encode(KEY, Third(1, ())))


def test_a_version_without_a_way_is_damage():
    with pytest.raises(RecordDamaged, match="no way from version 1"):
        Codec(Third, 3, {2: lambda old: old}).decode(KEY, FIRST.encode(KEY, First("x")))


@pytest.mark.parametrize("upgrade", [lambda old: ["x", "no number"], lambda old: 5])
def test_what_an_upgrade_cannot_make_right_is_damage(upgrade):
    with pytest.raises(RecordDamaged):
        Codec(Second, 2, {1: upgrade}).decode(KEY, FIRST.encode(KEY, First("x")))


def test_right_checksum_and_wrong_content_is_damage():
    body = b"\x01" + msgspec.msgpack.encode({"not": "an array"})
    data = zlib.crc32(body, zlib.crc32(KEY)).to_bytes(4, "big") + body
    with pytest.raises(RecordDamaged):
        FIRST.decode(KEY, data)


# --- what is on disks today ------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TABLES)
def test_the_format_of_every_record_is_frozen(name):
    table = TABLES[name]
    fixture = f"{name}@{table.codec.version}"
    assert fixture in FROZEN, f"python -m tests.storage.freeze adds {fixture}"
    key, value = FROZEN[fixture]
    changed = f"the format of {name} is not what it was: raise its version, or see tests/storage/freeze.py"
    record = table.codec.decode(key, value)
    assert record == record_example(table.codec._type), changed
    assert table.codec.encode(key, record) == value, changed
    assert table.key.decode(key).encode() == key


@pytest.mark.parametrize("fixture", FROZEN)
def test_every_frozen_record_is_still_read(fixture):
    name, _, version = fixture.partition("@")
    assert name in TABLES, f"{name} is gone: drop its lines if no release wrote it"
    assert int(version) <= TABLES[name].codec.version
    TABLES[name].codec.decode(*FROZEN[fixture])
