"""A link's life under a clock of its own: lost, made again, slow, half open, full."""

from contextlib import suppress
from itertools import pairwise

import pytest
import trio

from cluster.peers import dialling, handshake, hello, link
from cluster.peers.errors import PeerRefused, PeerSilent, PeerUnreachable
from cluster.peers.hello import Refusal
from cluster.peers.messages import FetchBlob, Index, NodeStatus, ReadIndex, Status
from tests.cluster.peers.cluster import A, B, credentials, make_node
from tests.cluster.peers.wired import answers, wired


async def test_an_idle_link_stays(tmp_path, autojump_clock):
    async with wired(tmp_path) as (_, a, _b):
        await trio.sleep(3600)
        assert a.connections == [(B, True)]
        peer = a.links.statistics().peers[B]
        assert peer.connected and peer.links_made == 1 and peer.round_trip_s is not None
        assert (peer.version, peer.level) == (1, 1)


async def test_a_link_that_is_made_again_at_once_was_not_lost(tmp_path, autojump_clock):
    async with wired(tmp_path) as (network, a, _b):
        await trio.sleep(10)
        await network.cables[0].cut()
        await trio.sleep(1)
        assert a.links.connected(B)
        assert a.links.statistics().peers[B].links_made == 2
        assert a.connections == [(B, True)]


async def test_keys_that_were_used_for_long_are_made_anew(tmp_path, autojump_clock, monkeypatch):
    monkeypatch.setattr("cluster.peers.handshake.CARRIED_BYTES_MAX", 1 << 20)
    async with wired(tmp_path) as (network, a, b):
        b.links.serve_stream(FetchBlob, much)
        await trio.sleep(10)
        assert len(network.cables) == 1
        a.links.send_raft(B, bytes(2 << 20))
        await b.until(lambda: b.raft)
        await trio.sleep(2)
        assert len(network.cables) == 2 and a.connections == [(B, True)] and a.links.connected(B)
        for number in (3, 4):
            async with a.links.stream(B, FetchBlob(b""), idle_s=3) as chunks:
                assert sum([len(chunk) async for chunk in chunks]) == 2 << 20
            assert len(network.cables) == number


async def much(sender, request):
    yield bytes(2 << 20)


async def test_a_node_that_was_away_is_told_as_lost_however_short(tmp_path, autojump_clock):
    async with wired(tmp_path) as (network, a, _b):
        await trio.sleep(10)
        network.nodes["b"] = make_node(tmp_path, B, boot=2, start=b"another!")
        await network.cables[0].cut()
        await trio.sleep(1)
        assert a.connections == [(B, True), (B, False), (B, True)]
        assert a.links.heard_of(B).boot == 2


async def test_a_node_that_is_down_is_dialled_ever_more_rarely(tmp_path, autojump_clock):
    async with wired(tmp_path) as (network, a, _b):
        await trio.sleep(10)
        network.down.add("b")
        started = trio.current_time()
        await network.cables[0].cut()
        await trio.sleep(60)
        assert a.connections == [(B, True), (B, False)]
        times = [when - started for when, _ in network.dialled if when >= started]
        pauses = [after - before for before, after in pairwise(times)]
        assert times[0] == pytest.approx(0, abs=0.01)
        for number, pause in enumerate(pauses):
            longest = min(dialling.RETRY_MAX_S, dialling.RETRY_FIRST_S * 2**number)
            assert longest / 2 - 0.001 <= pause <= longest + 0.001
        assert 30 < len(times) < 75
        assert "connection refused" in a.links.statistics().peers[B].last_error
        network.down.clear()
        await trio.sleep(dialling.RETRY_MAX_S + 0.1)
        assert a.links.connected(B) and a.connections[-1] == (B, True)


