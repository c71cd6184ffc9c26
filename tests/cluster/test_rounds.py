"""Rounds: when the next is due, whatever comes between."""

import math

from cluster.copies.rounds import Rounds


def test_the_first_is_due_soon_and_each_other_in_its_time():
    rounds = Rounds(every_s=100, soon_s=2)
    assert rounds.next_deadline() == math.inf
    rounds.begin(10)
    assert rounds.next_deadline() == 12
    rounds.started()
    rounds.ended(20)
    assert rounds.next_deadline() == 120


def test_a_reason_hurries_it_and_many_reasons_hurry_it_once():
    rounds = Rounds(every_s=100, soon_s=2)
    rounds.begin(0)
    rounds.started()
    rounds.ended(10)
    rounds.hurry(50)
    rounds.hurry(51)
    assert rounds.next_deadline() == 52


def test_a_reason_that_comes_during_a_round_makes_another_after_its_end():
    rounds = Rounds(every_s=100, soon_s=2)
    rounds.begin(0)
    rounds.started()
    rounds.hurry(5)
    rounds.ended(30)
    assert rounds.next_deadline() == 32


def test_a_reason_right_after_a_round_waits_too():
    rounds = Rounds(every_s=100, soon_s=2)
    rounds.begin(0)
    rounds.started()
    rounds.ended(10)
    rounds.hurry(10)
    assert rounds.next_deadline() == 12


def test_what_is_missing_can_make_rounds_come_sooner():
    rounds = Rounds(every_s=100, soon_s=2)
    rounds.begin(0)
    rounds.started()
    rounds.every_s = 30
    rounds.ended(10)
    assert rounds.next_deadline() == 40
