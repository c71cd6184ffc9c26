"""Groups of real Raft cores follow the layout while nodes join, leave, die and come back."""

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.members.layout import Placed, layout_of
from cluster.members.reconcile import Transfer, next_step
from cluster.raft.messages import is_configuration
from tests.cluster.raft.cores import name, node
from tests.cluster.raft.hamlet import Hamlet

NODES = range(1, 8)
PARTITIONS = 4
STEPS_MAX = 60
IDLE_TICKS = 8  # between two looks; five looks without a step are the end
ELECTION_TICKS = 60


class Cluster:
    """One group, of the given partition, that began as a lone node's."""

    def __init__(self, partition):
        self.partition = partition
        self.hamlet = Hamlet(1, blank=NODES[1:])
        self.members, self.joined, self.factor = {1}, [1], 3
        self.dead = set(NODES) - {1}
        for number in self.dead:
            self.hamlet.crash(number)
        self.hamlet.elect(1)
        self.proposed = 0

    def placement(self):
        placed = {node(n): Placed("", 100, self.joined.index(n)) for n in self.members}
        return layout_of(1, placed, self.factor, PARTITIONS).of(self.partition)

    def leader(self):
        cores = [one.core for one in self.hamlet.replicas.values() if one.core and one.core.leadership]
        return max(cores, key=lambda core: core.term, default=None)

    def voters(self):
        return {name(one) for one in self.leader().configuration.voters}

    def can_lose(self, number):
        """Whether the rest of the voters is a majority, and one with all that is committed."""
        voters = self.voters()
        return number not in voters or len(voters - self.dead - {number}) > len(voters) // 2

    # --- what happens ---
    def join(self, number):
        if number not in self.joined:
            self.joined.append(number)
            self.members.add(number)
            self.come(number)

    def leave(self, number):
        """It is refused by all others from now on."""
        if number in self.members and len(self.members) > 1 and self.can_lose(number):
            self.members.remove(number)
            self.die(number)

    def die(self, number):
        if number not in self.dead and self.can_lose(number):
            self.dead.add(number)
            self.hamlet.crash(number)

    def come(self, number):
        if number in self.dead and number in self.members:
            self.dead.remove(number)
            self.hamlet.start(number)

    def votes(self, number):
        self.factor = (1, 3, 5)[number % 3]

    # --- what follows ---
    def bring(self):
        """What the leaders do until nothing is left to do."""
        steps = idle = 0
        while idle < 5:
            self.lead()
            step = self.next()
            if step is None:
                idle += 1
                self.hamlet.tick(IDLE_TICKS)
                continue
            idle, steps = 0, steps + 1
            assert steps <= STEPS_MAX, f"no end: {step}"
            number = name(self.leader().group.me)
            if isinstance(step, Transfer):
                self.hamlet.do(number, "transfer", step.target)
                self.hamlet.settle()
                assert self.leader().group.me == step.target
            else:
                self.hamlet.do(number, "change", step)  # is never refused
                self.hamlet.settle()
            assert len(self.voters() - self.dead) > len(self.voters()) // 2
        if self.leader() is not None:
            self.propose()

    def next(self):
        core = self.leader()
        return next_step(
            core.configuration,
            self.placement().voters,
            [node(number) for number in self.members],
            core.statistics(),
            core.group.me,
            [node(number) for number in NODES if number not in self.dead],
        )

    def lead(self):
        for _ in range(ELECTION_TICKS):
            if self.leader() is not None:
                return
            self.hamlet.tick()
        raise AssertionError("nobody leads, though a majority lives")

    def propose(self):
        self.proposed += 1
        self.hamlet.propose(name(self.leader().group.me), b"%d" % self.proposed)

    def state(self, number):
        return [int(e) for _, e in self.hamlet.replicas[number].state if e and not is_configuration(e)]


DEEDS = ("join", "join", "leave", "die", "come", "votes")
histories = st.lists(st.tuples(st.sampled_from(DEEDS), st.sampled_from(NODES)), max_size=14)


@given(histories, st.integers(0, PARTITIONS - 1))
@settings(max_examples=100, deadline=None)
def test_cores_go_where_the_layout_wants_them_and_lose_nothing(history, partition):
    cluster = Cluster(partition)
    for deed, number in history:
        getattr(cluster, deed)(number)
        cluster.bring()
    for number in cluster.members:
        cluster.come(number)
    cluster.bring()
    wanted, reached = cluster.placement(), cluster.leader()
    voters = reached.configuration.voters
    if len(cluster.members) == 2:
        assert len(voters) == 1 and set(voters) < set(wanted.members)
    else:
        assert (set(voters), reached.group.me) == (set(wanted.voters), wanted.voters[0])
    assert set(reached.configuration.members) == set(wanted.members)
    cluster.hamlet.tick(IDLE_TICKS)  # the last commit is known everywhere
    for number in cluster.members:
        assert cluster.state(number) == list(range(1, cluster.proposed + 1))
