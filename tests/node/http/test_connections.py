"""One connection: bodies pass the protocol core where that is safe, and end where they say."""

import hashlib

import pytest
import trio
import trio.testing
from quart import request

from node.http.application import make_application
from node.http.connections import BODY_RECEIVE_BYTES
from tests.node.http.servers import exchange, make_settings, ours

BODY = bytes(n % 253 for n in range(1_000_003))
DIGEST = hashlib.sha256(BODY).hexdigest().encode()
HEAD = b"POST /digest HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n"
LAST = b"Connection: close\r\n"


def make_app():
    app = make_application(make_settings())

    @app.post("/digest")
    async def digest():
        found = hashlib.sha256()
        async for chunk in request.body:
            found.update(chunk)
        return found.hexdigest()

    return app


@pytest.mark.parametrize("first", [1, 1000, BODY_RECEIVE_BYTES, len(BODY) - 1, len(BODY)])
async def test_a_body_ends_where_it_says_and_the_next_request_begins(first):
    async with ours(make_app()) as running:
        stream = await running.connect()
        with trio.fail_after(10):
            await stream.send_all(HEAD % (len(BODY), b"") + BODY[:first])
            await trio.testing.wait_all_tasks_blocked(0.01)
            rest = BODY[first:] + HEAD % (len(BODY), LAST) + BODY
            got = await exchange(stream, rest)
    assert got.count(b"HTTP/1.1 200") == got.count(DIGEST) == 2


async def test_a_client_that_waits_to_be_asked_for_its_body_is_asked():
    async with ours(make_app()) as running:
        stream = await running.connect()
        with trio.fail_after(10):
            await stream.send_all(HEAD % (len(BODY), LAST + b"Expect: 100-continue\r\n"))
            asked = await stream.receive_some(1000)
            assert asked.startswith(b"HTTP/1.1 100")
            assert DIGEST in await exchange(stream, BODY)


@pytest.mark.parametrize("more", [0, 3_000_000])
async def test_an_answer_that_reads_nothing_of_a_body_does_not_wait_for_its_end(more):
    field = b"X-A: " + b"x" * 33_000 + b"\r\n"
    async with ours(make_app()) as running:
        stream = await running.connect()
        with trio.fail_after(10):
            got = await exchange(stream, HEAD % (more, LAST + field) + b"x" * more)
        assert got.startswith(b"HTTP/1.1 431")
