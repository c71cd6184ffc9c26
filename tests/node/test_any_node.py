"""A client may ask any node of a cluster: over HTTP, with the tokens that another one gave."""

from contextlib import asynccontextmanager

import pytest
import trio

from tests.node.nodes import User
from tests.node.together import together

STALE = "Heliograph-Stale"
WITHIN_S = 30.0


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine may need longer for an answer than a reader waits for it."""
    monkeypatch.setattr("cluster.router.READ_INDEX_WITHIN_S", 10.0)
    monkeypatch.setattr("cluster.read_index.READ_INDEX_WITHIN_S", 10.0)
    monkeypatch.setattr("cluster.read_index.SERVED_WITHIN_S", 9.0)


@asynccontextmanager
async def three(path):
    async with together(path, "abc", "media.workers=1") as members:
        yield [member.node for member in members]


def at(node, user):
    """The same session at another node."""
    return User(
        node,
        {
            "user": {"id": user.id, "username": user.name},
            "access_token": user.access_token,
            "refresh_token": user.refresh_token,
        },
    )


async def test_whoever_writes_at_one_node_reads_it_at_the_others_without_a_token(tmp_path):
    async with three(tmp_path) as nodes:
        ada = await nodes[0].sign_up("ada")
        for number in range(12):
            writer, reader = nodes[number % 3], nodes[(number + 1) % 3]
            answer = await at(writer, ada).ask("PATCH", "/v1/users/me", json={"bio": str(number)})
            assert answer.status_code == 200 and answer.json()["bio"] == str(number), answer.text
            read = await at(reader, ada).ask("GET", "/v1/users/me")
            assert read.json()["bio"] == str(number) and STALE not in read.headers
        again = await nodes[1].sign_in("ada")  # whose name and password came in at another node
        assert again.id == ada.id


async def test_a_token_names_what_must_be_read_wherever_it_is_read(tmp_path):
    async with three(tmp_path) as nodes:
        ada, bob = await nodes[0].sign_up("ada"), await nodes[1].sign_up("bob")
        for number in range(9):
            writer, reader = nodes[number % 3], nodes[(number + 1) % 3]
            method = "DELETE" if number % 2 else "POST"
            followed = await at(writer, bob).ask(method, f"/v1/users/{ada.id}/follow")
            assert followed.status_code in (200, 204), followed.text
            token = {"Heliograph-Token": followed.headers["Heliograph-Token"]}
            seen = await at(reader, bob).ask("GET", f"/v1/users/{ada.id}", headers=token)
            assert seen.json()["follower_count"] == (number + 1) % 2 and STALE not in seen.headers


async def test_a_session_that_ended_at_one_node_has_ended_at_all(tmp_path):
    async with three(tmp_path) as nodes:
        for number in range(6):
            ada = await nodes[number % 3].sign_up(f"ada{number}")
            assert (await at(nodes[(number + 1) % 3], ada).ask("GET", "/v1/users/me")).status_code == 200
            assert (await ada.ask("DELETE", "/v1/sessions")).status_code == 204
            for node in nodes:
                for method, path in (("GET", "/v1/users/me"), ("PATCH", "/v1/users/me")):
                    assert (await at(node, ada).ask(method, path, json={})).status_code == 401


async def test_a_retry_at_another_node_is_the_same_request(tmp_path):
    async with three(tmp_path) as nodes:
        ada = await nodes[0].sign_up("ada")
        post = (await ada.post_photo())["id"]
        made = set()
        for node in nodes:
            answer = await at(node, ada).ask(
                "POST",
                f"/v1/posts/{post}/comments",
                json={"text": "once"},
                headers={"Idempotency-Key": "k"},
            )
            assert answer.status_code == 201, answer.text
            made.add(answer.json()["id"])
        assert len(made) == 1


async def test_without_a_majority_reads_are_stale_and_writes_say_what_is_known(tmp_path):
    async with three(tmp_path) as (a, b, c):
        ada = await a.sign_up("ada")
        here = at(c, ada)
        assert STALE not in (await here.ask("GET", "/v1/users/me")).headers
        for node in (a, b):
            node.stop.set()
        with trio.fail_after(WITHIN_S):
            while (answer := await here.ask("PATCH", "/v1/users/me", json={"bio": "x"})).status_code != 503:
                assert answer.status_code == 200
        assert answer.json()["code"] in ("unavailable", "outcome_unknown")
        assert int(answer.headers["Retry-After"]) >= 1
        with trio.fail_after(WITHIN_S):
            while (answer := await here.ask("PATCH", "/v1/users/me", json={"bio": "x"})).json()[
                "code"
            ] != "unavailable":
                pass  # for as long as the last leader waits for its followers
        assert "nothing was changed" in answer.json()["detail"]
        began = trio.current_time()
        for path in ("/v1/users/me", "/v1/feed", f"/v1/users/{ada.id}"):
            read = await here.ask("GET", path)
            assert read.status_code == 200 and read.headers[STALE] == "true"
        assert trio.current_time() - began < 2.0
        public = await c.http.get(f"/v1/users/{ada.id}")
        assert (
            public.status_code == 200 and STALE not in public.headers
        )  # the nearest replica is asked in any case
