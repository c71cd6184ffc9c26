"""Fuzzes the beginning of links, and what is said on them: both sides of a link against a liar.

Everything runs in memory on a clock of its own, the TLS and the certificates are real. Whatever is said
before TLS, instead of a Hello, after one, with a certificate and without: the node ends that connection
within its bounds, raises nothing, and goes on serving its good peer. The same seed says the same things.
"""

import random
import ssl
import tempfile
import time
from collections import Counter
from contextlib import suppress

import msgspec
import trio
from trio.testing import MockClock, memory_stream_pair

from cluster.peers import certificates, frames, hello, messages
from cluster.peers.handshake import LinkBroken, Refused, open_wire
from cluster.peers.links import introduction
from cluster.peers.messages import Describe, Described, FetchBlob, Index, Join, NodeStatus, ReadIndex, Status
from tests.cluster.peers.cables import Network
from tests.cluster.peers.cluster import CLUSTER, A, B, C, authority, credentials, make_node
from tests.fuzz.frames import damaged

BOUND_S = 120.0  # on the virtual clock, for one connection: above every bound of a link that says nothing
WORDS = (
    ReadIndex((1, 2)),
    NodeStatus(),
    FetchBlob(b"h" * 32),
    Describe(),
    Join(b"i" * 16, b"s" * 32, C, b"csr", "c:1", "zone", 1),
    Index((1,)),
)


def main(seconds: float, seed: int) -> int:
    """Fuzz for about `seconds`; 0 when nothing was found, else 1."""
    print(f"handshakes: seed {seed}, {seconds:g} s")
    outcomes = trio.run(_run, seconds, random.Random(seed), clock=MockClock(autojump_threshold=0))
    for outcome, count in sorted(outcomes.items()):
        print(f"handshakes: {count:6} {outcome}")
    return 0 if outcomes and not any(outcome.startswith("FAILED") for outcome in outcomes) else 1


async def _run(seconds, chance):
    outcomes = Counter()
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as directory:
        async with trio.open_nursery() as nursery:
            network = Network(nursery)
            a, b = (make_node(directory, node, transport=network.connect) for node in (A, B))
            network.nodes = {"a": a, "b": b}
            _serve(b)
            for node in (a, b):
                await nursery.start(node.links.run)
            a.links.connect_to({B: "b"})
            await a.connected(B)
            given, mine = credentials(directory, C), credentials(directory, B)
            while time.monotonic() < until:
                lie = chance.choice((_before_tls, _to_acceptor, _to_acceptor, _to_acceptor, _to_dialler))
                outcomes[await _tried(lie, chance, b, given, mine)] += 1
                await trio.sleep(0.5)  # a stranger may come so often
                if await a.links.call(B, NodeStatus(), deadline_s=5) != Status(b"{}"):
                    outcomes["FAILED the good peer is not served"] += 1
            if a.links.statistics().peers[B].links_made != 1:
                outcomes["FAILED the good peer lost its link"] += 1
            nursery.cancel_scope.cancel()
    return outcomes


async def _tried(lie, chance, node, given, mine):
    try:
        with trio.fail_after(BOUND_S):
            return await lie(chance, node, given, mine)
    except Exception as error:  # noqa: BLE001  # whatever it is, it was found
        print(f"handshakes: FAILED {lie.__name__}: {error!r}")
        return f"FAILED {lie.__name__}: {type(error).__name__}"


def _serve(node):
    async def status(sender, request):
        return Status(b"{}")

    async def index(sender, request):
        return Index(request.partitions)

    async def describe(sender, request):
        return Described(CLUSTER, 256, 1, authority().certificate)

    async def fetch(sender, request):
        yield bytes(1000)

    node.links.serve(NodeStatus, status)
    node.links.serve(ReadIndex, index)
    node.links.serve(Describe, describe)
    node.links.serve_stream(FetchBlob, fetch)


async def _before_tls(chance, node, given, _mine):
    """A ClientHello that is damaged, or no TLS at all."""
    ours, theirs = memory_stream_pair()
    said = chance.randbytes(chance.randrange(1, 400)) if chance.random() < 0.3 else _client_hello(given)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.links.accept, theirs)
        await _said(ours, damaged(chance, said))
    return "before TLS"


def _client_hello(given):
    outgoing = ssl.MemoryBIO()
    client = certificates.client_context(given).wrap_bio(ssl.MemoryBIO(), outgoing)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


async def _to_acceptor(chance, node, given, _mine):
    """TLS as it should be; then anything."""
    stranger = chance.random() < 0.3
    lane = chance.choice(hello.LANES)
    cluster, who, lane = (b"", b"", hello.CONTROL) if stranger else (CLUSTER, C, lane)
    context = (
        certificates.joiner_context(authority().certificate)
        if stranger
        else certificates.client_context(given)
    )
    opening = frames.encode(frames.HELLO, _hello(chance, introduction(cluster, who, 1, bytes(8), 1), lane))
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.links.accept, theirs)
        stream = trio.SSLStream(ours, context, https_compatible=True)
        try:
            await stream.do_handshake()
            await stream.send_all(opening if chance.random() < 0.6 else damaged(chance, opening))
            await stream.receive_some()
        except trio.BrokenResourceError:
            return "refused before Hello"
        await _said(stream, _speech(chance))
    return "stranger" if stranger else lane


async def _to_dialler(chance, _node, given, mine):
    """The other way round: who is dialled lies."""
    ours, theirs = memory_stream_pair()
    me = introduction(CLUSTER, B, 1, bytes(8), 1)
    answer = frames.encode(
        frames.HELLO, _hello(chance, introduction(CLUSTER, C, 1, bytes(8), 1), hello.CONTROL)
    )

    async def lies():
        stream = trio.SSLStream(theirs, certificates.server_context(given), server_side=True)
        try:
            await stream.do_handshake()
            await stream.receive_some()
            await stream.send_all(damaged(chance, answer) if chance.random() < 0.7 else answer)
        except trio.BrokenResourceError:
            pass
        await _said(stream, _speech(chance))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lies)
        try:
            wire = await open_wire(ours, certificates.client_context(mine), me, C, None)
        except (LinkBroken, Refused):
            return "dialled: refused"
        try:
            while True:
                await wire.receive()
        except LinkBroken:
            await wire.aclose()
        return "dialled"


def _hello(chance, one, lane):
    fields = list(msgspec.structs.astuple(msgspec.structs.replace(one, lane=lane)))
    if chance.random() < 0.3:
        oddities = (-1, 2**63, b"", bytes(100), "x", None, [], {}, 1.5, True)
        fields[chance.randrange(len(fields))] = chance.choice(oddities)
    return msgspec.msgpack.encode(fields)


def _speech(chance):
    kinds = sorted(frames.KINDS)
    said = b""
    for _ in range(chance.randrange(6)):
        body = messages.encode(chance.choice(WORDS))
        if chance.random() < 0.5:
            body = damaged(chance, body)
        kind = chance.choice(kinds) if chance.random() < 0.2 else frames.REQUEST
        said += frames.encode(kind, body, chance.randrange(1, 10), chance.choice((0, 1, 1000)))
    return damaged(chance, said) if said and chance.random() < 0.3 else said


async def _said(stream, data):
    """Say it and leave."""
    try:
        if data:
            await stream.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    await trio.aclose_forcefully(stream)
