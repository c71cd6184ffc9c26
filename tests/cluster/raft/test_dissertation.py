"""Rules of Ongaro's dissertation (2014) beyond the paper, a test each: §§ 3.10, 4.1, 4.2, 6.2, 6.4, 9.6."""

import pytest

from cluster.raft.effects import AddLearner, ChangeRefused, Demote, NotLeader, Overfull, Promote, Remove
from cluster.raft.messages import (
    Appended,
    Heard,
    Heartbeat,
    PreVote,
    PreVoteAnswer,
    TimeoutNow,
    Vote,
    VoteAnswer,
    encode_configuration,
)
from cluster.raft.roles import Event, Role
from tests.cluster.raft.cores import node, voters
from tests.cluster.raft.hamlet import Hamlet

G = 7


def led(*numbers, **named):
    """Node 1 leads, and all know."""
    hamlet = Hamlet(*numbers, **named)
    hamlet.elect(1)
    hamlet.tick(2)
    return hamlet


def reads(hamlet, kind="read"):
    return [(number, value) for number, what, value in hamlet.events if what == kind]


# --- §3.10: leadership transfer ---
def test_3_10_the_target_gets_what_it_lacks_and_then_campaigns_at_once():
    hamlet = led(1, 2, 3)
    hamlet.isolate(3)
    hamlet.propose(1, b"x")
    hamlet.heal()
    hamlet.do(1, "transfer", node(3))
    assert not [one for one in hamlet.seen if type(one[2]) is TimeoutNow]
    hamlet.tick(2, 1)
    assert hamlet.core(3).standing == (Role.LEADER, 2, node(3))
    assert not [one for one in hamlet.seen if type(one[2]) is PreVote and one[0] == 3]


def test_3_10_no_proposals_meanwhile_and_the_lead_goes_on_after_an_election_timeout():
    hamlet = led(1, 2, 3)
    hamlet.isolate(3)
    hamlet.propose(1, b"w")
    hamlet.do(1, "transfer", node(3))
    with pytest.raises(Overfull):
        hamlet.propose(1, b"x")
    hamlet.tick(10, 1, 2)
    assert hamlet.propose(1, b"x") == 3


def test_3_10_only_to_another_voter():
    hamlet = led(1, 2, 3, learners=(4,))
    for target in (1, 4, 9):
        with pytest.raises(ChangeRefused):
            hamlet.do(1, "transfer", node(target))


# --- §4.1: changes of members ---
def test_4_1_a_configuration_takes_effect_when_it_is_appended():
    hamlet = led(1, 2, 3)
    hamlet.held = {1, 2, 3}
    hamlet.do(1, "change", AddLearner(node(4)))
    assert hamlet.core(1).configuration == voters(1, 2, 3, learners=(4,))
    assert hamlet.core(1).commit == 1


def test_4_1_and_goes_with_its_entry():
    hamlet = led(1, 2, 3)
    hamlet.isolate(1)
    hamlet.do(1, "change", Remove(node(3)))
    assert hamlet.core(1).configuration == voters(1, 2)
    hamlet.tick(12, 2, 3)
    assert hamlet.core(2).role is Role.LEADER
    hamlet.heal()
    hamlet.tick(3)
    assert hamlet.core(1).configuration == voters(1, 2, 3)
    assert hamlet.core(1).leader == node(2)


def test_4_1_one_at_a_time():
    hamlet = led(1, 2, 3)
    hamlet.isolate(1)
    hamlet.do(1, "change", AddLearner(node(4)))
    with pytest.raises(ChangeRefused, match="not committed"):
        hamlet.do(1, "change", AddLearner(node(5)))


def test_4_1_not_before_an_entry_of_the_term_is_committed():
    hamlet = Hamlet(1, 2, 3)
    hamlet.core(1)._elect(Event.TOLD)
    hamlet.replicas[1].drive()
    hamlet.sync()
    hamlet.step(1, 2, VoteAnswer(G, 1, True))
    with pytest.raises(ChangeRefused, match="of this term"):
        hamlet.do(1, "change", AddLearner(node(4)))


