"""Streams under a clock of their own: whole or broken, kept, bounded, given up."""

import pytest
import trio

from cluster.peers import bulk, hello
from cluster.peers.errors import PeerRefused, PeerSilent, PeerUnreachable
from cluster.peers.hello import Refusal
from cluster.peers.messages import FetchBlob, ReadIndex
from tests.cluster.peers.cluster import A, B
from tests.cluster.peers.wired import wired


async def test_streams_end_with_the_bytes_or_with_an_error(tmp_path, autojump_clock):
    async with wired(tmp_path) as (network, a, b):

        async def fetch(sender, request):
            yield b"some"
            if request.hash == b"silent":
                await trio.sleep_forever()
            if request.hash == b"fails":
                raise ZeroDivisionError
            if request.hash == b"cut":
                await network.cables[-1].cut()
            yield b"more"

        b.links.serve_stream(FetchBlob, fetch)

        async def pull(name):
            async with a.links.stream(B, FetchBlob(name), idle_s=3) as chunks:
                return [chunk async for chunk in chunks]

        assert await pull(b"whole") == [b"some", b"more"]
        with pytest.raises(PeerSilent, match="nothing of the stream came for 3 s"):
            await pull(b"silent")
        with pytest.raises(Exception, match="internal: ZeroDivisionError"):
            await pull(b"fails")
        with pytest.raises(PeerSilent, match="the stream broke"):
            await pull(b"cut")
        assert await pull(b"whole") == [b"some", b"more"]
        statistics = a.links.statistics().peers[B]
        assert statistics.streams == 0 and statistics.pulled_bytes == 4 * 2 * 2 + 4 * 3


async def test_a_kept_connection_that_the_peer_closed_is_made_anew(tmp_path, autojump_clock):
    async with wired(tmp_path) as (network, a, b):

        async def fetch(sender, request):
            yield b"all"

        b.links.serve_stream(FetchBlob, fetch)
        for _ in range(2):
            async with a.links.stream(B, FetchBlob(b""), idle_s=3) as chunks:
                assert [chunk async for chunk in chunks] == [b"all"]
            await network.cables[-1].cut()
        assert len(network.cables) == 3


async def test_what_is_kept_of_a_peer_ends_with_the_link_to_it_and_with_time(tmp_path, autojump_clock):
    async with wired(tmp_path) as (network, a, b):
        b.links.serve_stream(FetchBlob, one_chunk)
        bulk_links = b.links._serving._bulk

        async def pull():
            async with a.links.stream(B, FetchBlob(b""), idle_s=3) as chunks:
                assert [chunk async for chunk in chunks] == [b"all"]

        await pull()
        assert len(bulk_links) == 1
        await network.cables[0].cut()
        await trio.sleep(0.1)
        assert not bulk_links
        await pull()
        await trio.sleep(bulk.KEEP_S + 1)
        (old,) = bulk_links
        await pull()
        assert old not in bulk_links and len(bulk_links) == 1
        await trio.sleep(bulk.GIVER_WAITS_S + 1)
        assert not bulk_links


async def one_chunk(sender, request):
    yield b"all"


async def test_a_puller_that_takes_nothing_ends_the_stream_there(tmp_path, autojump_clock):
    async with wired(tmp_path) as (_, a, b):
        ended = []

        async def fetch(sender, request):
            try:
                while True:
                    yield bytes(256 << 10)
            finally:
                ended.append(trio.current_time())

        b.links.serve_stream(FetchBlob, fetch)
        async with a.links.stream(B, FetchBlob(b""), idle_s=60) as chunks:
            await anext(chunks)
            stopped = trio.current_time()
            await trio.sleep(bulk.CHUNK_TAKEN_S - 1)
            assert not ended
            await trio.sleep(2)
            assert ended and ended[0] - stopped <= bulk.CHUNK_TAKEN_S + 0.1


async def test_bulk_connections_of_a_node_are_bounded_where_they_are_served(
    tmp_path, autojump_clock, monkeypatch
):
    monkeypatch.setattr("cluster.peers.serving.BULK_OF_NODE_MAX", 1)
    async with wired(tmp_path) as (_, a, b):
        b.links.serve_stream(FetchBlob, one_chunk)
        async with a.links.stream(B, FetchBlob(b""), idle_s=3) as first:
            assert await anext(first) == b"all"
            with pytest.raises(PeerRefused, match=hello.BUSY):
                async with a.links.stream(B, FetchBlob(b""), idle_s=3) as second:
                    await anext(second)
        assert b.links.refusals.counts[hello.BUSY] == 1


async def test_a_stream_of_who_is_revoked_ends(tmp_path, autojump_clock):
    async with wired(tmp_path) as (_, a, b):

        async def fetch(sender, request):
            yield b"some"
            await trio.sleep_forever()

        b.links.serve_stream(FetchBlob, fetch)
        with pytest.raises(PeerSilent, match="the stream broke"):
            async with a.links.stream(B, FetchBlob(b""), idle_s=60) as chunks:
                assert await anext(chunks) == b"some"
                b.refused[A] = Refusal(hello.REVOKED)
                b.links.review()
                await anext(chunks)


async def test_handlers_of_a_link_end_with_it(tmp_path, autojump_clock):
    async with wired(tmp_path) as (network, a, b):
        started, ended = trio.Event(), trio.Event()

        async def handler(sender, request):
            started.set()
            try:
                await trio.sleep_forever()
            finally:
                ended.set()

        b.links.serve(ReadIndex, handler)

        async def ask():
            with pytest.raises(PeerSilent):
                await a.links.call(B, ReadIndex((1,)), deadline_s=3600)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await started.wait()
            await network.cables[0].cut()
            with trio.fail_after(1):
                await ended.wait()


async def test_a_slow_puller_holds_the_giver_back_not_its_memory(tmp_path, autojump_clock):
    async with wired(tmp_path) as (_, a, b):
        given = []

        async def fetch(sender, request):
            for number in range(100):
                given.append(number)
                yield bytes(256 << 10)

        b.links.serve_stream(FetchBlob, fetch)
        taken = 0
        async with a.links.stream(B, FetchBlob(b""), idle_s=3) as chunks:
            async for _ in chunks:
                taken += 1
                await trio.sleep(1)
                assert len(given) - taken <= 2
        assert taken == 100


async def test_streams_from_one_peer_are_bounded_and_others_wait(tmp_path, autojump_clock):
    async with wired(tmp_path) as (network, a, b):
        gate = trio.Event()

        async def fetch(sender, request):
            yield b"x"
            await gate.wait()

        b.links.serve_stream(FetchBlob, fetch)
        ended = []

        async def pull():
            try:
                async with a.links.stream(B, FetchBlob(b""), idle_s=60) as chunks:
                    ended.append(len([chunk async for chunk in chunks]))
            except PeerUnreachable:
                ended.append(0)

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(pull)
            await trio.sleep(1)
            assert len(network.cables) == 1 + 4 and a.links.statistics().peers[B].streams == 4
            gate.set()
        assert ended == [1] * 6


async def test_leaving_a_stream_early_ends_it_there(tmp_path, autojump_clock):
    async with wired(tmp_path) as (_, a, b):
        ended = trio.Event()

        async def fetch(sender, request):
            try:
                while True:
                    yield bytes(10_000)
            finally:
                ended.set()

        b.links.serve_stream(FetchBlob, fetch)
        async with a.links.stream(B, FetchBlob(b""), idle_s=60) as chunks:
            await anext(chunks)
        with trio.fail_after(1):
            await ended.wait()
        assert a.links.statistics().peers[B].streams == 0
