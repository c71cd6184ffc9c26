"""Who is heard and whose clock is off, by every sign in every state."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.members.clocks import OFF_MS_MAX, SAMPLE_EVERY_MS, SAMPLES, STALE_MS
from cluster.members.membership import (
    BACK_MS_MAX,
    NEXT,
    SILENT_MS,
    SUSPECT_MS,
    ClockTurned,
    Membership,
    Sign,
    State,
    Turned,
)
from cluster.raft.messages import MEMBERS_MAX

ME, ADA, BOB, CAM = (letter * 16 for letter in (b"m", b"a", b"b", b"c"))
NOW = 1_800_000_000_000
WAY_MS = 3
ALIVE, SUSPECT, SILENT = State.ALIVE, State.SUSPECT, State.SILENT


@pytest.fixture
def membership():
    membership = Membership(ME)
    membership.keep((ME, ADA, BOB), 0)
    return membership


def bring(membership, state):
    """Ada into a state, by signs."""
    if state is not SUSPECT:
        membership.heard(ADA, 0)
    if state is SILENT:
        for _ in range(2):
            membership.connected(ADA, False, 0)
    assert membership.state(ADA) is state


def give(membership, sign):
    match sign:
        case Sign.HEARD:
            return membership.heard(ADA, 1)
        case Sign.CUT:
            return membership.connected(ADA, False, 1)
        case Sign.LATE:
            return membership.tick(SUSPECT_MS)
        case Sign.OVERDUE:
            return membership.tick(SILENT_MS)


TABLE = {  # what each sign makes of each state
    Sign.HEARD: (ALIVE, ALIVE, ALIVE),
    Sign.CUT: (SUSPECT, SILENT, SILENT),
    Sign.LATE: (SUSPECT, SUSPECT, SILENT),
    Sign.OVERDUE: (SILENT, SILENT, SILENT),
}


@pytest.mark.parametrize(("state", "sign"), list(product(State, Sign)))
def test_every_sign_in_every_state(membership, state, sign):
    bring(membership, state)
    after = TABLE[sign][[ALIVE, SUSPECT, SILENT].index(state)]
    assert NEXT[state, sign] is after
    turned = [event for event in give(membership, sign) if event.node == ADA]
    assert turned == ([] if after is state else [Turned(ADA, state, after)])
    assert membership.state(ADA) is after
    assert (ADA in membership.alive()) == (after is ALIVE)


def test_who_is_not_heard_is_suspect_and_then_silent(membership):
    assert membership.connected(ADA, True, 1000) == [Turned(ADA, SUSPECT, ALIVE)]
    assert membership.heard(BOB, 1000) == [Turned(BOB, SUSPECT, ALIVE)]
    membership.heard(BOB, 1000 + SILENT_MS)
    assert membership.tick(1000 + SUSPECT_MS - 1) == []
    assert membership.tick(1000 + SUSPECT_MS) == [Turned(ADA, ALIVE, SUSPECT)]
    assert membership.tick(1000 + SILENT_MS - 1) == []
    assert membership.tick(1000 + SILENT_MS) == [Turned(ADA, SUSPECT, SILENT)]
    assert membership.alive() == {ME, BOB}
    assert membership.heard(ADA, 2000) == [Turned(ADA, SILENT, ALIVE)]


def test_a_new_member_has_the_time_to_be_heard(membership):
    membership.keep((ME, ADA, BOB, CAM), 10_000)
    assert membership.state(CAM) is SUSPECT
    assert Turned(CAM, SUSPECT, SILENT) not in membership.tick(10_000 + SILENT_MS - 1)
    assert Turned(CAM, SUSPECT, SILENT) in membership.tick(10_000 + SILENT_MS)


def test_who_is_no_member_is_not_listened_to(membership):
    assert membership.heard(CAM, 1) == membership.observe(CAM, NOW, NOW, 1) == []
    assert membership.connected(CAM, False, 1) == []
    assert not membership.wants_clock(CAM, 1)
    assert membership.state(CAM) is SILENT
    membership.heard(ADA, 1)
    membership.keep((ME, BOB), 2)
    assert (membership.state(ADA), membership.alive()) == (SILENT, {ME})
    assert set(membership.statistics(2).peers) == {BOB}


def test_members_are_bounded(membership):
    with pytest.raises(AssertionError):
        membership.keep([bytes([number]) * 16 for number in range(MEMBERS_MAX + 1)], 0)


def sample(membership, ahead, at):
    """Each peer says its time, so far ahead of this node's clock, for as long as samples are kept."""
    events = []
    for number in range(SAMPLES):
        now = at + number * SAMPLE_EVERY_MS
        for node, by in ahead.items():
            assert membership.wants_clock(node, now)
            membership.observe(node, NOW + now + by - WAY_MS, NOW + now, now)
        events += [event for event in membership.tick(now) if isinstance(event, ClockTurned)]
    return events


