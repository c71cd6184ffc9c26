"""Placement over real links: when an upload may go on, what is said when not, and what peers may do."""

import pytest
import trio
import trio.testing
from blake3 import blake3

from cluster.copies import placement
from cluster.copies.placement import NotEnoughCopies
from cluster.peers.errors import PeerRefused
from cluster.peers.messages import Done, FetchBlob, OfferBlob
from tests.cluster.storing import cluster

DATA = b"photograph" * 1000


async def test_a_majority_has_it_when_place_returns_and_the_others_get_it_too(tmp_path):
    async with cluster(tmp_path, "abc") as keepers:
        a, b, c = keepers
        digest = a.put(DATA, index=7)
        await a.placement.place(digest, len(DATA), 7)
        assert b.has(digest) == 7 or c.has(digest) == 7
        for keeper in keepers:
            await keeper.until_has(digest)
            assert keeper.read(digest) == DATA and keeper.has(digest) == 7


async def test_large_ones_come_in_pieces(tmp_path):
    data = bytes(range(256)) * 20_000
    async with cluster(tmp_path, "ab") as (a, b):
        digest = a.put(data)
        await a.placement.place(digest, len(data), 1)
        assert b.read(digest) == data
        assert not list((b.path / "staging").iterdir())


async def test_what_a_peer_has_already_has_its_index_raised_and_travels_no_more(tmp_path):
    async with cluster(tmp_path, "ab") as (a, b):
        digest = a.put(DATA, index=9)
        b.put(DATA, index=4)
        b.full = True  # it takes no room
        await a.placement.place(digest, len(DATA), 9)
        assert b.has(digest) == 9 and b.placement.statistics().pulled == 0


async def test_what_a_peer_has_damaged_is_sent_anew(tmp_path):
    async with cluster(tmp_path, "ab") as (a, b):
        digest = a.put(DATA, index=9)
        b.put(DATA, index=4)
        b.file_of(digest).write_bytes(b"rotten")
        await a.placement.place(digest, len(DATA), 9)
        assert b.has(digest) == 9 and b.read(digest) == DATA


async def test_the_voters_copy_is_waited_for_by_a_learner_and_not_the_other_way_round(tmp_path):
    async with cluster(tmp_path, "ab", voters="a") as (a, b):
        first = b.put(DATA)
        await b.placement.place(first, len(DATA), 1)
        assert a.has(first)
        b.full = True
        second = a.put(DATA * 2)
        await a.placement.place(second, len(DATA) * 2, 1)


async def test_one_of_three_may_be_gone(tmp_path):
    async with cluster(tmp_path, "abc") as (a, b, c):
        c.full = True
        digest = a.put(DATA)
        with trio.fail_after(2):
            await a.placement.place(digest, len(DATA), 1)
        assert b.has(digest) and not c.has(digest)


async def test_too_few_copies_are_told_with_what_was_tried(tmp_path):
    async with cluster(tmp_path, "abc") as (a, b, c):
        b.full = c.full = True
        digest = a.put(DATA)
        began = trio.current_time()
        with pytest.raises(NotEnoughCopies) as told:
            await a.placement.place(digest, len(DATA), 1)
        assert trio.current_time() - began < 2  # nobody will take it: there is nothing to wait for
        assert f"blob {digest.hex()[:8]}…: 1 of 2 copies written" in str(told.value)
        assert "node 62626262: storage_full" in str(told.value) and "node 63636363" in str(told.value)


async def test_a_silent_majority_is_waited_for_and_then_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(placement, "PLACED_WITHIN_S", 0.5)
    async with cluster(tmp_path, "abc") as (a, b, c):

        async def never(sender, offer):
            await trio.sleep_forever()

        for keeper in (b, c):
            keeper.node.links.serve(OfferBlob, never)
        digest = a.put(DATA)
        with pytest.raises(NotEnoughCopies, match="no answer in"):
            await a.placement.place(digest, len(DATA), 1)


async def test_a_node_that_comes_back_in_time_is_counted(tmp_path):
    async with cluster(tmp_path, "ab") as (a, b):
        asked, taken = 0, b.placement._taken

        async def at_the_third_time(sender, offer):
            nonlocal asked
            asked += 1
            if asked < 3:
                raise PeerRefused("unavailable", "not yet")
            return await taken(sender, offer)

        b.node.links.serve(OfferBlob, at_the_third_time)
        digest = a.put(DATA)
        await a.placement.place(digest, len(DATA), 1)
        assert b.has(digest) and asked == 3


async def test_a_lone_node_waits_for_nobody(tmp_path):
    async with cluster(tmp_path, "a") as (a,):
        digest = a.put(DATA)
        await a.placement.place(digest, len(DATA), 1)
        assert a.placement.statistics().offered == 0


async def test_a_peer_cannot_make_a_node_keep_other_bytes_or_more_than_it_said(tmp_path):
    async with cluster(tmp_path, "ab") as (a, b):
        digest = blake3(DATA).digest()
        for sent, size in ((b"other bytes", 11), (DATA, 5)):

            async def lie(sender, request, sent=sent):
                yield sent

            a.node.links.serve_stream(FetchBlob, lie)
            with pytest.raises(PeerRefused, match="could not be fetched"):
                await a.node.links.call(b.me, OfferBlob(digest, size, 1), deadline_s=5)
        assert not b.has(digest) and not list((b.path / "staging").iterdir())
        with pytest.raises(PeerRefused):
            await a.node.links.call(b.me, OfferBlob(b"no hash", 5, 1), deadline_s=5)


async def test_many_small_ones_at_once(tmp_path):
    async with cluster(tmp_path, "abc") as keepers:
        a = keepers[0]
        digests = {a.put(b"thumbnail %d" % n): b"thumbnail %d" % n for n in range(100)}
        async with trio.open_nursery() as nursery:
            for digest, data in digests.items():
                nursery.start_soon(a.placement.place, digest, len(data), 1)
        with trio.fail_after(10):
            while a.placement.statistics().under_way:
                await trio.sleep(0.01)
        assert all(keeper.read(digest) == data for keeper in keepers for digest, data in digests.items())


async def test_an_upload_that_is_called_off_is_still_answered(tmp_path):
    """The client left: nobody waits, and the copy does no harm."""
    async with cluster(tmp_path, "ab") as (a, b):
        digest = a.put(DATA)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.placement.place, digest, len(DATA), 1)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await b.until_has(digest)
        assert await a.node.links.call(b.me, OfferBlob(digest, len(DATA), 3), deadline_s=5) == Done()
        assert b.has(digest) == 3