async def test_a_new_address_is_dialled_at_once_and_a_member_that_left_no_more(tmp_path, autojump_clock):
    async with wired(tmp_path) as (network, a, b):
        network.down.add("b")
        await network.cables[0].cut()
        await trio.sleep(60)
        network.nodes["elsewhere"] = b
        moved = trio.current_time()
        a.links.connect_to({B: "elsewhere"})
        await a.connected(B)
        assert trio.current_time() - moved < 0.01
        a.links.connect_to({B: "elsewhere", A: "a"})  # nothing new: nothing happens
        a.links.connect_to({})
        await trio.sleep(10)
        assert not a.links.connected(B) and a.connections[-1] == (B, False)
        assert a.links.statistics().peers == {} and b.links.statistics().accepted == 0
        with pytest.raises(PeerUnreachable):
            await a.links.call(B, NodeStatus(), deadline_s=1)


async def test_links_that_break_as_soon_as_they_are_made_are_not_made_in_a_circle(tmp_path, autojump_clock):
    async with wired(tmp_path, connect=False) as (network, a, b):
        b.links.on_raft = lambda sender, frame: None

        async def cut(cable):
            await trio.sleep(0.01)
            await cable.cut()

        a.links.on_connected = lambda node, up: up and network._nursery.start_soon(cut, network.cables[-1])
        a.links.connect_to({B: "b"})
        await trio.sleep(60)
        assert 10 < len(network.cables) < 75


async def test_a_half_open_link_is_noticed_by_both(tmp_path, autojump_clock):
    async with wired(tmp_path) as (network, a, b):
        b.links.serve(ReadIndex, answers)
        await a.links.call(B, ReadIndex((1,)), deadline_s=1)
        network.silent.add("b")
        network.cables[0].stall()
        stalled = trio.current_time()
        with pytest.raises(PeerSilent, match="the link broke"):
            await a.links.call(B, ReadIndex((2,)), deadline_s=3600)
        noticed = trio.current_time() - stalled
        assert noticed <= (link.PINGS_MISSED_MAX + 1) * link.PING_S + 0.01
        await trio.sleep(1)
        assert a.connections == [(B, True), (B, False)]
        await trio.sleep(link.PING_S * 2 + handshake.HANDSHAKE_S)
        assert b.links.statistics().accepted == 0
        assert not a.links.connected(B)
        network.silent.clear()
        await trio.sleep(handshake.HANDSHAKE_S + dialling.RETRY_MAX_S + 1)
        assert a.links.connected(B)


async def test_a_peer_that_takes_nothing_is_shed_though_it_is_heard(tmp_path, autojump_clock):
    async with wired(tmp_path) as (network, a, b):

        async def later(sender, request):
            await trio.sleep(request.partitions[0])
            return Index(())

        b.links.serve(ReadIndex, later)
        async with trio.open_nursery() as nursery:
            for seconds in range(1, 10):
                nursery.start_soon(swallow, a.links.call(B, ReadIndex((seconds,)), deadline_s=60))
            await trio.sleep(0.5)
            network.silent.add("b")
            network.cables[0].stall(1)
            for _ in range(4):
                a.links.send_raft(B, bytes(1 << 20))
            await trio.sleep(link.SHED_S - 0.1)
            assert a.links.connected(B)
            await trio.sleep(0.2)
            assert not a.links.connected(B)
            assert "none taken for 5 s" in a.links.statistics().peers[B].last_error


async def swallow(call):
    with suppress(PeerSilent):
        await call


