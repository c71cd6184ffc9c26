"""The admin's functions on both listeners: who may, what they do, and what the operator alone has."""

import re
from pathlib import Path

import httpx
import pytest
import trio

from cluster.commands import Deliver, Delivery, Execute
from cluster.mailbox import dead_letter
from node.app import open_parts
from node.http.admin import make_admin
from node.http.server import Server
from node.settings import load
from node.social import accounts, jobs, posts
from node.social.blobs import Keep, blob_partition
from node.social.keys import JobKey, PostKey
from node.social.machine import encode
from node.social.records import JOBS, POSTS
from storage.directory import DataDirectory
from tests.node.nodes import PASSWORD, SMALL, picture, running

ROOT = Path(__file__).resolve().parents[3]


async def test_the_admin_listener_wants_its_token_but_for_health(tmp_path):
    async with running(tmp_path / "node") as node:
        async with httpx.AsyncClient(base_url=node.addresses.admin.url, trust_env=False) as stranger:
            for path in ("/v1/admin/status", "/metrics", "/v1/admin/accounts/1", "/v1/admin/dead-letters"):
                assert (await stranger.get(path)).status_code == 401
                wrong = {"Authorization": "Bearer no"}
                assert (await stranger.get(path, headers=wrong)).status_code == 401
            assert (await stranger.get("/healthz")).status_code == 200
            assert (await stranger.get("/readyz")).json() == {"status": "ok"}
        assert (await node.admin.get("/v1/admin/status")).json()["ready"] is True


async def test_admins_and_young_sessions_only_on_the_public_listener(tmp_path):
    async with running(tmp_path / "node") as node:
        ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
        await node.admin.post(f"/v1/admin/accounts/{ada.id}/role", json={"role": "admin"})
        assert (await node.http.get("/v1/admin/status")).status_code == 401
        refused = await bob.ask("GET", "/v1/admin/status")
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        ada = await node.sign_in("ada")
        assert (await ada.call("GET", f"/v1/admin/accounts/{bob.id}"))["username"] == "bob"
        await ada.call("POST", f"/v1/admin/accounts/{bob.id}/suspend")
        assert (await bob.ask("GET", "/v1/users/me")).status_code in (401, 403)
        for path in ("/metrics", "/v1/admin/backups"):
            assert (await ada.ask("GET", path)).status_code in (404, 405)
        assert (await ada.ask("POST", "/v1/admin/backups", json={})).status_code == 404
    async with running(tmp_path / "node", "accounts.admin_session_s=0.001") as node:
        ada = await node.sign_in("ada")
        old = await ada.ask("GET", "/v1/admin/status")
        assert (old.status_code, old.json()["code"]) == (403, "session_too_old")


async def test_accounts_from_creation_to_deletion(tmp_path):
    async with running(tmp_path / "node") as node:
        ask = node.admin.post
        body = {"username": "Ada", "password": PASSWORD, "role": "admin"}
        made = (await ask("/v1/admin/accounts", json=body)).json()
        assert (made["username"], made["role"], made["state"], made["sessions"]) == (
            "Ada",
            "admin",
            "active",
            0,
        )
        assert (await ask("/v1/admin/accounts", json=body)).json()["code"] == "username_taken"
        short = await ask("/v1/admin/accounts", json={"username": "bob", "password": "short"})
        assert short.json()["code"] == "invalid_password"
        bad = await ask("/v1/admin/accounts", json={"username": "b ob", "password": PASSWORD})
        assert bad.json()["code"] == "invalid_username"
        ada = await node.sign_in("ada")
        place = f"/v1/admin/accounts/{ada.id}"
        assert (await node.admin.get("/v1/admin/accounts/by-name/ADA")).json()["sessions"] == 1
        assert (await ask(f"{place}/password", json={"password": "another long one"})).status_code == 204
        assert (await ada.ask("GET", "/v1/users/me")).status_code == 401
        ada = await node.sign_in("ada", "another long one")
        assert (await ask(f"{place}/suspend")).json()["state"] == "suspended"
        assert (await node.http.get(f"/v1/users/{ada.id}")).status_code == 404
        assert (await ask(f"{place}/unsuspend")).json()["state"] == "active"
        assert (await ask(f"{place}/role", json={"role": "user"})).json()["role"] == "user"
        assert (await ask(f"{place}/role", json={"role": "king"})).status_code == 422
        assert (await ask(f"{place}/delete")).status_code == 202
        await node.settled()
        assert (await node.admin.get(place)).status_code == 404
        assert (await ask(f"{place}/suspend")).status_code == 404


