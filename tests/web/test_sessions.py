"""A browser's session: forms without script, the cookie, its renewal, and who may write with it."""

import re

import pytest

from tests.node.http.api.answers import problem
from tests.node.http.api.conftest import CHEAP
from tests.node.nodes import PASSWORD, running
from tests.web.visitors import Visitor

SESSION = "heliograph-session"


async def test_sign_up_sign_out_sign_in(node):
    async with Visitor(node) as ada:
        answer = await ada.send(
            "/sign-up?next=/people", "/sign-up", username="ada", password=PASSWORD,
            display_name="Ada L.", next="/people",
        )  # fmt: skip
        assert (answer.status_code, answer.headers["Location"]) == (303, "/people")
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith(SESSION) and "HttpOnly" in cookie and "SameSite=Lax" in cookie
        assert "Ada L." in (await ada.get("/@ada")).text
        out = await ada.send("/settings", "/sign-out")
        assert out.status_code == 303 and SESSION not in ada.http.cookies
        assert out.headers["Clear-Site-Data"] == '"storage"'
        answer = await ada.get("/settings", 303)
        assert answer.headers["Location"] == "/sign-in?next=%2Fsettings"
        assert (await ada.sign_in("ada", next="/settings")).headers["Location"] == "/settings"
        await ada.get("/settings")


async def test_signing_out_ends_the_session_everywhere(node):
    async with Visitor(node) as ada:
        await ada.sign_up("ada")
        stolen = ada.http.cookies[SESSION]
        await ada.send("/settings", "/sign-out")
        ada.http.cookies.set(SESSION, stolen)
        answer = await ada.get("/settings", 303)
        assert answer.headers["Set-Cookie"].startswith(f"{SESSION}=;")


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"username": "ada", "password": "something else"}, 401, "The name or the password is wrong."),
        ({"username": "nobody", "password": PASSWORD}, 401, "The name or the password is wrong."),
        ({}, 401, "The name or the password is wrong."),
    ],
)
async def test_who_cannot_sign_in_is_told_why(node, fields, status, said):
    await node.sign_up("ada")
    async with Visitor(node) as visitor:
        answer = await visitor.send("/sign-in", "/sign-in", **fields)
        assert answer.status_code == status and said in answer.text
        assert f'value="{fields.get("username", "")}"' in answer.text and PASSWORD not in answer.text
        assert SESSION not in visitor.http.cookies


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"username": "ada", "password": PASSWORD}, 409, "This username is taken."),
        ({"username": "bob", "password": "short"}, 422, "A password has 8 to 1024 characters."),
        ({"username": "b b", "password": PASSWORD}, 422, "A username has up to 30"),
    ],
)
async def test_who_cannot_sign_up_is_told_why(node, fields, status, said):
    await node.sign_up("ada")
    async with Visitor(node) as visitor:
        answer = await visitor.send("/sign-up", "/sign-up", display_name="B <b>", **fields)
        assert answer.status_code == status and said in answer.text
        assert 'value="B &lt;b&gt;"' in answer.text


@pytest.mark.parametrize(
    "there", ["//elsewhere.example/", "https://elsewhere.example", "/\\elsewhere.example", "javascript:1", ""]
)
async def test_the_way_after_signing_in_stays_here(node, there):
    await node.sign_up("ada")
    async with Visitor(node) as ada:
        assert (await ada.sign_in("ada", next=there)).headers["Location"] == "/"