@pytest.mark.parametrize(
    "change",
    [
        AddLearner(node(2)),
        Promote(node(2)),
        Promote(node(9)),
        Demote(node(4)),
        Remove(node(9)),
        Demote(node(9)),
    ],
)
def test_4_1_impossible_changes_are_refused(change):
    hamlet = led(1, 2, 3, learners=(4,))
    with pytest.raises(ChangeRefused):
        hamlet.do(1, "change", change)
    assert hamlet.core(1).group.log.last == 1


def test_4_1_the_last_voter_stays():
    hamlet = led(1)
    for change in (Remove(node(1)), Demote(node(1))):
        with pytest.raises(ChangeRefused, match="last"):
            hamlet.do(1, "change", change)


# --- §4.2.1: catching up new servers ---
def test_4_2_1_a_learner_is_promoted_only_when_it_has_caught_up():
    hamlet = led(1, blank=(2,))
    hamlet.propose(1, b"x")
    hamlet.cut(1, 2)
    hamlet.do(1, "change", AddLearner(node(2)))
    hamlet.settle()
    with pytest.raises(ChangeRefused, match="lacks"):
        hamlet.do(1, "change", Promote(node(2)))
    hamlet.heal()
    hamlet.tick(2)
    hamlet.do(1, "change", Promote(node(2)))
    hamlet.settle()
    assert hamlet.core(1).configuration == voters(1, 2)
    assert hamlet.replicas[2].state[1] == (1, b"x")


def test_4_2_1_learners_are_never_counted():
    hamlet = led(1, 2, 3, learners=(4, 5))
    hamlet.cut(1, 2)
    hamlet.cut(1, 3)
    hamlet.propose(1, b"x")
    assert hamlet.core(1).leadership.progress[node(4)].match == 2
    assert hamlet.core(1).commit == 1


def test_4_2_1_learners_do_not_campaign():
    hamlet = led(1, 2, 3, learners=(4,))
    hamlet.isolate(4)
    hamlet.tick(60, 4)
    assert hamlet.core(4).standing == (Role.FOLLOWER, 1, None)


# --- §4.2.2: removing the leader ---
def test_4_2_2_a_removed_leader_leads_until_that_is_committed_without_counting_itself():
    hamlet = led(1, 2, 3)
    hamlet.cut(1, 3)
    hamlet.do(1, "change", Remove(node(1)))
    hamlet.settle()
    assert hamlet.core(1).role is Role.LEADER
    assert hamlet.core(1).commit == 1, "itself and node 2 are not a majority of 2 and 3"
    hamlet.heal()
    hamlet.tick(2)
    assert (hamlet.core(1).role, hamlet.core(1).commit) == (Role.FOLLOWER, 2)


def test_4_2_2_a_removed_voter_may_be_needed_until_that_is_committed():
    hamlet = led(1, 2)
    hamlet.isolate(1)
    hamlet.do(1, "change", Remove(node(1)))
    hamlet.settle()
    hamlet.crash(1)
    hamlet.start(1)
    hamlet.heal()
    hamlet.tick(25)
    assert hamlet.core(2).configuration == voters(2)
    assert hamlet.core(2).role is Role.LEADER


# --- §4.2.3: disruptive servers ---
def test_4_2_3_no_vote_and_no_new_term_while_a_leader_is_heard():
    hamlet = led(1, 2, 3)
    assert hamlet.step(2, 3, Vote(G, 9, 99, 9, False)) == []
    assert hamlet.core(2).standing == (Role.FOLLOWER, 1, node(1))


def test_4_2_3_nor_from_the_leader_itself():
    hamlet = led(1, 2, 3)
    assert hamlet.step(1, 3, Vote(G, 9, 99, 9, False)) == []
    assert hamlet.core(1).role is Role.LEADER


