"""A real node whose cluster is lost goes on alone, with all that it had; a restored one founds its own."""

from contextlib import closing

from cluster.keys import GROUPS, HEADS_PARTITION, META_PARTITION, GroupKey, GroupRow
from cluster.members import meta_rows
from cluster.members.meta_rows import MEMBERS, Member, MemberKey
from node.check import check
from node.recovery import plan, recover
from node.restore import choose, restore
from storage.directory import DataDirectory
from storage.rows import Overlay
from storage.shard import Shard
from tests.node.nodes import picture, running

PEERS = ("cluster.port=0",)
NOW = 1_800_000_000.0
OTHERS = tuple(bytes([letter]) * 16 for letter in b"xy")


def silent(_what, _done, _total):
    pass


async def found(node):
    answer = await node.admin.post("/v1/admin/cluster/init", json={})
    assert answer.status_code < 300, answer.text


def members(data):
    with closing(Shard(data / "shards" / f"{META_PARTITION & 1:02}")) as shard, shard.reading() as rows:
        return meta_rows.members(rows)


def join_others(data):
    """Write into a stopped node's rows that two others are members of all groups."""
    with DataDirectory.open(data, now=NOW, boot=False) as directory:
        me, count = directory.node_id, directory.identity.partition_count
    for number in range(2):
        shard = Shard(data / "shards" / f"{number:02}")
        transaction = shard.begin()
        rows = Overlay(transaction)
        for partition in [n for n in (*range(count), META_PARTITION) if n & 1 == number]:
            GROUPS.put(rows, GroupKey(HEADS_PARTITION, partition), GroupRow((me, *OTHERS), (), 1))
        if number == META_PARTITION & 1:
            for other in OTHERS:
                MEMBERS.put(rows, MemberKey(META_PARTITION, other), Member(1, 1, 1))
        rows.flush()
        transaction.commit()
        shard.close()


async def test_a_node_whose_cluster_is_lost_goes_on_alone(tmp_path):
    data = tmp_path / "node"
    async with running(data, *PEERS) as node:
        await found(node)
        ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
        await bob.follow(ada)
        await ada.post_photo(picture(), caption="kept")
        await node.settled()
    join_others(data)
    said = plan(data)
    assert said.needed and len(said.others) == 2 and len(said.partitions) == 257 and said.last_at_ms
    done = recover(data, now=NOW, tell=silent)
    assert (done.partitions, done.removed) == (257, 2)
    assert check(data, silent).damage == ()
    for round_ in range(2):
        async with running(data, *PEERS) as node:
            bob = await node.sign_in("bob")
            assert [post["caption"] for post in await bob.feed()] == ["kept"] * (round_ + 1)
            await (await node.sign_in("ada")).post_photo(picture((round_, 1, 1)), caption="kept")
            await node.settled()
    assert check(data, silent).damage == ()
    assert not plan(data).needed and set(members(data)) == {bytes.fromhex(done.node)}


async def test_a_restored_member_of_a_cluster_is_the_first_of_its_own(tmp_path):
    data, restored, destination = tmp_path / "node", tmp_path / "restored", tmp_path / "backups"
    async with running(data, *PEERS) as node:
        await found(node)
        ada = await node.sign_up("ada")
        await ada.post_photo(picture(), caption="kept")
        await node.settled()
    join_others(data)
    recover(data, now=NOW, tell=silent)
    async with running(data, *PEERS) as node:
        body = {"destination": str(destination), "passphrase": "two words"}
        answer = await node.admin.post("/v1/admin/backups", json=body)
        assert answer.status_code == 200, answer.text
    before = members(data)
    made = restore(choose(destination), restored, "two words", now=NOW, tell=silent)
    for _ in range(2):
        async with running(restored, *PEERS) as node:
            ada = await node.sign_in("ada")
            assert [
                post["caption"] for post in (await ada.call("GET", f"/v1/users/{ada.id}/photos"))["photos"]
            ]
            await ada.post_photo(picture((1, 1, 1)))
            await node.settled()
    assert set(members(restored)) == {bytes.fromhex(made.node_id)} != set(before)
    assert members(restored)[bytes.fromhex(made.node_id)].boot == 2
    assert check(restored, silent).damage == ()