ROUND_MS = SAMPLES * SAMPLE_EVERY_MS


def test_a_clock_that_is_off_hands_over_until_it_is_well_back(membership):
    def both(by, rounds):
        return sample(membership, {ADA: by, BOB: by}, rounds * ROUND_MS)

    assert both(-OFF_MS_MAX + 10, 0) == []
    assert both(-OFF_MS_MAX, 1) == [ClockTurned(ME, True, OFF_MS_MAX + WAY_MS)]
    assert membership.hands_over and membership.unfit() == {ME}
    assert membership.statistics(ROUND_MS + 1).hands_over
    assert both(-BACK_MS_MAX - 1, 2) == []
    assert membership.hands_over and membership.clock_off_ms(3 * ROUND_MS - 1) <= OFF_MS_MAX
    (back,) = both(-BACK_MS_MAX + WAY_MS, 3)
    assert (back.node, back.is_off) == (ME, False) and not membership.hands_over


def test_a_peer_whose_clock_is_off_is_not_to_lead_and_accuses_nobody(membership):
    (off,) = sample(membership, {ADA: 9000, BOB: 0}, 0)
    assert (off.node, off.is_off) == (ADA, True) and off.off_ms > OFF_MS_MAX
    assert membership.unfit() == {ADA} and not membership.hands_over
    assert membership.statistics(ROUND_MS).peers[ADA].clock_off_ms == off.off_ms
    unheard = ROUND_MS + STALE_MS
    gone = [event for event in membership.tick(unheard) if isinstance(event, ClockTurned)]
    assert gone == [ClockTurned(ADA, False, 0)] and not membership.unfit()


def test_a_member_that_is_gone_says_nothing_of_clocks(membership):
    sample(membership, {ADA: 9000, BOB: 0}, 0)
    membership.keep((ME, BOB), ROUND_MS)
    assert not membership.unfit()
    membership.keep((ME, ADA, BOB), ROUND_MS)
    assert membership.statistics(ROUND_MS).peers[ADA].clock_off_ms is None


signs = st.tuples(st.sampled_from(["frame", "clock", "made", "cut", "tick"]), st.sampled_from((ADA, BOB)))


@given(st.lists(st.tuples(signs, st.integers(0, 400), st.integers(-2000, 2000)), max_size=60))
@settings(max_examples=100, deadline=None)
def test_events_tell_all_that_changes(script):
    """Whoever follows the events knows what the membership knows."""
    membership = Membership(ME)
    membership.keep((ME, ADA, BOB), 0)
    states, off, now = {ADA: SUSPECT, BOB: SUSPECT}, set(), 0
    for (sign, node), passed, ahead in script:
        now += passed
        match sign:
            case "frame":
                events = membership.heard(node, now)
            case "clock":
                events = membership.observe(node, NOW + now + ahead, NOW + now, now)
            case "made" | "cut":
                events = membership.connected(node, sign == "made", now)
            case "tick":
                events = membership.tick(now)
        for event in events:
            match event:
                case Turned(who, before, after):
                    assert states[who] is before is not after
                    states[who] = after
                case ClockTurned(who, is_off, _):
                    assert (who in off) != is_off
                    (off.add if is_off else off.discard)(who)
        assert {who: membership.state(who) for who in states} == states
        assert membership.unfit() == off
        if sign == "tick":
            told = membership.statistics(now).peers
            assert all(
                (told[who].unheard_ms < SUSPECT_MS) or state is not ALIVE for who, state in states.items()
            )