def test_4_2_3_but_after_the_shortest_election_timeout_without_one():
    hamlet = led(1, 2, 3)
    hamlet.isolate(2)
    hamlet.tick(10, 2)
    hamlet.heal()
    hamlet.step(2, 3, Vote(G, 9, 99, 9, False))
    hamlet.sync()
    assert hamlet.seen[-1] == (2, 3, VoteAnswer(G, 9, True))


def test_4_2_3_a_transfer_lifts_the_protection():
    hamlet = led(1, 2, 3)
    hamlet.step(2, 3, Vote(G, 2, 99, 1, True))
    hamlet.sync()
    assert hamlet.seen[-1] == (2, 3, VoteAnswer(G, 2, True))


def test_4_2_3_a_removed_server_disturbs_nobody():
    hamlet = led(1, 2, 3, 4)
    hamlet.cut(1, 4)
    hamlet.do(1, "change", Remove(node(4)))
    hamlet.settle()
    hamlet.heal()
    for _ in range(40):
        hamlet.tick(1)
    assert {hamlet.core(number).term for number in (1, 2, 3)} == {1}
    assert hamlet.core(1).role is Role.LEADER


def test_4_2_3_answers_from_outside_do_not_depose_a_leader():
    hamlet = led(1, 2, 3)
    for message in (Appended(G, 9, 0), Heard(G, 9, 0), VoteAnswer(G, 9, False), PreVoteAnswer(G, 9, False)):
        hamlet.step(1, 8, message)
    assert hamlet.core(1).standing == (Role.LEADER, 1, node(1))


# --- §6.2: check-quorum ---
def test_6_2_a_leader_that_hears_no_majority_steps_down():
    hamlet = led(1, 2, 3)
    hamlet.isolate(1)
    hamlet.tick(20, 1)
    assert hamlet.core(1).standing.role is not Role.LEADER
    with pytest.raises(NotLeader):
        hamlet.core(1).propose([b"x"])


def test_6_2_a_minority_that_is_silent_does_not_matter_nor_do_learners():
    hamlet = led(1, 2, 3, learners=(4,))
    hamlet.isolate(3)
    hamlet.isolate(4)
    hamlet.tick(50, 1, 2)
    assert hamlet.core(1).standing == (Role.LEADER, 1, node(1))


# --- §6.4: reads ---
def test_6_4_1_a_read_waits_for_a_commit_of_the_term():
    hamlet = Hamlet(1, 2, 3)
    hamlet.core(1)._elect(Event.TOLD)
    hamlet.replicas[1].drive()
    hamlet.sync()
    hamlet.step(1, 2, VoteAnswer(G, 1, True))
    hamlet.do(1, "read", 5)
    hamlet.step(1, 2, Heard(G, 1, 1))
    assert reads(hamlet) == []
    hamlet.flying = [one for one in hamlet.flying if type(one[2]) is not Vote]
    hamlet.settle()
    assert reads(hamlet) == [(1, (5, 1))]


def test_6_4_2_its_index_is_the_commit_when_its_round_began():
    hamlet = led(1, 2, 3)
    hamlet.do(1, "read", 5)
    hamlet.do(1, "propose", [b"x"])
    hamlet.settle()
    assert hamlet.core(1).commit == 2
    assert reads(hamlet) == [(1, (5, 1))]


def test_6_4_3_a_majority_must_answer_a_heartbeat_sent_after_the_read():
    hamlet = led(1, 2, 3, 4, 5, learners=(6,))
    hamlet.isolate(1)
    hamlet.do(1, "read", 5)
    round_number = hamlet.seen[-1][2].round
    for sender, at in ((2, round_number), (6, round_number), (3, round_number - 1)):
        hamlet.step(1, sender, Heard(G, 1, at))
    assert reads(hamlet) == []
    hamlet.step(1, 3, Heard(G, 1, round_number))
    assert reads(hamlet) == [(1, (5, 1))]