async def test_a_full_queue_drops_raft_frames_and_refuses_calls(tmp_path, autojump_clock):
    async with wired(tmp_path) as (network, a, b):
        b.links.serve(NodeStatus, lambda sender, request: answers_status())
        b.links.serve(ReadIndex, answers)
        network.cables[0].stall()
        frame = bytes(1 << 20)
        for _ in range(20):
            a.links.send_raft(B, frame)
        peer = a.links.statistics().peers[B]
        assert peer.raft_sent == 11 and peer.raft_dropped == 9
        assert peer.queued_bytes <= link.RAFT_BYTES_MAX

        async def ask():  # a call still finds room
            assert await a.links.call(B, ReadIndex((1,)), deadline_s=60) == Index((1,))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(0.1)
            large = FetchBlob(bytes(2 << 20))
            for _ in range(2):
                with pytest.raises(PeerUnreachable, match="not sent"):
                    await a.links.call(B, large, deadline_s=0.1)
            with pytest.raises(PeerUnreachable, match="bytes wait to be sent"):
                await a.links.call(B, large, deadline_s=60)
            network.cables[0].resume()
        await b.until(lambda: len(b.raft) == 11)
        assert await a.links.call(B, NodeStatus(), deadline_s=1) == Status(b"{}")
        assert a.links.statistics().peers[B].queued_frames == 0


async def answers_status():
    return Status(b"{}")


async def test_frames_are_bounded_in_number_too(tmp_path, autojump_clock):
    async with wired(tmp_path) as (_, a, _b):
        await trio.sleep(0.1)  # the first ping is out
        for _ in range(link.RAFT_FRAMES_MAX + 7):
            a.links.send_raft(B, b"")
        assert a.links.statistics().peers[B].raft_dropped == 7


async def test_what_was_still_queued_when_the_link_broke_was_certainly_not_sent(tmp_path, autojump_clock):
    async with wired(tmp_path) as (network, a, _b):
        network.cables[0].stall()
        ends = {}

        async def ask(number):
            try:
                await a.links.call(B, ReadIndex((number,)), deadline_s=60)
            except (PeerSilent, PeerUnreachable) as error:
                ends[number] = type(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, 1)  # goes into the network, and nobody knows
            await trio.sleep(0.1)
            a.links.send_raft(B, bytes(1 << 20))  # occupies the writer
            await trio.sleep(0.1)
            nursery.start_soon(ask, 2)
            await trio.sleep(0.1)
            network.down.add("b")
            await network.cables[0].cut()
            network.cables[0].resume()
        assert ends == {1: PeerSilent, 2: PeerUnreachable}


@pytest.mark.parametrize("how", ["deadline", "cancelled"])
async def test_what_nobody_waits_for_any_more_is_not_sent(tmp_path, autojump_clock, how):
    async with wired(tmp_path) as (network, a, b):
        asked = []

        async def notes(sender, request):
            asked.append(request.partitions)
            return Index(())

        b.links.serve(ReadIndex, notes)
        network.cables[0].stall()
        a.links.send_raft(B, bytes(1 << 20))  # occupies the writer
        await trio.sleep(0.1)
        if how == "deadline":
            with pytest.raises(PeerUnreachable, match="not sent in 1 s"):
                await a.links.call(B, ReadIndex((1,)), deadline_s=1)
        else:
            with trio.move_on_after(1):
                await a.links.call(B, ReadIndex((1,)), deadline_s=60)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swallow, a.links.call(B, ReadIndex((2,)), deadline_s=60))
            await trio.sleep(0.1)
            network.cables[0].resume()
        assert asked == [(2,)]
        statistics = a.links.statistics().peers[B]
        assert statistics.queued_bytes == statistics.queued_frames == statistics.calls == 0


async def test_calls_under_way_are_bounded(tmp_path, autojump_clock):
    async with wired(tmp_path) as (_, a, b):
        gate = trio.Event()

        async def waits(sender, request):
            await gate.wait()
            return Index(())

        b.links.serve(ReadIndex, waits)
        refused = []

        async def ask():
            try:
                await a.links.call(B, ReadIndex(()), deadline_s=60)
            except PeerUnreachable as error:
                refused.append(str(error))

        async with trio.open_nursery() as nursery:
            for _ in range(dialling.CALLS_MAX + 5):
                nursery.start_soon(ask)
            await trio.sleep(1)
            assert len(refused) == 5 and "under way" in refused[0]
            assert b.links.statistics().requests == dialling.CALLS_MAX
            gate.set()
        assert b.links.statistics().requests == 0


