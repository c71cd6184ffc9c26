"""Files past the web framework: the same bytes and headers as the route gives, and no descriptor kept."""

import errno
import os
import ssl
from contextlib import contextmanager
from io import FileIO

import h2.events
import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from quart import request

from node.http.application import make_application
from node.http.files import answer_directly, answer_file
from node.http.sendfile import PIECE_BYTES, FileAnswer, in_page_cache, send_file
from tests.node.http.servers import H2, exchange, make_settings, ours
from tests.node.http.test_server import make_certificate

DATA = os.urandom(3 * PIECE_BYTES + 12_345)
HEADERS = {"Content-Type": "image/webp", "Cache-Control": "public, max-age=86400, immutable"}
SIZES = (1, 2, 65_535, 65_536, 200_001, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, len(DATA))


class Files:
    """An application whose files can be had both ways, and what it saw."""

    def __init__(self, folder):
        self.folder = folder
        self.direct = 0  # answers that did not pass the route
        self.observed = []
        self.app = make_application(make_settings(), lambda *seen: self.observed.append(seen[:3]))
        self.app.find_file = self.find
        for size in SIZES:
            (folder / str(size)).write_bytes(DATA[:size])

        @self.app.get("/file/<name>")
        async def file(name):
            return answer_file(request, FileIO(self.folder / name), etag=name, headers=HEADERS)

    def find(self, path, query, asked):
        name = path.removeprefix("/file/")
        if name == path or not (self.folder / name).is_file():
            return None
        answer = answer_directly(asked, FileIO(self.folder / name), etag=name, headers=HEADERS)
        self.direct += answer is not None
        return None if answer is None else ("/file/<name>", answer)


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


