"""What a partition remembers of its commands: a retry takes effect once, and nothing grows without end."""

import pytest

from cluster import memory
from cluster.commands import Accepted, Declined, Execute
from cluster.keys import (
    REMEMBERED,
    REMEMBERED_DUE,
    REMEMBERED_ORDER,
    REMEMBERED_SCOPES,
    RememberedScopeKey,
)
from storage.ids import compose
from storage.memory import MemoryRows
from storage.rows import Overlay

NOW = 1_800_000_000_000
HOME = 7
ADA, BOB = compose(5, HOME, 1), compose(5, HOME, 2)
HOUR_MS = 3_600_000


@pytest.fixture
def rows():
    return Overlay(MemoryRows())


def command(number, *, now=NOW, scope=ADA, fingerprint=b"f"):
    return Execute(now, 1, b"", scope, number.to_bytes(16, "big"), fingerprint, b"")


def remember(rows, number, **others):
    rows.savepoint()
    memory.remember(rows, command(number, **others), Accepted(b"%d" % number))
    return rows.changed


def remembered(rows, scope=ADA):
    return [int.from_bytes(key.id, "big") for key, _ in REMEMBERED.scan(rows, scope)]


def test_the_same_id_has_the_same_outcome(rows):
    assert memory.recall(rows, command(1)) is None
    memory.remember(rows, command(1), Accepted(b"result"))
    memory.remember(rows, command(2), Declined("name_taken", "why"))
    assert memory.recall(rows, command(1)) == Accepted(b"result")
    assert memory.recall(rows, command(2)) == Declined("name_taken", "why")
    assert memory.recall(rows, command(3)) is None
    assert memory.recall(rows, command(1, scope=BOB)) is None


def test_a_used_id_with_another_fingerprint_is_refused(rows):
    remember(rows, 1)
    outcome = memory.recall(rows, command(1, fingerprint=b"g"))
    assert isinstance(outcome, Declined) and outcome.code == "idempotency_key_reused"
    assert memory.recall(rows, command(1)) == Accepted(b"1")


def test_what_was_said_of_the_moment_is_not_remembered(rows):
    memory.remember(rows, command(1), Declined("unavailable", "full"))
    assert memory.recall(rows, command(1)) is None
    assert len(rows) == 0


@pytest.mark.parametrize(
    ("later_ms", "known"), [(0, True), (memory.KEEP_MS, True), (memory.KEEP_MS + 1, False)]
)
def test_a_day_by_the_commands_own_time(rows, later_ms, known):
    remember(rows, 1)
    assert (memory.recall(rows, command(1, now=NOW + later_ms)) is not None) is known


def test_the_newest_thousand_of_a_scope(rows):
    for number in range(memory.PER_SCOPE_MAX + 50):
        remember(rows, number, now=NOW + number)
    remember(rows, 7, scope=BOB)
    assert remembered(rows) == list(range(50, memory.PER_SCOPE_MAX + 50))
    assert remembered(rows, BOB) == [7]
    assert len(list(REMEMBERED_ORDER.scan(rows, ADA))) == memory.PER_SCOPE_MAX


def test_what_is_old_goes_a_few_at_a_time(rows):
    most = 5 + 2 * memory.EVICTED_AT_ONCE_MAX  # rows: its own, the scope's place, those of each evicted one
    for number in range(100):
        assert remember(rows, number) <= most
    later = NOW + memory.KEEP_MS + 1
    count = 0
    while any(number < 100 for number in remembered(rows)):
        count += 1
        assert remember(rows, 1000 + count, now=later) <= most
    assert count == 100 / memory.EVICTED_AT_ONCE_MAX
    assert remembered(rows) == list(range(1001, 1001 + count))


def test_an_id_that_comes_again_after_its_day_is_a_new_command(rows):
    for number in range(10):
        remember(rows, number)
    again = NOW + memory.KEEP_MS + HOUR_MS
    remember(rows, 9, now=again)
    for number in range(20, 40):  # the old one's place in the order comes up for eviction
        remember(rows, number, now=again + number)
    assert memory.recall(rows, command(9, now=again + HOUR_MS)) == Accepted(b"9")
    assert remembered(rows) == [9, *range(20, 40)]


def test_a_clock_that_goes_back_keeps_what_is_known(rows):
    remember(rows, 1, now=NOW)
    remember(rows, 2, now=NOW - HOUR_MS)
    assert memory.recall(rows, command(1, now=NOW - HOUR_MS)) == Accepted(b"1")
    assert memory.recall(rows, command(2, now=NOW)) == Accepted(b"2")


def test_a_scope_is_forgotten_in_pieces(rows):
    for number in range(25):
        remember(rows, number)
    remember(rows, 1, scope=BOB)
    rows.savepoint()
    assert not memory.forget_scope(rows, ADA, 10)
    assert rows.changed == 20
    assert not memory.forget_scope(rows, ADA, 10)
    remember(rows, 99)  # one that came in between
    assert memory.forget_scope(rows, ADA, 10)
    for table in (REMEMBERED, REMEMBERED_ORDER):
        assert list(table.scan(rows, ADA)) == []
    assert not REMEMBERED_SCOPES.has(rows, RememberedScopeKey(ADA))
    assert remembered(rows, BOB) == [1]
    assert [due.scope for due, _ in REMEMBERED_DUE.scan(rows, HOME)] == [BOB]
    assert memory.forget_scope(rows, ADA, 10)


def test_what_nobody_adds_to_is_forgotten_after_its_day_in_bounded_pieces(rows):
    scopes = [compose(5, HOME, number) for number in range(100)]
    for number in range(5):
        for scope in scopes:
            remember(rows, number, scope=scope, now=NOW + number)
    remember(rows, 9, scope=ADA, now=NOW + HOUR_MS)
    assert not memory.is_forgettable(rows, HOME, NOW + memory.KEEP_MS)
    later = NOW + memory.KEEP_MS + HOUR_MS // 2
    pieces = 0
    while memory.is_forgettable(rows, HOME, later):
        rows.savepoint()
        memory.forget_old(rows, HOME, later)
        assert 0 < rows.changed <= 5 * memory.FORGOTTEN_AT_ONCE_MAX
        pieces += 1
    assert pieces == 3  # 500, 200 at a time
    assert remembered(rows, ADA) == [9]
    assert all(not remembered(rows, scope) for scope in scopes if scope != ADA)
    assert [due.scope for due, _ in REMEMBERED_DUE.scan(rows, HOME)] == [ADA]
    memory.forget_old(rows, HOME, later + memory.KEEP_MS)
    assert not list(rows.scan(b"", b"\xff"))
