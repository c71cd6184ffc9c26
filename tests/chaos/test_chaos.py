"""The short of it: three processes, grown from one under load; a kill -9, a cut link.

`make chaos` is the long one. What a person feels is printed, and too few answers fail it.
"""

from random import Random

import pytest
import trio

from tests.chaos import checks
from tests.chaos.faults import Faults, told
from tests.chaos.load import Crowd
from tests.chaos.processes import Cluster

pytestmark = pytest.mark.crash

WITHIN_S = 150  # the whole of it
AVAILABILITY_MIN = 0.85  # of the requests to running nodes


async def test_grown_killed_and_cut_three_nodes_lose_nothing(tmp_path, capsys):
    cluster = Cluster(tmp_path)
    crowd = Crowd(cluster, writers=5, readers=2, seed=7)
    faults = Faults(cluster, crowd, Random(7))
    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(cluster.run)
            try:
                await cluster.found()
                await crowd.sign_up()
                async with trio.open_nursery() as people:
                    people.start_soon(crowd.live)
                    await trio.sleep(2)
                    for fault in ("growth", "growth", "kill_and_restart", "cut_one_link"):
                        await faults.bring(fault)
                    crowd.end()
                await cluster.healthy()
                await checks.everything(crowd, cluster.up)
            finally:
                await trio.to_thread.run_sync(cluster.end)
            nursery.cancel_scope.cancel()
    book = crowd.book
    with capsys.disabled():
        print(told(book, faults.felt))
    assert book.availability >= AVAILABILITY_MIN, book.reasons
    assert len(book.posts) > 20 and len(book.spans) > 200, "too little happened to prove anything"