async def test_a_form_counts_only_from_a_page_of_ours(node):
    await node.sign_up("ada")
    fields = {"username": "ada", "password": PASSWORD}
    async with Visitor(node) as visitor, Visitor(node) as other:
        for headers in (
            {"Origin": "https://elsewhere.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}
        ):  # fmt: skip
            answer = await visitor.send("/sign-in", "/sign-in", headers, **fields)
            assert answer.status_code == 403 and "too old" in answer.text
        html = (await other.get("/sign-in")).text
        foreign = re.search(r'name="csrf" value="([^"]+)"', html)[1]
        for token in ("", "x", "é", foreign):
            await visitor.get("/sign-in")
            answer = await visitor.http.post("/sign-in", data={**fields, "csrf": token})
            assert answer.status_code == 403
        assert SESSION not in visitor.http.cookies
        same = {"Origin": node.url, "Sec-Fetch-Site": "same-origin"}
        assert (await visitor.send("/sign-in", "/sign-in", same, **fields)).status_code == 303


async def test_the_api_takes_the_cookie_for_reads_and_with_the_token_for_writes(node):
    bob = await node.sign_up("bob")
    async with Visitor(node) as ada, Visitor(node) as eve:
        await ada.sign_up("ada")
        await eve.sign_up("eve")
        assert (await ada.http.get("/v1/users/me")).json()["username"] == "ada"
        follow = f"/v1/users/{bob.id}/follow"
        problem(await ada.http.post(follow), 403, "forbidden")
        foreign = {"Heliograph-CSRF": await eve.token()}
        problem(await ada.http.post(follow, headers=foreign), 403, "forbidden")
        token = {"Heliograph-CSRF": await ada.token()}
        cross = {**token, "Origin": "https://elsewhere.example"}
        problem(await ada.http.post(follow, headers=cross), 403, "forbidden")
        assert (await ada.http.get(follow.removesuffix("/follow"))).json()["followed_by_me"] is False
        assert (await ada.http.post(follow, headers={**token, "Origin": node.url})).status_code == 200
        # A bearer token needs none of it: no browser sends one by itself.
        assert (await bob.ask("POST", follow.replace(bob.id, str((await me(ada))["id"])))).status_code == 200


async def me(visitor):
    return (await visitor.http.get("/v1/users/me")).json()


async def test_tokens_differ_on_each_page_and_all_count(node):
    bob = await node.sign_up("bob")
    async with Visitor(node) as ada:
        await ada.sign_up("ada")
        tokens = {await ada.token() for _ in range(3)}
        assert len(tokens) == 3
        for token in tokens:
            headers = {"Heliograph-CSRF": token}
            assert (await ada.http.post(f"/v1/users/{bob.id}/follow", headers=headers)).status_code == 200


async def test_a_session_goes_on_when_its_access_token_has_died(tmp_path):
    async with running(tmp_path / "node", *CHEAP, "accounts.access_token_s=1") as node, Visitor(node) as ada:
        await ada.sign_up("ada")
        first = ada.http.cookies[SESSION]
        renewed = None
        while renewed is None:  # until the second is over; the client's own deadline bounds each try
            ada.http.cookies.set(SESSION, first)
            answer = await ada.get("/settings")
            renewed = answer.headers.get("Set-Cookie")
        assert "HttpOnly" in renewed and first not in renewed
        # Several requests with the old pair at once, as of a page that was left open, get the one new pair.
        for path in ("/settings", "/v1/users/me", "/requests"):
            ada.http.cookies.clear()
            ada.http.cookies.set(SESSION, first)
            again = await ada.get(path)
            assert again.headers["Set-Cookie"].partition("~")[2] == renewed.partition("~")[2]


@pytest.mark.parametrize("value", ["", "~", "garbage", "a~b", "a~b~c", "é~"])
async def test_a_cookie_that_is_none_of_ours_is_dropped(node, value):
    async with Visitor(node, Cookie=f"{SESSION}={value}".encode()) as visitor:
        answer = await visitor.get("/people", 303)
        assert answer.headers["Location"] == "/sign-in?next=%2Fpeople"
        assert answer.headers["Set-Cookie"].startswith(f"{SESSION}=;")
        assert (await visitor.http.get("/sign-in")).status_code == 200


async def test_under_tls_the_cookie_is_this_hosts_alone(tmp_path):
    async with (
        running(tmp_path / "node", *CHEAP, "http.public_url=https://photos.example") as node,
        Visitor(node) as ada,
    ):
        page = await ada.get("/sign-up")
        cookie = page.headers["Set-Cookie"]
        assert cookie.startswith("__Host-") and "Secure" in cookie and "Path=/" in cookie
        csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)[1]
        answer = await ada.http.post(
            "/sign-up",
            data={"csrf": csrf, "username": "ada", "password": PASSWORD},
            headers={"Cookie": cookie.partition(";")[0], "Origin": "https://photos.example"},
        )
        assert answer.status_code == 303
        assert answer.headers["Set-Cookie"].startswith("__Host-heliograph-session=")
