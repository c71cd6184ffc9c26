"""Two nodes' links over loopback: Raft frames, calls, streams, and what happens when they cannot."""

import pytest
import trio

from cluster.peers.errors import PeerRefused, PeerSilent, PeerUnreachable
from cluster.peers.messages import FetchBlob, Index, NodeStatus, ReadIndex, Status
from tests.cluster.peers.cluster import A, B, C, make_node, pair, running


async def test_raft_frames_come_in_order_and_unread(tmp_path):
    async with pair(tmp_path) as (a, b):
        frames = [bytes([number % 256]) * (number * 37 % 3000) for number in range(500)]
        for frame in frames:
            a.links.send_raft(B, frame)
        await b.until(lambda: len(b.raft) == len(frames))
        assert b.raft == [(A, frame) for frame in frames]


async def test_calls_are_answered_out_of_order(tmp_path):
    async with pair(tmp_path) as (a, b):
        gates = {number: trio.Event() for number in range(20)}

        async def read_index(sender, request):
            assert sender == A
            await gates[request.partitions[0]].wait()
            return Index(request.partitions)

        b.links.serve(ReadIndex, read_index)
        order = []

        async def ask(number):
            answer = await a.links.call(B, ReadIndex((number,)), deadline_s=10)
            assert answer == Index((number,))
            order.append(number)
            if number:
                gates[number - 1].set()

        async with trio.open_nursery() as nursery:
            for number in gates:
                nursery.start_soon(ask, number)
            gates[19].set()
        assert order == sorted(gates, reverse=True)


async def test_a_stream_is_pulled_whole_and_its_connection_used_again(tmp_path):
    async with pair(tmp_path) as (a, b):
        data = bytes(range(256)) * 5000

        async def fetch(sender, request):
            assert sender == A
            yield data[:1000]
            yield b""
            yield data[1000:]

        b.links.serve_stream(FetchBlob, fetch)
        for _ in range(3):
            async with a.links.stream(B, FetchBlob(b"h" * 32), idle_s=5) as chunks:
                assert b"".join([chunk async for chunk in chunks]) == data
        assert len(a.links._peers[B]._pool._kept) == 1


async def test_refusals_and_mistakes_of_a_handler_reach_the_caller(tmp_path):
    async with pair(tmp_path) as (a, b):

        async def refuses(sender, request):
            raise PeerRefused("not_leader", "ask c", C)

        async def fails(sender, request):
            raise ZeroDivisionError

        b.links.serve(ReadIndex, refuses)
        b.links.serve(NodeStatus, fails)
        with pytest.raises(PeerRefused) as told:
            await a.links.call(B, ReadIndex((1,)), deadline_s=5)
        assert (told.value.code, told.value.detail, told.value.leader) == ("not_leader", "ask c", C)
        with pytest.raises(PeerRefused, match="internal: ZeroDivisionError"):
            await a.links.call(B, NodeStatus(), deadline_s=5)
        with pytest.raises(PeerRefused, match="unknown"):
            await a.links.call(B, FetchBlob(b"h" * 32), deadline_s=5)


async def test_without_a_link_a_call_fails_at_once(tmp_path):
    async with pair(tmp_path) as (a, _b):
        with pytest.raises(PeerUnreachable):
            await a.links.call(C, NodeStatus(), deadline_s=60)
        with pytest.raises(PeerUnreachable):
            async with a.links.stream(C, FetchBlob(b""), idle_s=60):
                pass


async def test_a_deadline_ends_the_call_here_and_the_handler_there(tmp_path):
    async with pair(tmp_path) as (a, b):
        ended = trio.Event()

        async def never(sender, request):
            try:
                await trio.sleep_forever()
            finally:
                ended.set()

        async def quick(sender, request):
            return Status(b"{}")

        b.links.serve(ReadIndex, never)
        b.links.serve(NodeStatus, quick)
        with pytest.raises(PeerSilent):
            await a.links.call(B, ReadIndex((1,)), deadline_s=0.05)
        with trio.fail_after(5):
            await ended.wait()
        assert await a.links.call(B, NodeStatus(), deadline_s=5) == Status(b"{}")


async def test_a_node_that_stops_is_lost_at_once_and_found_again(tmp_path):
    a, b = make_node(tmp_path, A), make_node(tmp_path, B)
    async with running(a):
        async with running(b):
            address = b.address
            a.links.connect_to({B: address})
            await a.connected(B)
        with trio.fail_after(5):
            await a.until(lambda: a.connections == [(B, True), (B, False)])
        with pytest.raises(PeerUnreachable):
            await a.links.call(B, NodeStatus(), deadline_s=5)
        again = make_node(tmp_path, B, boot=2, start=b"another!")
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(int(address.rpartition(":")[2]), host="127.0.0.1")
            await nursery.start(again.links.run, listeners)
            await a.until(lambda: a.connections[-1] == (B, True))
            nursery.cancel_scope.cancel()
