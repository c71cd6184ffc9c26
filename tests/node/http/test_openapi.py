"""Routes that describe themselves, the document made of them, and the page that shows it."""

import re
from typing import Annotated

import httpx
import pytest
from msgspec import Meta, Struct
from quart import request

from node.http.application import make_application
from node.http.bodies import read_json
from node.http.openapi import STATIC, Routes, document, pages, parse_query, render
from node.http.problems import Body, Problem
from tests.node.http.servers import make_settings, ours


class NewNote(Body):
    text: Annotated[str, Meta(min_length=1, max_length=20)]


class Note(Struct):
    id: str
    text: str


class Page(Body):
    limit: Annotated[int, Meta(ge=1, le=100)] = 10
    cursor: str | None = None


def make_app():
    app = make_application(make_settings())
    routes = Routes("notes")

    @routes.add(
        "POST", "/v1/pads/<id:pad_id>/notes", "Write a note",
        body=NewNote, answers={201: Note}, limit="writes", problems=("not_found",), idempotent_by_key=True,
    )  # fmt: skip
    async def write(pad_id):
        wanted = await read_json(request, NewNote)
        return render(Note(str(pad_id), wanted.text), 201)

    @routes.add("GET", "/v1/notes", "List notes", query=Page, answers={200: list[Note]}, signed_in=False)
    async def list_notes():
        page = parse_query(Page, request.args)
        return render([Note("1", "x")] * page.limit)

    app.register_blueprint(routes.blueprint)
    app.register_blueprint(pages(lambda: routes.described, version="1.2"))
    return app, routes


async def test_a_described_route_is_admitted_first_and_answers():
    app, _ = make_app()
    admitted = []

    async def admit(route):
        admitted.append(route)
        if route.signed_in and "Authorization" not in request.headers:
            raise Problem("unauthenticated")
        request.answer_headers["RateLimit-Remaining"] = "5"

    app.admit = admit
    async with ours(app) as running, httpx.AsyncClient(base_url=running.url) as client:
        refused = await client.post("/v1/pads/5/notes", json={"text": "a"})
        assert refused.status_code == 401
        made = await client.post("/v1/pads/5/notes", json={"text": "a"}, headers={"Authorization": "x"})
        assert (made.status_code, made.json()) == (201, {"id": "5", "text": "a"})
        assert made.headers["RateLimit-Remaining"] == "5"
        assert [route.limit for route in admitted] == ["writes", "writes"]
        assert len((await client.get("/v1/notes?limit=3")).json()) == 3
        refused = {"limit=0": "invalid_field", "limit=x": "invalid_field", "lmit=1": "unknown_field"}
        for query, code in {**refused, "cursor=%00": "invalid_field"}.items():
            answer = await client.get("/v1/notes?" + query)
            assert (answer.status_code, answer.json()["code"]) == (422, code), query


async def test_the_document_tells_what_the_routes_say():
    app, _ = make_app()
    async with ours(app) as running, httpx.AsyncClient(base_url=running.url) as client:
        api = (await client.get("/openapi.json")).json()
    assert api["openapi"] == "3.1.0" and api["info"]["version"] == "1.2"
    write = api["paths"]["/v1/pads/{pad_id}/notes"]["post"]
    assert write["security"] == [{"bearer": []}]
    assert [one["name"] for one in write["parameters"]] == [
        "pad_id",
        "Idempotency-Key",
        "Heliograph-Token",
    ]
    assert write["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/NewNote"
    }
    assert write["responses"]["201"]["content"]["application/json"]["schema"]["$ref"].endswith("/Note")
    assert {"400", "401", "404", "413", "415", "422", "429", "500", "503"} <= set(write["responses"])
    listing = api["paths"]["/v1/notes"]["get"]
    assert listing["security"] == [{}, {"bearer": []}]  # a token may be sent, and then it must be good
    assert "401" in listing["responses"] and "507" not in listing["responses"]
    assert {one["name"]: one["in"] for one in listing["parameters"]} == {
        "limit": "query",
        "cursor": "query",
        "Heliograph-Token": "header",
    }
    schemas = api["components"]["schemas"]
    assert schemas["NewNote"]["properties"]["text"]["maxLength"] == 20
    assert schemas["NewNote"]["additionalProperties"] is False
    names = set(re.findall(r'"\$ref": ?"#/components/schemas/(\w+)"', str(api).replace("'", '"')))
    assert names <= set(schemas)


async def test_the_page_needs_nothing_from_elsewhere():
    app, _ = make_app()
    async with ours(app) as running, httpx.AsyncClient(base_url=running.url) as client:
        page = await client.get("/docs")
        assert page.headers["Content-Type"].startswith("text/html")
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert "/docs/docs.js" in linked and "/docs/docs.css" in linked
        for address in linked:
            assert address.startswith("/")
            assert (await client.get(address)).status_code == 200
        assert (await client.get("/docs/other.js")).status_code == 404
        assert (await client.get("/docs/..%2Fserver.py")).status_code == 404
    for file in STATIC.iterdir():
        text = file.read_text()
        assert (
            "://" not in text and "innerHTML" not in text and "style=" not in text and "onclick" not in text
        )


def test_a_problem_that_is_not_published_cannot_be_described():
    with pytest.raises(KeyError):
        Routes("x").add("GET", "/", "x", problems=("never_heard_of",))(make_app)


def test_the_document_of_nothing():
    assert document([], version="0")["paths"] == {}
