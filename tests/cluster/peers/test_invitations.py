"""The token: written and read again, told apart from mistyped ones, and silent about its secret."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.peers import invitations
from cluster.peers.invitations import BadInvitation, Invitation, read, write

ONE = Invitation(
    bytes(range(32)), ("192.0.2.7:7400", "[2001:db8::7]:7400"), b"i" * 16, b"s" * 32, 1_800_000_000_000
)
TOKEN = write(ONE)
INVITATIONS = st.builds(
    Invitation,
    st.binary(min_size=32, max_size=32),
    st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=5).map(tuple),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**62),
)


@given(INVITATIONS)
def test_round_trip_in_one_line_of_url_safe_text(invitation):
    token = write(invitation)
    assert set(token) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    assert read(token) == invitation


def test_a_token_that_a_terminal_broke_in_two_is_read():
    assert read(f"  {TOKEN[:80]}\n  {TOKEN[80:]}\n") == ONE


def test_every_mistyped_character_is_noticed():
    start = len(invitations.PREFIX)
    for position in range(start, len(TOKEN) - 1):  # the last carries bits that say nothing
        other = "A" if TOKEN[position] != "A" else "B"
        with pytest.raises(BadInvitation):
            read(TOKEN[:position] + other + TOKEN[position + 1 :])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "begins with heliograph-join-1."),
        ("hello", "begins with"),
        (TOKEN[1:], "begins with"),
        (TOKEN.replace("join-1.", "join-2."), "has version 2; this node reads version 1"),
        (TOKEN.replace("join-1.", "join-x."), "begins with"),
        (TOKEN[:-3], "mistyped or not whole"),
        (TOKEN[: len(TOKEN) // 2], "mistyped or not whole"),
        (TOKEN + "AAAA", "mistyped or not whole"),
        (TOKEN[:-5] + "%" + TOKEN[-4:], "mistyped: a character"),
        (TOKEN[:-5] + "é" + TOKEN[-4:], "mistyped: a character"),
        (TOKEN[: len(invitations.PREFIX) + 2], "mistyped"),
        ("heliograph-join-1." + "A" * 10_000, "begins with"),
    ],
)
def test_what_is_wrong_is_said(text, complaint):
    with pytest.raises(BadInvitation, match=complaint):
        read(text)


@pytest.mark.parametrize(
    "change",
    [
        {"authority": b"short"},
        {"addresses": ()},
        {"addresses": ("x" * 300,)},
        {"secret": b""},
        {"expires": -1},
    ],
)
def test_fields_out_of_bounds_are_neither_written_nor_read(change, monkeypatch):
    fields = {name: getattr(ONE, name) for name in ONE.__struct_fields__} | change
    with pytest.raises(ValueError):
        write(Invitation(**fields))
    with monkeypatch.context() as patched:
        patched.setattr(invitations, "_wrong", lambda invitation: None)
        token = write(Invitation(**fields))
    with pytest.raises(BadInvitation, match="damaged"):
        read(token)


def test_the_secret_is_in_no_repr_and_no_error():
    assert "ssss" not in repr(ONE) and b"s".hex() * 8 not in repr(ONE) and repr(b"s" * 32) not in str(ONE)
    with pytest.raises(BadInvitation) as told:
        read(TOKEN[:-2])
    assert TOKEN[40:60] not in str(told.value)


def test_the_hash_of_the_secret_is_what_the_cluster_compares():
    kept = invitations.secret_hash(ONE.secret)
    assert invitations.is_secret(ONE.secret, kept)
    assert not invitations.is_secret(b"t" * 32, kept)
    assert not invitations.is_secret(b"", kept)
    assert invitations.is_authority(ONE, bytes(range(32)))
    assert not invitations.is_authority(ONE, bytes(32))
