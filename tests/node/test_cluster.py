"""A cluster's life as its operators see it: founded, joined, looked at, ordered about, left, cut down."""

import shutil
from contextlib import suppress

import trio

from cluster.peers import invitations
from cluster.replicas import now_ms
from node import joining
from node.joining import CannotJoin, Expelled, Pledge, read_pledge
from node.settings import load
from storage.directory import DataDirectory, DirectoryInUse, cluster_file
from tests.node.nodes import SMALL, picture, running
from tests.node.together import READY_S, Member, invited, ready, together

GROUPS = 257


async def see(member, path):
    answer = await member.node.admin.get(f"/v1/admin/cluster/{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def order(member, path, code=200, **body):
    answer = await member.node.admin.post(f"/v1/admin/cluster/{path}", json=body)
    assert answer.status_code == code, answer.text
    return answer.json() if answer.content else None


async def well(member, nodes):
    """The picture, once all is well with so many nodes."""
    with trio.fail_after(READY_S):
        while True:
            found = await see(member, "status")
            if found["healthy"] and found["nodes"] == nodes:
                return found
            await trio.sleep(0.1)


def leaves(error):
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


async def ends_with(kind, data, *flags, **options):
    """Run a node that must end by itself; the words of why."""
    try:
        with trio.fail_after(READY_S):
            async with running(data, *flags, **options):
                await trio.sleep_forever()
    except* kind as ended:
        words = str(leaves(ended)[0])
    return words


async def stopped(member):
    """End a node in order; returns when its directory is free."""
    member.node.stop.set()
    with trio.fail_after(READY_S):
        while True:
            with suppress(DirectoryInUse):
                DataDirectory.open(member.data, now=0, boot=False).close()
                return
            await trio.sleep(0.05)


async def test_three_nodes_as_their_operators_see_them(tmp_path):
    async with together(tmp_path, "abc") as (a, b, c):
        seen = [await _of_one_mind(member) for member in (a, b, c)]
        assert len({found["cluster_id"] for found in seen}) == 1 and seen[0]["cluster_id"]
        for found in seen:
            assert (found["heard"], found["writes"], found["words"]) == (3, "taken", [])
            leads = [one["leads"] for one in found["members"]]
            assert sum(leads) == GROUPS and min(leads) > GROUPS // 5, "leaders are spread"
        states = [one["state"] for one in (await see(b, "members"))["members"]]
        assert sorted(states) == ["linked", "linked", "this one"]
        await order(a, "init", code=409)
        for found in reversed(seen):  # one straight after the other: nobody else gets any of them
            await _transferred(a, b, found["node_id"])
        await _settled(a, b)
        ada = await b.node.sign_up("ada")
        await ada.post_photo(picture())
        compared = await order(b, "digest")
        assert (compared["compared"], compared["replicas"]) == (GROUPS, 3)
        assert not compared["different"] and not compared["unheard"]
        for what in ("repair", "scrub"):
            assert await order(c, what) == {"begun": 3, "unheard": []}


async def _of_one_mind(member):
    """All is well, and what the others last reported of themselves is of then, too."""
    with trio.fail_after(READY_S):
        while True:
            found = await well(member, 3)
            if [one["votes"] for one in found["members"]] == [GROUPS] * 3:
                return found
            await trio.sleep(0.1)


async def _transferred(a, b, node):
    """All leads go to one node, and stay there."""
    moved = await order(a, "transfer", node=node)
    assert moved["refused"] == [] and moved["transferred"] == GROUPS
    with trio.fail_after(READY_S):
        while {one["leader"] for one in (await see(b, "partitions"))["partitions"]} != {node}:
            await trio.sleep(0.1)
    await order(a, "transfer", code=404, node="ab")
    await order(a, "transfer", code=404, node=node, partition="none")
    refused = await order(a, "transfer", node=node, partition="9999")
    assert [one["partition"] for one in refused["refused"]] == [9999]


async def _settled(a, b):
    """A setting is the whole cluster's, and its groups follow it."""
    await order(a, "settings", code=204, name="replication_factor", value="1")
    with trio.fail_after(READY_S):
        while [one["value"] for one in (await see(b, "settings"))["settings"]] != ["1"]:
            await trio.sleep(0.05)
        while any(
            len(one["voters"]) > 1 and one["partition"] != 0xFFFF
            for one in (await see(a, "partitions"))["partitions"]
        ):
            await trio.sleep(0.1)
    await order(a, "settings", code=422, name="replication_factor", value="2")
    await order(a, "settings", code=404, name="no_such", value="1")
    await order(a, "settings", code=204, name="replication_factor", value="")
    await well(a, 3)


async def test_two_nodes_have_one_voter_and_its_death_stops_writes(tmp_path):
    async with together(tmp_path, "ab") as (a, b):
        found = await well(b, 2)
        assert [one["votes"] for one in found["members"] if one["node_id"] == found["node_id"]] == [0]
        ada = await b.node.sign_up("ada")
        post = await ada.post_photo(picture())
        await stopped(a)
        with trio.fail_after(READY_S):
            while (found := await see(b, "status"))["writes"] != "stopped":
                await trio.sleep(0.1)
        assert any("their writes are stopped, reads answer" in word for word in found["words"])
        read = await ada.ask("GET", f"/v1/posts/{post['id']}")
        assert read.status_code == 200
        own = await ada.ask("GET", "/v1/feed")
        assert own.status_code == 200 and own.headers["Heliograph-Stale"] == "true"
        refused = await ada.ask("POST", f"/v1/posts/{post['id']}/comments", json={"text": "now?"})
        assert refused.status_code == 503 and refused.headers["Retry-After"]
        await stopped(b)
        async with running(tmp_path / "b") as alone:  # it cannot register its start, and serves what it has
            assert (await alone.http.get(f"/v1/posts/{post['id']}")).status_code == 200


async def test_who_may_join_and_who_may_not(tmp_path):
    async with together(tmp_path, "a") as (a,), together(tmp_path / "other", "x") as (x,):
        token = await invited(a)
        async with running(tmp_path / "b", token=token) as b:
            await ready(b)
        assert "invitation_used" in await ends_with(CannotJoin, tmp_path / "c", token=token)
        late = (await order(a, "invitations", code=201, hours=2e-5))["token"]
        while now_ms() <= invitations.read(late).expires:
            await trio.sleep(0.01)
        assert "invitation_expired" in await ends_with(CannotJoin, tmp_path / "d", token=late)
        mistyped = token[:-5] + ("A" if token[-5] != "A" else "B") + token[-4:]
        assert "mistyped" in await ends_with(CannotJoin, tmp_path / "e", token=mistyped)
        foreign = await invited(x)
        assert "belongs to cluster" in await ends_with(CannotJoin, tmp_path / "b", token=foreign)
        async with running(tmp_path / "lone"):
            pass
        fresh = await invited(a)
        assert "no member of a cluster" in await ends_with(CannotJoin, tmp_path / "lone", token=fresh)
        async with running(tmp_path / "b", token=fresh) as b:  # a member needs no token, and it stays unused
            await ready(b)
        async with running(tmp_path / "f", token=fresh) as f:
            await ready(f)


async def test_a_node_that_nobody_could_reach_says_so_before_it_is_one_of_a_cluster(tmp_path):
    async with running(tmp_path / "a", "cluster.host=0.0.0.0") as node:
        refused = await node.admin.post("/v1/admin/cluster/init", json={})
        assert refused.status_code == 409 and "cluster.advertise" in refused.json()["detail"]
        assert (await node.admin.get("/v1/admin/cluster/status")).json()["alone"]


async def test_a_join_that_was_cut_goes_on_where_it_was(tmp_path):
    settings = load(flags=SMALL, environment={})
    async with together(tmp_path, "a") as (a,):
        token = await invited(a)
        begun = await joining.begin(tmp_path / "b", token, settings, 0)
        me = begun.identity.node_id
        begun.close()  # the crash after the first step: the directory is a joiner's, nobody admitted it
        assert read_pledge(cluster_file(tmp_path / "b")).token == token
        async with running(tmp_path / "b") as b:  # without the token: it lies in the directory
            await ready(b)
        pledge = read_pledge(cluster_file(tmp_path / "b"))
        assert pledge.token == "" and pledge.peers
        with DataDirectory.open(tmp_path / "b", now=0, boot=False) as directory:
            joining.write_pledge(directory, Pledge(pledge.cluster, token))  # the crash before the last
        async with running(tmp_path / "b") as b:
            await ready(b)
            assert (await well(a, 2))["members"][0]["heard"]
        assert me in {one["node_id"] for one in (await see(a, "members"))["members"]}


async def test_a_revoked_node_ends_and_its_part_is_taken_over(tmp_path):
    async with together(tmp_path, "ab") as (a, b):
        await well(a, 2)
        token = await invited(b)
        stranger = None

        async def end():
            nonlocal stranger
            stranger = await ends_with(Expelled, tmp_path / "c", token=token)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            found = await well(a, 3)
            await well(b, 3)  # which is asked, and has its own view
            known = {one["node_id"] for one in (await see(a, "members"))["members"]}
            (gone,) = known - {found["node_id"], (await see(b, "status"))["node_id"]}
            await order(b, f"members/{gone}/revoke")
        assert "revoked" in stranger
        assert gone not in {one["node_id"] for one in (await well(a, 2))["members"]}
        assert "revoked" in await ends_with(Expelled, tmp_path / "c")
        await order(b, f"members/{'ab' * 16}/revoke", code=404)
        status = await see(a, "partitions")
        assert all(len(one["voters"]) == 1 and len(one["learners"]) == 1 for one in status["partitions"])


async def test_a_restored_copy_is_refused_and_a_restarted_node_catches_up(tmp_path):
    async with together(tmp_path, "ab") as (a, b):
        await well(a, 2)
        ada = await a.node.sign_up("ada")
        await stopped(b)
        shutil.copytree(b.data, tmp_path / "copy")
        post = await ada.post_photo(picture())
        async with running(b.data) as again:  # on another port: it says where it is now
            await well(a, 2)
            await well(Member(again, b.data), 2)
            with trio.fail_after(READY_S):
                while (await again.http.get(f"/v1/posts/{post['id']}")).status_code != 200:
                    await trio.sleep(0.05)
                while max(one["boot"] for one in (await see(a, "members"))["members"]) < 2:
                    await trio.sleep(0.05)
            assert "stale_boot" in await ends_with(Expelled, tmp_path / "copy")
            await well(a, 2)
