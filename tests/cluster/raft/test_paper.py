"""The rules of Figure 2 of the Raft paper (Ongaro & Ousterhout 2014), one test each, in its order."""

import pytest

from cluster.raft.effects import HardState, NotLeader
from cluster.raft.messages import (
    Append,
    Appended,
    Commit,
    Heartbeat,
    Install,
    Mismatch,
    Stale,
    Vote,
    VoteAnswer,
)
from cluster.raft.roles import NEXT, Event, Role
from tests.cluster.raft.cores import node, voters
from tests.cluster.raft.hamlet import Hamlet

G = 7


def follower(*terms):
    """Node 2 of three, with a log of these terms, and a leader of the last of them."""
    hamlet = Hamlet(1, 2, 3)
    previous_term = 0
    for index, term in enumerate(terms):
        hamlet.step(2, 1 if term % 2 else 3, Append(G, term, index, previous_term, 0, term, [b"e%d" % index]))
        hamlet.sync()
        previous_term = term
    return hamlet


def terms_of(hamlet, number):
    return [term for term, _ in hamlet.entries(number)]


# --- State ---
def test_current_term_and_vote_are_on_stable_storage_before_answering():
    hamlet = Hamlet(1, 2, 3)
    hamlet.held = {2}
    assert hamlet.step(2, 1, Vote(G, 1, 0, 0, False)) == []
    hamlet.replicas[2].sync()
    assert hamlet.replicas[2].disk.hard_state == HardState(1, node(1), 0)
    assert hamlet.seen[-1] == (2, 1, VoteAnswer(G, 1, True))


def test_log_entries_are_on_stable_storage_before_answering():
    hamlet = Hamlet(1, 2, 3)
    hamlet.held = {2}
    assert hamlet.step(2, 1, Append(G, 1, 0, 0, 0, 1, [b"x"])) == []
    hamlet.replicas[2].sync()
    assert hamlet.replicas[2].disk.entries == {1: (1, b"x")}
    assert hamlet.seen[-1] == (2, 1, Appended(G, 1, 1))


def test_commit_index_increases_monotonically():
    hamlet = follower(1, 1)
    hamlet.step(2, 1, Heartbeat(G, 1, 2, 0, False))
    hamlet.step(2, 1, Heartbeat(G, 1, 1, 0, False))
    hamlet.step(2, 1, Append(G, 1, 2, 1, 0, 1, []))
    assert hamlet.core(2).commit == 2


def test_next_index_begins_at_the_leaders_last_and_match_index_at_zero():
    hamlet = follower(1, 1, 1)
    hamlet.isolate(2)
    hamlet.replicas[2].core._elect(Event.TOLD)
    hamlet.replicas[2].drive()
    hamlet.sync()
    hamlet.step(2, 1, VoteAnswer(G, 2, True))
    progress = hamlet.core(2).leadership.progress
    assert [(one.match, one.next) for one in progress.values()] == [(0, 4), (0, 4)]  # 4: the new no-op


# --- AppendEntries RPC, receiver implementation ---
def test_append_1_refuse_if_its_term_is_older():
    hamlet = follower(2)
    assert hamlet.step(2, 1, Append(G, 1, 1, 2, 1, 1, [b"y"])) == [Stale(G, 2)]
    assert terms_of(hamlet, 2) == [2]


@pytest.mark.parametrize(
    ("previous", "previous_term", "hint", "hint_term"),
    [(5, 4, 3, 4), (3, 2, 2, 2), (3, 3, 2, 2), (2, 1, 1, 1)],
)
def test_append_2_refuse_if_the_log_has_no_such_entry_before(previous, previous_term, hint, hint_term):
    hamlet = follower(1, 2, 4)
    answer = hamlet.step(2, 3, Append(G, 4, previous, previous_term, 0, 4, [b"y"]))
    assert answer == [Mismatch(G, 4, previous, hint, hint_term)]


def test_append_3_delete_what_conflicts_and_all_that_follows_it():
    hamlet = follower(1, 1, 1)
    hamlet.step(2, 3, Append(G, 2, 1, 1, 0, 2, [b"other"]))
    assert hamlet.entries(2) == [(1, b"e0"), (2, b"other")]
    hamlet.sync()
    assert hamlet.replicas[2].disk.entries == {1: (1, b"e0"), 2: (2, b"other")}


