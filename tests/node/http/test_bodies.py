"""Bodies: limits, pace, and forms taken apart on the way."""

import tracemalloc

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from quart import request

from node.http import bodies
from node.http.application import make_application
from node.http.bodies import FORM_PARTS_MAX, Field, FileChunk, FileEnd, FileStart, Pace
from tests.node.http.servers import make_settings, ours, read_all

LIMIT = 100_000
TYPE = "multipart/form-data; boundary=frontier"


def make_app():
    app = make_application(make_settings())

    @app.post("/stream")
    async def stream():
        return str(sum([len(chunk) async for chunk in bodies.stream(request, LIMIT)]))

    @app.post("/form")
    async def form():
        app.events = collapse([event async for event in bodies.form(request, LIMIT)])
        return "taken"

    @app.post("/large")
    async def large():
        size = 0
        async for event in bodies.form(request, 2**30):
            size += len(event.data) if isinstance(event, FileChunk) else 0
        return str(size)

    return app


def collapse(events):
    """Join neighbouring chunks: where they are cut is nobody's business."""
    joined = []
    for event in events:
        if isinstance(event, FileChunk) and joined and isinstance(joined[-1], FileChunk):
            joined[-1] = FileChunk(joined[-1].data + event.data)
        else:
            joined.append(event)
    return joined


async def chunked(data, size=1000):
    for at in range(0, len(data), size):
        yield data[at : at + size]


def head(name, more=""):
    return f'--frontier\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode()


