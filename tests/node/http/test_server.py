"""The server against clients that would hurt it. Where Hypercorn alone is hurt, that is shown first."""

import os
import ssl
from contextlib import suppress

import h2.events
import httpx
import pytest
import trio
import trio_websocket
from quart import request, websocket

from node.http.application import make_application
from tests.node.http.servers import H2, bare, exchange, make_settings, ours, read_all

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def make_app(**changes):
    app = make_application(make_settings(**changes))

    @app.get("/ok")
    async def ok():
        return "fine"

    @app.post("/early")
    async def early():
        return "early", 401

    @app.post("/whole")
    async def whole():
        return str(len(await request.get_data()))

    @app.post("/stream")
    async def stream():
        return str(sum([len(chunk) async for chunk in request.body]))

    @app.get("/slow")
    async def slow():
        app.started.set()
        await app.release.wait()
        return "slowly"

    @app.get("/large")
    async def large():
        return b"x" * 50_000_000

    app.started, app.release = trio.Event(), trio.Event()
    return app


async def get_ok(running):
    async with httpx.AsyncClient() as client:
        assert (await client.get(running.url + "/ok")).text == "fine"


async def upload_past_the_answer(stream):
    client = H2(stream)
    number = await client.post("/early", 100_000)
    assert await client.events_until(h2.events.ResponseReceived, number)
    for _ in range(4):
        client.h2.send_data(number, b"x" * 1000)
        await client.flush()
        await trio.sleep(0.05)


async def stray_byte_after_upgrade(stream):
    await stream.send_all(UPGRADE)
    await stream.receive_some(65536)
    await stream.send_all(b"\x00")


async def stray_byte_with_upgrade(stream):
    await stream.send_all(UPGRADE + b"\x00")
    await stream.receive_some(65536)
    await stream.send_all(b"\x00")


async def answer_lifespan(receive, send):
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})


async def bare_early_answer(scope, receive, send):
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def test_hypercorn_alone_dies_of_an_early_answer_on_http2_and_ours_lives():
    assert KeyError in [type(error) for error in await bare(bare_early_answer, upload_past_the_answer)]
    for app in (bare_early_answer, make_app()):
        async with ours(app) as running:
            stream = await running.connect()
            await upload_past_the_answer(stream)
            assert running.server.statistics().failed_total == 0
            # The same connection still serves: the upload nobody wanted hurt no other stream.
            client = H2(await running.connect())
            first = await client.post("/early", 10)
            assert await client.events_until(h2.events.StreamEnded, first)
            client.h2.send_data(first, b"x" * 10)
            await client.flush()
            second = await client.post("/early", 0)
            assert await client.events_until(h2.events.StreamEnded, second)


@pytest.mark.parametrize("attack", [stray_byte_after_upgrade, stray_byte_with_upgrade])
async def test_hypercorn_alone_dies_of_a_stray_byte_after_an_upgrade_and_ours_lives(attack):
    assert await bare(make_app(), attack)
    async with ours(make_app()) as running:
        await attack(await running.connect())
        with trio.fail_after(5):
            while running.server.statistics().connections:
                await trio.sleep(0.01)
        await get_ok(running)


async def test_a_websocket_still_works():
    app = make_app()

    @app.websocket("/echo")
    async def echo():
        while True:
            await websocket.send(await websocket.receive())

    async with ours(app) as running:
        url = running.url.replace("http", "ws") + "/echo"
        async with trio_websocket.open_websocket_url(url) as socket:
            await socket.send_message("mirror")
            assert await socket.get_message() == "mirror"
        assert running.server.statistics().failed_total == 0


async def test_an_unread_body_leaves_the_connection_usable_or_closed():
    async with ours(make_app()) as running:
        for size in (1, 1000, 100_000, 900_000):
            stream = await running.connect()
            head = b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
            await stream.send_all(head + b"x" * size)
            with trio.fail_after(5):
                assert b"401" in await stream.receive_some(65536)
                got = await exchange(stream, b"GET /ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert got.endswith(b"fine"), size
        # More than is drained: the answer arrives whole and the connection closes.
        stream = await running.connect()
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_until_broken, stream, 3_000_000)
                got = await read_all(stream)
                nursery.cancel_scope.cancel()
        assert b" 401 " in got and b"connection: close" in got.lower() and got.endswith(b"early")
        with trio.fail_after(5):
            while running.server.statistics().connections:
                await trio.sleep(0.01)


