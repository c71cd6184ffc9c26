"""Idempotency-Key: a request that comes again takes effect once and gets the same answer."""

import trio

from tests.node.http.api.answers import problem
from tests.node.nodes import PASSWORD, User, picture

KEY = {"Idempotency-Key": "k-1"}


async def test_a_sign_up_that_is_retried_gives_tokens_that_work(node):
    for number in range(8):  # names of several partitions
        body = {"username": f"ada{number}", "password": PASSWORD, "display_name": "Ada"}
        first = await node.http.post("/v1/users", json=body, headers=KEY)
        again = await node.http.post("/v1/users", json=body, headers=KEY)
        assert (first.status_code, again.status_code) == (201, 201)
        assert first.json()["user"] == again.json()["user"]
        assert first.json()["refresh_token"] == again.json()["refresh_token"]
        user = User(node, again.json())
        await user.call("GET", "/v1/users/me")
        refreshed = await node.http.post("/v1/sessions/refresh", json={"refresh_token": user.refresh_token})
        assert refreshed.status_code == 200
        other = await node.http.post("/v1/users", json={**body, "password": "another one"}, headers=KEY)
        problem(other, 422, "idempotency_key_reused")
        problem(await node.http.post("/v1/users", json=body), 409, "username_taken")


async def test_a_sign_up_in_the_first_partition_is_remembered_too(node):
    from blake3 import blake3

    from node.http.tokens import derive

    secret = (node.data / "keys" / "cluster.secret").read_bytes()
    key = derive(secret, "names")

    def home(name):
        return int.from_bytes(blake3(name.encode(), key=key).digest(8), "big") % 256

    name = next(name for number in range(100_000) if home(name := f"u{number}") == 0)
    body = {"username": name, "password": PASSWORD}
    first = await node.http.post("/v1/users", json=body, headers=KEY)
    again = await node.http.post("/v1/users", json=body, headers=KEY)
    assert (first.status_code, again.status_code) == (201, 201), again.text
    assert first.json()["user"] == again.json()["user"]


