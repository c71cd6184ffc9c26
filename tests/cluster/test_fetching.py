"""Fetching over real links: a blob that is not here comes from a node that has it, once for all who ask."""

import os

import pytest
import trio
import trio.testing

from cluster.copies import fetching
from cluster.copies.fetching import BlobUnavailable
from cluster.peers.errors import PeerRefused
from cluster.peers.messages import FetchBlob
from storage.blobs import BlobMissing
from tests.cluster.storing import cluster

DATA = b"photograph" * 1000


async def test_what_is_not_here_comes_from_who_has_it(tmp_path):
    async with cluster(tmp_path, "abc") as (a, b, c):
        digest = c.put(DATA, index=3)
        a.rows.refer(DATA, index=8)
        await a.fetching.fetch(digest)
        assert a.read(digest) == DATA
        assert a.has(digest) == 8  # the index at which the reference was seen
        assert not b.has(digest)


async def test_many_who_ask_wait_for_one_fetch(tmp_path):
    async with cluster(tmp_path, "ab") as (a, b):
        digest = b.put(DATA)
        a.rows.refer(DATA)
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(a.fetching.fetch, digest)
        assert b.fetching.statistics().sent == 1 and a.fetching.statistics().fetched == 1


async def test_who_gives_up_takes_the_bytes_from_nobody_else(tmp_path):
    async with cluster(tmp_path, "ab") as (a, b):
        digest = b.put(DATA)
        a.rows.refer(DATA)
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0):
                await a.fetching.fetch(digest)
            nursery.start_soon(a.fetching.fetch, digest)
        assert a.read(digest) == DATA


async def test_what_nobody_has_is_missing_and_what_nobody_could_say_is_unavailable(tmp_path):
    async with cluster(tmp_path, "abc") as (a, b, c):
        digest = a.rows.refer(DATA)
        with pytest.raises(BlobMissing):
            await a.fetching.fetch(digest)
        b.meet([])  # it does not dial any more, and is dialled at an address that is none
        a.node.links.connect_to({c.me: c.node.address, b.me: "127.0.0.1:1"})
        with pytest.raises(BlobUnavailable, match=f"blob {digest.hex()[:8]}… is not here; .*node 62626262"):
            await a.fetching.fetch(digest)
        c.put(DATA)
        await a.fetching.fetch(digest)
        assert a.read(digest) == DATA


async def test_what_nothing_refers_to_is_not_asked_for(tmp_path):
    async with cluster(tmp_path, "ab") as (a, b):
        digest = b.put(DATA)
        with pytest.raises(BlobMissing):
            await a.fetching.fetch(digest)
        assert b.fetching.statistics().sent == 0


async def test_a_lone_node_says_at_once_that_it_is_missing(tmp_path):
    async with cluster(tmp_path, "a") as (a,):
        with pytest.raises(BlobMissing):
            await a.fetching.fetch(a.rows.refer(DATA))


async def test_a_node_whose_copy_is_damaged_gives_none_and_the_next_is_asked(tmp_path):
    async with cluster(tmp_path, "abc") as keepers:
        a, b, c = keepers
        digest = a.rows.refer(DATA)
        for keeper in (b, c):
            keeper.put(DATA)
        b.file_of(digest).write_bytes(b"rotten")
        for _ in range(2):  # in either order
            await a.fetching.fetch(digest)
            assert a.read(digest) == DATA
            a.blobs.unlink(digest, 100)
        assert not b.has(digest) and len(list((b.path / "quarantine").iterdir())) == 1


async def test_a_node_that_sends_other_bytes_is_passed_over(tmp_path):
    async with cluster(tmp_path, "abc") as (a, b, c):
        digest = a.rows.refer(DATA)
        c.put(DATA)

        async def lie(sender, request):
            yield DATA[:-1] + b"X"

        b.node.links.serve_stream(FetchBlob, lie)
        for _ in range(2):
            await a.fetching.fetch(digest)
            assert a.read(digest) == DATA
            a.blobs.unlink(digest, 100)
        assert not list((a.path / "staging").iterdir())


async def test_a_stream_that_breaks_off_leaves_nothing(tmp_path):
    async with cluster(tmp_path, "ab") as (a, b):
        data = os.urandom(3 << 20)
        digest = a.rows.refer(data)

        async def break_off(sender, request):
            yield data[: 2 << 20]
            raise PeerRefused("not_found", "it was damaged after all")

        b.node.links.serve_stream(FetchBlob, break_off)
        with pytest.raises(BlobMissing):
            await a.fetching.fetch(digest)
        assert not a.has(digest) and not list((a.path / "staging").iterdir())
        assert a.blobs.statistics().staged == 0


async def test_too_many_are_refused_and_not_queued(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "FLIGHTS_MAX", 1)
    async with cluster(tmp_path, "ab") as (a, b):
        first, second = a.rows.refer(DATA), a.rows.refer(DATA * 2)
        b.put(DATA)
        b.put(DATA * 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.fetching.fetch, first)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(BlobUnavailable):
                await a.fetching.fetch(second)
        await a.fetching.fetch(second)