@contextmanager
def no_descriptor_stays():
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def get(name, *lines):
    return "\r\n".join([f"GET /file/{name} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


async def test_every_size_and_range_is_the_same_directly_and_by_the_route(files):
    ranges = ("bytes=0-0", "bytes=-1", "bytes=100-70000", "bytes=1048575-", "bytes=-3000000")
    async with ours(files.app) as running, httpx.AsyncClient(base_url=running.url) as client:
        had = 0
        for size in SIZES:
            for range_ in (None, *ranges):
                headers = {"Range": range_} if range_ else {}
                mine = await client.get(f"/file/{size}", headers=headers)
                route = await client.get(f"/file/{size}", headers={**headers, "Origin": "https://elsewhere"})
                assert (mine.status_code, mine.content) == (route.status_code, route.content)
                assert set(mine.headers) == set(route.headers)
                apart = ("x-request-id", "date")
                assert [mine.headers[name] for name in mine.headers if name not in apart] == [
                    route.headers[name] for name in mine.headers if name not in apart
                ]
                if mine.status_code == 200:
                    assert mine.content == DATA[:size]
                had += mine.status_code in (200, 206)
        assert files.direct == had > 2 * len(SIZES)
        assert files.observed.count(("/file/<name>", "GET", 200)) >= len(SIZES)
        assert running.server.statistics().accepted_total == 1  # every answer left the connection usable


async def test_what_has_no_bytes_or_is_not_plain_is_the_route_s(files):
    async with ours(files.app) as running, httpx.AsyncClient(base_url=running.url) as client:
        assert (await client.head("/file/2")).headers["Content-Length"] == "2"
        assert (await client.get("/file/2", headers={"If-None-Match": '"2"'})).status_code == 304
        assert (await client.get("/file/2", headers={"Range": "bytes=9-"})).status_code == 416
        assert (await client.post("/file/2")).status_code == 405
        assert (await client.request("GET", "/file/2", content=b"body")).content == DATA[:2]
        assert (await client.get("/file/2", headers={"X-Long": "x" * 33_000})).status_code == 431
        old = await exchange(await running.connect(), b"GET /file/2 HTTP/1.0\r\nHost: x\r\n\r\n")
        assert old.endswith(b"\r\n\r\n" + DATA[:2])
    assert files.direct == 0


async def test_a_finder_that_fails_leaves_the_answer_to_the_route(files):
    def find(path, query, asked):
        raise RuntimeError("the rows cannot be read")

    files.app.find_file = find
    async with ours(files.app) as running, httpx.AsyncClient() as client:
        assert (await client.get(running.url + "/file/2")).content == DATA[:2]
        assert running.server.statistics().failed_total == 0


async def test_pipelined_requests_are_answered_in_order(files):
    wanted = [200_001, 1, len(DATA), 2, 65_536] * 3
    asked = b"".join(get(size) for size in wanted)
    with_others = (
        asked
        + b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n"
        + get(2, "Origin: https://elsewhere")
        + get(1, "Connection: close")
        + get(2)
    )
    async with ours(files.app) as running:
        stream = await running.connect()
        with trio.fail_after(20):
            got = await exchange(stream, with_others, 2**26)
        for size in wanted:
            head, _, got = got.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200") and f"content-length: {size}".encode() in head
            assert got[:size] == DATA[:size]
            got = got[size:]
        assert got.startswith(b"HTTP/1.1 404")
        assert got.count(b"HTTP/1.1 200") == 2, "nothing is answered after a request that closes"
        assert got.endswith(DATA[:1]) and b"connection: close" in got.lower()
        assert running.server.statistics().failed_total == 0


async def test_a_client_that_leaves_costs_no_descriptor(files):
    with open(files.folder / "large", "wb") as large:
        large.truncate(200 * 2**20)
    with no_descriptor_stays():
        async with ours(files.app) as running:
            for read in (0, 1, 100_000, 3_000_000):
                stream = await running.connect()
                await stream.send_all(get("large") * 3)
                while read > 0:
                    read -= len(await stream.receive_some(65_536))
                await stream.aclose()
            with trio.fail_after(10):
                while running.server.statistics().connections:
                    await trio.sleep(0.01)
            assert running.server.statistics().failed_total == 0
    assert files.direct >= 4 and len(files.observed) == files.direct


async def test_who_takes_nothing_is_cut_and_who_takes_slowly_is_not(files):
    with open(files.folder / "large", "wb") as large:
        large.truncate(20 * 2**20)
    async with ours(files.app, send_stall_s=0.6) as running:
        still = await running.connect()
        await still.send_all(get("large"))
        slow = await running.connect()
        slow.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 128 * 1024)
        await slow.send_all(get("large", "Range: bytes=-6000000", "Connection: close"))
        taken = 0
        with trio.fail_after(20):
            # Three deadlines long: each second takes several times what one deadline asks for.
            for _ in range(18):
                await trio.sleep(0.1)
                taken += len(await slow.receive_some(128 * 1024))
            while data := await slow.receive_some(2**20):
                taken += len(data)
            while running.server.statistics().connections:
                await trio.sleep(0.01)
        assert taken > 6_000_000
        assert running.server.statistics().cut_total == 1


async def test_a_file_that_is_shorter_than_announced_ends_the_connection(files):
    def find(path, query, asked):
        found = Files.find(files, path, query, asked)
        os.truncate(files.folder / "200001", 1000)
        return found

    files.app.find_file = find
    with no_descriptor_stays():
        async with ours(files.app) as running:
            stream = await running.connect()
            with trio.fail_after(5):
                head, _, body = (await exchange(stream, get(200_001) + get(1))).partition(b"\r\n\r\n")
            assert b"content-length: 200001" in head and body == DATA[:1000]
            await stream.aclose()
            assert running.server.statistics().failed_total == 0
            with trio.fail_after(5):
                while running.server.statistics().connections:
                    await trio.sleep(0.01)


async def test_shutdown_lets_a_file_end(files):
    async with ours(files.app, graceful_s=20) as running:
        stream = await running.connect()
        with open(files.folder / "large", "wb") as large:
            large.truncate(20 * 2**20)
        await stream.send_all(get("large"))
        got = bytearray(await stream.receive_some(1000))
        running.shutdown.set()
        with trio.fail_after(10):
            while data := await stream.receive_some(2**20):
                got += data
            await running.ended.wait()
        assert len(got.partition(b"\r\n\r\n")[2]) == 20 * 2**20


async def test_http2_and_tls_go_by_the_route(files, tmp_path):
    async with ours(files.app) as running:
        client = H2(await running.connect())
        headers = [(":method", "GET"), (":path", "/file/65535"), (":scheme", "http"), (":authority", "x")]
        client.h2.send_headers(1, headers, end_stream=True)
        await client.flush()
        seen = await client.events_until(h2.events.StreamEnded, 1)
        body = b"".join(event.data for event in seen if isinstance(event, h2.events.DataReceived))
        assert body == DATA[:65_535]
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(cert, key)
    trusted = ssl.create_default_context(cafile=str(cert))
    async with (
        ours(files.app, tls_cert=str(cert), tls_key=str(key)) as running,
        httpx.AsyncClient(verify=trusted) as client,
    ):
        assert (await client.get(f"{running.url}/file/{len(DATA)}")).content == DATA
    assert files.direct == 0


@given(st.integers(0, len(DATA) - 1), st.integers(1, len(DATA)))
def test_any_part_arrives_whole(tmp_path_factory, start, length):
    length = min(length, len(DATA) - start)
    path = tmp_path_factory.getbasetemp() / "part"
    if not path.exists():
        path.write_bytes(DATA)

    async def run():
        ours_, theirs = trio.socket.socketpair()
        async with trio.open_nursery() as nursery:
            with FileAnswer(200, [], FileIO(path), start, length) as answer, ours_:
                nursery.start_soon(receive, theirs)
                await send_file(ours_, b"head", answer, 5.0, 65_536)

    async def receive(theirs):
        with theirs:
            got = bytearray()
            while data := await theirs.recv(2**20):
                got += data
            assert got == b"head" + DATA[start : start + length]

    trio.run(run)


async def test_bytes_that_are_not_cached_are_fetched_by_a_thread(tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    with FileIO(path) as file:
        assert in_page_cache(file.fileno(), 0, len(DATA))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        was_cached = in_page_cache(file.fileno(), 0, len(DATA))  # a file system in memory drops nothing
    ours_, theirs = trio.socket.socketpair()
    got = bytearray()

    async def receive():
        while data := await theirs.recv(2**20):
            got.extend(data)

    with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            with ours_, FileAnswer(200, [], FileIO(path), 0, len(DATA)) as answer:
                await send_file(ours_, b"", answer, 5.0, 65_536)
    assert got == DATA
    with FileIO(path) as file:
        assert was_cached or in_page_cache(file.fileno(), 0, len(DATA))


async def test_the_errors_of_sending_say_whose_they_are(tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    ours_, theirs = trio.socket.socketpair()
    with ours_, theirs, FileAnswer(200, [], FileIO(path), 0, len(DATA)) as answer:
        with pytest.raises(trio.TooSlowError):
            await send_file(ours_, b"", answer, 0.05, 65_536)
        theirs.close()
        with pytest.raises(BrokenPipeError):
            await send_file(ours_, b"", answer, 5.0, 65_536)
    ours_, theirs = trio.socket.socketpair()
    with (
        ours_,
        theirs,
        FileAnswer(200, [], FileIO(path), len(DATA) - 10, 11) as answer,
        pytest.raises(OSError, match="1 bytes early") as raised,
    ):
        await send_file(ours_, b"", answer, 5.0, 65_536)
    assert raised.value.errno == errno.EIO