def test_append_3_an_older_append_deletes_nothing():
    hamlet = follower(1, 1, 1)
    hamlet.step(2, 1, Append(G, 1, 0, 0, 0, 1, [b"e0"]))
    assert terms_of(hamlet, 2) == [1, 1, 1]


def test_append_4_append_what_is_not_in_the_log():
    hamlet = follower(1, 1)
    hamlet.step(2, 1, Append(G, 1, 1, 1, 0, 1, [b"e1", b"e2", b"e3"]))
    assert hamlet.entries(2) == [(1, b"e0"), (1, b"e1"), (1, b"e2"), (1, b"e3")]


@pytest.mark.parametrize(("leader_commit", "commit"), [(1, 1), (2, 2), (9, 2)])
def test_append_5_commit_the_least_of_leader_commit_and_the_last_new_entry(leader_commit, commit):
    hamlet = follower(1, 1, 1)
    hamlet.step(2, 1, Append(G, 1, 1, 1, leader_commit, 1, [b"e1"]))
    assert hamlet.core(2).commit == commit


# --- RequestVote RPC, receiver implementation ---
def test_vote_1_refuse_if_the_term_is_older():
    hamlet = follower(2)
    assert hamlet.step(2, 1, Vote(G, 1, 9, 9, True)) == [VoteAnswer(G, 2, False)]


def test_vote_2_one_vote_a_term_first_come_first_served():
    hamlet = Hamlet(1, 2, 3)
    for sender in (1, 3, 1):
        hamlet.step(2, sender, Vote(G, 1, 0, 0, False))
        hamlet.sync()
    votes = [(to, message.granted) for _, to, message in hamlet.seen]
    assert votes == [(1, True), (3, False), (1, True)]


def test_vote_2_is_remembered_over_a_restart():
    hamlet = Hamlet(1, 2, 3)
    hamlet.step(2, 1, Vote(G, 1, 0, 0, False))
    hamlet.sync()
    hamlet.crash(2)
    hamlet.start(2)
    hamlet.step(2, 3, Vote(G, 1, 5, 0, False))
    hamlet.sync()
    assert hamlet.seen[-1] == (2, 3, VoteAnswer(G, 1, False))


@pytest.mark.parametrize(
    ("last", "last_term", "granted"), [(2, 2, True), (3, 2, True), (1, 3, True), (1, 2, False), (9, 1, False)]
)
def test_vote_2_only_if_the_log_is_at_least_as_up_to_date(last, last_term, granted):
    hamlet = follower(1, 2)
    hamlet.step(2, 1, Vote(G, 4, last, last_term, True))
    hamlet.sync()
    assert hamlet.seen[-1] == (2, 1, VoteAnswer(G, 4, granted))


# --- Rules for servers: all ---
def test_all_servers_apply_what_is_committed_in_order():
    hamlet = follower(1, 1, 1)
    hamlet.step(2, 1, Heartbeat(G, 1, 2, 0, False))
    assert hamlet.replicas[2].state == [(1, b"e0"), (1, b"e1")]


def test_all_servers_apply_nothing_that_they_have_not_synced():
    hamlet = Hamlet(1, 2, 3)
    hamlet.held = {2}
    hamlet.step(2, 1, Append(G, 1, 0, 0, 1, 1, [b"x"]))
    assert hamlet.core(2).commit == 1
    assert hamlet.replicas[2].state == []
    hamlet.replicas[2].sync()
    assert hamlet.replicas[2].state == [(1, b"x")]


@pytest.mark.parametrize("begin", ["follower", "candidate", "leader"])
def test_all_servers_follow_on_a_higher_term(begin):
    hamlet = Hamlet(1, 2, 3)
    if begin == "leader":
        hamlet.elect(1)
    elif begin == "candidate":
        hamlet.core(1)._elect(Event.TOLD)
    hamlet.step(1, 2, Append(G, 9, 0, 0, 0, 9, []))
    assert hamlet.core(1).standing == (Role.FOLLOWER, 9, node(2))


# --- followers ---
def test_followers_campaign_after_an_election_timeout_without_a_leader():
    hamlet = Hamlet(1, 2, 3)
    hamlet.tick(9)
    assert hamlet.core(1).term == 0
    hamlet.tick(1)
    assert hamlet.core(1).standing == (Role.LEADER, 1, node(1))


def test_followers_do_not_campaign_while_they_hear_a_leader_or_vote():
    hamlet = Hamlet(1, 2, 3)
    for _ in range(5):
        hamlet.tick(9, 1)
        hamlet.step(1, 2, Heartbeat(G, 1, 0, 0, False))
    assert hamlet.core(1).standing == (Role.FOLLOWER, 1, node(2))


