"""What holds on all routes: headers, limits, tokens between requests, HEAD, keys, the description."""

import jwt
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from node.http.problems import CODES
from tests.node.http.api.answers import problem
from tests.node.http.api.conftest import CHEAP
from tests.node.nodes import PASSWORD, picture, running


async def test_a_write_names_what_a_later_read_must_see(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    post = (await ada.post_photo())["id"]
    writes = (
        ("POST", f"/v1/users/{ada.id}/follow", {}),
        ("POST", f"/v1/posts/{post}/like", {}),
        ("POST", f"/v1/posts/{post}/comments", {"json": {"text": "x"}}),
        ("PATCH", "/v1/users/me", {"json": {"bio": "x"}}),
        ("DELETE", f"/v1/posts/{post}/like", {}),
        ("DELETE", f"/v1/users/{ada.id}/follow", {}),
        ("POST", f"/v1/users/{ada.id}/block", {}),
    )
    for method, path, more in writes:
        answer = await bob.ask(method, path, **more)
        token = answer.headers["Heliograph-Token"]
        assert answer.status_code < 300 and len(token.split(",")) <= 8
        read = await bob.ask("GET", "/v1/users/me", headers={"Heliograph-Token": token})
        assert read.status_code == 200 and "Heliograph-Token" not in read.headers
    assert (await bob.call("GET", "/v1/users/me"))["bio"] == "x"


async def test_a_like_is_seen_by_its_liker_at_once(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    await bob.follow(ada)
    post = (await ada.post_photo())["id"]
    path = f"/v1/posts/{post}/like"
    for liked, method in (
        (True, "POST"),
        (True, "POST"),
        (False, "DELETE"),
        (False, "DELETE"),
        (True, "POST"),
    ):
        expected = {"like_count": int(liked), "liked_by_me": liked}
        answer = await bob.ask(method, path)
        assert (answer.status_code, answer.json()) == (200, expected)
        # The post's page asks at the post's home, the feed at the liker's.
        token = {"Heliograph-Token": answer.headers["Heliograph-Token"]}
        page = (await bob.ask("GET", f"/v1/posts/{post}", headers=token)).json()
        (entry,) = (await bob.ask("GET", "/v1/feed", headers=token)).json()["posts"]
        for found in (page, entry):
            assert {name: found[name] for name in expected} == expected
    assert (await node.http.get(f"/v1/posts/{post}")).json()["liked_by_me"] is False


async def test_head_answers_as_get_without_a_body(node):
    ada = await node.sign_up("ada")
    for path in ("/v1/users", f"/v1/users/{ada.id}", "/v1/feed", "/healthz", "/openapi.json", "/v1/posts/7"):
        get, head = await ada.ask("GET", path), await ada.ask("HEAD", path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        for name in ("Content-Type", "Content-Length"):
            assert head.headers[name] == get.headers[name]


async def test_every_answer_has_its_number_and_is_not_sniffed(node):
    ada = await node.sign_up("ada")
    numbers = set()
    for path in ("/v1/users", "/healthz", "/v1/nothing", "/v1/feed?limit=0", "/docs", "/media/x"):
        answer = await ada.ask("GET", path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        numbers.add(answer.headers["X-Request-Id"])
    assert len(numbers) == 6


async def test_limits_are_told_and_kept(tmp_path):
    flags = (
        "limits.reads_count=5",
        "limits.writes_count=3",
        "limits.sign_in_count=2",
        "limits.uploads_count=1",
    )
    async with running(tmp_path / "node", *CHEAP, *flags) as node:
        ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
        for left in (4, 3, 2, 1, 0):
            answer = await ada.ask("GET", "/v1/users/me")
            assert (answer.headers["RateLimit-Limit"], answer.headers["RateLimit-Remaining"]) == (
                "5",
                str(left),
            )
            assert int(answer.headers["RateLimit-Reset"]) > 0
        answer = await ada.ask("GET", "/v1/users/me")
        problem(answer, 429, "rate_limited")
        assert int(answer.headers["Retry-After"]) > 0
        await bob.call("GET", "/v1/users/me")  # another user at the same address
        for status in (200, 200, 200, 429):
            answer = await ada.ask("PATCH", "/v1/users/me", json={})
            assert answer.status_code == status and "RateLimit-Limit" in answer.headers
        for status in (401, 401, 429):
            body = {"username": "ada", "password": "wrong"}
            answer = await node.http.post("/v1/sessions", json=body)
            assert answer.status_code == status and "RateLimit-Limit" in answer.headers
        body = {"content_type": "image/jpeg", "size": 9}
        for status in (201, 429):
            assert (await ada.ask("POST", "/v1/posts", json=body)).status_code == status
        # Guessing tokens counts against the address.
        forged = {"Authorization": "Bearer x"}
        found = [(await node.http.get("/v1/feed", headers=forged)).status_code for _ in range(6)]
        assert found == [401] * 5 + [429]
        assert (await node.http.get("/healthz")).status_code == 200


async def test_sign_ups_are_limited_by_address(tmp_path):
    async with running(tmp_path / "node", *CHEAP, "limits.sign_up_count=2") as node:
        for name, status in (("ada", 201), ("bob", 201), ("cem", 429)):
            answer = await node.http.post("/v1/users", json={"username": name, "password": PASSWORD})
            assert answer.status_code == status and answer.headers["RateLimit-Limit"] == "2"


async def test_tokens_can_be_checked_with_the_published_keys(node):
    ada = await node.sign_up("ada")
    keys = (await node.http.get("/.well-known/jwks.json")).json()["keys"]
    head = jwt.get_unverified_header(ada.access_token)
    (key,) = [key for key in keys if key["kid"] == head["kid"]]
    assert (key["kty"], key["crv"], key["alg"]) == ("OKP", "Ed25519", "EdDSA")
    public = jwt.PyJWK(key).key
    assert isinstance(public, Ed25519PublicKey)
    claims = jwt.decode(ada.access_token, public, algorithms=["EdDSA"])
    assert claims["sub"] == ada.id and claims["exp"] - claims["iat"] == 900 and claims["sid"].isdigit()


async def test_a_suspended_account_is_told_so_and_is_hidden(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    await bob.follow(ada)
    post = await ada.post_photo()
    assert (await node.admin.post(f"/v1/admin/accounts/{ada.id}/suspend")).status_code < 300
    problem(await ada.ask("GET", "/v1/users/me"), 403, "suspended")
    problem(await ada.ask("GET", f"/v1/users/{bob.id}"), 403, "suspended")
    body = {"username": "ada", "password": PASSWORD}
    problem(await node.http.post("/v1/sessions", json=body), 403, "suspended")
    wrong = {"username": "ada", "password": "not the password"}
    problem(await node.http.post("/v1/sessions", json=wrong), 401, "wrong_credentials")
    refresh = await node.http.post("/v1/sessions/refresh", json={"refresh_token": ada.refresh_token})
    problem(refresh, 403, "suspended")
    await node.settled()
    for path in (f"/v1/users/{ada.id}", f"/v1/posts/{post['id']}", f"/v1/users/{ada.id}/photos"):
        problem(await bob.ask("GET", path), 404, "not_found")
    assert await bob.feed() == []
    assert (await node.http.get(post["photo_url"])).status_code == 404


async def test_absent_and_hidden_answer_alike(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    post = (await ada.post_photo())["id"]
    comment = (await ada.call("POST", f"/v1/posts/{post}/comments", json={"text": "x"}))["id"]
    await ada.call("POST", f"/v1/users/{bob.id}/block")
    absent = str(int(ada.id) + 1)  # of the same partition
    calls = (
        ("GET", "/v1/users/{}", ada.id),
        ("GET", "/v1/users/{}/photos", ada.id),
        ("GET", "/v1/users/{}/followers", ada.id),
        ("GET", "/v1/users/{}/following", ada.id),
        ("POST", "/v1/users/{}/follow", ada.id),
        ("POST", "/v1/users/{}/block", ada.id),
        ("GET", "/v1/posts/{}", post),
        ("PATCH", "/v1/posts/{}", post),
        ("DELETE", "/v1/posts/{}", post),
        ("POST", "/v1/posts/{}/like", post),
        ("DELETE", "/v1/posts/{}/like", post),
        ("GET", "/v1/posts/{}/likes", post),
        ("GET", "/v1/posts/{}/comments", post),
        ("POST", "/v1/posts/{}/comments", post),
        ("DELETE", "/v1/comments/{}", comment),
    )
    for method, path, hidden in calls:
        body = {"POST": {"json": {"text": "x"}}, "PATCH": {"json": {}}}.get(method, {})
        answers = [await bob.ask(method, path.format(number), **body) for number in (hidden, absent)]
        there, not_there = [problem(answer, 404, "not_found") for answer in answers]
        assert there["detail"].replace(hidden, absent) == not_there["detail"], path
        assert set(answers[0].headers) == set(answers[1].headers), path
    for method, path in (("DELETE", "/v1/users/{}/follow"), ("DELETE", "/v1/followers/{}")):
        for number in (ada.id, absent):
            assert (await bob.ask(method, path.format(number))).status_code == 204
    by_name = [await bob.ask("GET", f"/v1/users/by-name/{name}") for name in ("ada", "nobody")]
    assert by_name[0].json() == by_name[1].json()


async def test_the_description_is_of_these_routes(node):
    api = (await node.http.get("/openapi.json")).json()
    assert api["openapi"] == "3.1.0"
    documented = {(method.upper(), path) for path, item in api["paths"].items() for method in item}
    for known in (
        ("POST", "/v1/photos"),
        ("PUT", "/v1/uploads/{media_id}"),
        ("GET", "/media/{name}"),
        ("POST", "/v1/users/me/delete"),
        ("GET", "/.well-known/jwks.json"),
    ):
        assert known in documented
    codes = {kind["code"]: kind["status"] for kind in api["x-problems"]}
    assert codes == {code: kind.status for code, kind in CODES.items()}
    for path, item in api["paths"].items():
        if path.startswith("/v1/admin/"):
            continue
        for method, operation in item.items():
            keyed = "Idempotency-Key" in [one["name"] for one in operation["parameters"]]
            assert keyed is (method == "post" and not path.startswith("/v1/sessions")), (method, path)
            if method in ("post", "put", "patch"):
                assert "507" in operation["responses"], (method, path)
            for reading in operation["responses"].values():
                for kind in reading.get("content", {}):
                    assert kind in ("application/json", "application/problem+json", "image/*"), kind
    docs = await node.http.get("/docs")
    assert docs.status_code == 200 and "://" not in docs.text
    for name in ("docs.js", "docs.css"):
        assert (await node.http.get(f"/docs/{name}")).status_code == 200
    problem(await node.http.get("/docs/%2e%2e%2fopenapi.py"), 404, "not_found")


async def test_a_node_that_stops_says_so_first(tmp_path):
    async with running(tmp_path / "node", *CHEAP, "http.ready_delay_s=0.5") as node:
        assert (await node.http.get("/readyz")).json() == {"status": "ok"}
        node.stop.set()
        with trio.fail_after(2):
            while (answer := await node.http.get("/readyz")).status_code == 200:
                await trio.sleep(0.01)
        problem(answer, 503, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert (await node.http.get("/healthz")).status_code == 200


async def test_feeds_of_many_at_once_agree_with_what_was_posted(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    await bob.follow(ada)
    for number in range(12):
        post = await ada.post_photo(picture((number, number, 0)))
        assert (await ada.feed())[0]["id"] == post["id"]
        await node.settled()
        assert (await bob.feed())[0]["id"] == post["id"]


async def test_the_bare_address_is_the_web_app(node):
    answer = await node.http.get("/")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
