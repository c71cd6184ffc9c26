"""Planted bugs are found: each by one of the checkers that it names, within a bounded number of seeds."""

import pytest

from cluster.simulation.many import run_one
from node.traffic import SocialApplication
from tests.cluster.simulation.planted import PLANTED

SEEDS_TO_FIND_A_BUG_MAX = 40


def test_there_are_enough_of_them():
    assert len(PLANTED) >= 15


@pytest.mark.parametrize("bug", sorted(PLANTED))
def test_a_planted_bug_is_found(bug):
    plant = PLANTED[bug]
    for seed in range(SEEDS_TO_FIND_A_BUG_MAX):
        result = run_one(SocialApplication, plant.options, plant.build, seed)
        if result.detail:
            print(f"{bug}: found by seed {seed}, {result.checker}")
            assert result.checker in plant.expected, result.detail
            return
    raise AssertionError(f"{bug} passed {SEEDS_TO_FIND_A_BUG_MAX} histories")
