"""Random histories of Raft cores: what must hold holds, and planted bugs are found.

A history that fails names its seed: `simulation.run(seed)` replays it.
"""

import pytest

from tests.cluster.raft import test_dissertation, test_paper
from tests.cluster.raft.hamlet import Hamlet
from tests.cluster.raft.planted import PLANTED
from tests.cluster.raft.simulation import MESSAGE_KINDS, History, Violation, run

SEEDS = range(120)
SEEDS_TO_FIND_A_BUG_MAX = 1000
# These need a rare conjunction (Figure 8; a crash between two votes); the rule that they break finds them.
FOUND_BY_RULE = {
    "CommitsOlderTermsByCounting": test_paper.test_leaders_commit_by_counting_only_entries_of_their_own_term,
    "ForgetsItsVote": test_paper.test_vote_2_is_remembered_over_a_restart,
    "VotesBeforeItIsSynced": test_paper.test_current_term_and_vote_are_on_stable_storage_before_answering,
    "ChangesBeforeTheLastChangeCommitted": test_dissertation.test_4_1_one_at_a_time,
    "ReadsByOldAnswers": test_dissertation.test_6_4_3_a_majority_must_answer_a_heartbeat_sent_after_the_read,
}
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


@pytest.mark.parametrize("bug", FOUND_BY_RULE)
def test_a_planted_bug_breaks_its_rule(bug, monkeypatch):
    monkeypatch.setattr(Hamlet, "core_type", PLANTED[bug])
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        FOUND_BY_RULE[bug]()


@pytest.mark.parametrize("bug", sorted(PLANTED.keys() - FOUND_BY_RULE.keys()))
def test_a_planted_bug_is_found(bug):
    for seed in range(SEEDS_TO_FIND_A_BUG_MAX):
        try:
            run(seed, core_type=PLANTED[bug])
        except (Violation, AssertionError):
            return
    raise AssertionError(f"{bug} passed {SEEDS_TO_FIND_A_BUG_MAX} histories")
