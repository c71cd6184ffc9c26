"""Checking and compacting the data of a real node that was stopped: what is whole passes, damage is named."""

import os
import shutil

import msgspec
import pytest
import trio

from cluster.keys import HEADS, HEADS_PARTITION
from cluster.snapshots.installing import install_pieces
from cluster.snapshots.spool import FOLDER
from node.check import check
from node.compaction import compact
from node.social.keys import CountsKey, FollowerKey, PostKey
from node.social.records import COUNTS, FOLLOWERS, POSTS
from storage.directory import DirectoryDamaged, DirectoryInUse
from storage.ids import partition_of
from storage.memory import MemoryRows
from storage.shard import Shard
from tests.cluster.states import PARTITION, fill, some_notes, spooled
from tests.node.nodes import picture, running


def silent(_what, _done, _total):
    pass


class Rows:
    """A write transaction as a Writer, to change rows behind the node's back."""

    def __init__(self, transaction):
        self._transaction = transaction
        self.get, self.scan = transaction.get, transaction.scan

    def put(self, key, value):
        self._transaction.write({key: value})

    def delete(self, key):
        self._transaction.write({key: None})


def change(data, partition, work):
    """Let `work(rows)` change the rows of the partition's shard."""
    shard = Shard(data / "shards" / f"{partition & 1:02}")
    transaction = shard.begin()
    result = work(Rows(transaction))
    transaction.commit()
    shard.close()
    return result


async def live(data):
    """A stopped node's data with a little of everything; ids of ada, bob and ada's post, and a blob of it."""
    async with running(data) as node:
        ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
        await bob.follow(ada)
        post = await ada.post_photo(picture())
        await bob.call("POST", f"/v1/posts/{post['id']}/like")
        await bob.call("POST", f"/v1/posts/{post['id']}/comments", json={"text": "well seen"})
        gone = await ada.post_photo(picture((1, 1, 1)))
        await ada.call("DELETE", f"/v1/posts/{gone['id']}")
        await bob.call("POST", f"/v1/users/{ada.id}/block")
        await bob.call("DELETE", f"/v1/users/{ada.id}/block")
        await bob.follow(ada)
        await bob.call("POST", f"/v1/posts/{post['id']}/like")
        await node.settled()
        with pytest.raises(DirectoryInUse):
            check(data, silent)
        return (
            int(ada.id),
            int(bob.id),
            int(post["id"]),
            post["photo_url"].rpartition("/")[2].partition(".")[0],
        )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The data as `live` left it, made once; tests change copies. With it what `live` returned."""
    data = tmp_path_factory.mktemp("whole") / "node"
    return data, trio.run(live, data)


@pytest.fixture
def data(whole, tmp_path):
    return shutil.copytree(whole[0], tmp_path / "node")


async def test_a_whole_node_passes_before_and_after_compaction(data):
    before = check(data, silent)
    assert before.damage == () and before.at_rest and before.blobs > 0
    assert before.rows["users"] == 2 and before.rows["posts"] == 1
    done = compact(data, silent)
    assert done.shards_after <= done.shards_before and done.journal_after <= done.journal_before
    after = check(data, silent)
    assert after.damage == () and after.rows == before.rows
    async with running(data) as node:
        assert len(await (await node.sign_in("bob")).feed()) == 1


def test_each_damage_is_named(whole, tmp_path):
    whole, (ada, bob, post, digest) = whole
    (blob,) = (whole / "blobs").rglob(digest + ".*")

    def flipped_value(rows):
        key = PostKey(post).encode()
        value = rows.get(key)
        rows.put(key, value[:-1] + bytes((value[-1] ^ 1,)))

    def one_follower_too_many(rows):
        key = CountsKey(ada)
        counts = COUNTS.get(rows, key)
        COUNTS.put(rows, key, msgspec.structs.replace(counts, followers=7))

    def no_follower(rows):
        FOLLOWERS.delete(rows, FollowerKey(ada, bob))

    def unknown_kind(rows):
        rows.put(partition_of(ada).to_bytes(2, "big") + b"\x3f\x00", b"?")

    def fewer_likes(rows):
        key = PostKey(post)
        record = POSTS.get(rows, key)
        POSTS.put(rows, key, msgspec.structs.replace(record, likes=5))

    for work, expected in [
        (flipped_value, "Post at key"),
        (one_follower_too_many, "followers is 7, but the rows are 1"),
        (no_follower, "who does not know it"),
        (unknown_kind, "of no kind that is known"),
        (fewer_likes, "likes is 5, but the rows are 1"),
    ]:
        data = tmp_path / work.__name__
        shutil.copytree(whole, data)
        change(data, partition_of(ada), work)
        found = check(data, silent)
        assert any(expected in finding for finding in found.damage), (work.__name__, found.damage)

    for name, spoil, expected in [
        ("bitten", lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]), "have the hash"),
        ("missing", os.unlink, "but it is missing"),
    ]:
        data = tmp_path / name
        shutil.copytree(whole, data)
        spoil(data / blob.relative_to(whole))
        (finding,) = check(data, silent).damage
        assert expected in finding


def test_a_damaged_journal_is_told_and_not_mended(data):
    segment = min((data / "journal").glob("*.log"))
    content = bytearray(segment.read_bytes())
    content[4200] ^= 1
    segment.write_bytes(content)
    found = check(data, silent)
    assert any(str(segment) in finding and "synced" in finding for finding in found.damage)
    assert segment.read_bytes() == content


async def test_commands_ahead_of_the_shards_are_no_damage(data, tmp_path):
    """As after a kill: the journal has what the shards have not."""
    early = tmp_path / "early"
    shutil.copytree(data, early)
    async with running(data) as node:
        await node.sign_up("carl")
    for segment in (early / "journal").iterdir():
        segment.unlink()
    shutil.copytree(data / "journal", early / "journal", dirs_exist_ok=True)
    found = check(early, silent)
    assert found.damage == () and found.journal_ahead > 0 and not found.at_rest
    compact(early, silent)
    again = check(early, silent)
    assert again.damage == () and again.journal_ahead == 0 and again.rows["users"] == 3


def test_a_directory_without_data_is_none(tmp_path):
    with pytest.raises(DirectoryDamaged, match=r"node\.json"):
        check(tmp_path, silent)
    assert os.listdir(tmp_path) == []


def test_heads_are_compared_with_their_rows(whole, data):
    partition = partition_of(whole[1][0])

    def lie(rows):
        for key, head in list(HEADS.scan(rows, HEADS_PARTITION)):
            if key.of == partition:
                HEADS.put(rows, key, msgspec.structs.replace(head, dead_rows=3))

    change(data, partition, lie)
    (finding,) = check(data, silent).damage
    assert finding == f"partition {partition}: dead_rows is 3, but the rows are 0"


def test_a_snapshot_that_is_half_installed_is_damage_only_when_it_is_gone(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.snapshots.installing.INSTALL_ROWS", 20)
    data, source = shutil.copytree(whole[0], tmp_path / "n"), MemoryRows()
    fill(source, PARTITION, some_notes(200, 1), index=10_000)
    folder = data / "staging" / FOLDER
    shard = Shard(data / "shards" / "01")
    next(install_pieces(shard.begin, spooled(source, folder)))
    shard.close()
    report = check(data, silent)
    assert report.damage == () and not report.at_rest
    (spool,) = folder.iterdir()
    spool.unlink()
    (finding,) = check(data, silent).damage
    assert finding.startswith("partition 5: its snapshot, half installed, is missing")
