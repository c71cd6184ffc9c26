"""Packs against a set: dense, complete, bounded, whatever the order of adding and removing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.social import packs
from node.social.records import FOLLOWING_PACKS
from storage.memory import MemoryRows
from storage.rows import Overlay

VIEWER = 7 << 10


def sizes(rows):
    return [len(packs.unpack(pack)) for _, pack in FOLLOWING_PACKS.scan(rows, VIEWER)]


def test_packs_fill_one_after_the_other():
    rows = Overlay(MemoryRows())
    for author in range(501):
        packs.add(rows, VIEWER, author, author)
    assert sizes(rows) == [250, 250, 1]
    assert packs.read(rows, VIEWER) == list(range(501))


def test_the_last_author_fills_the_gap():
    rows = Overlay(MemoryRows())
    for author in range(251):
        packs.add(rows, VIEWER, author, author)
    packs.remove(rows, VIEWER, 3, 251)
    assert sizes(rows) == [250]
    assert packs.read(rows, VIEWER)[3] == 250


def test_removing_one_who_is_not_there_is_a_bug():
    rows = Overlay(MemoryRows())
    packs.add(rows, VIEWER, 1, 0)
    with pytest.raises(AssertionError, match="none of the packs"):
        packs.remove(rows, VIEWER, 2, 1)


@given(st.lists(st.integers(0, 40)), st.integers(1, 7))
def test_packs_are_a_set(toggles, pack_size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packs, "PACK_AUTHORS_MAX", pack_size)
        rows, model = Overlay(MemoryRows()), set()
        for author in toggles:
            if author in model:
                packs.remove(rows, VIEWER, author, len(model))
                model.remove(author)
            else:
                packs.add(rows, VIEWER, author, len(model))
                model.add(author)
            found = packs.read(rows, VIEWER)
            assert sorted(found) == sorted(model)
            assert sizes(rows)[:-1] == [pack_size] * (len(sizes(rows)) - 1)
        packs.clear(rows, VIEWER)
        assert packs.read(rows, VIEWER) == []
