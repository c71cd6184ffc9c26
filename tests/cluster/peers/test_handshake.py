"""Who is let in: every wrong certificate, Hello and byte against a running node, over loopback."""

import msgspec
import pytest
import trio

from cluster.peers import certificates, frames, handshake, hello, messages
from cluster.peers.frames import HELLO, RAFT, REQUEST
from cluster.peers.handshake import LinkBroken, Refused, open_wire
from cluster.peers.hello import Name, Refusal
from cluster.peers.links import introduction, tcp
from cluster.peers.messages import Describe, Described, Failed, Index, NodeStatus, ReadIndex
from tests.cluster.peers.cluster import (
    CLUSTER,
    DAY_MS,
    OTHER_CLUSTER,
    WAIT_S,
    A,
    B,
    C,
    authority,
    credentials,
    make_node,
    now_ms,
    running,
)

ME = introduction(CLUSTER, A, 1, b"startofA", 1)


def with_(**changes):
    return msgspec.structs.replace(ME, **changes)


async def dial(node, given, mine=ME, expected=B):
    context = certificates.client_context(given)
    return await open_wire(await tcp(node.address), context, mine, expected, None)


async def passed(true):
    with trio.fail_after(WAIT_S):
        while not true():
            await trio.lowlevel.checkpoint()


async def counted(node, counts):
    """Wait until these refusals, at least as often, are counted; no other may be."""
    refusals = node.links.refusals
    await passed(lambda: all(refusals.counts[code] >= count for code, count in counts.items()))
    assert set(node.links.refusals.counts) == set(counts)


async def first_of(wire):
    """The first frame that comes, or what ended the wire."""
    with trio.fail_after(WAIT_S):
        while not (received := await wire.receive()):
            pass
    return received[0]


async def test_the_right_one_is_let_in_on_both_lanes(tmp_path):
    b = make_node(tmp_path, B)
    async with running(b):
        for lane in hello.LANES:
            wire = await dial(b, credentials(tmp_path, A), with_(lane=lane))
            assert (wire.peer.node, wire.peer.lane, wire.name) == (B, lane, Name(CLUSTER, B))
            await wire.aclose()
    assert not b.links.refusals.counts


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"ca": authority(CLUSTER, 1), "trusts": authority()}, "foreign_certificate"),
        ({"ca": authority(OTHER_CLUSTER), "trusts": authority()}, "foreign_certificate"),
        ({"now": now_ms() - 31 * DAY_MS}, "expired_certificate"),
        ({"now": now_ms() + DAY_MS}, "expired_certificate"),
        ({"name": Name(CLUSTER, b"short")}, "foreign_certificate"),
    ],
    ids=["foreign CA", "another cluster's", "expired", "not valid yet", "names no node"],
)
async def test_certificates_that_tls_refuses(tmp_path, wrong, code):
    b = make_node(tmp_path, B)
    async with running(b):
        given = credentials(tmp_path, A, **wrong)
        with pytest.raises(LinkBroken):
            await dial(b, given)
        # and of a node that shows it to who dials:
        c = make_node(tmp_path, C, given=credentials(tmp_path, C, **wrong))
        async with running(c):
            with pytest.raises(LinkBroken) as broken:
                await dial(c, credentials(tmp_path, A), expected=C)
            assert broken.value.code == code
        await counted(b, {code: 1})


@pytest.mark.parametrize(
    ("name", "changes", "code"),
    [
        (Name(CLUSTER, C), {}, hello.WRONG_IDENTITY),
        (Name(OTHER_CLUSTER, A), {}, hello.FOREIGN_CLUSTER),
        (None, {"cluster": OTHER_CLUSTER}, hello.FOREIGN_CLUSTER),
        (None, {"node": C}, hello.WRONG_IDENTITY),
        (None, {"node": b""}, hello.WRONG_IDENTITY),
        (None, {"version_min": 2, "version_max": 3}, hello.NO_COMMON_VERSION),
        (None, {"start": b""}, hello.BAD_HELLO),
        (None, {"lane": "express"}, hello.BAD_HELLO),
    ],
)
async def test_hellos_that_are_refused_with_a_word(tmp_path, name, changes, code):
    b = make_node(tmp_path, B)
    async with running(b):
        with pytest.raises(Refused) as refused:
            await dial(b, credentials(tmp_path, A, name=name), with_(**changes))
        assert refused.value.heard and refused.value.refusal.code == code
        await counted(b, {code: 1})


