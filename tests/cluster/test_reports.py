"""What the nodes' reports add up to, and what is said of it."""

from cluster.keys import META_PARTITION
from cluster.raft.effects import RaftStatistics
from cluster.reports import BEHIND_ENTRIES, Report, is_behind, median, picture

A, B, C = "aa" * 16, "bb" * 16, "cc" * 16
ADDRESSES = {A: "10.0.0.1:8002", B: "10.0.0.2:8002", C: "10.0.0.3:8002"}
GROUPS = (0, 1, 2, META_PARTITION)


def seen(*reports, unheard=None, addresses=ADDRESSES):
    return picture(
        A, "0c" * 16, addresses, {report.node_id: report for report in reports}, unheard or {}, GROUPS
    )


def test_all_is_well():
    found = seen(Report(A, leads=(0, META_PARTITION)), Report(B, leads=(1,)), Report(C, leads=(2,)))
    assert found.healthy and found.words == () and found.writes == "taken"
    assert (found.heard, found.nodes, found.groups_without_leader) == (3, 3, 0)
    assert [member.leads for member in found.members] == [2, 1, 1]


def test_a_dead_node_whose_groups_were_taken_over():
    found = seen(
        Report(A, leads=(0, 1, META_PARTITION), behind={C: (0, 1)}),
        Report(B, leads=(2,), behind={C: (2,)}),
        unheard={C: "no link"},
    )
    assert not found.healthy and found.writes == "taken"
    assert found.replicas_behind == 3 and found.members[2].behind == 3
    assert found.words == (f"node {C[:8]} (10.0.0.3:8002) is not heard: no link",)


def test_a_lost_majority_says_that_writes_are_stopped():
    found = seen(Report(A), unheard={B: "no link", C: "no link"})
    assert found.writes == "stopped" and found.groups_without_leader == 4
    assert "all groups have no leader" in found.words[0] and "2 of 3 nodes are not heard" in found.words[0]
    some = seen(Report(A, leads=(0, META_PARTITION)), Report(B, leads=(1,)), Report(C))
    assert some.writes == "stopped in 1 of 4 groups" and "1 groups (2) have" in some.words[0]


def test_what_else_is_said():
    found = seen(
        Report(A, leads=GROUPS, full="the quota is used up"),
        Report(B, clock_off_ms=-700),
        Report(C, clock_off_ms=500, blobs_wanted=3, blobs_damaged=1),
    )
    assert len(found.words) == 4 and not found.healthy
    assert "takes no writes: the quota" in found.words[0]
    assert "-700 ms off" in found.words[1]
    assert "lacks 3 blobs" in found.words[2] and "1 damaged" in found.words[3]


def test_while_members_move_it_is_not_yet_well():
    found = seen(Report(A, leads=GROUPS, changing=7), Report(B), Report(C))
    assert not found.healthy and found.changing == 7 and found.words == ()


def test_a_replica_is_behind_when_it_needs_a_snapshot_or_many_entries():
    def led(flow, match):
        follower = {b"n": (flow, match, match + 1)}
        return RaftStatistics("leader", 1, b"l", False, 9000, 9000, 9000, 9000, 0, 0, 0, follower)

    assert not is_behind(led("replicate", 9000 - BEHIND_ENTRIES), b"n")
    assert is_behind(led("replicate", 8999 - BEHIND_ENTRIES), b"n")
    assert is_behind(led("snapshot", 9000), b"n")
    assert not is_behind(led("probe", 9000), b"n")


def test_the_median():
    assert median([]) == 0 and median([5]) == 5 and median([9, 1]) == 1 and median([3, 1, 2]) == 2