async def test_a_peer_that_asks_too_much_is_told_so_for_each(tmp_path, autojump_clock, monkeypatch):
    monkeypatch.setattr("cluster.peers.serving.IN_FLIGHT_MAX", 3)
    async with wired(tmp_path) as (_, a, b):
        b.links.serve(ReadIndex, lambda sender, request: trio.sleep_forever())
        ends = []

        async def ask():
            with pytest.raises(Exception) as ended:
                await a.links.call(B, ReadIndex(()), deadline_s=1)
            ends.append(getattr(ended.value, "code", "silent"))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        assert sorted(ends) == ["overloaded"] * 2 + ["silent"] * 3


async def test_an_answer_that_is_too_large_is_a_mistake_of_ours_and_told_so(tmp_path, autojump_clock):
    async with wired(tmp_path) as (_, a, b):

        async def too_much(sender, request):
            return Status(bytes(5 << 20))

        b.links.serve(NodeStatus, too_much)
        with pytest.raises(PeerRefused, match="internal: ValueError"):
            await a.links.call(B, NodeStatus(), deadline_s=1)
        assert a.links.statistics().peers[B].links_made == 1


async def test_an_answer_of_another_kind_ends_the_link(tmp_path, autojump_clock):
    async with wired(tmp_path) as (_, a, b):
        b.links.serve(ReadIndex, lambda sender, request: answers_status())
        with pytest.raises(PeerSilent, match="ReadIndex was answered with Status"):
            await a.links.call(B, ReadIndex((1,)), deadline_s=1)
        assert a.links.refusals.counts == {} and a.links.statistics().peers[B].links_made == 1
        await trio.sleep(3)
        assert a.links.statistics().peers[B].links_made == 2


async def test_a_late_answer_is_nobodys(tmp_path, autojump_clock):
    async with wired(tmp_path) as (network, a, b):
        b.links.serve(ReadIndex, answers)
        network.cables[0].stall()
        with pytest.raises(PeerSilent, match="no answer in 1 s"):
            await a.links.call(B, ReadIndex((1,)), deadline_s=1)
        network.cables[0].resume()
        assert await a.links.call(B, ReadIndex((2,)), deadline_s=1) == Index((2,))
        assert a.links.statistics().peers[B].links_made == 1


async def test_a_new_link_of_a_node_replaces_its_old_one(tmp_path, autojump_clock):
    async with wired(tmp_path) as (network, a, b):
        await trio.sleep(dialling.STEADY_S)
        twin = make_node(tmp_path, A, start=b"another!", transport=network.connect)
        await network._nursery.start(twin.links.run)
        twin.links.connect_to({B: "b"})
        await twin.connected(B)
        await trio.sleep(0.01)
        assert b.links.statistics().accepted == 1
        assert a.links.statistics().peers[B].links_made == 2  # the old one was ended


async def test_who_is_revoked_is_cut_off_when_members_are_reviewed(tmp_path, autojump_clock):
    async with wired(tmp_path) as (_, a, b):
        b.links.connect_to({A: "a"})
        await b.connected(A)
        b.links.review()
        await trio.sleep(1)
        assert a.links.connected(B) and b.links.connected(A)
        b.refused[A] = Refusal(hello.REVOKED, "by an operator")
        b.links.review()
        await trio.sleep(1)
        assert not a.links.connected(B) and not b.links.connected(A)
        assert set(a.told) == {Refusal(hello.REVOKED, "by an operator")}


async def test_a_renewed_certificate_is_shown_from_the_next_link_on(tmp_path, autojump_clock):
    async with wired(tmp_path) as (network, a, b):
        first = b.links._serving._links[A].wire._stream.getpeercert()["serialNumber"]
        a.links.show(credentials(tmp_path, A))
        await trio.sleep(5)
        assert a.links.statistics().peers[B].links_made == 1
        await network.cables[0].cut()
        await trio.sleep(1)
        assert b.links._serving._links[A].wire._stream.getpeercert()["serialNumber"] != first
