"""The checker of linearizability, on histories of which it is plain what they are."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.simulation.linearizability import NEVER, Operation, is_linearizable
from node.traffic_laws import name_model, profile_model


def write(begun, ended, value):
    return Operation(begun, ended, ("write", value), None)


def read(begun, ended, value):
    return Operation(begun, ended, ("read",), value)


def claim(begun, ended, user):
    return Operation(begun, ended, ("claim",), user)


def release(begun, ended, user):
    return Operation(begun, ended, ("release", user), None)


def fits(*operations, initial="", model=profile_model):
    return is_linearizable(operations, initial, model)


def test_one_after_the_other():
    assert fits(write(1, 2, "a"), read(3, 4, "a"), write(5, 6, "b"), read(7, 8, "b"))
    assert not fits(write(1, 2, "a"), read(3, 4, ""))
    assert not fits(write(1, 2, "a"), write(3, 4, "b"), read(5, 6, "a"))


def test_what_overlaps_may_come_in_either_order():
    assert fits(write(1, 5, "a"), read(2, 3, ""), read(4, 6, "a"))
    assert fits(write(1, 5, "a"), write(1, 5, "b"), read(6, 7, "a"))
    assert not fits(write(1, 9, "a"), read(2, 3, "a"), read(4, 5, ""))  # it was there already


def test_what_was_never_answered_may_take_effect_at_any_time_or_never():
    lost = write(1, NEVER, "a")
    assert fits(lost, read(2, 3, ""), read(4, 5, "a"))
    assert fits(lost, read(2, 3, ""))
    assert not fits(lost, read(2, 3, "a"), read(4, 5, ""))


def test_names_are_claimed_once():
    def names(*operations):
        return fits(*operations, initial=None, model=name_model)

    assert names(claim(1, 2, 7), claim(3, 4, 0), read(5, 6, 7))
    assert not names(claim(1, 2, 7), claim(3, 4, 8))
    assert not names(claim(1, 2, 0))  # nobody had it
    assert names(claim(1, 9, 7), claim(1, 9, 0), read(2, 3, 0))
    assert not names(claim(1, 2, 7), read(3, 4, 0))


def test_a_name_that_was_given_up_rests():
    def names(*operations):
        return fits(*operations, initial=None, model=name_model)

    assert names(claim(1, 2, 7), release(3, 4, 7), read(5, 6, 0), claim(7, 8, 0))
    assert not names(claim(1, 2, 7), release(3, 4, 7), claim(5, 6, 8))


def test_a_claim_that_was_not_answered_may_be_anybodys():
    def names(*operations):
        return fits(*operations, initial=None, model=name_model)

    assert names(claim(1, NEVER, None), read(2, 3, 0), read(4, 5, 9), read(6, 7, 9), claim(8, 9, 0))
    assert not names(claim(1, NEVER, None), read(4, 5, 9), read(6, 7, 8))
    assert not names(claim(1, NEVER, None), read(2, 3, 9), read(4, 5, 0))


@given(st.data())
def test_what_one_copy_gave_is_always_accepted(data):
    """Operations take effect at a moment between their begin and their end; told late and begun early, they
    stay such as one copy gives."""
    value, operations = "", []
    for moment in range(0, data.draw(st.integers(0, 12)) * 10, 10):
        begun = moment - data.draw(st.integers(0, 40))
        ended = moment + data.draw(st.integers(0, 40))
        if data.draw(st.booleans()):
            value = str(moment)
            operations.append(write(begun, ended, value))
        else:
            operations.append(read(begun, ended, value))
    assert is_linearizable(operations, "", profile_model)
