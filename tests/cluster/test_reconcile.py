"""From the members that a group has to those that it should have, one safe step at a time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.members.reconcile import LEVEL_LAG, Transfer, is_needed, next_step
from cluster.raft.effects import AddLearner, Demote, Promote, RaftStatistics, Remove
from cluster.raft.messages import Configuration

LAST = 10_000
STEPS_MAX = 40  # of seven nodes, each comes, is promoted, demoted and removed at most, and the lead moves


def node(letter):
    return letter.encode() * 16


def nodes(letters):
    return tuple(node(letter) for letter in letters)


def statistics(followers):
    return RaftStatistics(
        *("leader", 3, b"", False, LAST, LAST, LAST, LAST, 0, 0, 0),
        {one: (flow, match, match + 1) for one, (flow, match) in followers.items()},
    )


def ask(voters, learners, wanted, members, *, me="a", dead="", behind="", flow=None, unfit=""):
    """`behind`: followers that lack too much; `flow`: of which another flow than replication is known."""
    followers = {
        node(letter): ("replicate", LAST - LEVEL_LAG - 1 if letter in behind else LAST - LEVEL_LAG)
        for letter in (*voters, *learners)
        if letter != me
    } | {node(letter): (state, LAST) for letter, state in (flow or {}).items()}
    return next_step(
        Configuration(tuple(sorted(nodes(voters))), tuple(sorted(nodes(learners)))),
        nodes(wanted),
        nodes(members),
        statistics(followers),
        node(me),
        set(nodes("abcdefg")) - set(nodes(dead)),
        nodes(unfit),
    )


STORIES = [
    # as wanted
    ("all is as it should be", ("abc", "d", "abc", "abcd"), {}, None),
    # learners
    ("a member that is alive comes as a learner", ("a", "", "a", "ab"), {}, AddLearner(node("b"))),
    ("a wanted voter comes first", ("a", "", "acd", "abcd"), {}, AddLearner(node("c"))),
    ("a dead one waits", ("a", "", "a", "ab"), {"dead": "b"}, None),
    ("a learner that left goes", ("a", "bc", "a", "ab"), {"dead": "c"}, Remove(node("c"))),
    # promotion
    ("two level learners become voters", ("a", "bc", "abc", "abc"), {}, Promote(node("b"))),
    ("… one after the other", ("ab", "c", "abc", "abc"), {}, Promote(node("c"))),
    ("one alone would be counted, not help", ("a", "bc", "abc", "abc"), {"dead": "c"}, None),
    ("one that lacks entries waits", ("a", "bc", "abc", "abc"), {"behind": "c"}, None),
    ("one that is probed waits", ("a", "bc", "abc", "abc"), {"flow": {"c": "probe"}}, None),
    ("one that gets a snapshot waits", ("a", "bc", "abc", "abc"), {"flow": {"b": "snapshot"}}, None),
    ("five of three need two", ("abc", "de", "abcde", "abcde"), {"dead": "e"}, None),
    # exchange
    ("who replaces comes first", ("abc", "d", "abd", "abcd"), {}, Promote(node("d"))),
    ("then the other goes", ("abcd", "", "abd", "abcd"), {}, Demote(node("c"))),
    ("a dead one goes before a living one", ("abcde", "", "abc", "abcde"), {"dead": "e"}, Demote(node("e"))),
    ("a wanted one is dead: all stays", ("abc", "d", "abd", "abcd"), {"dead": "d"}, None),
    ("… but not at four", ("abce", "d", "abd", "abcde"), {"dead": "d"}, Demote(node("c"))),
    ("fewer are wanted", ("abcde", "", "abc", "abcde"), {}, Demote(node("d"))),
    ("not where the rest has no majority", ("abcde", "", "abc", "abcde"), {"dead": "bc"}, None),
    # leaving
    ("who left is replaced first", ("abc", "d", "abd", "abd"), {"dead": "c"}, Promote(node("d"))),
    ("… and then goes", ("abcd", "", "abd", "abd"), {"dead": "c"}, Remove(node("c"))),
    ("without a level one it goes at once", ("abc", "", "ab", "ab"), {"dead": "c"}, Remove(node("c"))),
    ("… if the rest lives", ("abc", "", "abd", "abd"), {"dead": "bd"}, None),
    ("of two voters a dead one holds all up", ("ab", "", "a", "a"), {"dead": "b"}, None),
    # two members
    ("three become one: the others go", ("ab", "", "a", "ab"), {}, Demote(node("b"))),
    ("of two, the voter there is stays", ("a", "b", "b", "ab"), {}, None),
    ("… with more it does not", ("a", "bc", "b", "abc"), {}, Promote(node("b"))),
    ("… nor when it left", ("a", "b", "b", "bc"), {"dead": "c"}, Promote(node("b"))),
    # the lead
    ("the preferred leader takes over", ("abc", "", "bac", "abc"), {}, Transfer(node("b"))),
    ("… when level", ("abc", "", "bac", "abc"), {"behind": "b"}, None),
    ("… when alive", ("abc", "", "bac", "abc"), {"dead": "b"}, None),
    ("… when nobody gets a snapshot", ("abc", "d", "bac", "abcd"), {"flow": {"d": "snapshot"}}, None),
    ("… but not for one that died of it", ("abc", "d", "bac", "abcd"),
     {"flow": {"d": "snapshot"}, "dead": "d"}, Transfer(node("b"))),
    ("who is not wanted hands over before it goes", ("abcd", "", "bcd", "abcd"), {}, Transfer(node("b"))),
    ("… to the first that is level", ("abcd", "", "bcd", "abcd"), {"behind": "b"}, Transfer(node("c"))),
    ("… not to another that is not wanted", ("abc", "", "def", "abcdef"), {"dead": "def"}, None),
    ("who left hands over to anybody", ("abc", "", "def", "bcdef"), {"dead": "def"}, Transfer(node("b"))),
    ("whose clock is off hands over", ("abc", "", "abc", "abc"), {"unfit": "a"}, Transfer(node("b"))),
    ("… to one whose clock is right", ("abc", "", "abc", "abc"), {"unfit": "ab"}, Transfer(node("c"))),
    ("a preferred one whose clock is off waits", ("abc", "", "bac", "abc"), {"unfit": "b"}, None),
    # nothing to be done from here
    ("who is no voter decides nothing", ("bc", "a", "abc", "abc"), {}, None),
    ("without a majority nothing", ("abc", "d", "abd", "abd"), {"dead": "bc"}, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("situation", "more", "step"), [row[1:] for row in STORIES], ids=[r[0] for r in STORIES]
)
def test_the_next_step(situation, more, step):
    assert ask(*situation, **more) == step


@pytest.mark.parametrize(
    ("voters", "dead", "letter", "needed"),
    [
        *(
            ("abc", "", "a", False),
            ("abc", "a", "a", False),
            ("abc", "b", "a", True),
            ("abc", "b", "d", False),
        ),
        *(("a", "", "a", True), ("a", "", "b", False), ("ab", "", "b", True), ("abcde", "bc", "a", True)),
        *(("abcde", "b", "a", False), ("abcd", "", "a", False), ("abcd", "b", "a", True)),
    ],
)
def test_whom_a_group_cannot_be_without(voters, dead, letter, needed):
    alive = nodes(set("abcdefg") - set(dead))
    assert is_needed(Configuration(nodes(voters), ()), node(letter), alive) is needed


# --- against a model -----------------------------------------------------------------------------------
NODES = nodes("abcdefg")


class Group:
    """A group whose every change is committed, whose leader hands over at once, and whose living members
    become level while nothing else happens."""

    def __init__(self, voters, learners, members, wanted, alive, level, leader):
        self.voters, self.learners = set(voters), set(learners)
        self.members, self.wanted = set(members), wanted
        self.alive, self.level, self.leader = set(alive), set(level) | {leader}, leader
        self.steps = 0
        self._began = repr(self)

    def __repr__(self):
        def letters(some):
            return "".join(chr(one[0]) for one in (some if isinstance(some, tuple) else sorted(some)))

        fields = ("voters", "learners", "members", "wanted", "alive", "level")
        said = ", ".join(f"{name} {letters(getattr(self, name))}" for name in fields)
        began = getattr(self, "_began", "")
        return f"{said}, leader {chr(self.leader[0])}" + (f"; it began with {began}" if began else "")

    def next(self):
        followers = {
            one: ("replicate", LAST) if one in self.level else ("probe", 0)
            for one in self.voters | self.learners
            if one != self.leader
        }
        return next_step(
            Configuration(tuple(sorted(self.voters)), tuple(sorted(self.learners))),
            self.wanted,
            self.members,
            statistics(followers),
            self.leader,
            self.alive,
        )

    def has_quorum(self):
        return len(self.voters & self.alive) > len(self.voters) // 2

    def carry_out(self, step):
        match step:
            case AddLearner(one):
                assert one in self.alive & self.members
                self.learners.add(one)
            case Promote(one):
                assert one in self.learners & self.level & self.alive & self.members
                self.learners.remove(one)
                self.voters.add(one)
            case Demote(one):
                self.voters.remove(one)
                self.learners.add(one)
            case Remove(one):
                assert one not in self.members
                self.voters.discard(one)
                self.learners.discard(one)
            case Transfer(one):
                assert one in self.voters & self.level & self.alive
                self.leader = one
        self.steps += 1
        assert self.leader in self.voters
        assert self.has_quorum(), f"{step} leaves no living majority"
        assert self.steps <= STEPS_MAX, "no end"

    def settle(self):
        """Until nothing is left to do, however long one waits."""
        while True:
            while (step := self.next()) is not None:
                self.carry_out(step)
            late = (self.voters | self.learners) & self.alive - self.level
            if not late:
                return
            self.level.add(min(late))


@st.composite
def groups(draw):
    some = st.sets(st.sampled_from(NODES))
    voters = draw(st.sets(st.sampled_from(NODES), min_size=1))
    dead_voters = draw(st.integers(0, (len(voters) - 1) // 2))
    dead = set(draw(st.permutations(sorted(voters)))[:dead_voters]) | (draw(some) - voters)
    members = draw(st.sets(st.sampled_from(NODES), min_size=1))
    size = draw(st.sampled_from([size for size in (1, 3, 5, 7) if size <= len(members)]))
    wanted = tuple(draw(st.permutations(sorted(members)))[:size])
    leader = draw(st.sampled_from(sorted(voters - dead)))
    learners = draw(some) - voters
    return Group(voters, learners, members, wanted, set(NODES) - dead, draw(some) - dead, leader)


def is_settled(group):
    """As wanted, or, of two members, one voter whichever it is."""
    if len(group.members) == 2 and len(group.wanted) == 1:
        return len(group.voters) == 1 and group.voters < group.members
    return group.voters == set(group.wanted) and group.leader == group.wanted[0]


@given(groups())
@settings(max_examples=500, deadline=None)
def test_steps_end_where_they_should_and_never_cost_the_majority(group):
    group.settle()
    assert group.learners <= group.members
    assert group.members & group.alive <= group.voters | group.learners
    slack = len(group.voters & group.alive) > len(group.voters) // 2 + 1
    assert not (group.voters - group.members and slack), f"who left stays: {group}"
    missing = set(group.wanted) - group.voters
    lives = len(set(group.wanted) & group.alive) > len(group.wanted) // 2
    if not missing and lives and group.wanted[0] in group.alive:
        assert is_settled(group), f"it ended with {group}"
    if len(group.members) > 2:
        ready, surplus = missing & group.alive, group.voters - set(group.wanted)
        swaps = surplus and len(group.voters) >= len(group.wanted)
        assert not ready or (len(ready) == 1 and len(group.voters) % 2 and not swaps), f"{group}"


@given(groups())
@settings(max_examples=500, deadline=None)
def test_when_all_members_live_all_is_as_wanted(group):
    group.settle()
    group.alive |= group.members
    group.steps = 0
    group.settle()
    assert is_settled(group)
    assert group.voters | group.learners == group.members
