"""Random histories of Raft cores: what must hold holds, and planted bugs are found.

A history that fails names its seed: `simulation.run(seed)` replays it.
"""

import pytest

from tests.cluster.raft.planted import PLANTED
from tests.cluster.raft.simulation import MESSAGE_KINDS, History, Violation, run

SEEDS = range(120)
SEEDS_TO_FIND_A_BUG_MAX = 200
# At least so many of each in all histories together: with less, they would prove little.
LEAST = History(
    commits=10_000, leaders=400, crashes=1_000, changes=100, transfers=60, reads=2_000, snapshots=200,
    installs=150, supplies=1_500, quiet=20, refused=50, lost=10_000,
)  # fmt: skip


def test_what_must_hold_holds_in_random_histories():
    total = History()
    for seed in SEEDS:
        try:
            total.add(run(seed))
        except (Violation, AssertionError) as wrong:
            raise AssertionError(f"seed {seed}: {wrong}") from wrong
    thin = {key: (value, vars(LEAST)[key]) for key, value in vars(total).items() if key != "kinds"}
    assert not {key: both for key, both in thin.items() if both[0] < both[1]}, "too little happened"
    assert total.kinds == MESSAGE_KINDS


def test_a_seed_is_one_history():
    assert run(3) == run(3)


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug):
    for seed in range(SEEDS_TO_FIND_A_BUG_MAX):
        try:
            run(seed, core_type=PLANTED[bug])
        except (Violation, AssertionError):
            return
    raise AssertionError(f"{bug} passed {SEEDS_TO_FIND_A_BUG_MAX} histories")