async def test_a_later_version_that_speaks_ours_too_is_let_in(tmp_path):
    b = make_node(tmp_path, B)
    async with running(b):
        wire = await dial(b, credentials(tmp_path, A), with_(version_max=2))
        assert hello.common_version(with_(version_max=2), wire.peer) == 1
        await wire.aclose()


async def test_another_node_at_the_address_is_refused_by_who_dials(tmp_path):
    c = make_node(tmp_path, C)
    async with running(c):
        with pytest.raises(Refused) as refused:
            await dial(c, credentials(tmp_path, A), expected=B)
        assert not refused.value.heard and refused.value.refusal.code == hello.WRONG_IDENTITY
        await counted(c, {hello.WRONG_IDENTITY: 1})


@pytest.mark.parametrize("code", [hello.STALE_BOOT, hello.REVOKED, hello.UNKNOWN_NODE])
@pytest.mark.parametrize("who_knows", ["accepts", "dials"])
async def test_a_node_that_is_not_admitted_hears_why(tmp_path, code, who_knows):
    a, b = make_node(tmp_path, A), make_node(tmp_path, B)
    told, knows, known = (a, b, A) if who_knows == "accepts" else (b, a, B)
    knows.refused[known] = Refusal(code, "as the meta group says")
    async with running(a, b):
        a.links.connect_to({B: b.address})
        if code in hello.FINAL:
            await told.until(lambda: told.told)
            assert told.told[0] == Refusal(code, "as the meta group says")
        else:
            await counted(told, {code: 1})
            assert not told.told
            knows.refused.clear()  # a joiner whom this replica knew not yet
            await a.connected(B)
        await counted(knows, {code: 1})


async def test_another_member_at_the_address_of_a_peer_cannot_expel_a_node(tmp_path):
    a, c = make_node(tmp_path, A), make_node(tmp_path, C)
    c.refused[A] = Refusal(hello.REVOKED, "says c, where b is dialled")
    async with running(a, c):
        a.links.connect_to({B: c.address})
        await counted(a, {hello.REVOKED: 2})
        assert not a.told and not a.links.connected(B)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(5000),
        b"\x16\x03\x01\x00\x05hello",
        frames.encode(HELLO, hello.encode(ME)),
    ],
    ids=["nothing", "http", "zeros", "a broken TLS record", "a Hello in the clear"],
)
async def test_garbage_before_tls_ends_the_connection(tmp_path, garbage):
    b = make_node(tmp_path, B)
    async with running(b):
        stream = await tcp(b.address)
        async with stream:
            await stream.send_all(garbage or b"\x16")
            await stream.send_eof()
            with trio.fail_after(WAIT_S):
                await drained(stream)
        await counted(b, {handshake.BAD_TLS: 1})


async def drained(stream):
    try:
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        pass


HELLO_FRAME = frames.encode(HELLO, hello.encode(ME))


@pytest.mark.parametrize(
    "said",
    [
        b"\xff" * 100,
        frames.HEAD.pack(frames.HELLO_BYTES_MAX + 1, HELLO, 0, 0, 0),
        frames.encode(HELLO, b"\xc1"),
        frames.encode(HELLO, b""),
        frames.encode(RAFT, b"before Hello"),
        HELLO_FRAME + frames.encode(RAFT, b"too early"),
        HELLO_FRAME + b"\x00",
    ],
)
async def test_garbage_instead_of_a_hello_ends_the_link(tmp_path, said):
    b = make_node(tmp_path, B)
    async with running(b):
        stream = await secured(b, credentials(tmp_path, A))
        await stream.send_all(said)
        with trio.fail_after(WAIT_S):
            await drained(stream)
        await trio.aclose_forcefully(stream)
        await counted(b, {handshake.BAD_FRAME: 1})
    assert not b.raft


async def secured(node, given):
    context = certificates.client_context(given)
    stream = trio.SSLStream(await tcp(node.address), context, https_compatible=True)
    await stream.do_handshake()
    return stream


