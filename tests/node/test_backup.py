"""Backups of a real node: one cut while it works, each blob once, restored whole under a new identity."""

import json
import os
from contextlib import closing

import msgspec
import pytest
import trio

from cluster.keys import HEADS_PARTITION, INSTALLS, InstallKey, InstallRow
from node.app import open_parts
from node.backup import MANIFEST, BackupError, backups_in, blob_path, listed, read_manifest, want_whole
from node.restore import choose, restore, verify
from node.settings import load
from node.social import accounts
from node.social.keys import UserKey
from node.social.records import USERS
from storage.directory import DataDirectory
from storage.shard import Shard
from tests.node.nodes import SMALL, picture, running

PASSPHRASE = "two words or more"
NOW = 1_800_000_000.0


def silent(_what, _done, _total):
    pass


async def back_up(node, destination, passphrase=PASSPHRASE):
    """The lines that the node answers, decoded."""
    body = {"destination": str(destination), "passphrase": passphrase}
    answer = await node.admin.post("/v1/admin/backups", json=body)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_a_restored_backup_serves_everything_under_a_new_identity(tmp_path):
    destination, data = tmp_path / "backups", tmp_path / "node"
    async with running(data) as node:
        ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
        await bob.follow(ada)
        post = await ada.post_photo(picture(), caption="kept")
        await bob.call("POST", f"/v1/posts/{post['id']}/like")
        await node.settled()
        lines = await back_up(node, destination)
        assert [line["type"] for line in lines[-1:]] == ["made"]
        await ada.post_photo(picture((1, 2, 3)), caption="too late")
    (backup,) = backups_in(destination)
    assert verify(backup, silent).damage_count == 0
    made = restore(backup, tmp_path / "restored", PASSPHRASE, now=NOW, tell=silent)
    assert made.node_id != read_manifest(backup).node_id and made.missing_count == 0
    async with running(tmp_path / "restored") as node:
        bob = await node.sign_in("bob")
        (found,) = await bob.feed()
        assert (found["caption"], found["like_count"], found["liked_by_me"]) == ("kept", 1, True)
        assert (await node.http.get(found["photo_url"])).status_code == 200
        await bob.post_photo(picture((9, 9, 9)))  # ids and indexes carry on
        assert len(await bob.feed()) == 2


async def test_a_second_backup_adds_only_what_is_new_and_both_stay_whole(tmp_path):
    destination = tmp_path / "backups"
    async with running(tmp_path / "node") as node:
        ada = await node.sign_up("ada")
        await ada.post_photo(picture())
        first = (await back_up(node, destination))[-1]
        again = (await back_up(node, destination))[-1]
        await ada.post_photo(picture((0, 0, 255)))
        third = (await back_up(node, destination))[-1]
    assert first["blobs"] == first["blobs_new"] > 0
    assert (again["blobs"], again["blobs_new"]) == (first["blobs"], 0)
    assert third["blobs"] - again["blobs"] == third["blobs_new"] > 0
    assert len(backups_in(destination)) == 3
    assert all(verify(backup, silent).damage_count == 0 for backup in backups_in(destination))
    assert choose(destination) == backups_in(destination)[-1]


async def test_a_backup_under_load_is_one_cut(tmp_path):
    """Whoever follows in the cut is followed in the cut: no end of an edge without what makes the other."""
    async with running(tmp_path / "node") as node:
        users = [await node.sign_up(f"user{number}") for number in range(4)]

        async def busy(user):
            while True:
                for other in users:
                    if other is not user:
                        await user.follow(other)
                for other in users:
                    await user.call("DELETE", f"/v1/users/{other.id}/follow")

        async with trio.open_nursery() as nursery:
            for user in users:
                nursery.start_soon(busy, user)
            await trio.sleep(0.1)
            made = (await back_up(node, tmp_path / "backups"))[-1]
            nursery.cancel_scope.cancel()
    restore(choose(tmp_path / "backups"), tmp_path / "restored", PASSPHRASE, now=NOW, tell=silent)
    assert made["type"] == "made"
    async with running(tmp_path / "restored") as node:
        await node.settled()
        for name in ("user0", "user1", "user2", "user3"):
            user = await node.sign_in(name)
            following = (await user.call("GET", f"/v1/users/{user.id}/following"))["users"]
            me = await user.call("GET", "/v1/users/me")
            assert me["following_count"] == len(following)
            for other in following:
                followers = (await user.call("GET", f"/v1/users/{other['id']}/followers"))["users"]
                assert user.id in [follower["id"] for follower in followers]


