"""What becomes of a command when leaders fall: every state with every event."""

from itertools import product

import pytest

from cluster.attempts import (
    ENDS,
    LEADERLESS_MS,
    NEXT,
    WRITE_WITHIN_MS,
    Attempts,
    Event,
    State,
    ends_at,
)

SEEKING, UNDER_WAY, OPEN = State.SEEKING, State.UNDER_WAY, State.OPEN
WHAT_HAPPENS = {
    SEEKING: {
        Event.LEADER: UNDER_WAY,
        Event.NO_LEADER: State.WITHOUT_EFFECT,
        Event.DEADLINE: State.WITHOUT_EFFECT,
    },
    UNDER_WAY: {
        Event.APPLIED: State.ANSWERED,
        Event.NOT_LEADER: SEEKING,
        Event.UNREACHABLE: SEEKING,
        Event.LOST: SEEKING,
        Event.LINK_LOST: OPEN,
        Event.OVERLOADED: State.TURNED_AWAY,
        Event.FULL: State.TURNED_AWAY,
        Event.UNKNOWN: State.UNSETTLED,
        Event.NO_LEADER: State.UNSETTLED,
        Event.DEADLINE: State.UNSETTLED,
    },
    OPEN: {
        Event.APPLIED: State.ANSWERED,
        Event.LOST: SEEKING,
        Event.UNKNOWN: State.UNSETTLED,
        Event.NO_LEADER: State.UNSETTLED,
        Event.DEADLINE: State.UNSETTLED,
    },
}


def brought_to(state):
    """Attempts in this state, by the shortest way."""
    ways = [((), SEEKING)]
    for events, at in ways:
        if at is state:
            attempts = Attempts()
            for event in events:
                attempts.on(event)
            return attempts
        ways += [((*events, event), then) for (before, event), then in NEXT.items() if before is at]
    raise AssertionError(f"no way leads to {state}")


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_every_state_with_every_event(state, event):
    attempts = brought_to(state)
    expected = WHAT_HAPPENS.get(state, {}).get(event)
    if expected is None:
        with pytest.raises(AssertionError, match=f"{state.value} meets {event.value}"):
            attempts.on(event)
        assert attempts.state is state
    else:
        assert attempts.on(event) is expected is attempts.state


def test_ends_are_where_nothing_happens_any_more():
    assert {state for state, _ in NEXT} | ENDS == set(State)
    assert not ENDS & {state for state, _ in NEXT}


def test_what_may_be_in_a_log_is_neither_sent_again_nor_said_to_be_without_effect():
    """Once a leader was asked, only the certainty that it is in no log leads back."""
    certain = {Event.NOT_LEADER, Event.UNREACHABLE, Event.LOST}
    for (state, event), then in NEXT.items():
        if then is SEEKING:
            assert event in certain
        if then is State.WITHOUT_EFFECT:
            assert state is SEEKING
    assert [event for (state, event), then in NEXT.items() if state is OPEN and then is SEEKING] == [
        Event.LOST
    ]


def test_it_counts_how_often_a_leader_was_asked():
    attempts = Attempts()
    for event in (Event.LEADER, Event.NOT_LEADER, Event.LEADER, Event.LINK_LOST, Event.LOST, Event.LEADER):
        attempts.on(event)
    assert (attempts.state, attempts.asked) == (UNDER_WAY, 3)


@pytest.mark.parametrize(
    ("now", "leaderless", "ends", "event"),
    [
        (100_000, None, 100_000 + WRITE_WITHIN_MS, Event.DEADLINE),
        (104_000, None, 100_000 + WRITE_WITHIN_MS, Event.DEADLINE),
        (100_000, 100_000, 100_000 + LEADERLESS_MS, Event.NO_LEADER),
        (100_000, 99_500, 99_500 + LEADERLESS_MS, Event.NO_LEADER),
        (100_000, 50_000, 100_000, Event.NO_LEADER),  # at once: nobody has led for long
        (109_000, 109_000, 100_000 + WRITE_WITHIN_MS, Event.DEADLINE),
    ],
)
def test_waiting_ends_with_the_time_or_with_the_hope_for_a_leader(now, leaderless, ends, event):
    assert ends_at(now, 100_000, leaderless) == (ends, event)
