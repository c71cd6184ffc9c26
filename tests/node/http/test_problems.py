"""Problem answers: the table, strict bodies, and that every error of the application becomes one."""

import re
from pathlib import Path

import httpx
import msgspec
import pytest
from quart import request

from node.http import problems
from node.http.application import make_application
from node.http.bodies import read_json
from node.http.openapi import empty
from node.http.problems import CODES, Body, Problem, parse
from tests.node.http.servers import make_settings, ours


class Inner(Body):
    word: str


class Wanted(Body):
    count: int
    text: str = ""
    inner: list[Inner] = []
    tags: dict[str, str] = {}


def test_the_table_is_what_the_interface_promises():
    promised = {
        "unauthenticated": 401, "forbidden": 403, "not_found": 404, "username_taken": 409, "conflict": 409,
        "request_in_progress": 409, "upload_mismatch": 409, "upload_expired": 410, "too_large": 413,
        "unsupported_media": 415, "invalid_field": 422, "unknown_field": 422, "idempotency_key_reused": 422,
        "rate_limited": 429, "headers_too_large": 431, "unavailable": 503, "storage_full": 507,
        "invalid_cursor": 400,
        "malformed_json": 400,
    }  # fmt: skip
    assert {code: CODES[code].status for code in promised} == promised
    for code, kind in CODES.items():
        assert code.replace("_", "").islower() and 400 <= kind.status < 600
        assert f"| {kind.status} | `{code}` | {kind.title} |" in problems.table()
    assert set(problems.FRAMEWORK_CODES.values()) | set(problems.DETAILS) <= set(CODES)


@pytest.mark.parametrize(
    "raw, code, words",
    [
        (b"", "malformed_json", "empty"),
        (b"{", "malformed_json", ""),
        (b"nonsense", "malformed_json", ""),
        (b'{"count": 1} x', "malformed_json", ""),
        (b'{"count": 1, "text": "\xff\xfe"}', "malformed_json", ""),
        (b'{"count": 1, "text": "\xed\xa0\x80"}', "malformed_json", ""),
        (b'{"count": 1, "text": "\\ud800"}', "malformed_json", ""),
        (b'{"count": 1, "text": "a\x00b"}', "malformed_json", ""),
        (b'{"count": NaN}', "malformed_json", ""),
        (b"[" * 100_000, "invalid_field", "object"),
        (b'{"count": 1, "more": ' + b"[" * 100_000, "unknown_field", "more"),
        (b'{"count": 1, "inner": ' + b"[" * 100_000, "invalid_field", ""),
        (b"[]", "invalid_field", "object"),
        (b"null", "invalid_field", "null"),
        (b"{}", "invalid_field", "count"),
        (b'{"count": "1"}', "invalid_field", "count: want `int`"),
        (b'{"count": true}', "invalid_field", "count: want `int`"),
        (b'{"count": 1.5}', "invalid_field", "count: want `int`"),
        (b'{"count": 1, "more": 2}', "unknown_field", "more"),
        (b'{"count": 1, "inner": [{"word": "a", "x": 1}]}', "unknown_field", "x"),
        (b'{"count": 1, "text": "a\\u0000b"}', "invalid_field", "NUL"),
        (b'{"count": 1, "inner": [{"word": "\\u0000"}]}', "invalid_field", "NUL"),
        (b'{"count": 1, "tags": {"\\u0000": ""}}', "invalid_field", "NUL"),
    ],
)
def test_a_bad_body_is_explained(raw, code, words):
    with pytest.raises(Problem) as caught:
        parse(Wanted, raw)
    assert caught.value.code == code
    assert words in caught.value.detail


def test_good_bodies_pass():
    assert parse(Wanted, b'{"count": 1, "text": "\xf0\x9f\x8c\x85 \xd7\xa9"}').text == "🌅 ש"
    assert parse(Wanted, rb'{"count": 1, "text": "a literal \\u0000"}').text == r"a literal \u0000"


def test_a_type_that_lets_unknown_fields_pass_is_refused():
    class Loose(msgspec.Struct):
        count: int

    with pytest.raises(TypeError, match="Loose"):
        parse(Loose, b'{"count": 1}')


def test_refusals_of_the_state_machine_use_the_same_table():
    assert problems.refusal("username_taken", "x").status == 409
    assert problems.refusal("never heard of").code == "internal"
    with pytest.raises(KeyError):
        Problem("never heard of")


