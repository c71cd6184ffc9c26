"""Workers that die, a node without room, URLs and tokens that ran out: what clients are told."""

import os
import signal
from pathlib import Path

import trio

from tests.node.http.api.answers import problem
from tests.node.http.api.conftest import CHEAP
from tests.node.nodes import PASSWORD, picture, running


def workers():
    """Process ids of this process's image workers."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            try:
                command = Path(f"/proc/{child}/cmdline").read_bytes()
            except FileNotFoundError:
                continue
            if b"node.media.worker" in command:
                found.add(int(child))
    return found


async def until(look, within=10):
    with trio.fail_after(within):
        while not (found := await look()):
            await trio.sleep(0.01)
    return found


async def test_a_worker_killed_three_times_leaves_a_dead_letter_that_can_be_retried(tmp_path):
    async with running(tmp_path / "node", *CHEAP, "media.job_backoff_s=0.05") as node:
        ada = await node.sign_up("ada")
        killed = set()

        async def kill(task_status):
            task_status.started()
            while True:
                for pid in workers() - killed:
                    killed.add(pid)
                    os.kill(pid, signal.SIGKILL)
                await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            await nursery.start(kill)
            files = {"photo": ("x.jpg", picture(), "image/jpeg")}
            answer = await ada.ask("POST", "/v1/photos", files=files)
            assert answer.status_code == 201
            path = f"/v1/posts/{answer.json()['photo_id']}"

            async def failed():
                post = await ada.call("GET", path)
                return post if post["upload_status"] == "failed" else None

            post = await until(failed)
            nursery.cancel_scope.cancel()
        assert len(killed) == 3
        media = post["media"][0]["id"]
        assert media in post["failure"] and "signal" in post["failure"].lower(), post["failure"]
        letters = (await node.admin.get("/v1/admin/media/failed")).json()
        assert [letter["media_id"] for letter in next(iter(letters.values()))] == [media]
        retried = await node.admin.post(f"/v1/admin/media/failed/{media}/retry")
        assert retried.status_code < 300, retried.text

        async def complete():
            post = await ada.call("GET", path)
            return post if post["upload_status"] == "complete" else None

        post = await until(complete)
        assert post["failure"] is None
        assert [entry["id"] for entry in await ada.feed()] == [post["id"]]
        letters = (await node.admin.get("/v1/admin/media/failed")).json()
        assert next(iter(letters.values())) == []


async def test_a_full_node_refuses_writes_while_reads_and_deletes_go_on(tmp_path):
    data = tmp_path / "node"
    async with running(data, *CHEAP) as node:
        ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
        await bob.follow(ada)
        posts = [await ada.post_photo(picture((number, 0, 0))) for number in range(3)]
        await bob.call("POST", f"/v1/posts/{posts[0]['id']}/like")
        await node.settled()
        used = (await node.admin.get("/v1/admin/status")).json()["used_bytes"]
    async with running(data, *CHEAP, f"storage.quota_bytes={used - 1000}") as node:
        assert (await node.http.get("/readyz")).json() == {"status": "full"}
        ada, bob = await node.sign_in("ada"), await node.sign_in("bob")  # or nobody could make room
        size = {"content_type": "image/jpeg", "size": 700}
        for method, path, more in (
            ("POST", "/v1/photos", {"files": {"photo": ("x.jpg", picture(), "image/jpeg")}}),
            ("POST", "/v1/posts", {"json": size}),
            ("POST", "/v1/media/upload", {"json": size}),
            ("POST", f"/v1/posts/{posts[0]['id']}/comments", {"json": {"text": "x"}}),
            ("POST", f"/v1/posts/{posts[1]['id']}/like", {}),
            ("POST", "/v1/follows", {"json": {"followed_id": ada.id}}),
            ("PATCH", "/v1/users/me", {"json": {"bio": "x"}}),
            ("POST", f"/v1/users/{ada.id}/block", {}),
        ):
            problem(await bob.ask(method, path, **more), 507, "storage_full")
        answer = await node.http.post("/v1/users", json={"username": "cem", "password": PASSWORD})
        problem(answer, 507, "storage_full")
        assert len(await bob.feed()) == 3
        assert (await node.http.get(posts[0]["photo_url"])).status_code == 200
        assert list((data / "staging").iterdir()) == []
        changed = await bob.ask("POST", "/v1/users/me/password", json={"current": PASSWORD, "new": PASSWORD})
        assert changed.status_code == 204
        assert (await bob.ask("DELETE", f"/v1/posts/{posts[0]['id']}/like")).status_code == 200
        assert (await bob.ask("DELETE", f"/v1/users/{ada.id}/follow")).status_code == 204
        for post in posts:
            assert (await ada.ask("DELETE", f"/v1/posts/{post['id']}")).status_code == 204
        assert (await bob.ask("POST", "/v1/users/me/delete", json={"password": PASSWORD})).status_code == 202
        await node.settled()
        assert (await ada.call("GET", f"/v1/users/{ada.id}/photos"))["photos"] == []
    async with running(data, *CHEAP, f"storage.quota_bytes={used * 2}") as node:
        ada = await node.sign_in("ada")
        await ada.post_photo()


async def test_an_upload_url_runs_out(tmp_path):
    async with running(tmp_path / "node", *CHEAP, "media.upload_expiry_s=1") as node:
        ada = await node.sign_up("ada")
        data = picture()
        body = {"content_type": "image/jpeg", "size": len(data)}
        url = (await ada.call("POST", "/v1/posts", json=body))["upload_url"]

        async def expired():
            answer = await node.http.put(url, content=data[:-1])
            return answer if answer.status_code == 410 else None

        problem(await until(expired), 410, "upload_expired")
        problem(await node.http.put(url, content=data), 410, "upload_expired")


async def test_a_used_refresh_token_after_its_time_ends_the_family(tmp_path):
    async with running(tmp_path / "node", *CHEAP, "accounts.refresh_reuse_s=0.001") as node:
        ada, other = await node.sign_up("ada"), await node.sign_in("ada")

        async def refresh(token):
            return await node.http.post("/v1/sessions/refresh", json={"refresh_token": token})

        first = await refresh(ada.refresh_token)
        assert first.status_code == 200
        await trio.sleep(0.01)
        problem(await refresh(ada.refresh_token), 401, "unauthenticated")
        problem(await refresh(first.json()["refresh_token"]), 401, "unauthenticated")
        problem(await ada.ask("GET", "/v1/users/me"), 401, "unauthenticated")
        await other.call("GET", "/v1/users/me")


async def test_an_access_token_runs_out(tmp_path):
    async with running(tmp_path / "node", *CHEAP, "accounts.access_token_s=1") as node:
        ada = await node.sign_up("ada")

        async def expired():
            answer = await ada.ask("GET", "/v1/users/me")
            return answer if answer.status_code == 401 else None

        answer = await until(expired)
        assert "expired" in problem(answer, 401, "unauthenticated")["detail"]
