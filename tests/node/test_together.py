"""Blobs and media jobs on several nodes: stored with a majority, served by all, brought back where lost."""

import trio

from cluster.replicas import now_ms
from node.media import collection
from tests.node.nodes import User, picture, running
from tests.node.together import READY_S, Member, invited, ready, together


def elsewhere(user, member):
    """The same session at another node."""
    signed_in = {
        "user": {"id": user.id, "username": user.name},
        "access_token": user.access_token,
        "refresh_token": user.refresh_token,
    }
    return User(member.node, signed_in)


def hash_of(url):
    return url.rpartition("/")[2].partition(".")[0]


async def test_photos_lie_with_all_nodes_and_each_serves_them(tmp_path):
    async with together(tmp_path, "abc") as (a, b, c):
        ada = await a.node.sign_up("ada")
        posts = [await ada.post_photo(picture((9, 9, 9)))]
        for number, member in enumerate((b, c)):
            posts.append(await elsewhere(ada, member).post_photo(picture((number, 200, 7))))
        shown = {hash_of(post["photo_url"]) for post in posts}
        for member in (a, b, c):
            await member.until(lambda member=member: shown <= member.blobs())
            for post in posts:
                answer = await member.node.http.get(post["photo_url"])
                assert answer.status_code == 200 and answer.content[:3] == b"\xff\xd8\xff"
        lost = hash_of(posts[0]["photo_url"])
        for path in c.files_of(lost):
            path.unlink()
        answer = await c.node.http.get(posts[0]["photo_url"])
        assert answer.status_code == 200 and len(c.files_of(lost)) == 1


async def test_an_upload_that_is_promised_here_may_come_there_and_be_asked_for_elsewhere(tmp_path):
    async with together(tmp_path, "abc") as (a, b, c):
        ada = await a.node.sign_up("ada")
        for number, (first, second, third) in enumerate([(a, b, c), (b, c, a), (c, a, b)]):
            data = picture((number, 2, 3))
            wanted = {"content_type": "image/jpeg", "size": len(data)}
            promised = await elsewhere(ada, first).call("POST", "/v1/posts", json=wanted)
            path = promised["upload_url"].partition("/v1/")[2]
            put = await second.node.http.put("/v1/" + path, content=data)
            assert put.status_code == 200, put.text
            asked = elsewhere(ada, third)
            with trio.fail_after(30):
                while (post := await asked.call("GET", f"/v1/posts/{promised['post_id']}"))[
                    "upload_status"
                ] != "complete":
                    assert post["upload_status"] == "processing"
                    await trio.sleep(0.02)


async def test_a_node_that_was_away_gets_what_it_missed_and_loses_what_was_collected(tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "ROUND_EVERY_S", 0.3)
    ahead = [0]
    for place in ("cluster.router", "node.media.collection"):
        monkeypatch.setattr(f"{place}.now_ms", lambda: now_ms() + ahead[0])
    async with together(tmp_path, "ab") as (a, b):
        token = await invited(a)
        ada = await a.node.sign_up("ada")
        async with running(tmp_path / "c", token=token) as node:
            c = Member(node, tmp_path / "c")
            await ready(node)
            old = await ada.post_photo(picture((1, 1, 1)))
            everything = a.blobs()
            await c.until(lambda: everything <= c.blobs())
        away = await ada.post_photo(picture((2, 2, 2)))
        missed = {hash_of(away["photo_url"]), hash_of(away["media"][0]["urls"]["small"]["webp"])}
        await ada.call("DELETE", f"/v1/posts/{old['id']}")
        await b.until(lambda: missed <= b.blobs())
        with trio.fail_after(READY_S):
            while any(everything & member.blobs() for member in (a, b)):
                ahead[0] += 25 * 3600 * 1000  # nothing has held the first photo for a day
                await trio.sleep(1)
        async with running(tmp_path / "c") as node:
            c = Member(node, tmp_path / "c")
            await c.until(lambda: missed <= c.blobs() and not everything & c.blobs())
            for path in c.data.glob("blobs/*/*/*"):
                path.unlink()
            ordered = await a.node.admin.post("/v1/admin/cluster/repair", json={})
            assert ordered.status_code == 200, ordered.text
            await c.until(lambda: b.blobs() <= c.blobs())