async def send_until_broken(stream, size):
    await stream.send_all(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
    with suppress(trio.BrokenResourceError):
        await stream.send_all(b"x" * size)


async def test_a_client_that_never_sends_its_body_gets_the_early_answer_and_is_let_go():
    async with ours(make_app()) as running:
        stream = await running.connect()
        with trio.fail_after(5):
            got = await exchange(
                stream, b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n"
            )
        assert got.endswith(b"early")


async def test_back_pressure_holds_the_sender_and_a_whole_body_does_not_deadlock():
    app = make_app()
    taken, go = [], trio.Event()

    @app.post("/held")
    async def held():
        await go.wait()
        taken.extend([len(chunk) async for chunk in request.body])
        return str(sum(taken))

    size = 64 * 2**20
    async with ours(app) as running:
        stream = await running.connect()
        await stream.send_all(b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        sent = 0
        with trio.move_on_after(1):
            while sent < size:
                await stream.send_all(b"x" * 65536)
                sent += 65536
        assert sent < 24 * 2**20  # ours takes 1.3 MiB, the kernel's socket buffers the rest
        go.set()
        with trio.fail_after(20):
            while sent < size:
                # The send that was cut may have handed over part of its piece, so a little too much is sent.
                await stream.send_all(b"x" * 65536)
                sent += 65536
            await stream.send_all(b"x" * 65536)
            answer = await stream.receive_some(65536)
        assert answer.endswith(str(size).encode())
        assert max(taken) <= 2 * 2**20

        async with httpx.AsyncClient() as client:
            with trio.fail_after(10):
                assert (await client.post(running.url + "/whole", content=b"x" * 2**20)).text == str(2**20)
                response = await client.post(running.url + "/whole", content=b"x" * (3 * 2**20))
        assert response.status_code == 413
        assert response.json()["code"] == "too_large"


async def test_connections_are_counted_and_capped():
    async with ours(make_app(), connections_max=3, trusted_proxies=("127.0.0.0/8",)) as running:
        held = [await running.connect() for _ in range(3)]
        for stream in held:
            await stream.send_all(b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"fine" in await stream.receive_some(65536)
        refused = await exchange(await running.connect(), b"")
        assert (
            refused.startswith(b"HTTP/1.1 503") and b'"unavailable"' in refused and b"retry-after" in refused
        )
        assert running.server.statistics().refused_total == 1
        await held[0].aclose()
        with trio.fail_after(5):
            while running.server.statistics().connections == 3:
                await trio.sleep(0.01)
        await get_ok(running)


async def test_slow_headers_and_idle_connections_are_cut():
    async with ours(make_app(), header_s=0.3, idle_s=0.6) as running:
        stream = await running.connect()
        began = trio.current_time()
        with trio.fail_after(5):
            await stream.send_all(b"GET /ok HTT")
            assert await stream.receive_some(10) == b""
        assert trio.current_time() - began < 0.55
        stream = await running.connect()
        with trio.fail_after(5):
            await stream.send_all(b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"fine" in await stream.receive_some(65536)
            assert await stream.receive_some(10) == b""
            while running.server.statistics().connections:
                await trio.sleep(0.01)
        assert running.server.statistics().cut_total == 2


async def test_a_client_that_takes_nothing_is_cut_on_http1_and_http2():
    async with ours(make_app(), send_stall_s=0.3) as running:
        first = await running.connect()
        await first.send_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        second = H2(await running.connect())
        headers = [(":method", "GET"), (":path", "/large"), (":scheme", "http"), (":authority", "x")]
        second.h2.send_headers(1, headers, end_stream=True)
        await second.flush()
        with trio.fail_after(5):
            while running.server.statistics().cut_total < 2:
                await trio.sleep(0.01)
        assert running.server.statistics().connections == 0


@pytest.mark.parametrize("lines", [1, 400])
async def test_a_header_block_over_the_limit_is_431(lines):
    field = b"x" * (33_000 // lines)
    block = b"".join(b"X-%d: %s\r\n" % (n, field) for n in range(lines))
    async with ours(make_app()) as running:
        stream = await running.connect()
        with trio.fail_after(5):
            got = await exchange(
                stream, b"GET /ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + block + b"\r\n"
            )
        assert (
            got.startswith(b"HTTP/1.1 431")
            and b'"headers_too_large"' in got
            and b"x-request-id" in got.lower()
        )
        fitting = b"GET /ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-A: " + b"x" * 31_000 + b"\r\n\r\n"
        assert (await exchange(await running.connect(), fitting)).endswith(b"fine")


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\nConnection: close\r\n\r\n",
        b"GET /ok HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /ok HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n",
        b"POST /whole HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"a frame of 2 MB" * 10_000,
        b"GET /ok HTTP/1.1\r\n\r\n",
        b"GET \xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)
async def test_rubbish_gets_an_answer_or_a_close_and_the_server_lives(raw):
    async with ours(make_app()) as running:
        with trio.fail_after(5):
            got = await exchange(await running.connect(), raw)
        if got.startswith(b"HTTP/1.1 "):
            assert got[9:10] == b"4" and b"application/problem+json" in got
        await get_ok(running)
        assert running.server.statistics().failed_total == 0


async def test_many_resets_close_the_connection():
    async with ours(make_app()) as running:
        client = H2(await running.connect())
        with trio.fail_after(10):
            try:
                for _ in range(400):
                    number = await client.post("/whole", 10)
                    client.h2.reset_stream(number)
                    await client.flush()
                closed = await client.events_until(h2.events.ConnectionTerminated) is None
            except trio.BrokenResourceError:
                closed = True
        assert closed
        await get_ok(running)


async def test_shutdown_lets_a_running_request_end_and_closes_the_idle():
    app = make_app()
    async with ours(app, graceful_s=20) as running:
        idle = await running.connect()
        await idle.send_all(b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"fine" in await idle.receive_some(65536)
        busy = await running.connect()
        await busy.send_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await app.started.wait()
        running.shutdown.set()
        with trio.fail_after(5):
            assert await idle.receive_some(10) == b""
        with pytest.raises(OSError):
            await running.connect()
        assert not running.ended.is_set()
        app.release.set()
        with trio.fail_after(5):
            got = await exchange(busy, b"")
            assert got.endswith(b"slowly") and b"connection: close" in got.lower()
            await running.ended.wait()


async def test_shutdown_ends_what_does_not_end_by_itself():
    app = make_app()
    async with ours(app, graceful_s=0.2) as running:
        busy = await running.connect()
        await busy.send_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await app.started.wait()
        running.shutdown.set()
        with trio.fail_after(5):
            await running.ended.wait()


async def test_the_listener_stays_open_while_readiness_spreads():
    async with ours(make_app(), ready_delay_s=0.5) as running:
        running.shutdown.set()
        await trio.sleep(0.1)
        await get_ok(running)
        with trio.fail_after(5):
            await running.ended.wait()


async def test_no_descriptor_stays_behind():
    async with ours(make_app()) as running:
        await get_ok(running)
        before = len(os.listdir("/proc/self/fd"))

        async def leave_early():
            stream = await running.connect()
            await stream.send_all(
                b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + b"x" * 50
            )
            await stream.receive_some(65536)
            await stream.aclose()
            stream = await running.connect()
            await stream.send_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            await stream.receive_some(10)
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            for _ in range(15):
                nursery.start_soon(leave_early)
        with trio.fail_after(10):
            while running.server.statistics().connections or len(os.listdir("/proc/self/fd")) > before:
                await trio.sleep(0.02)


async def test_tls_speaks_both_protocols(tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(cert, key)
    async with ours(make_app(), tls_cert=str(cert), tls_key=str(key), handshake_s=0.3) as running:
        assert running.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(cert))
        async with httpx.AsyncClient(verify=context) as client:
            response = await client.get(running.url + "/ok")
            assert (response.text, response.http_version) == ("fine", "HTTP/1.1")
            response = await client.post(running.url + "/early", content=b"x" * 3_000_000)
            assert response.status_code == 401
        context.set_alpn_protocols(["h2"])
        stream = trio.SSLStream(await running.connect(), context, server_hostname="127.0.0.1")
        await stream.do_handshake()
        assert stream.selected_alpn_protocol() == "h2"
        client = H2(stream)
        number = await client.post("/whole", 0)
        client.h2.end_stream(number)
        await client.flush()
        assert await client.events_until(h2.events.StreamEnded, number)
        # A client that never shakes hands is cut.
        silent = await running.connect()
        with trio.fail_after(5):
            assert await silent.receive_some(10) == b""


def make_certificate(cert, key):
    import datetime
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    today = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(private, hashes.SHA256())
    )
    cert.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
