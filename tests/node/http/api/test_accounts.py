"""Sign-up, sign-in, tokens, the profile, the directory, the end of an account."""

import re

import httpx
from blake3 import blake3

from tests.node.http.api.answers import problem
from tests.node.nodes import PASSWORD, User, picture, running

USER = {
    *("id", "username", "display_name", "bio", "avatar_url", "private", "role", "follower_count"),
    *("following_count", "post_count", "created_at", "followed_by_me", "follows_me", "requested_by_me"),
}
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def test_sign_up_answers_with_the_user_and_tokens_that_work(node):
    wanted = {"username": "Ada_1.x", "password": PASSWORD, "display_name": "Ada 🌞"}
    answer = await node.http.post("/v1/users", json=wanted)
    assert answer.status_code == 201
    made = answer.json()
    assert set(made) == {"user", "access_token", "refresh_token", "token_type", "expires_in"}
    assert (made["token_type"], made["expires_in"]) == ("Bearer", 900)
    user = made["user"]
    assert set(user) == USER
    assert user["id"].isdigit() and RFC3339.fullmatch(user["created_at"])
    assert (user["username"], user["display_name"], user["bio"]) == ("Ada_1.x", "Ada 🌞", "")
    assert (user["avatar_url"], user["private"], user["role"]) == (None, False, "user")
    assert (user["follower_count"], user["following_count"], user["post_count"]) == (0, 0, 0)
    me = await User(node, made).call("GET", "/v1/users/me")
    assert me == user
    assert (await node.http.get(f"/v1/users/{user['id']}")).json() == user


async def test_a_name_is_one_whatever_its_case(node):
    ada = await node.sign_up("ada")
    problem(
        await node.http.post("/v1/users", json={"username": "ADA", "password": PASSWORD}),
        409,
        "username_taken",
    )
    assert (await node.http.get("/v1/users/by-name/aDa")).json()["id"] == ada.id
    assert (await node.sign_in("Ada")).id == ada.id


async def test_what_cannot_be_a_name_or_a_password(node):
    for name in ("", "a" * 31, "a b", "ä", "a-b", "\u212a", "a\n"):
        problem(
            await node.http.post("/v1/users", json={"username": name, "password": PASSWORD}),
            422,
            "invalid_field",
        )
    for password in ("1234567", "x" * 1025):
        problem(
            await node.http.post("/v1/users", json={"username": "ada", "password": password}),
            422,
            "invalid_password",
        )
    answer = await node.http.post(
        "/v1/users", json={"username": "ada", "password": PASSWORD, "display_name": "x" * 61}
    )
    problem(answer, 422, "invalid_field")
    await node.sign_up("a" * 30, "x" * 1024)


async def test_an_absent_name_answers_alike_however_odd(node):
    await node.sign_up("ada")
    details = set()
    for name in ("nobody", "a" * 600, "%00", "%ff", "ada%00", "%C3%A4", "\u212a", "ada%20", "ada%2Fx"):
        answer = await node.http.get(f"/v1/users/by-name/{name}")
        details.add(problem(answer, 404, "not_found")["detail"])
    assert len(details) == 1


async def test_a_wrong_password_and_an_unknown_name_answer_alike(node):
    await node.sign_up("ada")
    answers = [
        await node.http.post("/v1/sessions", json={"username": name, "password": password})
        for name, password in (("ada", "wrong password"), ("bob", PASSWORD), ("a\u0130" * 99, "x"), ("", ""))
    ]
    bodies = [problem(answer, 401, "wrong_credentials") for answer in answers]
    assert all(body == bodies[0] for body in bodies)
    assert all(answer.headers["WWW-Authenticate"] == "Bearer" for answer in answers)


async def test_a_session_ends_and_its_tokens_with_it(node):
    first = await node.sign_up("ada")
    second = await node.sign_in("ada")
    assert (await first.ask("DELETE", "/v1/sessions")).status_code == 204
    problem(await first.ask("GET", "/v1/users/me"), 401, "unauthenticated")
    problem(await first.ask("GET", f"/v1/users/{first.id}"), 401, "unauthenticated")
    answer = await node.http.post("/v1/sessions/refresh", json={"refresh_token": first.refresh_token})
    problem(answer, 401, "unauthenticated")
    await second.call("GET", "/v1/users/me")


