"""Repair and scrub over real links: what rows refer to comes back, whatever was lost or rotted."""

import shutil

import pytest
import trio

from cluster.copies import repair
from tests.cluster.storing import cluster


def fill(keepers, count, size=1000):
    """Blobs that are referred to and lie with each of these; their bytes by digest."""
    found = {}
    for number in range(count):
        data = b"%d" % number * size
        for keeper in keepers:
            digest = keeper.put(data)
        found[digest] = data
        keepers[0].rows.refer(data)
    return found


async def test_a_wiped_node_gets_everything_back_from_all_others(tmp_path):
    async with cluster(tmp_path, "abc") as (a, b, c):
        held = fill([a, b], 60)
        done = await c.repair.now()
        assert {digest: c.read(digest) for digest in held} == held
        assert (done.checked, done.missing, done.fetched, done.last_missing) == (60, 60, 60, 0)
        assert done.bytes == sum(map(len, held.values()))
        assert 20 <= a.fetching.statistics().sent <= 40  # each its share
        again = await c.repair.now()
        assert (again.checked, again.missing, again.rounds) == (120, 60, 2)


async def test_each_piece_of_many_rows_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(repair, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(repair, "HASHES_MAX", 4)
    async with cluster(tmp_path, "ab") as (a, b):
        held = fill([a], 40)
        lost = sorted(held)[::7]
        for digest in held:
            if digest not in lost:
                b.put(held[digest])
        done = await b.repair.now()
        assert (done.checked, done.missing, done.fetched) == (40, len(lost), len(lost))
        assert all(b.read(digest) == held[digest] for digest in held)


async def test_what_no_node_can_give_is_counted_and_looked_for_again_soon(tmp_path):
    async with cluster(tmp_path, "ab") as (a, b):
        held = fill([a], 3)
        lost = a.rows.refer(b"nobody has it")
        done = await b.repair.now()
        assert done.last_missing == 1 and all(b.has(digest) for digest in held)
        assert b.repair._rounds.every_s == repair.MISSED_EVERY_S
        a.put(b"nobody has it")
        assert (await b.repair.now()).last_missing == 0 and b.has(lost)
        assert b.repair._rounds.every_s == repair.EVERY_S


async def test_a_node_that_cannot_be_asked_does_not_hold_up_the_others(tmp_path):
    async with cluster(tmp_path, "abc") as (a, b, c):
        held = fill([a], 10)
        c.node.links.connect_to({a.me: a.node.address, b.me: "127.0.0.1:1"})
        with trio.fail_after(5):
            assert (await c.repair.now()).fetched == len(held)


async def test_it_begins_soon_after_the_start_and_when_it_is_hurried(tmp_path):
    async with cluster(tmp_path, "ab") as (a, b), trio.open_nursery() as nursery:
        b.repair._rounds.soon_s = 0.05
        held = fill([a], 5)
        nursery.start_soon(b.repair.run)
        for digest in held:
            await b.until_has(digest)
        with trio.fail_after(5):
            while not b.repair.statistics().rounds:
                await trio.sleep(0.005)
        later = a.put(b"later")
        a.rows.refer(b"later")
        b.repair.hurry()
        await b.until_has(later)
        nursery.cancel_scope.cancel()


async def test_what_commits_write_is_looked_at_without_a_round(tmp_path):
    async with cluster(tmp_path, "ab") as (a, b), trio.open_nursery() as nursery:
        b.repair._noted_at.soon_s = 0.05
        held = fill([a], 5)
        nursery.start_soon(b.repair.run)
        unknown = b"nothing refers to it".ljust(32)
        b.repair.note([*held, unknown])
        for digest in held:
            await b.until_has(digest)
        later = a.put(b"later")
        a.rows.refer(b"later")
        b.repair.note([later])
        await b.until_has(later)
        assert b.repair.statistics().rounds == 0
        nursery.cancel_scope.cancel()


async def test_more_than_can_be_noted_makes_a_round(tmp_path, monkeypatch):
    monkeypatch.setattr(repair, "NOTED_MAX", 3)
    async with cluster(tmp_path, "ab") as (a, b), trio.open_nursery() as nursery:
        b.repair._rounds.soon_s = 0.3
        held = fill([a], 5)
        nursery.start_soon(b.repair.run)
        b.repair.note(held)
        for digest in held:
            await b.until_has(digest)
        with trio.fail_after(5):
            while b.repair.statistics().rounds == 0:
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()


async def test_a_node_that_nobody_can_help_says_what_it_lacks(tmp_path):
    async with cluster(tmp_path, "a") as (a,):
        a.rows.refer(b"lost")
        done = await a.repair.now()
        assert (done.rounds, done.checked, done.missing, done.fetched, done.last_missing) == (1, 1, 1, 0, 1)


# --- scrub ---------------------------------------------------------------------------------------------
async def test_what_rotted_is_taken_out_of_service_and_fetched_again(tmp_path):
    async with cluster(tmp_path, "ab") as (a, b):
        held = fill([a, b], 30)
        rotten = sorted(held)[3::9]
        for digest in rotten:
            assert b.read(digest) == held[digest]  # remembered as verified: only a scrub finds it now
            b.file_of(digest).write_bytes(b"rotten")
        done = await b.scrub.now()
        assert (done.checked, done.damaged, done.fetched, done.last_damaged) == (30, 3, 3, 3)
        assert {digest: b.read(digest) for digest in held} == held
        assert len(list((b.path / "quarantine").iterdir())) == 3
        assert (await b.scrub.now()).last_damaged == 0


async def test_what_rotted_on_a_lone_node_is_found_and_kept_for_inspection(tmp_path):
    async with cluster(tmp_path, "a") as (a,):
        (digest,) = fill([a], 1)
        a.file_of(digest).write_bytes(b"rotten")
        done = await a.scrub.now()
        assert (done.damaged, done.fetched) == (1, 0) and not a.has(digest)


async def test_a_damaged_file_that_nothing_refers_to_is_not_fetched(tmp_path):
    async with cluster(tmp_path, "ab") as (a, b):
        digest = a.put(b"left over")
        b.put(b"left over")
        b.file_of(digest).write_bytes(b"rotten")
        done = await b.scrub.now()
        assert (done.damaged, done.fetched) == (1, 0) and not b.has(digest)


@pytest.mark.parametrize("begin_at", [b"", b"\x00", b"\x80", b"\xff" * 32])
async def test_a_round_comes_to_every_file_once_wherever_it_begins(tmp_path, begin_at):
    async with cluster(tmp_path, "a") as (a,):
        fill([a], 50)
        a.scrub._begin_at = begin_at.ljust(32, b"\x00")
        done = await a.scrub.now()
        assert done.checked == 50 and done.bytes == sum(entry.size for entry in a.blobs.iterate())


async def test_a_node_that_lost_its_disk_is_whole_after_one_round(tmp_path):
    async with cluster(tmp_path, "ab") as (a, b):
        held = fill([a, b], 20)
        shutil.rmtree(b.path / "blobs")
        (b.path / "blobs").mkdir()
        b.begin()
        async with trio.open_nursery() as nursery:
            await nursery.start(b.fetching.run)
            await b.repair.now()
            nursery.cancel_scope.cancel()
        assert {digest: b.read(digest) for digest in held} == held
