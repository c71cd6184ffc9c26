"""The layout: who votes where, evenly, by zones and weights, and how little moves when members change."""

from collections import Counter
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.keys import META_PARTITION
from cluster.members.layout import Placed, difference, layout_of, voters_count

PARTITIONS = 256
SEEDS = range(5)


def members(count, seed=0, zones=0, weights=(100,)):
    rng = Random(seed)
    return {
        rng.randbytes(16): Placed(f"z{i % zones}" if zones else "", weights[i % len(weights)], i)
        for i in range(count)
    }


def placements(layout):
    return {partition: layout.of(partition) for partition in range(PARTITIONS)}


def votes(layout):
    return Counter(node for placed in placements(layout).values() for node in placed.voters)


def leads(layout):
    return Counter(placed.voters[0] for placed in placements(layout).values())


def moved(old, new):
    """The part of all votes that nodes lose."""
    before, after = placements(old), placements(new)
    lost = sum(len(set(before[p].voters) - set(after[p].voters)) for p in before)
    return Fraction(lost, sum(len(placed.voters) for placed in before.values()))


@pytest.mark.parametrize(
    ("factor", "count", "voters"),
    [
        *((3, 1, 1), (3, 2, 1), (3, 3, 3), (3, 4, 3), (3, 7, 3)),
        *((1, 1, 1), (1, 5, 1), (5, 2, 1), (5, 3, 3), (5, 4, 3), (5, 5, 5), (5, 7, 5), (7, 6, 5), (7, 7, 7)),
    ],
)
def test_voters_are_the_largest_odd_number_there_is_room_for(factor, count, voters):
    assert voters_count(factor, count) == voters
    layout = layout_of(1, members(count), factor, 16)
    assert {len(layout.of(partition).voters) for partition in range(16)} == {voters}
    assert len(layout.of(META_PARTITION).voters) == voters_count(5, count)


@given(
    st.dictionaries(
        st.binary(min_size=16, max_size=16),
        st.builds(Placed, st.sampled_from(["", "a", "b", "c"]), st.integers(1, 10_000), st.integers(0, 9)),
        min_size=1,
        max_size=9,
    ),
    st.sampled_from([1, 3, 5, 7]),
)
@settings(max_examples=60, deadline=None)
def test_every_layout_is_whole(placed, factor):
    """All members are in each group once, zones are as many as can be; the members' order says nothing."""
    layout = layout_of(7, placed, factor, 12)
    assert layout == layout_of(7, dict(reversed(list(placed.items()))), factor, 12)
    sizes = Counter(member.zone for member in placed.values())
    for partition, placement in layout.placements.items():
        assert sorted(placement.members) == sorted(placed) == list(layout.members)
        zones = Counter(placed[node].zone for node in placement.voters)
        assert len(zones) == min(len(sizes), len(placement.voters)), f"partition {partition}"
        for zone in zones:
            others = [other for other in sizes if zones[other] < min(sizes[other], zones[zone] - 1)]
            assert not others, f"partition {partition}: {zones} of {sizes}"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("factor", [1, 3, 5])
@pytest.mark.parametrize("count", [3, 4, 5, 6, 7])
def test_equal_nodes_vote_and_lead_alike(count, factor, seed):
    layout = layout_of(1, members(count, seed), factor, PARTITIONS)
    share = Fraction(PARTITIONS * voters_count(factor, count), count)
    lead = Fraction(PARTITIONS, count)
    assert all(abs(votes(layout)[node] - share) <= share * Fraction(1, 10) for node in layout.members)
    assert all(abs(leads(layout)[node] - lead) <= lead * Fraction(1, 10) for node in layout.members)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("factor", "zones"), [(3, 0), (3, 3), (5, 0)])
@pytest.mark.parametrize("count", [4, 6, 7])
def test_a_node_that_comes_or_goes_moves_little_more_than_its_share(count, factor, zones, seed):
    with_all = members(count, seed, zones)
    nodes = list(with_all)
    if zones and count % zones != 1:  # else a zone's share changes for all of its nodes at once
        return
    without = {node: placed for node, placed in with_all.items() if node != nodes[-1]}
    old, new = (layout_of(1, some, factor, PARTITIONS) for some in (without, with_all))
    if voters_count(factor, count) == voters_count(factor, count - 1):
        limit = Fraction(3, 2 * count)
        assert moved(old, new) <= limit
        assert moved(new, old) <= limit
    assert set(new.of(3).members) - set(old.of(3).members) == {nodes[-1]}


def test_nodes_vote_by_weight_and_a_heavy_one_everywhere_at_most():
    some = members(5, weights=(100, 100, 100, 100, 50))
    layout, light = layout_of(1, some, 3, PARTITIONS), list(some)[4]
    share = Fraction(PARTITIONS * 3 * 50, 450)
    assert abs(votes(layout)[light] - share) <= share / 10
    some = members(5, weights=(5000, 100, 100, 100, 100))
    layout, heavy = layout_of(1, some, 3, PARTITIONS), next(iter(some))
    assert votes(layout)[heavy] >= PARTITIONS * 92 // 100
    rest = Fraction(PARTITIONS * 2, 4)
    assert all(abs(votes(layout)[node] - rest) <= rest / 10 for node in some if node != heavy)


def test_a_zone_of_one_node_votes_everywhere_where_zones_are_few():
    some = members(6, zones=2)
    some = {node: placed for node, placed in some.items() if placed.zone == "z0"} | dict(
        [next((node, placed) for node, placed in some.items() if placed.zone == "z1")]
    )
    layout = layout_of(1, some, 3, PARTITIONS)
    alone = next(node for node, placed in some.items() if placed.zone == "z1")
    assert votes(layout)[alone] == PARTITIONS
    share = Fraction(PARTITIONS * 2, 3)
    assert all(abs(votes(layout)[node] - share) <= share / 10 for node in some if node != alone)


def test_of_two_nodes_the_elder_votes_everywhere():
    elder, younger = b"z" * 16, b"a" * 16
    layout = layout_of(1, {elder: Placed("", 100, 5), younger: Placed("", 100, 6)}, 3, 4)
    assert set(layout.placements.values()) == {((elder,), (younger,))}


def test_a_cluster_without_members_has_an_empty_layout():
    assert layout_of(0, {}, 3, 4).placements == {}


def test_a_difference_says_who_came_and_who_left():
    some = members(4)
    nodes = list(some)
    old = layout_of(4, {node: some[node] for node in nodes[:3]}, 3, 8)
    new = layout_of(5, some, 3, 8)
    found = difference(old, new)
    assert (found.old, found.new, found.joined, found.gone) == (4, 5, (nodes[3],), ())
    assert found.moved
    for one in found.moved:
        before, after = old.of(one.partition).voters, new.of(one.partition).voters
        assert set(before) - set(after) == set(one.left)
        assert set(after) - set(before) == set(one.came) <= {nodes[3]}
        assert one.leader == (None if before[0] == after[0] else (before[0], after[0]))
    unmoved = set(range(8)) - {one.partition for one in found.moved}
    assert all(old.of(p).voters[0] == new.of(p).voters[0] for p in unmoved)
    assert all(set(old.of(p).voters) == set(new.of(p).voters) for p in unmoved)
    assert difference(new, new).moved == ()