async def test_keys_rotate_and_old_tokens_live_on(tmp_path):
    async with running(tmp_path / "node") as node:
        ada = await node.sign_up("ada")
        before = {key["kid"] for key in (await node.http.get("/.well-known/jwks.json")).json()["keys"]}
        kid = (await node.admin.post("/v1/admin/keys/rotate")).json()["kid"]
        after = {key["kid"] for key in (await node.http.get("/.well-known/jwks.json")).json()["keys"]}
        assert after == before | {kid} and kid not in before
        assert (await ada.call("GET", "/v1/users/me"))["username"] == "ada"
        assert (await (await node.sign_in("ada")).call("GET", "/v1/users/me"))["username"] == "ada"
        for _ in range(6):
            assert (await node.admin.post("/v1/admin/keys/rotate")).status_code == 200
        assert (await node.admin.post("/v1/admin/keys/rotate")).status_code == 409


def names_in(text):
    return set(re.findall(r"\b(?:heliograph|process)_[a-z0-9_]+", text))


@pytest.mark.parametrize("document", ["docs/grafana.json", "docs/alerts.yml"])
async def test_dashboard_and_alerts_name_what_is_measured(document, tmp_path):
    async with running(tmp_path / "node") as node:
        ada = await node.sign_up("ada")
        await ada.post_photo(picture())
        exposed = (await node.admin.get("/metrics")).text
    # A family without samples counts, too: a node alone has no links.
    measured = names_in("\n".join(line for line in exposed.splitlines() if not line.startswith("# HELP")))
    wanted = names_in((ROOT / document).read_text())
    assert wanted, f"{document} names no metric"
    assert wanted <= measured, sorted(wanted - measured)


async def test_the_metrics_of_a_node_that_works(tmp_path):
    async with running(tmp_path / "node") as node:
        ada = await node.sign_up("ada")
        await ada.post_photo(picture())
        await ada.feed()
        text = (await node.admin.get("/metrics")).text
        values = dict(re.findall(r"^([a-z_]+(?:\{[^}]*\})?) ([-+.0-9e]+)$", text, re.MULTILINE))
        assert float(values["heliograph_publish_visible_seconds_count"]) == 1
        assert float(values["heliograph_publish_visible_seconds_sum"]) < 5
        assert float(values["heliograph_journal_batch_entries_sum"]) >= float(
            values["heliograph_journal_batch_entries_count"]
        )
        assert float(values['heliograph_dead_letters{kind="message"}']) == 0
        assert float(values['heliograph_stored_bytes{kind="blobs"}']) > 0
        assert float(values['heliograph_media_jobs_total{result="done"}']) == 1
        assert ada.id not in text and "ada" not in re.findall(r'="([^"]*)"', text)


class Bench:
    """A node's parts with its admin listener: for what no client can bring about."""

    def __init__(self, parts, admin):
        self.parts, self.admin = parts, admin


async def bench(data, work):
    """Run `work(Bench)` against parts of a node on `data`."""
    settings = load(flags=SMALL, environment={})
    stop = trio.Event()
    with DataDirectory.open(data, now=0) as directory:
        async with open_parts(directory, settings, stop) as parts, trio.open_nursery() as nursery:
            server = Server(make_admin(parts, Server(None, settings.http)), settings.http)
            at = await nursery.start(
                lambda task_status: server.run(
                    host="127.0.0.1", port=0, shutdown=stop, task_status=task_status
                )
            )
            headers = {"Authorization": f"Bearer {parts.admin_token}"}
            async with httpx.AsyncClient(base_url=at.url, headers=headers, trust_env=False) as admin:
                await work(Bench(parts, admin))
            nursery.cancel_scope.cancel()


async def failed_photo(parts, name):
    """A photo whose media job has used up its tries: ids of its post and medium. The commands' times run
    ahead, so that nobody waits for a turn."""
    home = parts.partition_of_name(name)
    command = accounts.SignUp(name, "", "hash", b"", 0)
    owner = (await parts.service.do(home, command, accounts.SignedUp)).result.user

    async def chunks():
        yield picture()

    stored = await parts.intake.store(await parts.intake.receive(chunks(), 1 << 20), owner)
    command = posts.CreatePhoto(owner, "", "", (), "", stored.hash, "image/jpeg", stored.size, stored.media)
    made = (await parts.service.do(home, command, posts.Created)).result
    (media,) = made.media
    for attempt in range(1, jobs.TRIES_MAX + 1):
        await parts.replicas.visible(home)
        with parts.replicas.snapshot() as rows:
            now = JOBS.get(rows, JobKey(media)).due_ms
        for step in (
            jobs.Claim(media, attempt, "w", now + 1000),
            jobs.Failed(media, attempt, "it broke", False),
        ):
            await parts.replicas.propose(home, Execute(now, 1, b"\0" * 16, 0, b"", b"", encode(step)))
    await parts.replicas.visible(home)
    return made.post, media


