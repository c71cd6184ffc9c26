"""The overlay against a plain dict, over rows in memory and over LMDB; and tables over rows."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from storage.ids import compose
from storage.keys import U16, Descending, Id, Key
from storage.memory import MemoryRows
from storage.records import Codec, RecordDamaged
from storage.rows import PRESENT, Overlay, Present, Table
from storage.shard import Shard

ALL_KEYS = [b"\0", b"\0\0", b"\1", b"\1\2", b"\2", b"\3"]  # few, so that they are changed again and again
KEYS = st.sampled_from(ALL_KEYS)
BOUNDS = st.sampled_from([b"", *ALL_KEYS, b"\1\1", b"\4"])
VALUES = st.binary(max_size=3)
MAP_BYTES = 8 << 20


class InMemory:
    def __init__(self):
        self.base = MemoryRows()

    def commit(self):
        self.base.commit()

    def crash(self):
        self.base.crash()

    def close(self):
        pass


class OnDisk:
    def __init__(self):
        self._scratch = TemporaryDirectory()
        self._shard = Shard(Path(self._scratch.name), map_bytes=MAP_BYTES)
        self.base = self._shard.begin()

    def commit(self):
        self.base.commit()
        self.base = self._shard.begin()

    def crash(self):
        self.base.abort()
        self._shard.close()
        self._shard = Shard(Path(self._scratch.name), map_bytes=MAP_BYTES)
        self.base = self._shard.begin()

    def close(self):
        self.base.abort()
        self._shard.close()
        self._scratch.cleanup()


class OverlayAgainstDict(RuleBasedStateMachine):
    make_base = InMemory

    def __init__(self):
        super().__init__()
        self.under = self.make_base()
        self.overlay = Overlay(self.under.base)
        self.committed, self.saved, self.rows = {}, {}, {}
        self.changes = 0

    @rule(changes=st.lists(st.tuples(KEYS, st.none() | VALUES), min_size=1, max_size=8))
    def change(self, changes):
        """Many at once, since a row that one command changes twice is where an undo goes wrong."""
        for key, value in changes:
            if value is None:
                self.delete(key)
            else:
                self.overlay.put(key, value)
                self.rows[key] = value
                self.changes += 1

    def delete(self, key):
        self.overlay.delete(key)
        self.rows.pop(key, None)
        self.changes += 1

    @rule(key=KEYS)
    def get(self, key):
        assert self.overlay.get(key) == self.rows.get(key)

    @rule(keys=st.lists(KEYS, max_size=5))
    def get_many(self, keys):
        expected = {key: self.rows[key] for key in keys if key in self.rows}
        assert self.overlay.get_many(iter(keys)) == expected

    @rule(start=BOUNDS, stop=BOUNDS, reverse=st.booleans())
    def scan(self, start, stop, reverse):
        expected = sorted(row for row in self.rows.items() if start <= row[0] < stop)
        if reverse:
            expected.reverse()
        assert list(self.overlay.scan(start, stop, reverse=reverse)) == expected

    @rule(start=BOUNDS, stop=BOUNDS, most=st.integers(1, 3), reverse=st.booleans())
    def scan_the_first_and_delete_them(self, start, stop, most, reverse):
        scan = self.overlay.scan(start, stop, reverse=reverse)
        for key, _ in [row for _, row in zip(range(most), scan, strict=False)]:
            self.delete(key)

    @rule()
    def savepoint(self):
        self.overlay.savepoint()
        self.saved, self.changes = dict(self.rows), 0

    @rule()
    def rollback(self):
        self.overlay.rollback()
        self.rows, self.changes = dict(self.saved), 0

    @rule()
    def flush(self):
        self.overlay.flush()
        assert len(self.overlay) == 0
        self.saved, self.changes = dict(self.rows), 0

    @rule()
    def commit(self):
        self.flush()
        self.under.commit()
        self.overlay = Overlay(self.under.base)
        self.committed = dict(self.rows)

    @rule()
    def crash(self):
        self.under.crash()
        self.overlay = Overlay(self.under.base)
        self.rows, self.saved, self.changes = dict(self.committed), dict(self.committed), 0

    @invariant()
    def every_row_is_as_it_should_be(self):
        assert self.overlay.changed == self.changes
        assert self.overlay.get_many(ALL_KEYS) == self.rows  # by `get`, which writes nothing, unlike a scan

    def teardown(self):
        expected = sorted(self.rows.items())
        assert list(self.overlay.scan(b"", b"\xff")) == expected
        self.under.close()


class OverlayOverLmdb(OverlayAgainstDict):
    make_base = OnDisk


SETTINGS = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestOverlayInMemory = OverlayAgainstDict.TestCase
TestOverlayInMemory.settings = settings(SETTINGS, max_examples=150)
TestOverlayOverLmdb = OverlayOverLmdb.TestCase
TestOverlayOverLmdb.settings = SETTINGS


class CountedWrites(MemoryRows):
    def __init__(self):
        super().__init__()
        self.written = 0

    def write(self, rows):
        self.written += len(rows)
        super().write(rows)


def test_a_row_that_many_commands_change_is_written_once():
    base = CountedWrites()
    overlay = Overlay(base)
    for number in range(20):
        overlay.savepoint()
        overlay.put(b"count", bytes([number]))
    overlay.flush()
    assert base.written == 1
    assert base.get(b"count") == bytes([19])


@pytest.mark.parametrize("another", [False, True])
def test_a_scan_does_not_write_what_may_be_rolled_back(another):
    base = MemoryRows()
    overlay = Overlay(base)
    overlay.put(b"a", b"1")
    earlier = [(b"a", b"1")]
    if another:  # a row of an earlier command alone: the scan writes what was before this command
        overlay.put(b"c", b"1")
        earlier.append((b"c", b"1"))
    overlay.savepoint()
    overlay.put(b"a", b"2")
    overlay.put(b"b", b"2")
    overlay.put(b"a", b"3")
    assert list(overlay.scan(b"a", b"c")) == [(b"a", b"3"), (b"b", b"2")]
    assert base.get(b"b") is None and base.get(b"a") == (b"1" if another else None)
    overlay.rollback()
    assert list(overlay.scan(b"a", b"z")) == earlier


# --- tables ----------------------------------------------------------------------------------------------
class NoteKey(Key, kind=0xE8, family=0xEE):
    author: Id
    at: Descending


class MarkKey(Key, kind=0xE9):
    partition: U16
    number: U16


NOTES = Table(NoteKey, Codec(str))
MARKS = Table(MarkKey, Codec(Present))
ADA, BOB = compose(1, 9, 1), compose(1, 9, 2)


@pytest.fixture
def rows():
    overlay = Overlay(MemoryRows())
    for at in (1, 2, 3, 4):
        NOTES.put(overlay, NoteKey(ADA, at), f"ada {at}")
        NOTES.put(overlay, NoteKey(BOB, at), f"bob {at}")
    overlay.savepoint()
    return overlay


def test_a_table_gets_what_it_put(rows):
    assert NOTES.get(rows, NoteKey(ADA, 3)) == "ada 3"
    assert NOTES.get(rows, NoteKey(ADA, 5)) is None
    assert NOTES.has(rows, NoteKey(ADA, 3)) and not NOTES.has(rows, NoteKey(ADA, 5))
    NOTES.delete(rows, NoteKey(ADA, 3))
    assert not NOTES.has(rows, NoteKey(ADA, 3))
    MARKS.put(rows, MarkKey(9, 1), PRESENT)
    assert MARKS.get(rows, MarkKey(9, 1)) == PRESENT


def test_many_at_once_are_those_that_exist(rows):
    asked = [NoteKey(ADA, 1), NoteKey(BOB, 4), NoteKey(BOB, 9)]
    assert NOTES.get_many(rows, asked) == {asked[0]: "ada 1", asked[1]: "bob 4"}


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_is_of_one_owner_in_order(rows, reverse):
    expected = [4, 3, 2, 1]  # descending keys: the latest first
    found = [key.at for key, value in NOTES.scan(rows, ADA, reverse=reverse) if value.startswith("ada")]
    assert found == (expected[::-1] if reverse else expected)


@pytest.mark.parametrize(
    ("at", "reverse", "expected"),
    [
        (3, False, [2, 1]),
        (3, True, [4]),
        (9, False, [4, 3, 2, 1]),
        (9, True, []),
        (1, False, []),
        (0, False, []),
    ],
)
def test_beyond_a_key_that_may_be_gone(rows, at, reverse, expected):
    scan = NOTES.scan(rows, ADA, beyond=NoteKey(ADA, at), reverse=reverse)
    assert [key.at for key, _ in scan] == expected


def test_a_row_that_was_moved_to_another_key_is_damage(rows):
    rows.put(NoteKey(ADA, 7).encode(), rows.get(NoteKey(BOB, 4).encode()))
    with pytest.raises(RecordDamaged):
        NOTES.get(rows, NoteKey(ADA, 7))