@pytest.mark.parametrize(
    "said",
    [
        b"\xff" * 100,
        frames.HEAD.pack(frames.FRAME_BYTES_MAX + 1, RAFT, 0, 0, 0),
        frames.encode(frames.CHUNK, b"of the other lane"),
        frames.encode(frames.RESPONSE, b"to no question"),
        HELLO_FRAME,
    ],
)
async def test_garbage_on_a_link_ends_it_after_what_was_right(tmp_path, said):
    b = make_node(tmp_path, B)
    async with running(b):
        wire = await dial(b, credentials(tmp_path, A))
        await wire.send(frames.encode(RAFT, b"good"))
        await b.until(lambda: b.raft)
        await wire.send(said)
        with pytest.raises(LinkBroken), trio.fail_after(WAIT_S):
            while True:
                await wire.receive()
        await wire.aclose()
        assert b.raft == [(A, b"good")]
        again = await dial(b, credentials(tmp_path, A))
        await again.send(frames.encode(RAFT, b"good again"))
        await b.until(lambda: len(b.raft) == 2)
        await again.aclose()


async def test_a_request_that_nobody_knows_is_answered_so(tmp_path):
    b = make_node(tmp_path, B)
    async with running(b):
        wire = await dial(b, credentials(tmp_path, A))
        for body in (b"", b"\xc1", msgspec.msgpack.encode([250, 1, 2]), messages.encode(NodeStatus())):
            await wire.send(frames.encode(REQUEST, body, 7, 1000))
            answer = await first_of(wire)
            assert answer.request == 7
            assert messages.decode_response(answer.body).code == "unknown"
        await wire.aclose()


async def test_without_a_certificate_only_describe_and_join_are_served(tmp_path):
    b = make_node(tmp_path, B)
    described = Described(CLUSTER, 256, 1, authority().certificate)

    async def describe(sender, request):
        assert sender == b""
        return described

    async def never(sender, request):
        return Index(())

    b.links.serve(Describe, describe)
    b.links.serve(ReadIndex, never)
    b.links.serve(NodeStatus, never)
    stranger = introduction(b"", b"", 0, bytes(8), 0)
    async with running(b):
        context = certificates.joiner_context(authority().certificate)
        wire = await open_wire(await tcp(b.address), context, stranger, None, None)
        asked = [NodeStatus(), ReadIndex((1,)), Describe(), Describe()]
        for request in asked:
            await wire.send(frames.encode(REQUEST, messages.encode(request), 1, 1000))
            answer = messages.decode_response((await first_of(wire)).body)
            if request == Describe():
                assert answer == described
            else:
                assert isinstance(answer, Failed) and answer.code == "unknown"
        with pytest.raises(LinkBroken), trio.fail_after(WAIT_S):  # four questions are all that one may ask
            await wire.receive()
        await wire.aclose()
        for said in (
            frames.encode(RAFT, b"from nobody"),
            frames.encode(frames.PING),
            frames.HEAD.pack(frames.STRANGER_BYTES_MAX + 1, REQUEST, 0, 1, 0),
        ):
            wire = await open_wire(await tcp(b.address), context, stranger, None, None)
            await wire.send(said)
            with pytest.raises(LinkBroken):
                await first_of(wire)
            await wire.aclose()
    assert not b.raft


async def test_strangers_are_bounded_and_members_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.peers.serving.STRANGERS_MAX", 2)
    a, b = make_node(tmp_path, A), make_node(tmp_path, B)
    stranger = introduction(b"", b"", 0, bytes(8), 0)
    context = certificates.joiner_context(None)
    async with running(a, b):
        wires = [await open_wire(await tcp(b.address), context, stranger, None, None) for _ in range(2)]
        third = await open_wire(await tcp(b.address), context, stranger, None, None)
        told = await first_of(third)
        assert hello.decode_refusal(told.body).code == hello.BUSY
        a.links.connect_to({B: b.address})
        await a.connected(B)
        for wire in (*wires, third):
            await wire.aclose()


async def test_handshakes_of_one_address_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.peers.serving.HANDSHAKES_OF_ADDRESS_MAX", 3)
    b = make_node(tmp_path, B)
    async with running(b):
        silent = [await tcp(b.address) for _ in range(3)]
        await passed(lambda: b.links._serving._handshakes.total() == 3)
        extra = await tcp(b.address)
        with trio.fail_after(WAIT_S):
            await drained(extra)
        assert b.links.refusals.counts == {hello.BUSY: 1}
        for stream in (*silent, extra):
            await stream.aclose()
        await passed(lambda: not b.links._serving._handshakes)
        wire = await dial(b, credentials(tmp_path, A))
        await wire.aclose()