# --- candidates ---
def test_candidates_raise_the_term_vote_for_themselves_and_ask_all():
    hamlet = Hamlet(1, 2, 3)
    hamlet.core(1)._elect(Event.TOLD)
    hamlet.replicas[1].drive()
    hamlet.held = {2, 3}
    hamlet.sync()
    assert hamlet.replicas[1].disk.hard_state == HardState(1, node(1), 0)
    assert hamlet.seen == [(1, 2, Vote(G, 1, 0, 0, True)), (1, 3, Vote(G, 1, 0, 0, True))]


def test_candidates_ask_only_when_their_own_vote_is_synced():
    hamlet = Hamlet(1, 2, 3)
    hamlet.core(1)._elect(Event.TOLD)
    hamlet.replicas[1].drive()
    assert hamlet.seen == []


def test_candidates_lead_with_the_votes_of_a_majority_of_voters():
    hamlet = Hamlet(1, 2, 3, 4, 5, learners=(6,))
    hamlet.core(1)._elect(Event.TOLD)
    for sender in (2, 6, 2):
        hamlet.step(1, sender, VoteAnswer(G, 1, True))
    assert hamlet.core(1).role is Role.CANDIDATE
    hamlet.step(1, 3, VoteAnswer(G, 1, True))
    assert hamlet.core(1).role is Role.LEADER


def test_candidates_follow_whoever_leads_in_their_term():
    hamlet = Hamlet(1, 2, 3)
    hamlet.core(1)._elect(Event.TOLD)
    hamlet.step(1, 2, Heartbeat(G, 1, 0, 0, False))
    assert hamlet.core(1).standing == (Role.FOLLOWER, 1, node(2))


def test_candidates_try_again_after_an_election_timeout():
    hamlet = Hamlet(1, 2, 3)
    hamlet.isolate(1)
    hamlet.core(1)._elect(Event.TOLD)
    hamlet.tick(10, 1)
    assert hamlet.core(1).standing == (Role.PRE_CANDIDATE, 1, None)
    hamlet.heal()
    hamlet.tick(10, 1)
    assert hamlet.core(1).standing == (Role.LEADER, 2, node(1))


# --- leaders ---
def test_leaders_send_at_once_and_again_when_idle():
    hamlet = Hamlet(1, 2, 3)
    hamlet.elect(1)
    appends = [(to, message) for _, to, message in hamlet.seen if type(message) is Append]
    assert appends == [(2, Append(G, 1, 0, 0, 0, 1, [b""])), (3, Append(G, 1, 0, 0, 0, 1, [b""]))]
    before = len(hamlet.seen)
    hamlet.tick(2, 1)
    beats = [to for sender, to, message in hamlet.seen[before:] if type(message) is Heartbeat]
    assert {2, 3} <= set(beats)


def test_leaders_answer_when_the_command_is_applied():
    hamlet = Hamlet(1, 2, 3)
    hamlet.elect(1)
    hamlet.isolate(1)
    assert hamlet.propose(1, b"x") == 2
    assert hamlet.replicas[1].state == [(1, b"")]
    hamlet.heal()
    hamlet.tick(2)
    assert hamlet.replicas[1].state == [(1, b""), (1, b"x")]
    with pytest.raises(NotLeader) as refused:
        hamlet.core(2).propose([b"y"])
    assert refused.value.leader == node(1)


def test_leaders_step_back_until_the_logs_agree():
    hamlet = follower(1, 1, 1, 3, 3, 3)
    hamlet.step(1, 3, Append(G, 4, 0, 0, 0, 1, [b"e0"]))
    hamlet.step(1, 3, Append(G, 4, 1, 1, 0, 4, [b"p", b"q"]))
    hamlet.sync()
    hamlet.flying.clear()
    hamlet.core(1)._elect(Event.TOLD)
    hamlet.replicas[1].drive()
    hamlet.settle()
    assert hamlet.core(1).leadership is not None
    assert hamlet.entries(2) == hamlet.entries(1) == hamlet.entries(3)
    refusals = [message for sender, _, message in hamlet.seen if sender == 2 and type(message) is Mismatch]
    assert len(refusals) <= 2, "a hint spares the steps within a term"