async def test_a_refresh_token_works_once_more_and_then_ends_the_family(node):
    ada = await node.sign_up("ada")

    async def refresh(token):
        # With the old access token beside it, as clients send it: nobody looks at that one.
        return await node.http.post(
            "/v1/sessions/refresh",
            json={"refresh_token": token},
            headers={"Authorization": "Bearer expired"},
        )

    first = await refresh(ada.refresh_token)
    assert first.status_code == 200
    assert set(first.json()) == {"access_token", "refresh_token", "token_type", "expires_in"}
    again = await refresh(ada.refresh_token)
    assert again.status_code == 200
    problem(await refresh(ada.refresh_token), 401, "unauthenticated")
    problem(await refresh(again.json()["refresh_token"]), 401, "unauthenticated")
    problem(await ada.ask("GET", "/v1/users/me"), 401, "unauthenticated")


async def test_forged_refresh_tokens_end_nobodys_session(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    body, _, signature = ada.refresh_token.partition(".")
    other = bob.refresh_token.partition(".")[0]
    for token in ("", "x", ".", f"{other}.{signature}", f"{body}.", ada.access_token, "é", "A" * 9000):
        answer = await node.http.post("/v1/sessions/refresh", json={"refresh_token": token})
        problem(answer, 401, "unauthenticated")
    await ada.call("GET", "/v1/users/me")
    await bob.call("GET", "/v1/users/me")


async def test_forged_access_tokens(node):
    ada = await node.sign_up("ada")
    head, body, signature = ada.access_token.split(".")
    none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"
    cut = f"{head}.{body}.{signature[:-4]}AAAA"
    for token in ("x", f"{head}.{body}.", f"{none}.{body}.", cut, "a" * 4000):
        answer = await node.http.get("/v1/users/me", headers={"Authorization": f"Bearer {token}"})
        problem(answer, 401, "unauthenticated")
    for header in (f"Basic {ada.access_token}", ada.access_token):
        problem(
            await node.http.get("/v1/users/me", headers={"Authorization": header}), 401, "unauthenticated"
        )
    problem(await node.http.get("/v1/users/me"), 401, "unauthenticated")


async def test_a_new_password_ends_the_other_sessions(node):
    ada = await node.sign_up("ada")
    other = await node.sign_in("ada")
    wrong = {"current": "not this one", "new": "another password"}
    problem(await ada.ask("POST", "/v1/users/me/password", json=wrong), 401, "wrong_credentials")
    short = {"current": PASSWORD, "new": "short"}
    problem(await ada.ask("POST", "/v1/users/me/password", json=short), 422, "invalid_password")
    await ada.call("POST", "/v1/users/me/password", json={"current": PASSWORD, "new": "another password"})
    await ada.call("GET", "/v1/users/me")
    problem(await other.ask("GET", "/v1/users/me"), 401, "unauthenticated")
    await node.sign_in("ada", "another password")
    answer = await node.http.post("/v1/sessions", json={"username": "ada", "password": PASSWORD})
    problem(answer, 401, "wrong_credentials")


async def test_the_profile_changes_field_by_field(node):
    ada = await node.sign_up("ada")
    changed = await ada.call("PATCH", "/v1/users/me", json={"bio": "line\nשלום 🌍", "private": True})
    assert (changed["bio"], changed["private"], changed["display_name"]) == ("line\nשלום 🌍", True, "")
    changed = await ada.call("PATCH", "/v1/users/me", json={"display_name": "Ada"})
    assert (changed["bio"], changed["private"], changed["display_name"]) == ("line\nשלום 🌍", True, "Ada")
    assert await ada.call("PATCH", "/v1/users/me", json={}) == changed
    for body in ({"bio": "x" * 301}, {"display_name": "two\nlines"}, {"private": "yes"}, {"role": "admin"}):
        code = "unknown_field" if "role" in body else "invalid_field"
        problem(await ada.ask("PATCH", "/v1/users/me", json=body), 422, code)
    assert await ada.call("GET", "/v1/users/me") == changed


async def test_an_avatar_is_ready_public_and_goes(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    data = picture((1, 2, 3))
    promise = await ada.call(
        "POST", "/v1/media/upload", json={"content_type": "image/jpeg", "size": len(data)}
    )
    media = promise["media_id"]
    early = await ada.ask("PATCH", "/v1/users/me", json={"avatar_media_id": media})
    problem(early, 409, "conflict")
    stored = await node.http.put(promise["upload_url"], content=data)
    assert stored.json() == {"media_id": media, "size": len(data), "blake3": blake3(data).hexdigest()}
    await node.settled()
    problem(await bob.ask("PATCH", "/v1/users/me", json={"avatar_media_id": media}), 422, "invalid_field")
    user = await ada.call("PATCH", "/v1/users/me", json={"avatar_media_id": media, "private": True})
    await node.settled()
    image = await node.http.get(user["avatar_url"])
    assert image.status_code == 200 and image.headers["Content-Type"] == "image/jpeg"
    assert (await node.http.get(f"/v1/users/{ada.id}")).json()["avatar_url"] == user["avatar_url"]
    for odd in ("0", "1", "-1", "x", "99999999999999999999999", str(2**64 - 1)):
        answer = await ada.ask("PATCH", "/v1/users/me", json={"avatar_media_id": odd})
        problem(answer, 422, "invalid_field")
    gone = await ada.call("PATCH", "/v1/users/me", json={"avatar_media_id": None})
    assert gone["avatar_url"] is None
    await node.settled()
    assert (await node.http.get(user["avatar_url"])).status_code == 404


async def test_the_directory_has_public_accounts_newest_first_each_once(node):
    users = [await node.sign_up(f"user{number}") for number in range(5)]
    await users[1].call("PATCH", "/v1/users/me", json={"private": True})
    first = (await node.http.get("/v1/users", params={"limit": 2})).json()
    late = await node.sign_up("late")
    rest = (await node.http.get("/v1/users", params={"limit": 100, "cursor": first["next_cursor"]})).json()
    found = [user["id"] for user in first["users"] + rest["users"]]
    assert found == [users[number].id for number in (4, 3, 2, 0)] and late.id not in found
    assert rest["next_cursor"] is None and len(first["users"]) == 2


async def test_a_deleted_account_is_gone_and_its_name_rests(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    post = await ada.post_photo()
    await bob.follow(ada)
    problem(
        await ada.ask("POST", "/v1/users/me/delete", json={"password": "wrong one"}), 401, "wrong_credentials"
    )
    answer = await ada.ask("POST", "/v1/users/me/delete", json={"password": PASSWORD})
    assert answer.status_code == 202 and not answer.content
    problem(await ada.ask("GET", "/v1/users/me"), 401, "unauthenticated")
    await node.settled()
    problem(await bob.ask("GET", f"/v1/users/{ada.id}"), 404, "not_found")
    problem(await bob.ask("GET", f"/v1/posts/{post['id']}"), 404, "not_found")
    problem(await node.http.get("/v1/users/by-name/ada"), 404, "not_found")
    assert await bob.feed() == []
    assert (await bob.call("GET", "/v1/users/me"))["following_count"] == 0
    answer = await node.http.post("/v1/users", json={"username": "Ada", "password": PASSWORD})
    problem(answer, 409, "username_taken")
    answer = await node.http.post("/v1/sessions", json={"username": "ada", "password": PASSWORD})
    problem(answer, 401, "wrong_credentials")
    assert (await node.http.get(post["photo_url"])).status_code == 404


async def test_wrong_passwords_from_one_address_do_not_keep_the_owner_out(tmp_path):
    """Ten wrong passwords a minute from one address; the owner signs in from another."""
    async with running(tmp_path / "data", "limits.sign_in_count=10") as node:
        await node.sign_up("owner")
        wrong = {"username": "owner", "password": "not the password"}
        async with httpx.AsyncClient(base_url=node.url, timeout=30) as guesser:
            statuses = [(await guesser.post("/v1/sessions", json=wrong)).status_code for _ in range(12)]
        assert statuses == [401] * 10 + [429] * 2
        elsewhere = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        right = {"username": "owner", "password": PASSWORD}
        async with httpx.AsyncClient(base_url=node.url, transport=elsewhere, timeout=30) as owner:
            assert (await owner.post("/v1/sessions", json=right)).status_code == 201
