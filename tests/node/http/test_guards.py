"""The server's guards against those who would take all of it, and against two readings of one request."""

import h2.events
import trio

from tests.node.http.servers import H2, exchange, ours
from tests.node.http.test_server import get_ok, make_app


async def test_one_address_cannot_take_all_connections():
    async with ours(make_app(), connections_max=20, connections_per_address_max=2) as running:
        held = [await running.connect() for _ in range(2)]
        for stream in held:
            await stream.send_all(b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"fine" in await stream.receive_some(65536)
        assert (await exchange(await running.connect(), b"")).startswith(b"HTTP/1.1 503")
        elsewhere = await trio.open_tcp_stream("127.0.0.1", running.address.port, local_address="127.0.0.2")
        await elsewhere.send_all(b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"fine" in await elsewhere.receive_some(65536)
        await held[0].aclose()
        with trio.fail_after(5):
            while running.server.statistics().connections == 3:
                await trio.sleep(0.01)
        await get_ok(running)
        assert running.server.statistics().refused_total == 1


async def test_one_connection_cannot_have_more_requests_under_way_than_all_may():
    async with ours(make_app(), connections_max=10, trusted_proxies=("127.0.0.1",)) as running:
        client = H2(await running.connect())
        numbers = [await client.post("/whole", 10) for _ in range(11)]
        with trio.fail_after(5):
            (*_, refused) = await client.events_until(h2.events.ResponseReceived)
            assert dict(refused.headers)[":status"] == "503"
            numbers.remove(refused.stream_id)
            client.h2.send_data(numbers[0], b"x" * 10, end_stream=True)
            await client.flush()
            assert await client.events_until(h2.events.StreamEnded, numbers[0])
        await get_ok(running)


async def test_a_body_with_two_lengths_ends_the_connection_and_hides_no_second_request():
    async with ours(make_app()) as running:
        smuggled = b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n"
        lengths = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"
        head = b"POST /whole HTTP/1.1\r\nHost: x\r\n" + lengths + b"\r\n"
        with trio.fail_after(5):
            got = await exchange(await running.connect(), head + b"0\r\n\r\n" + smuggled)
        assert got.startswith(b"HTTP/1.1 400") and got.count(b"HTTP/1.1") == 1 and b"fine" not in got
        assert running.server.statistics().failed_total == 0


async def test_an_upgrade_to_http2_without_tls_is_not_taken():
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAA\r\n"
    async with ours(make_app()) as running:
        stream = await running.connect()
        with trio.fail_after(5):
            await stream.send_all(b"GET /ok HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n")
            got = await stream.receive_some(65536)
            assert got.startswith(b"HTTP/1.1 200") and got.endswith(b"fine")
            # The same connection still speaks HTTP/1.1, so a proxy before us reads what we read.
            assert (
                await exchange(stream, b"GET /ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            ).endswith(b"fine")
