"""Messages between nodes: closed, versioned at their ends, and every wrong byte is the peer's fault."""

import msgspec
import pytest

from cluster.peers import messages
from cluster.peers.messages import FetchBlob, FetchSnapshot, NodeStatus, RaftFrame, ReadIndex

REQUESTS = messages.Request.__args__
RESPONSES = messages.Response.__args__


def test_every_request_but_those_of_streams_has_its_kind_of_answer():
    assert set(messages.ANSWERS) == set(REQUESTS) - {FetchBlob, FetchSnapshot}
    assert set(messages.ANSWERS.values()) <= set(RESPONSES)


def test_tags_are_one_each():
    tags = [kind.__struct_config__.tag for kind in (*REQUESTS, *RESPONSES)]
    assert len(set(tags)) == len(tags)


def test_a_newer_node_may_say_more():
    assert messages.decode_request(msgspec.msgpack.encode([3, [1, 2], "new"])) == ReadIndex((1, 2))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        messages.encode(NodeStatus())[:-1] + b"\xff\xff",
        msgspec.msgpack.encode([250]),
        msgspec.msgpack.encode([3, "text"]),
        b"\x93\x14\xa1\xff\xa0",  # a text that is not UTF-8
    ],
)
@pytest.mark.parametrize("decode", [messages.decode_request, messages.decode_response, messages.decode_frame])
def test_what_cannot_be_read_is_the_peers_fault(decode, data):
    with pytest.raises(msgspec.DecodeError):
        decode(data)


def test_the_messages_of_a_raft_frame_are_passed_through_unread():
    inner = tuple(msgspec.Raw(msgspec.msgpack.encode(anything)) for anything in ([1, 2], "text", {}))
    frame = messages.decode_frame(messages.encode(RaftFrame(5, None, inner)))
    assert tuple(map(bytes, frame.messages)) == tuple(map(bytes, inner))
