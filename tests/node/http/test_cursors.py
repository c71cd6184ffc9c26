"""Cursors: what is sealed comes back to its reader in its list, and nothing else does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.http.cursors import Cursors
from node.http.problems import Problem

NOW = 1_800_000_000
CURSORS = Cursors(b"k" * 32)
HOME = {"reader": 7, "name": "feed"}


@given(
    st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)),
    st.integers(0, 2**63 - 1),
    st.text(max_size=40),
)
def test_round_trip(position, reader, name):
    cursor = CURSORS.seal(position, reader=reader, name=name, now=NOW)
    assert CURSORS.open(cursor, tuple[int, int], reader=reader, name=name, now=NOW) == position
    assert len(cursor) < 80


def test_the_same_page_has_the_same_cursor_and_shows_nothing():
    first, second = (CURSORS.seal((1, 2), now=NOW, **HOME) for _ in range(2))
    assert first == second
    assert CURSORS.seal((1, 3), now=NOW, **HOME)[:8] != first[:8]


def test_foreign_stale_and_altered_cursors_are_refused():
    cursor = CURSORS.seal((1, 2), now=NOW, **HOME)
    refused = [
        (cursor, {"reader": 8, "name": "feed"}, NOW, tuple[int, int]),
        (cursor, {"reader": 7, "name": "feed/7"}, NOW, tuple[int, int]),
        (cursor, HOME, NOW + 32 * 86400, tuple[int, int]),
        (cursor, HOME, NOW, tuple[int, int, int]),
        (cursor, HOME, NOW, str),
        (Cursors(b"o" * 32).seal((1, 2), now=NOW, **HOME), HOME, NOW, tuple[int, int]),
    ]
    for at in range(len(cursor)):
        changed = cursor[:at] + ("A" if cursor[at] != "A" else "g") + cursor[at + 1 :]
        refused.append((changed, HOME, NOW, tuple[int, int]))
    for text, bound, now, kind in refused:
        with pytest.raises(Problem) as caught:
            CURSORS.open(text, kind, now=now, **bound)
        assert (caught.value.code, caught.value.status) == ("invalid_cursor", 400)
    assert CURSORS.open(cursor, tuple[int, int], now=NOW + 29 * 86400, **HOME) == (1, 2)


@given(st.text(max_size=100))
def test_garbage_is_refused(text):
    with pytest.raises(Problem, match="invalid_cursor"):
        CURSORS.open(text, tuple[int, int], now=NOW, **HOME)


def test_far_too_long_is_refused():
    with pytest.raises(Problem, match="invalid_cursor"):
        CURSORS.open("A" * 10_000_000, tuple[int, int], now=NOW, **HOME)
