"""What clients are made to wait for, in a real node without listeners."""

import trio

from cluster.shard_writer import Pause
from node.app import open_parts
from node.parts import now_s
from node.service import CAUGHT_UP_WITHIN_S
from node.settings import load
from storage.directory import DataDirectory
from tests.node.nodes import SMALL


async def test_a_read_waits_for_a_commit_that_is_held_up_but_not_for_ever(tmp_path):
    settings = load(flags=list(SMALL), environment={})
    with DataDirectory.open(tmp_path / "node", now=now_s(), shard_count=1) as directory:
        async with open_parts(directory, settings, trio.Event()) as parts:
            (writer,) = parts.replicas._writers
            reached = trio.Event()
            token = trio.lowlevel.current_trio_token()
            pause = Pause(lambda: token.run_sync_soon(reached.set))
            writer.pause(pause)
            await reached.wait()
            parts.replicas._unread[0] = 1  # as if a batch had been answered whose commit finds no room
            began = trio.current_time()
            with trio.fail_after(10 * CAUGHT_UP_WITHIN_S):
                await parts.service.caught_up(None, (3,))
            assert trio.current_time() - began >= CAUGHT_UP_WITHIN_S / 2
            pause.abandoned = True
            pause.resume.set()
            with trio.fail_after(10):
                await parts.service.caught_up(None, (3,))
            assert parts.replicas._unread[0] == 0
