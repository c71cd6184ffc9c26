"""Files as answers: conditions, ranges, and descriptors that come back."""

import os
from io import FileIO

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from quart import request

from node.http.application import make_application
from node.http.files import FileBody, Plan, answer_file, plan, read_at
from tests.node.http.servers import make_settings, ours, read_all

DATA = os.urandom(1_000_003)
HEADERS = {"Content-Type": "image/webp", "Cache-Control": "public, max-age=86400, immutable"}


def make_app(path):
    app = make_application(make_settings())

    @app.get("/file")
    async def file():
        return answer_file(request, FileIO(path), etag="abc", headers=HEADERS)

    return app


def decide(size, range_, if_range=None, if_none_match=None):
    return plan(size, '"abc"', if_none_match=if_none_match, range_=range_, if_range=if_range)


@pytest.mark.parametrize(
    "range_, status, start, length",
    [
        (None, 200, 0, 1000),
        ("bytes=0-0", 206, 0, 1),
        ("bytes=0-", 206, 0, 1000),
        ("bytes=10-19", 206, 10, 10),
        ("bytes=990-2000", 206, 990, 10),
        ("bytes=-100", 206, 900, 100),
        ("bytes=-5000", 206, 0, 1000),
        ("BYTES = 5-6", 206, 5, 2),
        ("bytes=1000-", 416, 0, 0),
        ("bytes=99999999999999999999999-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        ("bytes=0-1,5-6", 200, 0, 1000),
        ("bytes=9-5", 200, 0, 1000),
        ("bytes=-", 200, 0, 1000),
        ("bytes=a-b", 200, 0, 1000),
        ("bytes=²-3", 200, 0, 1000),
        ("bytes=--5", 200, 0, 1000),
        ("lines=1-2", 200, 0, 1000),
        ("bytes", 200, 0, 1000),
        ("bytes=" + "1" * 1000 + "-", 200, 0, 1000),
    ],
)
def test_one_range_is_served_and_nonsense_gets_the_whole(range_, status, start, length):
    assert decide(1000, range_) == Plan(status, start, length, 1000)


@given(st.integers(0, 2000), st.integers(0, 2500), st.integers(0, 2500))
def test_a_range_never_leaves_the_file(size, first, last):
    for text in (f"bytes={first}-{last}", f"bytes={first}-", f"bytes=-{last}"):
        decided = decide(size, text)
        assert decided.start >= 0 and decided.start + decided.length <= size
        assert decided.status != 206 or decided.length > 0


@pytest.mark.parametrize(
    "header, status",
    [
        ('"abc"', 304),
        ('W/"abc"', 304),
        ("*", 304),
        ('"x", "abc"', 304),
        ('"x"', 200),
        ("abc", 200),
        ("", 200),
    ],
)
def test_if_none_match(header, status):
    assert decide(10, None, if_none_match=header).status == status


def test_if_range_asks_for_the_part_of_the_same_file():
    assert decide(10, "bytes=0-1", if_range='"abc"').status == 206
    assert decide(10, "bytes=0-1", if_range='"old"').status == 200
    assert decide(10, "bytes=0-1", if_range='W/"abc"').status == 200
    assert decide(10, "bytes=0-1", if_none_match='"abc"').status == 304


async def test_files_over_http(tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    async with ours(make_app(path)) as running, httpx.AsyncClient(base_url=running.url) as client:
        whole = await client.get("/file")
        assert whole.content == DATA
        assert whole.headers["ETag"] == '"abc"' and whole.headers["Accept-Ranges"] == "bytes"
        assert whole.headers["Content-Type"] == "image/webp"
        assert whole.headers["Cache-Control"] == HEADERS["Cache-Control"]
        head = await client.head("/file")
        assert head.content == b"" and head.headers["Content-Length"] == str(len(DATA))
        assert head.headers["ETag"] == '"abc"'
        tail = await client.get("/file", headers={"Range": "bytes=-100"})
        assert (tail.status_code, tail.content) == (206, DATA[-100:])
        assert tail.headers["Content-Range"] == f"bytes {len(DATA) - 100}-{len(DATA) - 1}/{len(DATA)}"
        outside = await client.get("/file", headers={"Range": f"bytes={len(DATA)}-"})
        assert outside.status_code == 416 and outside.headers["Content-Range"] == f"bytes */{len(DATA)}"
        assert outside.json()["code"] == "range_not_satisfiable"
        same = await client.get("/file", headers={"If-None-Match": '"abc"'})
        assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", '"abc"')
        assert "Content-Length" not in same.headers
        path.write_bytes(b"")
        empty = await client.get("/file")
        assert (empty.status_code, empty.content) == (200, b"")


async def test_a_descriptor_comes_back_whatever_the_client_does(tmp_path):
    path = tmp_path / "blob"
    with open(path, "wb") as file:
        file.truncate(200 * 2**20)
    async with ours(make_app(path)) as running:
        async with httpx.AsyncClient(base_url=running.url) as client:
            await client.head("/file")
        with trio.fail_after(5):
            while running.server.statistics().connections:
                await trio.sleep(0.01)
        before = len(os.listdir("/proc/self/fd"))
        for lines in (
            b"",
            b"Range: bytes=-9\r\n",
            b"Range: bytes=999999999-\r\n",
            b'If-None-Match: "abc"\r\n',
        ):
            for read in (0, 1, 100_000):
                stream = await running.connect()
                await stream.send_all(b"GET /file HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n")
                if read:
                    await stream.receive_some(read)
                await stream.aclose()
        with trio.fail_after(10):
            while running.server.statistics().connections or len(os.listdir("/proc/self/fd")) > before:
                await trio.sleep(0.01)


async def test_a_file_cut_short_under_the_reader_ends_the_connection(tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    with open(path, "rb", buffering=0) as file:
        body = FileBody(file, 0, len(DATA) + 5)
        with pytest.raises(OSError, match="5 bytes early"):
            async for _ in body:
                pass
    app = make_app(path)

    @app.get("/short")
    async def short():
        response = answer_file(request, FileIO(path), etag="abc", headers=HEADERS)
        os.truncate(path, 1000)
        return response

    async with ours(app) as running:
        stream = await running.connect()
        await stream.send_all(b"GET /short HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(5):
            got = await read_all(stream)
        assert len(got.partition(b"\r\n\r\n")[2]) == 1000


async def test_bytes_that_are_not_cached_are_read_by_a_thread(tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        assert await read_at(descriptor, 500_000, 1000) == DATA[1000:501_000]
        assert await read_at(descriptor, 500_000, 900_000) == DATA[900_000:]
        assert await read_at(descriptor, 10, 10**9) == b""
    finally:
        os.close(descriptor)
