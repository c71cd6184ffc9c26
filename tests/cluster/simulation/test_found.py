"""What simulated histories have found, each as a small story or as the seed that showed it."""

from random import Random

import pytest

from cluster.groups import BEAT_TICKS, ELECTION_TICKS, SILENT_TICKS, Groups
from cluster.raft.effects import Start
from cluster.raft.messages import Configuration
from cluster.raft.roles import Role
from cluster.simulation.many import run_one
from cluster.simulation.world import PRODUCTION, Options
from node.traffic import SocialApplication
from tests.cluster.raft.cores import node

A, B, C = map(node, (1, 2, 3))
GROUP = 7
QUIET_BY = 4 * ELECTION_TICKS


class Three:
    """Three nodes with one group, whose messages arrive at once."""

    def __init__(self):
        start = Start(configuration=Configuration((A, B, C)))
        self.nodes = {me: Groups(me, 1, {GROUP: start}, Random(me[0]).randrange) for me in (A, B, C)}
        for me, groups in self.nodes.items():
            groups.peers(other for other in (A, B, C) if other != me)

    def tick(self, count):
        for _ in range(count):
            for groups in self.nodes.values():
                groups.tick()
            while any(self._drive(me, groups) for me, groups in list(self.nodes.items())):
                pass

    def _drive(self, me, groups):
        moved = False
        while (batch := groups.ready()) is not None:
            moved = True
            groups.synced()
            for run in batch.committed:
                groups.applied(GROUP, run.first + len(run.entries) - 1)
            for to, message in batch.messages:
                if to in self.nodes:
                    self.nodes[to].step(me, [message])
            for to, heartbeat in batch.heartbeats.items():
                if to in self.nodes:
                    self.nodes[to].heartbeat(me, heartbeat)
        return moved

    def leader(self):
        roles = {me: groups.raft(GROUP).role for me, groups in self.nodes.items()}
        leaders = [me for me, role in roles.items() if role is Role.LEADER]
        return leaders[0] if leaders else None


def test_a_group_that_is_quiet_under_a_node_that_is_a_member_no_more_elects_another():
    """Nobody looked any more whether that node was silent, so its followers slept on, and refused their votes
    to whoever was awake."""
    three = Three()
    three.tick(QUIET_BY)
    leader = three.leader()
    assert leader is not None
    assert all(groups.raft(GROUP).quiet for groups in three.nodes.values())
    del three.nodes[leader]
    for me, groups in three.nodes.items():
        groups.peers(other for other in three.nodes if other != me)
    three.tick(SILENT_TICKS + BEAT_TICKS + 4 * ELECTION_TICKS)
    assert three.leader() is not None


SEEDS = {
    6: "a group was quiet for ever under a node that had been revoked",
    179: "a node that had been away refused one that its rows did not know: the leader of the meta group",
    18: "a trim was refused while a lead was handed over, which then stayed: its rows did, too",
}


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds_that_found_something(seed):
    result = run_one(SocialApplication, Options(nodes=0), PRODUCTION, seed)
    assert not result.detail, f"{SEEDS[seed]}: {result.detail}"


@pytest.mark.parametrize("seed", [0, 1])
def test_groups_of_five_voters(seed):
    """Among three, no entry that one has truncated can be committed yet; among five it can."""
    options = Options(nodes=5, factor=5, partitions=4, clients=10, pause_ms=150, seconds=25)
    result = run_one(SocialApplication, options, PRODUCTION, seed)
    assert not result.detail, result.detail
