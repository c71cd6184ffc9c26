"""Keys: what goes in comes out, and the order of keys is the order of their bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.ids import compose, partition_of
from storage.keys import (
    KEY_BYTES_MAX,
    U16,
    U64,
    Descending,
    Id,
    Key,
    KeyDamaged,
    Tail,
    Text,
    after,
    partition_range,
)
from tests.storage.declared import KEY_TYPES, key_fields, key_strategy

every_key_type = pytest.mark.parametrize("key_type", KEY_TYPES, ids=lambda t: f"{t.__module__}.{t.__name__}")
few = settings(max_examples=15)  # of each of some fifty types


def home(key):
    return key[0] if key_fields(type(key))[0][0] == "partition" else partition_of(key[0])


def meaning(key):
    """What a key sorts by: its home, then its fields, those that descend the other way round."""
    fields = [
        -value if hint is Descending else value
        for value, (_, hint) in zip(key, key_fields(type(key)), strict=True)
    ]
    return (home(key), *fields)


def test_all_key_types_of_the_source_are_found():
    names = {key_type.__name__ for key_type in KEY_TYPES}
    assert {"OutboxKey", "RememberedKey", "UserKey", "TimelineKey", "NameKey", "BlobKey"} <= names


@every_key_type
@few
@given(data=st.data())
def test_round_trip(key_type, data):
    key = data.draw(key_strategy(key_type))
    encoded = key.encode()
    assert key_type.decode(encoded) == key
    assert type(key_type.decode(encoded)) is key_type
    assert len(encoded) <= KEY_BYTES_MAX
    first, stop = partition_range(home(key))
    assert first <= encoded < stop


@every_key_type
@few
@given(data=st.data())
def test_the_order_of_keys_is_the_order_of_bytes(key_type, data):
    one, other = data.draw(key_strategy(key_type)), data.draw(key_strategy(key_type))
    shared = data.draw(st.integers(0, len(one)))
    other = key_type(*one[:shared], *other[shared:])
    assert (meaning(one) < meaning(other)) == (one.encode() < other.encode())
    assert (meaning(one) == meaning(other)) == (one.encode() == other.encode())


@every_key_type
@few
@given(data=st.data())
def test_a_prefix_is_a_range_of_just_its_keys(key_type, data):
    fields = key_fields(key_type)
    fixed = len(fields) - (fields[-1][1] in (Text, Tail))
    leading = data.draw(st.integers(1, fixed))
    one, other = data.draw(key_strategy(key_type)), data.draw(key_strategy(key_type))
    prefix = key_type.prefix(*one[:leading])
    assert prefix <= one.encode() < after(prefix)
    assert (prefix <= other.encode() < after(prefix)) == (one[:leading] == other[:leading])


@every_key_type
def test_a_prefix_takes_no_more_fields_than_can_be_fixed(key_type):
    with pytest.raises(TypeError):
        key_type.prefix(*([0] * (len(key_fields(key_type)) + 1)))


def test_no_two_key_types_share_a_place():
    places = {}
    for key_type in KEY_TYPES:
        codec = key_type._codec
        assert places.setdefault(codec._constants, key_type) is key_type, codec._constants
    families = {place[0] for place in places if len(place) == 2}
    lone = {place[0] for place in places if len(place) == 1}
    assert not families & lone, "a kind with a family's byte would lie among the family's rows"


def test_kinds_of_the_application_begin_above_those_of_the_cluster():
    for key_type in KEY_TYPES:
        constants = key_type._codec._constants
        if len(constants) == 1 and key_type.__module__.startswith("cluster"):
            assert constants[0] < 0x20
        elif key_type.__module__.startswith("node"):
            assert constants[0] >= 0x20


@every_key_type
@few
@given(data=st.data())
def test_bytes_of_another_type_are_not_read_as_this_one(key_type, data):
    other = data.draw(st.sampled_from([t for t in KEY_TYPES if t is not key_type]))
    with pytest.raises(KeyDamaged):
        key_type.decode(data.draw(key_strategy(other)).encode())


@every_key_type
@few
@given(data=st.data())
def test_cut_keys_are_damage(key_type, data):
    if key_fields(key_type)[-1][1] in (Text, Tail):
        encoded = data.draw(key_strategy(key_type)).encode()[: key_type._codec._struct.size]
    else:
        encoded = data.draw(key_strategy(key_type)).encode()
    with pytest.raises(KeyDamaged):
        key_type.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


def test_a_text_that_is_not_utf8_is_damage():
    with pytest.raises(KeyDamaged, match="UTF-8"):
        Worded.decode(Worded(3, "abc").encode()[:-1] + b"\xff")


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_after_is_the_end_of_a_prefix(prefix, key):
    inside = key.startswith(prefix)
    assert (prefix <= key < after(prefix)) == inside
    assert prefix + b"\xff" * 8 < after(prefix)


# --- a few declarations of our own: what may be declared, and what may not -------------------------------
class Worded(Key, kind=0xE0):
    partition: U16
    word: Text


class Plain(Key, kind=0xE1, family=0xEF):
    owner: Id
    at: Descending
    tail: Tail


def test_the_layout_is_the_documented_one():
    owner = compose(1, 0x1234, 0)
    assert Worded(0x0102, "é").encode() == b"\x01\x02\xe0\xc3\xa9"
    expected = b"\x12\x34\xef" + owner.to_bytes(8, "big") + b"\xe1" + b"\xff" * 7 + b"\xfe" + b"tail"
    assert Plain(owner, 1, b"tail").encode() == expected
    assert Plain.prefix(owner) == expected[:12]
    assert repr(Plain(owner, 1, b"")) == f"Plain({owner}, 1, b'')"


def test_declarations_that_cannot_be_ordered_are_refused():
    with pytest.raises(TypeError, match="last field"):

        class TextFirst(Key, kind=0xE2):
            partition: U16
            word: Text
            number: U64

    with pytest.raises(TypeError, match="first field"):

        class Homeless(Key, kind=0xE3):
            number: U64

    with pytest.raises(TypeError, match="use the types"):

        class Untyped(Key, kind=0xE4):
            partition: int


@pytest.mark.parametrize("fields", [(1 << 16, "x"), (-1, "x")])
def test_numbers_that_do_not_fit_are_not_wrapped(fields):
    with pytest.raises(Exception, match=r"format|argument"):
        Worded(*fields).encode()
