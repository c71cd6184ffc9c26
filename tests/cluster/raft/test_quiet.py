"""Quiet groups: one heartbeat stands for all of them, and a difference wakes whom it concerns."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cluster.raft.quiet import NodeHeartbeat, QuietGroups, Wakes
from tests.cluster.raft.cores import node

A, B, C = map(node, (1, 2, 3))


def pair():
    """Node 1 leads groups 5 and 6 quietly; node 2 follows in both, node 3 was left behind in 6."""
    leader, follower = QuietGroups(A, 1), QuietGroups(B, 1)
    leader.fell_quiet(5, 3, A, (B, C))
    leader.fell_quiet(6, 4, A, (B,), (C,))
    follower.fell_quiet(5, 3, A)
    follower.fell_quiet(6, 4, A)
    return leader, follower


def test_a_heartbeat_that_agrees_wakes_nobody():
    leader, follower = pair()
    for _ in range(5):
        assert follower.heard(A, leader.heartbeat(B)) == Wakes([], [])


def test_one_difference_may_be_under_way_two_wake():
    leader, follower = pair()
    leader.woke(5)
    assert follower.heard(A, leader.heartbeat(B)) == Wakes([], [])
    assert follower.heard(A, leader.heartbeat(B)) == Wakes([5, 6], [])


def test_differences_that_change_are_under_way_however_many_follow_each_other():
    """Groups fall quiet and wake all the time: each heartbeat meets one of which only one side knows yet."""
    leader, follower = pair()
    for group in range(10, 30):
        leader.fell_quiet(group, 1, A, (B, C))
        assert follower.heard(A, leader.heartbeat(B)) == Wakes([], [])
        follower.fell_quiet(group, 1, A)
    assert follower.heard(A, leader.heartbeat(B)) == Wakes([], [])
    leader.woke(12)  # now nothing moves any more, and the difference stays
    follower.heard(A, leader.heartbeat(B))
    assert 12 in follower.heard(A, leader.heartbeat(B)).freed


def test_another_term_is_a_difference():
    leader, follower = pair()
    leader.fell_quiet(5, 9, A, (B, C))
    follower.heard(A, leader.heartbeat(B))
    assert follower.heard(A, leader.heartbeat(B)).freed == [5, 6]


def test_a_leader_that_was_started_anew_leads_nothing():
    leader, follower = pair()
    follower.heard(A, leader.heartbeat(B))
    assert follower.heard(A, msgspec.structs.replace(leader.heartbeat(B), boot=2)).freed == [5, 6]


def test_a_node_that_falls_silent_frees_what_it_led():
    _, follower = pair()
    assert follower.silent(A) == [5, 6]
    follower.woke(5)
    assert (follower.silent(A), follower.silent(C)) == ([6], [])


def test_who_was_left_behind_is_served_when_it_is_heard():
    leader, _ = pair()
    assert leader.heard(C, QuietGroups(C, 1).heartbeat(A)) == Wakes([], [6])
    leader.woke(6)
    assert leader.heard(C, QuietGroups(C, 1).heartbeat(A)) == Wakes([], [])


def test_bytes():
    assert msgspec.msgpack.encode(NodeHeartbeat(1, 2, 3)) == bytes.fromhex("93010203")


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5), st.booleans())))
def test_sums_agree_whatever_came_and_went(changes):
    leader, follower = QuietGroups(A, 1), QuietGroups(B, 1)
    for group, term, quiet in changes:
        for one, followers in ((leader, (B,)), (follower, ())):
            if quiet:
                one.fell_quiet(group, term, A, followers)
            else:
                one.woke(group)
        for _ in range(3):
            assert follower.heard(A, leader.heartbeat(B)) == Wakes([], [])