def _status(parts, post):
    with parts.replicas.snapshot() as rows:
        return POSTS.get(rows, PostKey(post)).status


async def test_failed_media_jobs_are_listed_retried_and_dropped(tmp_path):
    async def work(it):
        post, media = await failed_photo(it.parts, "ada")
        _, other = await failed_photo(it.parts, "bob")
        page = (await it.admin.get("/v1/admin/media/failed", params={"limit": 1})).json()
        rest = (await it.admin.get("/v1/admin/media/failed", params={"after": page["next"]})).json()
        found = {entry["media_id"]: entry for entry in page["failed"] + rest["failed"]}
        assert set(found) == {str(media), str(other)} and rest["next"] is None
        shown = (await it.admin.get(f"/v1/admin/media/failed/{media}")).json()
        assert shown == found[str(media)]
        assert (shown["owner"], shown["attempts"], shown["reason"]) == ("ada", 3, "it broke")
        assert 'heliograph_dead_letters{kind="media"} 2.0' in (await it.admin.get("/metrics")).text
        assert (await it.admin.post(f"/v1/admin/media/failed/{other}/drop")).status_code == 204
        assert (await it.admin.post(f"/v1/admin/media/failed/{media}/retry")).status_code == 204
        with trio.fail_after(10):
            while _status(it.parts, post) != "complete":
                await trio.sleep(0.02)
        assert (await it.admin.get("/v1/admin/media/failed")).json()["failed"] == []

    await bench(tmp_path / "node", work)


async def test_a_refused_message_is_listed_shown_retried_and_dropped(tmp_path):
    async def work(it):
        digest = bytes(range(32))
        home = blob_partition(digest)
        keep = encode(Keep(digest, 77, 5, True))  # of a medium whose bytes nobody has
        letters = tuple(Delivery(3, number - 1, number, keep) for number in (1, 2))
        await it.parts.replicas.propose(home, Deliver(1, 1, b"\0" * 16, letters))
        await it.parts.replicas.visible(home)
        page = (await it.admin.get("/v1/admin/dead-letters", params={"limit": 1})).json()
        (first,) = page["letters"]
        assert (first["kind"], first["code"], first["source"]) == ("Keep", "reference_missing", 3)
        rest = (await it.admin.get("/v1/admin/dead-letters", params={"after": page["next"]})).json()
        assert len(rest["letters"]) == 1 and rest["next"] is None
        whole = (await it.admin.get(f"/v1/admin/dead-letters/{first['id']}")).json()
        assert f"hash={digest.hex()}" in whole["body"] and "media=77" in whole["body"]
        again = await it.admin.post(f"/v1/admin/dead-letters/{first['id']}/retry")
        assert (again.status_code, again.json()["code"]) == (409, "conflict")
        assert "reference_missing" in again.json()["detail"]
        assert (await it.admin.post(f"/v1/admin/dead-letters/{first['id']}/drop")).status_code == 204
        assert (await it.admin.get(f"/v1/admin/dead-letters/{first['id']}")).status_code == 404
        with it.parts.replicas.snapshot() as rows:
            assert dead_letter(rows, home, 1) is None and dead_letter(rows, home, 2) is not None
        for name in ("x", "1", "1:2:3", "99999:1", "-1:1", "300:1"):
            assert (await it.admin.post(f"/v1/admin/dead-letters/{name}/retry")).status_code == 404

    await bench(tmp_path / "node", work)


async def test_a_medium_that_did_not_fail_is_not_retried(tmp_path):
    async with running(tmp_path / "node") as node:
        ada = await node.sign_up("ada")
        post = await ada.post_photo(picture())
        assert (await node.admin.get("/v1/admin/media/failed")).json() == {"failed": [], "next": None}
        media = post["media"][0]["id"]
        assert (await node.admin.post(f"/v1/admin/media/failed/{media}/retry")).status_code == 404
        assert (await node.admin.get("/v1/admin/media/failed?after=x")).status_code == 422
