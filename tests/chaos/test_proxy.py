"""The wires of the harness do what the faults say, or the faults would prove nothing."""

import os

import pytest
import trio

from tests.chaos.proxy import Wires


async def wired(nursery):
    """Wires from node 1, this process, to node 2, which sends back what it gets; and the port to dial."""
    wires = Wires(lambda: {1: os.getpid(), 2: None})

    async def echo(stream):
        async for piece in stream:
            await stream.send_all(piece)

    (far,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    (near,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, echo, [far])
    nursery.start_soon(wires.serve, near, 2, far.socket.getsockname()[1])
    return wires, near.socket.getsockname()[1]


async def heard(stream, within_s):
    with trio.move_on_after(within_s):
        return await stream.receive_some(100)
    return None


@pytest.mark.parametrize("pair", [(1, 2), (2, 1)])
async def test_what_is_held_in_one_direction_waits_until_it_is_healed(pair):
    async with trio.open_nursery() as nursery:
        wires, port = await wired(nursery)
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(b"one")
        assert await heard(stream, 5) == b"one"
        wires.hold(pair)
        await stream.send_all(b"two")
        assert await heard(stream, 0.1) is None
        wires.heal()
        assert await heard(stream, 5) == b"two"
        nursery.cancel_scope.cancel()


async def test_what_is_cut_is_closed_and_refused(nursery):
    wires, port = await wired(nursery)
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(b"one")
    assert await heard(stream, 5) == b"one"
    wires.cut((2, 1))
    assert await heard(stream, 5) == b""
    again = await trio.open_tcp_stream("127.0.0.1", port)
    assert await heard(again, 5) == b"" and wires.refused == 1
    wires.heal()
    healed = await trio.open_tcp_stream("127.0.0.1", port)
    await healed.send_all(b"two")
    assert await heard(healed, 5) == b"two"


async def test_a_delay_is_added_to_each_direction(nursery):
    wires, port = await wired(nursery)
    wires.delay(0.05, (1, 2), (2, 1))
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    began = trio.current_time()
    await stream.send_all(b"one")
    assert await heard(stream, 5) == b"one"
    assert trio.current_time() - began >= 0.1


async def test_strangers_are_refused():
    async with trio.open_nursery() as nursery:
        wires, port = await wired(nursery)
        wires.pid_of = lambda: {1: None, 2: None}
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        assert await heard(stream, 5) == b"" and wires.refused == 1
        nursery.cancel_scope.cancel()
