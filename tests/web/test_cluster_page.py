"""The page of the cluster: for admins with a young session; to all others there is no such page."""

import re

import trio

from cluster.commands import Deliver, Delivery
from node.social.blobs import Keep, blob_partition
from node.social.machine import encode
from tests.node.http.api.answers import problem
from tests.node.http.api.conftest import CHEAP
from tests.node.http.test_admin import bench, failed_photo
from tests.node.nodes import running
from tests.node.together import together
from tests.web.visitors import Elements, Visitor

PATH = "/admin/cluster"
OVERVIEW = "/v1/admin/cluster/overview"
MOVED_S = 60.0  # for the partitions to get the voters that they are to have


async def make_admin(node, user):
    answer = await node.admin.post(f"/v1/admin/accounts/{user.id}/role", json={"role": "admin"})
    assert answer.status_code == 200, answer.text


def without_paths(html):
    """A page without what differs for being another address, or another visit."""
    return re.sub(r'(next=|content=|value=)"?[^"]*"', "", html)


async def test_others_get_what_they_get_for_what_does_not_exist(node):
    await node.sign_up("ada")
    async with Visitor(node) as stranger, Visitor(node) as ada:
        await ada.sign_in("ada")
        for visitor in (stranger, ada):
            here, nowhere = await visitor.get(PATH, 404), await visitor.get("/@nobody", 404)
            assert without_paths(here.text) == without_paths(nowhere.text)
            assert set(here.headers) == set(nowhere.headers)
        assert PATH not in (await ada.get("/settings")).text
        problem(await ada.http.get(OVERVIEW), 403, "forbidden")
        problem(await stranger.http.get(OVERVIEW), 401, "unauthenticated")


async def test_a_lone_node_says_so_and_how_to_make_a_cluster(node):
    await make_admin(node, await node.sign_up("ada"))
    async with Visitor(node) as ada:
        await ada.sign_in("ada")
        assert PATH in (await ada.get("/settings")).text
        answer = await ada.get(PATH)
        html, page = answer.text, Elements(answer.text)
        assert "This node is alone; writes are taken." in html and "heliograph cluster init" in html
        assert len(page.named("use")) >= 256 and "unsafe" not in answer.headers["Content-Security-Policy"]
        for tag, attributes in page.all:
            assert "style" not in attributes and not any(name.startswith("on") for name in attributes), tag
        drawn = {one["href"] for one in page.named("use")}
        assert drawn <= {f"#{one['id']}" for _, one in page.all if "id" in one}  # every shape is there
        view = (await ada.http.get(OVERVIEW)).json()
        assert view["alone"] and view["tone"] == "well" and len(view["ring"]) == 256
        assert [one["data-node"] for one in page.named("li") if "data-node" in one] == [
            one["node_id"] for one in view["nodes"]
        ]


async def test_an_old_session_is_sent_to_sign_in(tmp_path):
    async with (
        running(tmp_path / "node", *CHEAP, "accounts.admin_session_s=0.001") as node,
        Visitor(node) as ada,
    ):
        await make_admin(node, await node.sign_up("ada"))
        await ada.sign_in("ada")
        page = (await ada.get(PATH, 403)).text
        assert f'href="/sign-in?next={PATH}"' in page and "<cluster-view" not in page
        problem(await ada.http.get(OVERVIEW), 403, "session_too_old")


async def leave_letters(it):
    """A photo that failed, and a message about bytes that nobody has."""
    digest = bytes(range(32))
    await failed_photo(it.parts, "bob")
    letter = Delivery(3, 0, 1, encode(Keep(digest, 77, 5, True)))
    await it.parts.replicas.propose(blob_partition(digest), Deliver(1, 1, b"\0" * 16, (letter,)))
    await it.parts.replicas.visible(blob_partition(digest))


async def test_dead_letters_are_shown_retried_and_dropped(tmp_path):
    await bench(tmp_path / "node", leave_letters)
    async with running(tmp_path / "node", *CHEAP) as node, Visitor(node) as ada:
        await make_admin(node, await node.sign_up("ada"))
        await ada.sign_in("ada")
        html = (await ada.get(PATH)).text
        assert "A photograph of bob failed after 3 tries" in html and "it broke" in html
        assert "Keep, from partition 3 to" in html and "reference_missing" in html
        view = (await ada.http.get(OVERVIEW)).json()
        paths = [letter["path"] for letter in view["letters"]]
        assert paths == re.findall(r'data-letter="([^"]+)"', html) and len(paths) == 2
        write = {"Heliograph-CSRF": await ada.token()}
        problem(await ada.http.post(f"{paths[1]}/drop"), 403, "forbidden")
        for path in (f"{paths[0]}/retry", f"{paths[1]}/drop"):
            assert (await ada.http.post(path, headers=write)).status_code == 204
        with trio.fail_after(10):
            while (await ada.http.get(OVERVIEW)).json()["letters"]:
                await trio.sleep(0.05)
        assert "There are none." in (await ada.get(PATH)).text


async def test_three_nodes(tmp_path):
    async with together(tmp_path, "abc", *CHEAP) as (first, *_):
        await make_admin(first.node, await first.node.sign_up("ada"))
        async with Visitor(first.node) as ada:
            await ada.sign_in("ada")
            with trio.fail_after(MOVED_S):
                while True:
                    view = (await ada.http.get(OVERVIEW)).json()
                    if not view["notes"] and {segment[3] for segment in view["ring"]} == {"ABC"}:
                        break  # all have their votes
                    await trio.sleep(0.1)
            assert all(node["heard"] and node["up_s"] > 0 and node["applied"] for node in view["nodes"])
            assert {segment[1] for segment in view["ring"]} == {0, 1, 2}
            html = (await ada.get(PATH)).text
            assert "All 3 nodes are heard; writes are taken." in html
            assert re.findall(r'class="letter" aria-hidden="true">(\w)<', html) == ["A", "B", "C"]