async def test_a_refusal_is_remembered_as_well(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    data = picture()
    promise = {"content_type": "image/jpeg", "size": len(data)}
    media = (await ada.call("POST", "/v1/media/upload", json=promise))["media_id"]
    body = {"media_ids": [media]}
    problem(await bob.ask("POST", "/v1/posts", json=body, headers=KEY), 422, "invalid_field")
    problem(await bob.ask("POST", "/v1/posts", json=body, headers=KEY), 422, "invalid_field")
    # Another user's keys are their own.
    assert (await ada.ask("POST", "/v1/posts", json=body, headers=KEY)).status_code == 201


async def test_photos_posts_and_uploads_are_made_once(node):
    ada = await node.sign_up("ada")
    form = {"files": {"photo": ("x.jpg", picture(), "image/jpeg")}, "data": {"caption": "one"}}
    first = await ada.ask("POST", "/v1/photos", headers=KEY, **form)
    again = await ada.ask("POST", "/v1/photos", headers=KEY, **form)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["photo_id"] == again.json()["photo_id"]
    other = {**form, "data": {"caption": "two"}}
    problem(await ada.ask("POST", "/v1/photos", headers=KEY, **other), 422, "idempotency_key_reused")
    other = {**form, "files": {"photo": ("x.jpg", picture((1, 1, 1)), "image/jpeg")}}
    problem(await ada.ask("POST", "/v1/photos", headers=KEY, **other), 422, "idempotency_key_reused")
    for path, name in (("/v1/posts", "post_id"), ("/v1/media/upload", "media_id")):
        body = {"content_type": "image/png", "size": 5}
        first = await ada.ask("POST", path, headers=KEY, json=body)
        again = await ada.ask("POST", path, headers=KEY, json=body)
        assert first.status_code == again.status_code == 201 and first.json() == again.json()
        other = await ada.ask("POST", path, headers=KEY, json={**body, "size": 6})
        problem(other, 422, "idempotency_key_reused")
        assert (await ada.call("POST", path, json=body))[name] != first.json()[name]
    grid = await ada.call("GET", f"/v1/users/{ada.id}/photos")
    assert len(grid["photos"]) == 3  # the photo, and the two promised posts


async def test_a_comment_is_made_once_per_key_and_post(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    posts = [(await ada.post_photo(picture((number, 0, 0))))["id"] for number in (1, 2)]
    paths = [f"/v1/posts/{post}/comments" for post in posts]
    first = await bob.ask("POST", paths[0], json={"text": "hi"}, headers=KEY)
    again = await bob.ask("POST", paths[0], json={"text": "hi"}, headers=KEY)
    assert first.status_code == again.status_code == 201 and first.json() == again.json()
    assert set(first.json()) == {"id", "post_id", "user", "text", "created_at"}
    problem(await bob.ask("POST", paths[0], json={"text": "ho"}, headers=KEY), 422, "idempotency_key_reused")
    assert (await bob.ask("POST", paths[1], json={"text": "ho"}, headers=KEY)).status_code == 201
    comments = (await bob.call("GET", paths[0]))["comments"]
    assert comments == [first.json()]
    # A comment that went does not come back with its key.
    assert (await bob.ask("DELETE", f"/v1/comments/{first.json()['id']}")).status_code == 204
    assert (await bob.ask("POST", paths[0], json={"text": "hi"}, headers=KEY)).json() == first.json()
    assert (await bob.call("GET", paths[0]))["comments"] == []


async def test_likes_follows_and_blocks_take_the_key(node):
    ada, bob, cem = [await node.sign_up(name) for name in ("ada", "bob", "cem")]
    post = (await ada.post_photo())["id"]
    like = f"/v1/posts/{post}/like"
    first = await bob.ask("POST", like, headers=KEY)
    assert first.json() == {"like_count": 1, "liked_by_me": True}
    assert (await bob.call("DELETE", like)) == {"like_count": 0, "liked_by_me": False}
    assert (await bob.ask("POST", like, headers=KEY)).json() == first.json()
    assert (await bob.call("GET", f"/v1/posts/{post}"))["like_count"] == 0

    follow = {"followed_id": ada.id}
    assert (await bob.ask("POST", "/v1/follows", json=follow, headers=KEY)).status_code == 200
    assert (await bob.ask("DELETE", f"/v1/follows/{ada.id}")).status_code == 204
    again = await bob.ask("POST", "/v1/follows", json=follow, headers=KEY)
    assert (again.status_code, again.json()) == (200, {"status": "SUCCESS"})
    assert (await bob.call("GET", f"/v1/users/{ada.id}"))["followed_by_me"] is False
    other = await bob.ask("POST", "/v1/follows", json={"followed_id": cem.id}, headers=KEY)
    problem(other, 422, "idempotency_key_reused")

    await ada.call("PATCH", "/v1/users/me", json={"private": True})
    assert (await cem.ask("POST", f"/v1/users/{ada.id}/follow", headers=KEY)).json()["status"] == "REQUESTED"
    accept = f"/v1/follow-requests/{cem.id}/accept"
    problem(await ada.ask("POST", f"/v1/follow-requests/{bob.id}/accept", headers=KEY), 404, "not_found")
    assert (await ada.ask("POST", accept, headers=KEY)).status_code == 204
    await ada.call("DELETE", f"/v1/followers/{cem.id}")
    assert (await ada.ask("POST", accept, headers=KEY)).status_code == 204
    assert (await ada.call("GET", f"/v1/users/{ada.id}/followers"))["users"] == []
    block = f"/v1/users/{cem.id}/block"
    assert (await ada.ask("POST", block, headers=KEY)).status_code == 204
    await ada.call("DELETE", block)
    assert (await ada.ask("POST", block, headers=KEY)).status_code == 204
    assert (await ada.call("GET", "/v1/blocks"))["users"] == []
    assert (await ada.ask("POST", f"/v1/follow-requests/{bob.id}/reject", headers=KEY)).status_code == 204


async def test_a_password_change_that_is_retried(node):
    ada = await node.sign_up("ada")
    body = {"current": PASSWORD, "new": "another password"}
    path = "/v1/users/me/password"
    for _ in range(2):
        assert (await ada.ask("POST", path, json=body, headers=KEY)).status_code == 204
    problem(await ada.ask("POST", path, json=body), 401, "wrong_credentials")
    fresh = {"Idempotency-Key": "k-2"}
    for _ in range(2):
        problem(await ada.ask("POST", path, json=body, headers=fresh), 401, "wrong_credentials")
    other = {"current": "another password", "new": PASSWORD}
    problem(await ada.ask("POST", path, json=other, headers=fresh), 422, "idempotency_key_reused")
    await node.sign_in("ada", "another password")


async def test_the_same_key_at_the_same_time(node):
    ada = await node.sign_up("ada")
    answers = []

    async def post():
        form = {"files": {"photo": ("x.jpg", picture(), "image/jpeg")}}
        answers.append(await ada.ask("POST", "/v1/photos", headers=KEY, **form))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(post)
    done = [answer for answer in answers if answer.status_code == 201]
    for answer in answers:
        if answer not in done:
            problem(answer, 409, "request_in_progress")
    assert len({answer.json()["photo_id"] for answer in done}) == 1
    assert len((await ada.call("GET", f"/v1/users/{ada.id}/photos"))["photos"]) == 1


async def test_what_is_no_key(node):
    ada = await node.sign_up("ada")
    for key in ("", "x" * 256, "a b"):
        answer = await ada.ask("POST", f"/v1/users/{ada.id}/follow", headers={"Idempotency-Key": key})
        problem(answer, 400, "malformed_request")
    # Sessions take none: each sign-in is its own.
    body = {"username": "ada", "password": PASSWORD}
    tokens = [
        (await node.http.post("/v1/sessions", json=body, headers=KEY)).json()["refresh_token"]
        for _ in range(2)
    ]
    assert tokens[0] != tokens[1]