async def test_damage_is_found_and_not_restored(tmp_path):
    destination = tmp_path / "backups"
    async with running(tmp_path / "node") as node:
        ada = await node.sign_up("ada")
        await ada.post_photo(picture())
        await back_up(node, destination)
    backup = choose(destination)
    digest, _ = next(listed(backup))
    blob = blob_path(destination / "blobs", digest)
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + bytes((whole[-1] ^ 1,)))
    found = verify(backup, silent)
    assert found.damage_count == 1 and digest.hex() in found.damage[0]
    made = restore(backup, tmp_path / "without", PASSPHRASE, now=NOW, tell=silent)
    assert made.missing == (digest.hex(),)
    shard = backup / "shards" / "00.mdb"
    with open(shard, "r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes((byte[0] ^ 0xFF,)))
    assert verify(backup, silent).damage_count == 2
    with pytest.raises(BackupError, match=r"00\.mdb"):
        restore(backup, tmp_path / "never", PASSPHRASE, now=NOW, tell=silent)
    assert not (tmp_path / "never").exists() and not (tmp_path / "never.restoring").exists()


async def test_what_cannot_be_done_says_so_and_leaves_nothing(tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("mine")
    async with running(tmp_path / "node") as node:
        assert "holds letter.txt" in (await back_up(node, foreign))[-1]["reason"]
        assert "lies in the node's data" in (await back_up(node, node.data / "here"))[-1]["reason"]
        assert "absolute" in (await back_up(node, "relative"))[-1]["reason"]
        body = {"destination": str(tmp_path / "b"), "passphrase": "short"}
        assert (await node.admin.post("/v1/admin/backups", json=body)).status_code == 422
        await back_up(node, tmp_path / "backups")
    assert os.listdir(foreign) == ["letter.txt"]
    backup = choose(tmp_path / "backups")
    with pytest.raises(BackupError, match="not empty"):
        restore(backup, tmp_path / "node", PASSPHRASE, now=NOW, tell=silent)
    with pytest.raises(BackupError, match="passphrase"):
        restore(backup, tmp_path / "new", "not the passphrase", now=NOW, tell=silent)
    assert not (tmp_path / "new").exists()
    manifest = read_manifest(backup)
    newer = msgspec.structs.replace(manifest, format=manifest.format + 1)
    (backup / MANIFEST).write_bytes(msgspec.json.encode(newer))
    with pytest.raises(BackupError, match="format"):
        verify(backup, silent)


async def test_the_keys_of_the_node_are_not_in_a_backup(tmp_path):
    async with running(tmp_path / "node") as node:
        await node.sign_up("ada")
        await back_up(node, tmp_path / "backups")
    kept = b"".join(path.read_bytes() for path in (tmp_path / "backups").rglob("*") if path.is_file())
    keys = [path for path in (tmp_path / "node" / "keys").rglob("*") if path.is_file()]
    private = [json.loads(path.read_bytes())["private"] for path in keys if path.parent.name == "tokens"]
    secret = (tmp_path / "node" / "keys" / "cluster.secret").read_bytes()
    token = (tmp_path / "node" / "keys" / "admin.token").read_bytes()
    assert private and all(text.encode() not in kept for text in private)
    assert secret not in kept and token not in kept


async def test_what_comes_after_the_cut_is_not_in_the_copy(tmp_path):
    settings = load(flags=SMALL, environment={})
    with DataDirectory.open(tmp_path / "node", now=0) as directory:
        async with open_parts(directory, settings, trio.Event()) as parts:
            home = parts.partition_of_name("ada")
            frozen = await parts.replicas.freeze()
            command = accounts.SignUp("ada", "", "hash", b"", 0)
            made = (await parts.service.do(home, command, accounts.SignedUp)).result
            await parts.replicas.visible(home)
            copy = tmp_path / "copy"
            copy.mkdir()
            with open(copy / "data.mdb", "xb") as file:
                frozen[home & 1].copy_to(file.fileno())
            for shard in frozen:
                shard.close()
            with parts.service.read() as rows:
                assert USERS.has(rows, UserKey(made.user))
    shard = Shard(copy)
    with shard.reading() as rows:
        assert not USERS.has(rows, UserKey(made.user))
    shard.close()


async def test_a_backup_that_nobody_waits_for_ends_and_leaves_nothing(tmp_path):
    destination = tmp_path / "backups"
    body = {"destination": str(destination), "passphrase": PASSPHRASE}
    async with running(tmp_path / "node") as node:
        ada = await node.sign_up("ada")
        await ada.post_photo(picture())
        async with node.admin.stream("POST", "/v1/admin/backups", json=body) as answer:
            await anext(answer.aiter_lines())
        with trio.fail_after(10):
            while list(destination.glob("*.new")):
                await trio.sleep(0.01)
        before = len(backups_in(destination))
        assert (await back_up(node, destination))[-1]["type"] == "made"
        assert len(backups_in(destination)) == before + 1


def test_half_a_snapshot_is_not_backed_up(tmp_path):
    with closing(Shard(tmp_path / "shard", map_bytes=1 << 24)) as shard:
        for there in (False, True):
            if there:
                key = InstallKey(HEADS_PARTITION, 5).encode()
                transaction = shard.begin()
                transaction.write({key: INSTALLS.codec.encode(key, InstallRow("spool", 1, 1, (), ()))})
                transaction.commit()
            with closing(shard.freeze()) as frozen:
                if there:
                    with pytest.raises(BackupError, match="partition 5 is getting its state"):
                        want_whole([frozen])
                else:
                    want_whole([frozen])
