"""Messages between replicas: their bytes stay as they are, and what is no message is refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.raft import messages as m
from tests.cluster.raft.cores import node, voters

BYTES = [
    (m.Append(5, 2, 7, 2, 6, 2, [b"x"]), "9801050207020602" + "91c40178"),
    (m.Append(65535, 1, 0, 0, 0, 1, []), "9801cdffff010000000190"),
    (m.Appended(5, 2, 300), "94020502cd012c"),
    (m.Mismatch(5, 2, 9, 8, 1), "96030502090801"),
    (m.Heartbeat(5, 2, 6, 4, True), "960405020604c3"),
    (m.Heard(5, 2, 4), "9405050204"),
    (m.Vote(5, 2, 7, 1, False), "96060502" + "0701c2"),
    (m.VoteAnswer(5, 2, True), "94070502c3"),
    (m.PreVote(5, 3, 7, 1), "95080503" + "0701"),
    (m.PreVoteAnswer(5, 3, False), "94090503c2"),
    (m.Install(5, 2, 7, 1, m.Configuration((b"a",), (b"b",))), "960a0502" + "0701" + "9291c4016191c40162"),
    (m.TimeoutNow(5, 2), "930b0502"),
    (m.Stale(5, 2), "930c0502"),
    (m.Commit(5, 2, 6), "940d050206"),
]


@pytest.mark.parametrize(("message", "data"), BYTES, ids=lambda value: type(value).__name__)
def test_bytes(message, data):
    assert m.encode(message).hex() == data
    assert m.decode(bytes.fromhex(data)) == message


def test_every_message_has_its_bytes_here():
    assert {type(message) for message, _ in BYTES} == set(m.Append.__mro__[1].__subclasses__())


def test_a_field_of_a_newer_node_is_passed_over():
    assert m.decode(bytes.fromhex("9505050204" + "2a")) == m.Heard(5, 2, 4)


@pytest.mark.parametrize("data", ["", "90", "940e050204", "9305", "940505c304", "94050502c0", "a0", "c1"])
def test_what_is_no_message_is_refused(data):
    with pytest.raises(msgspec.DecodeError):
        m.decode(bytes.fromhex(data))


@given(st.binary(max_size=60))
def test_garbage_is_refused_or_read(data):
    try:
        message = m.decode(data)
    except msgspec.DecodeError:
        return
    assert m.decode(m.encode(message)) == message


def test_configurations_are_entries_that_no_command_can_be():
    configuration = voters(1, 2, learners=(3,))
    entry = m.encode_configuration(configuration)
    assert entry[0] == 0xC1
    assert m.is_configuration(entry) and m.decode_configuration(entry) == configuration
    assert not m.is_configuration(m.NO_OP)
    assert not m.is_configuration(msgspec.msgpack.encode(("Execute", 1)))
    assert configuration.members == (node(1), node(2), node(3)) and configuration.quorum == 2
