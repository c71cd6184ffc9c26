"""Copies: when there are enough, when there never will be, what is said of them, and who fetches from
whom."""

import pytest

from cluster.copies.copies import Copies, Errand, Wanted, divide, in_turn
from cluster.raft.messages import Configuration

A, B, C, D, E = (letter * 16 for letter in (b"a", b"b", b"c", b"d", b"e"))
NOBODY = ()


def copies(me, voters, learners=NOBODY):
    return Copies(me, Configuration(tuple(voters), tuple(learners)))


@pytest.mark.parametrize(
    "me, voters, learners, then, enough",
    [
        (A, [A], [], [], True),  # alone
        (A, [A], [B], [], True),  # two nodes: the voter's copy is the majority
        (B, [A], [B], [], False),  # … and the learner's is none
        (B, [A], [B], [A], True),
        (A, [A, B, C], [], [], False),
        (A, [A, B, C], [], [B], True),
        (A, [A, B, C], [D], [D], False),  # learners do not count
        (D, [A, B, C], [D], [A], False),
        (D, [A, B, C], [D], [A, C], True),
        (A, [A, B, C, D, E], [], [B], False),
        (A, [A, B, C, D, E], [], [B, D], True),
        (A, [A, B], [], [], False),  # an even number, while members change
        (A, [A, B], [], [B], True),
    ],
)
def test_a_majority_of_the_voters_is_enough(me, voters, learners, then, enough):
    some = copies(me, voters, learners)
    assert me not in some.others and set(some.others) | {me} == {*voters, *learners}
    for node in then:
        some.done(node)
    assert some.is_enough is enough


def test_it_is_hopeless_when_too_many_voters_will_never_take_it():
    some = copies(A, [A, B, C, D, E])
    some.failed(B, "no room", final=True)
    some.failed(C, "no answer in 2 s", final=False)
    some.failed(D, "no room", final=True)
    assert not some.is_hopeless and not some.is_settled(C) and some.is_settled(D)
    some.failed(C, "no room", final=True)
    assert some.is_hopeless and some.is_settled(C)
    some.done(C)  # it found some
    assert not some.is_hopeless


def test_what_failed_is_said_and_what_came_after_all_is_not():
    some = copies(A, [A, B, C])
    assert some.unheard == (B, C)
    some.failed(C, "no answer in 2 s", final=False)
    assert some.unheard == (B,)
    some.failed(B, "cannot be reached", final=False)
    said = "1 of 2 copies written; node 62626262: cannot be reached; node 63636363: no answer in 2 s"
    assert some.evidence() == said
    some.done(C)
    some.failed(C, "late", final=False)
    assert some.unheard == ()
    assert some.evidence() == "2 of 2 copies written; node 62626262: cannot be reached"


def wanted(number, size):
    return Wanted(bytes([number]) * 32, size, 7)


def test_each_node_is_asked_for_as_much_as_the_others():
    missing = [wanted(n, 10) for n in range(6)]
    errands, nowhere = divide(missing, {B: [1] * 6, C: [1] * 6, D: [0] * 6})
    assert nowhere == 0 and [errand.wanted for errand in errands] == missing
    first = [errand.nodes[0] for errand in errands]
    assert first.count(B) == first.count(C) == 3
    assert all(set(errand.nodes) == {B, C} for errand in errands)


def test_a_large_blob_weighs_more_than_many_small_ones():
    missing = [wanted(0, 100), *(wanted(n, 10) for n in range(1, 6))]
    errands, _ = divide(missing, {B: [1] * 6, C: [1] * 6})
    assert errands[0].nodes == (B, C)
    assert all(errand.nodes == (C, B) for errand in errands[1:])


def test_only_who_has_it_is_asked_and_what_nobody_has_is_counted():
    missing = [wanted(n, 10) for n in range(4)]
    errands, nowhere = divide(missing, {B: [1, 0, 0, 0], C: [0, 3, 0], D: []})  # short answers claim nothing
    assert errands == [Errand(missing[0], (B,)), Errand(missing[1], (C,))]
    assert nowhere == 2
    assert divide(missing, {}) == ([], 4) and divide([], {B: []}) == ([], 0)


def test_each_turn_begins_with_another():
    assert [in_turn([C, A, B], turn) for turn in range(4)] == [[A, B, C], [B, C, A], [C, A, B], [A, B, C]]
    assert in_turn([], 5) == []