def make_app(**changes):
    app = make_application(make_settings(**changes))

    @app.post("/json")
    async def json():
        return str((await read_json(request, Wanted)).count)

    @app.get("/bug")
    async def bug():
        raise RuntimeError("with a secret inside")

    @app.get("/limited")
    async def limited():
        raise Problem("rate_limited", "slowly", {"Retry-After": "7"})

    @app.get("/things/<id:thing>")
    async def thing(thing):
        return str(thing)

    @app.delete("/things/<id:thing>")  # what is no id is not found, and not of another method
    async def no_thing(thing):
        return str(thing)

    @app.get("/empty")
    async def nothing():
        request.answer_headers["Heliograph-Token"] = "1:2"
        return empty()

    @app.get("/secret")
    async def secret():
        raise Problem("unauthenticated")

    return app


async def test_every_error_is_a_problem_with_a_request_id():
    async with ours(make_app()) as running, httpx.AsyncClient(base_url=running.url) as client:
        json_type = {"Content-Type": "application/json"}
        answers = [
            (await client.get("/nowhere"), "not_found"),
            (await client.delete("/bug"), "method_not_allowed"),
            (await client.get("/bug"), "internal"),
            (await client.get("/limited"), "rate_limited"),
            (await client.get("/secret"), "unauthenticated"),
            (await client.get("/things/x"), "not_found"),
            (await client.get("/things/-1"), "not_found"),
            (await client.get("/things/007"), "not_found"),
            (await client.get(f"/things/{10**19}"), "not_found"),
            (await client.post("/json", content=b"{", headers=json_type), "malformed_json"),
            (await client.post("/json", content=b'{"count":1,"x":1}', headers=json_type), "unknown_field"),
            (
                await client.post("/json", content=b"count=1", headers={"Content-Type": "text/x"}),
                "unsupported_media",
            ),
            (await client.post("/json", content=b" " * (2**20 + 1), headers=json_type), "too_large"),
            (await client.request("BREW", "/json"), "method_not_allowed"),
        ]
        identities = set()
        for response, code in answers:
            assert response.headers["Content-Type"] == "application/problem+json", code
            problem = response.json()
            assert set(problem) == {"type", "title", "status", "detail", "code"}
            assert (problem["code"], problem["status"]) == (code, response.status_code)
            assert "secret inside" not in response.text
            identities.add(response.headers["X-Request-Id"])
        assert len(identities) == len(answers)
        assert answers[1][0].headers["Allow"] == "GET, HEAD, OPTIONS"
        assert answers[3][0].headers["Retry-After"] == "7"
        assert answers[4][0].headers["WWW-Authenticate"] == "Bearer"
        assert (await client.get(f"/things/{2**63 - 1}")).text == str(2**63 - 1)
        good = await client.post("/json", content=b'{"count":5}')
        assert good.text == "5" and "X-Request-Id" in good.headers
        nothing = await client.get("/empty")
        assert nothing.status_code == 204 and nothing.headers["Heliograph-Token"] == "1:2"
        assert "Content-Type" not in nothing.headers


async def test_cors_answers_only_the_origins_of_the_settings():
    asks = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    async with (
        ours(make_app(), cors_origins=("https://a.example",)) as running,
        httpx.AsyncClient(base_url=running.url) as client,
    ):
        asked = await client.options("/json", headers=asks)
        assert asked.status_code == 204
        assert asked.headers["Access-Control-Allow-Origin"] == "https://a.example"
        assert "Idempotency-Key" in asked.headers["Access-Control-Allow-Headers"]
        problem = await client.get("/nowhere", headers={"Origin": "https://a.example"})
        assert problem.headers["Access-Control-Allow-Origin"] == "https://a.example"
        assert "X-Request-Id" in problem.headers["Access-Control-Expose-Headers"]
        other = await client.get("/nowhere", headers={"Origin": "https://b.example"})
        assert "Access-Control-Allow-Origin" not in other.headers and other.headers["Vary"] == "Origin"
    async with ours(make_app()) as running, httpx.AsyncClient(base_url=running.url) as client:
        assert "Access-Control-Allow-Origin" not in (await client.options("/json", headers=asks)).headers
    async with (
        ours(make_app(), cors_origins=("*",)) as running,
        httpx.AsyncClient(base_url=running.url) as client,
    ):
        assert (await client.get("/nowhere", headers=asks)).headers["Access-Control-Allow-Origin"] == "*"


def test_what_the_state_machine_refuses_to_clients_is_in_the_table():
    """What is not would be answered as a mistake of ours; no client asks for what meets these three."""
    among_ourselves = {"reference_missing", "reservation_expired", "stale_attempt"}
    sources = Path(problems.__file__).resolve().parents[1].glob("social/*.py")
    raised = {code for file in sources for code in re.findall(r'Refused\(\s*"([a-z_]+)"', file.read_text())}
    assert len(raised) > 8
    assert raised - set(problems.CODES) == among_ourselves
