"""What clients are made to wait for, in a real node without listeners, and what their tokens say."""

from contextlib import asynccontextmanager

import pytest
import trio

from cluster.shard_writer import Pause
from node.app import open_parts
from node.parts import now_s
from node.service import CAUGHT_UP_WITHIN_S, parse_token
from node.settings import load
from storage.directory import DataDirectory
from tests.node.nodes import SMALL


@asynccontextmanager
async def node(path):
    settings = load(flags=list(SMALL), environment={})
    with DataDirectory.open(path / "node", now=now_s(), shard_count=1) as directory:
        async with open_parts(directory, settings, trio.Event()) as parts:
            yield parts


@asynccontextmanager
async def held_up(parts):
    """The shard's thread commits nothing within the block."""
    (writer,) = parts.replicas._writers
    reached = trio.Event()
    token = trio.lowlevel.current_trio_token()
    pause = Pause(lambda: token.run_sync_soon(reached.set))
    writer.pause(pause)
    try:
        await reached.wait()
        yield
    finally:
        pause.abandoned = True
        pause.resume.set()


async def test_a_read_waits_for_a_commit_that_is_held_up_but_not_for_ever(tmp_path):
    async with node(tmp_path) as parts:
        unread = parts.replicas._sight.unread
        for wait in (parts.service.visible(3), parts.service.caught_up(None, (3,))):
            async with held_up(parts):
                unread[0] = 1  # as if a batch had been answered whose commit finds no room
                began = trio.current_time()
                with trio.fail_after(10 * CAUGHT_UP_WITHIN_S):
                    await wait
                assert trio.current_time() - began >= CAUGHT_UP_WITHIN_S / 2
            with trio.fail_after(10):
                await parts.service.caught_up(None, (3,))
            assert unread[0] == 0


async def test_a_token_is_waited_for_and_nothing_is_stale_on_a_lone_node(tmp_path):
    async with node(tmp_path) as parts:
        applied = parts.replicas.committed_index(3)
        for token in (f"3:{applied}", "4000:7", f"3:{applied}, 4:1", "3>4:17"):
            began = trio.current_time()
            assert await parts.service.caught_up(token, (3,))
            assert trio.current_time() - began < CAUGHT_UP_WITHIN_S / 2
        began = trio.current_time()
        assert await parts.service.caught_up(f"3:{applied + 10}", (3,))  # what has yet to come
        assert trio.current_time() - began >= CAUGHT_UP_WITHIN_S
        assert parts.service.ready


def test_what_a_token_says():
    assert parse_token("3:17") == [(3, 17)]
    assert parse_token("3:17, 3>4:5,8191:0") == [(3, 17), (3, 4, 5), (8191, 0)]
    for wrong in ("", "3", "3:", ":3", "8192:1", "3>8192:1", "3>4", "3:1,", "a:1", ",".join(["1:1"] * 9)):
        with pytest.raises(ValueError, match=r"want 1 to|below"):
            parse_token(wrong)