GOOD = (
    head("caption") + "שמש 🌅".encode() + b"\r\n"
    + head("photo", '; filename="../../etc/p.jpg"\r\nContent-Type: image/jpeg')
    + b"\r\n--frontie\r\n\x00\xff\r\n"
    + head("empty", '; filename=""') + b"\r\n--frontier--\r\n"
)  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 3)), max_size=60))
def test_a_pace_bounds_the_waiting_for_every_so_many_bytes(chunks):
    pace, waited, count = Pace(10, 4096), 0.0, 0
    for size, wished in chunks:
        wait = min(wished, pace.patience())
        pace.heard(size, wait)
        waited, count = waited + wait, count + size
        assert waited <= 10 * (count // 4096 + 1) + 1e-6


async def test_the_limit_holds_for_announced_and_chunked_bodies():
    async with ours(make_app()) as running, httpx.AsyncClient(base_url=running.url) as client:
        for size, status in ((0, 200), (LIMIT, 200), (LIMIT + 1, 413), (5 * LIMIT, 413)):
            for content in (b"x" * size, chunked(b"x" * size)):
                response = await client.post("/stream", content=content)
                assert response.status_code == status, size
                if status == 200:
                    assert response.text == str(size)
                else:
                    assert response.json()["code"] == "too_large" and str(LIMIT) in response.json()["detail"]


@pytest.mark.parametrize("path", ["/stream", "/form"])
async def test_a_byte_now_and_then_is_cut_with_408(path):
    async with ours(make_app(), body_stall_s=0.4, body_stall_bytes=1000) as running:
        stream = await running.connect()
        fields = f"Host: x\r\nContent-Type: {TYPE}\r\nContent-Length: 50000\r\n\r\n"
        await stream.send_all(f"POST {path} HTTP/1.1\r\n{fields}".encode())
        got = b""
        with trio.fail_after(8):
            async with trio.open_nursery() as nursery:

                async def trickle():
                    while True:
                        await stream.send_all(b"-")
                        await trio.sleep(0.05)

                nursery.start_soon(trickle)
                got = await stream.receive_some(65536)
                nursery.cancel_scope.cancel()
        assert got.startswith(b"HTTP/1.1 408") and b'"too_slow"' in got
        assert b"connection: close" in got.lower()


async def test_a_slow_but_steady_body_is_taken():
    async with ours(make_app(), body_stall_s=0.3, body_stall_bytes=100) as running:
        stream = await running.connect()
        await stream.send_all(
            b"POST /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n"
        )
        for _ in range(10):
            await stream.send_all(b"x" * 100)
            await trio.sleep(0.08)
        assert (await read_all(stream)).endswith(b"1000")


class Received:
    """What `form` needs of a request whose body comes in the given pieces."""

    content_type, content_length = TYPE, None

    def __init__(self, pieces):
        self.body = pieces


@pytest.mark.parametrize("size", [*range(1, 80), 100, 10_000])
async def test_a_form_comes_apart_the_same_however_it_is_cut(size):
    app = make_app()
    async with app.app_context():
        events = [event async for event in bodies.form(Received(chunked(GOOD, size)), LIMIT)]
    assert collapse(events) == [
        Field("caption", "שמש 🌅"),
        FileStart("photo", "../../etc/p.jpg", "image/jpeg"),
        FileChunk(b"\r\n--frontie\r\n\x00\xff"),
        FileEnd(),
        FileStart("empty", "", ""),
        FileEnd(),
    ]


async def test_a_form_cut_once_at_every_place_comes_apart_the_same():
    async def cut(at):
        yield GOOD[:at]
        yield GOOD[at:]

    async with make_app().app_context():
        seen = [
            collapse([event async for event in bodies.form(Received(cut(at)), LIMIT)])
            for at in range(1, len(GOOD))
        ]
    assert all(events == seen[0] for events in seen) and len(seen[0]) == 6


async def test_a_form_over_http():
    app = make_app()
    async with ours(app) as running, httpx.AsyncClient(base_url=running.url) as client:
        response = await client.post("/form", content=chunked(GOOD, 50), headers={"Content-Type": TYPE})
        assert response.text == "taken"
    assert app.events[0] == Field("caption", "שמש 🌅") and len(app.events) == 6


@pytest.mark.parametrize(
    "content, kind, status, code",
    [
        (GOOD, "application/json", 415, "unsupported_media"),
        (GOOD, None, 415, "unsupported_media"),
        (GOOD, "multipart/form-data", 400, "malformed_form"),
        (GOOD, "multipart/form-data; boundary=" + "x" * 71, 400, "malformed_form"),
        (GOOD, "multipart/form-data; boundary=other", 400, "malformed_form"),
        (b"", TYPE, 400, "malformed_form"),
        (b"x" * 90_000, TYPE, 400, "malformed_form"),
        (GOOD[:-20], TYPE, 400, "malformed_form"),
        (GOOD[:30], TYPE, 400, "malformed_form"),
        (b"--frontier\r\n\r\nno disposition\r\n--frontier--\r\n", TYPE, 400, "malformed_form"),
        (
            b"--frontier\r\nContent-Disposition: form-data\r\n\r\nx\r\n--frontier--\r\n",
            TYPE,
            400,
            "malformed_form",
        ),
        (b"--frontier\r\nX: " + b"y" * 50_000, TYPE, 400, "malformed_form"),
        (b"--frontier\r\n\xff: x\r\n\r\n", TYPE, 400, "malformed_form"),
        (head("a") + b"\xff\r\n--frontier--\r\n", TYPE, 422, "invalid_field"),
        (head("a") + b"\x00\r\n--frontier--\r\n", TYPE, 422, "invalid_field"),
        (head("a") + b"y" * 70_000 + b"\r\n--frontier--\r\n", TYPE, 413, "too_large"),
        ((head("a") + b"y\r\n") * (FORM_PARTS_MAX + 1) + b"--frontier--\r\n", TYPE, 400, "malformed_form"),
        (head("a", '; filename="f"') + b"y" * LIMIT + b"\r\n--frontier--\r\n", TYPE, 413, "too_large"),
    ],
)
async def test_a_bad_form_is_explained(content, kind, status, code):
    async with ours(make_app()) as running, httpx.AsyncClient(base_url=running.url) as client:
        response = await client.post("/form", content=content, headers={"Content-Type": kind} if kind else {})
        assert (response.status_code, response.json()["code"]) == (status, code), response.text


async def test_a_client_that_stops_half_way_leaves_the_route():
    app = make_app()
    left = trio.Event()

    @app.post("/left")
    async def leave():
        try:
            async for _ in bodies.stream(request, LIMIT):
                pass
        finally:
            left.set()
        return "never"

    async with ours(app) as running:
        stream = await running.connect()
        await stream.send_all(b"POST /left HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\nhalf")
        await stream.aclose()
        with trio.fail_after(5):
            await left.wait()


async def test_a_large_form_takes_constant_memory():
    size = 48 * 2**20
    piece = bytes(range(256)) * 256

    async def content():
        yield head("photo", '; filename="f"')
        for _ in range(size // len(piece)):
            yield piece
        yield b"\r\n--frontier--\r\n"

    async with ours(make_app()) as running, httpx.AsyncClient(base_url=running.url, timeout=60) as client:
        tracemalloc.start()
        try:
            response = await client.post("/large", content=content(), headers={"Content-Type": TYPE})
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert response.text == str(size)
        assert peak < 12 * 2**20
