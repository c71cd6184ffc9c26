"""The node as a whole, started in the test's process: it serves, stops, and serves again what it had."""

import pytest

from cluster.commands import Refused
from tests.node.nodes import addresses_of, picture, running


async def test_a_node_serves_and_serves_again_after_a_restart(tmp_path):
    async with running(tmp_path / "node") as node:
        assert (await node.http.get("/healthz")).json() == {"status": "ok"}
        assert addresses_of(node.data)["http"] == node.url
        ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
        await bob.follow(ada)
        post = await ada.post_photo(picture(), caption="first")
        assert [entry["id"] for entry in await bob.feed()] == [post["id"]]
        await node.settled()
    async with running(tmp_path / "node") as node:
        bob = await node.sign_in("bob")
        (found,) = await bob.feed()
        assert found["caption"] == "first"
        image = await node.http.get(found["photo_url"])
        assert image.status_code == 200


async def test_a_copy_with_an_old_count_of_starts_is_refused_however_often_it_starts(tmp_path):
    """Law 5."""
    data = tmp_path / "node"
    for _ in range(2):
        async with running(data):
            pass
    (data / "boots").write_text("0\n")
    for _ in range(3):
        with pytest.RaisesGroup(pytest.RaisesExc(Refused, match="stale_boot"), flatten_subgroups=True):
            async with running(data):
                pass
    (data / "boots").write_text("2\n")
    async with running(data) as node:
        assert (await node.http.get("/healthz")).status_code == 200
