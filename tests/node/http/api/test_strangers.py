"""What those may cost a node whom it does not know, or no longer: little, before anything is waited for."""

import json
import re

from tests.node.http.api.answers import problem
from tests.node.http.api.conftest import CHEAP
from tests.node.nodes import picture, running

LONGEST = "\u00e9" * 1024  # a password; as JSON escapes it has six times as many bytes


async def written_bytes(node):
    """How much the journal was given so far."""
    text = (await node.admin.get("/metrics")).text
    return float(re.search(r"^heliograph_journal_written_bytes_total (\S+)$", text, re.M)[1])


async def test_a_limit_is_asked_before_anything_is_waited_for(tmp_path):
    async with running(tmp_path / "node", *CHEAP, "limits.reads_count=2") as node:
        ada = await node.sign_up("ada")
        for _ in range(2):
            await ada.call("GET", "/v1/users/me")
        assert (await ada.ask("DELETE", "/v1/sessions")).status_code == 204
        # Whether the session still lives would be known only after a wait: 401 would mean that there was one.
        problem(await ada.ask("GET", "/v1/users/me"), 429, "rate_limited")
        problem(await ada.ask("POST", "/v1/users/1/follow"), 401, "unauthenticated")


async def test_a_stranger_sends_only_as_much_as_the_longest_password_takes(node):
    body = json.dumps({"username": "ada", "password": LONGEST}).encode()
    json_type = {"Content-Type": "application/json"}
    for path in ("/v1/users", "/v1/sessions"):
        assert (await node.http.post(path, content=body, headers=json_type)).status_code == 201
    for path in ("/v1/users", "/v1/sessions", "/v1/sessions/refresh"):
        more = body + b" " * (16 * 1024 + 1 - len(body))
        problem(await node.http.post(path, content=more, headers=json_type), 413, "too_large")


async def test_texts_that_are_too_long_never_reach_the_journal(node):
    ada = await node.sign_up("ada")
    post = (await ada.post_photo())["id"]
    await node.settled()
    before, long = await written_bytes(node), "x" * 200_000
    many = [str(number) for number in range(20_000)]
    for method, path, body in (
        ("PATCH", "/v1/users/me", {"bio": long}),
        ("PATCH", "/v1/users/me", {"display_name": long}),
        ("POST", "/v1/media/upload", {"content_type": "image/png", "size": 9, "alt": long}),
        ("POST", "/v1/posts", {"content_type": "image/png", "size": 9, "alt": long}),
        ("POST", "/v1/posts", {"media_ids": many}),
        ("PATCH", f"/v1/posts/{post}", {"caption": long}),
        ("PATCH", f"/v1/posts/{post}", {"alts": dict.fromkeys(many, "x")}),
        ("POST", f"/v1/posts/{post}/comments", {"text": long}),
    ):
        problem(await ada.ask(method, path, json=body), 422, "invalid_field")
    assert await written_bytes(node) - before < 100_000


async def test_nothing_keeps_answers_but_pictures_and_nothing_runs_in_those(node):
    ada = await node.sign_up("ada")
    urls = (await ada.post_photo(picture()))["media"][0]["urls"]
    for path in ("/v1/users", "/v1/feed", "/v1/nothing", "/media/" + "0" * 64 + ".jpg"):
        assert (await ada.ask("GET", path)).headers["Cache-Control"] == "no-store"
    for url in (urls["small"]["jpeg"], urls["original"]):
        headers = (await node.http.get(url)).headers
        assert "immutable" in headers["Cache-Control"] and headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