def test_leaders_commit_by_counting_only_entries_of_their_own_term():
    hamlet = Hamlet(1, 2, 3)
    hamlet.step(1, 3, Append(G, 2, 0, 0, 0, 2, [b"old"]))
    hamlet.sync()
    hamlet.flying.clear()
    hamlet.core(1)._elect(Event.TOLD)
    hamlet.replicas[1].drive()
    hamlet.sync()
    hamlet.step(1, 2, VoteAnswer(G, 3, True))
    hamlet.sync()
    hamlet.step(1, 2, Appended(G, 3, 1))
    assert hamlet.core(1).commit == 0, "a majority has it, but it is of an older term"
    hamlet.step(1, 2, Appended(G, 3, 2))
    assert hamlet.core(1).commit == 2


def test_leaders_count_themselves_only_up_to_what_they_have_synced():
    hamlet = Hamlet(1, 2, 3)
    hamlet.elect(1)
    hamlet.held = {1}
    hamlet.cut(1, 3)
    hamlet.propose(1, b"x")
    assert hamlet.core(1).leadership.progress[node(2)].match == 2
    assert hamlet.core(1).commit == 1
    hamlet.replicas[1].sync()
    assert hamlet.core(1).commit == 2


def test_leaders_never_delete_or_overwrite_their_own_entries():
    hamlet = Hamlet(1, 2, 3)
    hamlet.elect(1)
    with pytest.raises(AssertionError, match="two lead"):
        hamlet.step(1, 2, Append(G, 1, 0, 0, 0, 1, [b"theirs"]))
    assert hamlet.entries(1) == [(1, b"")]


# --- InstallSnapshot RPC (Figure 13) ---
def install(hamlet, last, last_term, term=5):
    state = [(last_term, b"s%d" % index) for index in range(last)]
    hamlet.replicas[2].step(node(1), Install(G, term, last, last_term, voters(1, 2)), state)


def test_install_1_refuse_if_its_term_is_older():
    hamlet = follower(2)
    install(hamlet, 5, 1, term=1)
    assert hamlet.seen[-1][2] == Stale(G, 2)
    assert hamlet.core(2).commit == 0


def test_install_6_keep_what_follows_if_the_entry_is_there():
    hamlet = follower(1, 1, 1)
    install(hamlet, 2, 1)
    assert (terms_of(hamlet, 2), hamlet.core(2).commit) == ([1, 1, 1], 2)
    assert not [event for event in hamlet.events if event[1] == "install"]


def test_install_7_and_8_else_the_state_takes_the_place_of_the_log():
    hamlet = follower(1, 1, 1)
    install(hamlet, 2, 4)
    assert hamlet.seen[-1][2] != Appended(G, 5, 2), "not before it is on disk"
    hamlet.sync()
    assert hamlet.seen[-1][2] == Appended(G, 5, 2)
    assert hamlet.replicas[2].state == [(4, b"s0"), (4, b"s1")]
    assert (hamlet.core(2).group.log.last, hamlet.core(2).configuration) == (2, voters(1, 2))


def test_install_of_what_is_committed_already_changes_nothing():
    hamlet = follower(1, 1, 1)
    hamlet.step(2, 1, Heartbeat(G, 1, 3, 0, False))
    install(hamlet, 2, 1)
    assert hamlet.core(2).commit == 3
    assert len(hamlet.replicas[2].state) == 3


# --- roles (Figure 4) ---
@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("event", Event)
def test_every_role_meets_every_event(role, event):
    hamlet = Hamlet(1, 2, 3)
    core = hamlet.core(1)
    core.role = role
    if (role, event) in NEXT:
        core._turn(event)
        assert core.role is NEXT[role, event]
    else:
        with pytest.raises(AssertionError, match=event.value):
            core._turn(event)
        assert core.role is role


# --- beside the paper: a leader says at once what is committed ------------------------------------------
def test_who_is_told_of_a_commit_hands_it_out_and_answers_nothing():
    hamlet = Hamlet(1, 2, 3)
    hamlet.core(1).campaign()
    hamlet.replicas[1].drive()
    hamlet.settle()
    hamlet.core(1).propose([b"x"])
    hamlet.replicas[1].drive()
    hamlet.settle()
    assert hamlet.core(2).commit < hamlet.core(1).commit
    before = len(hamlet.seen)
    hamlet.core(1).announce()
    hamlet.replicas[1].drive()
    hamlet.settle()
    assert hamlet.core(2).commit == hamlet.core(3).commit == hamlet.core(1).commit
    told = [message for _, _, message in hamlet.seen[before:]]
    assert {type(message) for message in told} == {Commit}
