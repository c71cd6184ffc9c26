"""The node as a whole, started in the test's process: it serves, stops, and serves again what it had."""

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