def test_6_4_a_deposed_leader_reads_nothing():
    hamlet = led(1, 2, 3)
    hamlet.isolate(1)
    hamlet.tick(12, 2, 3)
    assert hamlet.core(2).role is Role.LEADER
    hamlet.propose(2, b"new")
    hamlet.do(1, "read", 5)
    hamlet.tick(20, 1)
    assert (reads(hamlet), reads(hamlet, "read lost")) == ([], [(1, 5)])


def test_6_4_a_sole_voter_is_its_own_majority():
    hamlet = led(1)
    hamlet.do(1, "read", 5)
    assert reads(hamlet) == [(1, (5, 1))]


# --- §9.6: pre-vote ---
def test_9_6_a_server_that_was_cut_off_does_not_raise_its_term():
    hamlet = led(1, 2, 3)
    hamlet.isolate(3)
    hamlet.tick(100, 3)
    assert hamlet.core(3).standing == (Role.PRE_CANDIDATE, 1, None)
    hamlet.heal()
    hamlet.tick(30)
    assert hamlet.core(1).standing == (Role.LEADER, 1, node(1))
    assert hamlet.core(3).leader == node(1)


def test_9_6_asking_changes_nobodys_term_or_vote():
    hamlet = Hamlet(1, 2, 3)
    assert hamlet.step(2, 3, PreVote(G, 5, 0, 0)) == [PreVoteAnswer(G, 5, True)]
    assert hamlet.step(2, 1, PreVote(G, 5, 0, 0)) == [PreVoteAnswer(G, 5, True)]
    assert (hamlet.core(2).term, hamlet.core(2).group.vote) == (0, b"")


def test_9_6_refused_while_a_leader_is_heard():
    hamlet = led(1, 2, 3)
    assert hamlet.step(2, 3, PreVote(G, 5, 99, 1)) == [PreVoteAnswer(G, 1, False)]


def test_9_6_refused_to_a_log_that_lacks_something():
    hamlet = led(1, 2, 3)
    hamlet.isolate(2)
    hamlet.tick(10, 2)
    hamlet.heal()
    assert hamlet.step(2, 3, PreVote(G, 5, 0, 0)) == [PreVoteAnswer(G, 1, False)]
    assert hamlet.step(2, 3, PreVote(G, 5, 1, 1)) == [PreVoteAnswer(G, 5, True)]


def test_9_6_refused_for_a_term_that_is_not_new_and_the_asker_learns_of_it():
    hamlet = Hamlet(1, 2, 3)
    hamlet.step(2, 3, Heartbeat(G, 6, 0, 0, False))
    hamlet.sync()
    assert hamlet.step(2, 1, PreVote(G, 6, 0, 0)) == [PreVoteAnswer(G, 6, False)]
    hamlet.step(1, 2, PreVoteAnswer(G, 6, False))
    assert hamlet.core(1).term == 6


def test_9_6_a_majority_makes_a_candidate():
    hamlet = Hamlet(1, 2, 3)
    hamlet.isolate(1)
    hamlet.do(1, "campaign")
    assert hamlet.core(1).standing == (Role.PRE_CANDIDATE, 0, None)
    hamlet.step(1, 2, PreVoteAnswer(G, 1, True))
    assert hamlet.core(1).standing == (Role.CANDIDATE, 1, None)


def test_a_lone_voter_leads_at_once_and_commits_when_synced():
    hamlet = Hamlet(1, learners=(2,))
    hamlet.held = {1}
    hamlet.do(1, "campaign")
    assert hamlet.core(1).role is Role.LEADER
    assert (hamlet.core(1).commit, hamlet.seen) == (0, []), "nobody hears of a term that could be forgotten"
    hamlet.replicas[1].sync()
    assert hamlet.core(1).commit == 1
    hamlet.settle()
    assert [to for _, to, _ in hamlet.seen if to == 2]


def test_commands_that_would_pass_for_configurations_or_no_ops_are_refused():
    hamlet = led(1)
    for entry in (b"", encode_configuration(voters(1))):
        with pytest.raises(ValueError, match="command"):
            hamlet.core(1).propose([entry])
