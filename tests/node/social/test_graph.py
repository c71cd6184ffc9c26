"""The graph under any commands and any order of delivery that keeps each pair's own.

Once all has settled both ends of every edge and block agree, counts, lists and packs are exact, who is gone
is gone, and nothing is dead.

Messages arrive twice now and then. A second machine runs with a bound of two follows, so that declining is
common.
"""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from cluster.commands import Refused
from node.social import edges
from node.social.accounts import Suspend, Unsuspend, UpdateProfile
from node.social.blocks import BlockUser, UnblockUser
from node.social.deletion import DeleteAccount
from node.social.follows import Accept, Follow, Reject, RemoveFollower, Unfollow
from tests.node.social.village import Village

PEOPLE = 4
ANYBODY = st.integers(0, PEOPLE - 1)
EXPECTED = {"not_found", "unauthenticated", "invalid_field"}


class Graph(RuleBasedStateMachine):
    follows_max = 7500

    def __init__(self):
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(edges, "FOLLOWS_MAX", self.follows_max)
        self.village = Village()
        self.gone = set()

    @initialize(private=st.lists(st.booleans(), min_size=PEOPLE, max_size=PEOPLE))
    def sign_up(self, private):
        # The last two share a partition: a pair of users is not always a pair of partitions.
        homes = (1, 2, 3, 3)
        self.people = [
            self.village.sign_up(f"person{i}", homes[i], private=private[i]) for i in range(PEOPLE)
        ]

    def _run(self, home, command):
        try:
            # Commands of who is gone do not come this far; remembering one would leave a trace.
            self.village.run(home, command, scope=0 if home in self.gone else home)
        except Refused as refusal:
            assert refusal.code in EXPECTED, refusal

    @rule(a=ANYBODY, v=ANYBODY, event=st.sampled_from([Follow, Follow, Unfollow]))
    def follow_or_leave(self, a, v, event):
        author, viewer = self.people[a], self.people[v]
        if viewer not in self.gone:  # the edge checks the session
            self._run(author, event(author, viewer))

    @rule(a=ANYBODY, v=ANYBODY, event=st.sampled_from([Accept, Reject, RemoveFollower]))
    def decide(self, a, v, event):
        self._run(self.people[a], event(self.people[a], self.people[v]))

    @rule(a=ANYBODY, b=ANYBODY, event=st.sampled_from([BlockUser, UnblockUser]))
    def block(self, a, b, event):
        self._run(self.people[a], event(self.people[a], self.people[b]))

    @rule(a=ANYBODY, private=st.booleans())
    def change_privacy(self, a, private):
        self._run(self.people[a], UpdateProfile(self.people[a], private=private))

    @rule(a=ANYBODY, event=st.sampled_from([Suspend, Unsuspend, Unsuspend]))
    def suspend(self, a, event):
        self._run(self.people[a], event(self.people[a]))

    @precondition(lambda self: len(self.gone) < 2)
    @rule(a=ANYBODY)
    def delete(self, a):
        self._run(self.people[a], DeleteAccount(self.people[a]))
        self.gone.add(self.people[a])

    @precondition(lambda self: self.village.pairs())
    @rule(data=st.data(), times=st.integers(1, 2))
    def deliver(self, data, times):
        self.village.deliver(data.draw(st.sampled_from(self.village.pairs())), times)

    @precondition(lambda self: self.village.busy())
    @rule(data=st.data())
    def proceed(self, data):
        self.village.proceed(data.draw(st.sampled_from(self.village.busy())))

    @rule()
    def settle(self):
        self.village.settle()
        self.village.check_graph([p for p in self.people if p not in self.gone], self.gone)

    def teardown(self):
        if hasattr(self, "people"):
            self.settle()
        self._patch.undo()


class CrowdedGraph(Graph):
    follows_max = 2


TestGraph = Graph.TestCase
TestCrowdedGraph = CrowdedGraph.TestCase
TestGraph.settings = TestCrowdedGraph.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)
