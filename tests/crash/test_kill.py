"""A node that is killed (signal 9) under load, again and again, loses nothing that it acknowledged.

The node is a process of its own, its clients speak HTTP. A killed process loses nothing of the page cache:
what a disk loses is the matter of `test_cuts.py`.
"""

import statistics
import time

import pytest
import trio

from tests.crash.crowd import Crowd, photograph
from tests.crash.process import NodeProcess

pytestmark = pytest.mark.crash

KILLS = 50
PEOPLE = 6
EVERY_POST_EVERY = 10  # kills; in between only new posts are fetched whole
LOAD_S = (0.1, 1.5)  # how long the crowd acts before the kill


async def test_fifty_kills_under_load_lose_nothing(tmp_path, capsys):
    data = tmp_path / "node"
    crowd = Crowd(PEOPLE, seed=20)
    starts = []
    under_way = jobs = 0
    node = NodeProcess(data)
    try:
        await crowd.connected(node.url, crowd.sign_up)
        for turn in range(KILLS):
            seconds = crowd.rng.uniform(*LOAD_S)
            victim = node

            async def act(seconds=seconds, victim=victim):
                await crowd.live(seconds, victim.kill)

            await crowd.connected(node.url, act)
            under_way += sum(person.pending is not None for person in crowd.people)
            jobs += any((data / "work").iterdir())
            node = await trio.to_thread.run_sync(NodeProcess, data)
            starts.append(node.started_s)
            await crowd.connected(node.url, crowd.check_at_once)
            await crowd.connected(node.url, crowd.carry_on)
            settled = await trio.to_thread.run_sync(node.settle)
            every = turn % EVERY_POST_EVERY == EVERY_POST_EVERY - 1

            async def look(every=every):
                await crowd.check(every)

            await crowd.connected(node.url, look)
            assert settled["dead_letters"] == 0
            assert settled["boots"] == turn + 2
            assert node.metric('heliograph_media_jobs_total{result="failed"}') == 0
            assert not list((data / "staging").iterdir()) and not list((data / "work").iterdir())
            assert not list((data / "quarantine").iterdir())
        assert await trio.to_thread.run_sync(node.stop) == 0
    finally:
        node.kill()
    assert under_way > KILLS and jobs > 0, "the kills came when nothing was under way"
    with capsys.disabled():
        print(
            f"\n  {KILLS} kills, {crowd.facts.acknowledged} deeds acknowledged, {under_way} asked again, "
            f"media jobs under way at {jobs}; start-up: median {statistics.median(starts):.2f} s, "
            f"longest {max(starts):.2f} s"
        )


async def test_a_media_job_outlives_more_kills_than_it_has_tries(tmp_path):
    """Only a worker that died under a living node costs a try; there are three."""
    data = tmp_path / "node"
    crowd = Crowd(1, seed=5)
    (author,) = crowd.people
    picture = photograph(crowd.rng, 6000, 5000)
    node = NodeProcess(data)
    try:
        made = []

        async def begin():
            await crowd.sign_up()
            form = {"content_type": "image/jpeg", "size": len(picture)}
            promise = (await author.ask("POST", "/v1/posts", json=form)).json()
            url = promise["upload_url"].removeprefix(node.url)
            assert (await author.client.put(url, content=picture)).status_code == 200
            made.append(promise["post_id"])

        await crowd.connected(node.url, begin)
        for _ in range(5):
            deadline = time.monotonic() + 20
            while not any((data / "work").rglob("original")):
                assert time.monotonic() < deadline, "the job does not begin"
                await trio.sleep(0.005)
            node.kill()
            assert any((data / "work").rglob("original")), "the job was over before the kill"
            node = await trio.to_thread.run_sync(NodeProcess, data)
        await trio.to_thread.run_sync(node.settle)

        async def look():
            post = await author.get(f"/v1/posts/{made[0]}")
            assert post["upload_status"] == "complete", post

        await crowd.connected(node.url, look)
        assert node.metric('heliograph_media_jobs_total{result="failed"}') == 0
    finally:
        node.kill()
