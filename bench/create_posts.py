"""Create-post commands, durable and settled, with 256 under way; every author has 50 followers in the cache.

The authors' media are ready and shown already, so that a post is one command: journalled and synced, applied,
committed, published in the change stream and pushed into the cached feeds of the author's followers.
"""

import itertools
import random
import shutil
import statistics
import time
from pathlib import Path
from typing import Final

import trio

from bench import bench_data
from bench.bench_data import Member
from bench.figures import Row, at_least
from bench.in_process import copied, parts_of
from bench.questions import Run
from cluster.commands import FEATURE_LEVEL, Accepted, Execute
from cluster.replicas import now_ms
from node.parts import Parts
from node.social.machine import encode
from node.social.posts import CreatePost
from storage.ids import partition_of

UNDER_WAY: Final = 256
CACHE: Final = f"feed.cache_bytes={1 << 30}"  # all readers' feeds are kept: each author's followers are there
SEED: Final = 11


def answer(run: Run) -> list[Row]:
    bench_data.ensure(run)
    data = copied(run, bench_data.node_of(run))
    try:
        return trio.run(_measure, run, data)
    finally:
        shutil.rmtree(data)


async def _measure(run: Run, data: Path) -> list[Row]:
    manifest = bench_data.manifest_of(run)
    posts, rounds = (4000, 3) if run.quick else (20_000, 5)
    rng = random.Random(SEED)
    async with parts_of(data, [CACHE]) as parts:
        alone = [await _rate(parts, rng.choices(manifest.members, k=posts)) for _ in range(rounds)]
        for member in manifest.members:
            for _ in range(2):  # a reader who comes again is kept
                with parts.service.read() as rows:
                    parts.feeds.page(rows, member.user, None, 20, now_ms())
        cached = parts.feeds.statistics().cache.entries
        rates, pushes = [], 0
        for _ in range(rounds):
            before = parts.feeds.statistics().cache.pushes
            authors = rng.choices(manifest.members, k=posts)
            rates.append(await _rate(parts, authors))
            pushes = parts.feeds.statistics().cache.pushes - before
        statistics_ = parts.replicas.statistics()
    batch = statistics_.journal_entries / max(1, statistics_.journal_batches)
    beside = (
        f"one node, synced: {batch:.0f} commands a sync; {pushes / posts:.0f} pushes a post into "
        f"{cached:,} cached feeds; from {min(rates):,.0f} to {max(rates):,.0f}/s"
    )
    what = f"create-post commands, durable, {UNDER_WAY} in flight, 50 cached followers each, settled"
    unread = f"the same {UNDER_WAY} in flight; from {min(alone):,.0f} to {max(alone):,.0f}/s"
    return [
        Row(run.question, what, "/s", statistics.median(rates), at_least(10_000), beside),
        Row(run.question, "the same while no follower reads", "/s", statistics.median(alone), beside=unread),
    ]


async def _rate(parts: Parts, authors: list[Member]) -> float:
    """Posts per second of one round, until nothing is under way any more."""
    turns = iter(authors)
    numbers = itertools.count(1)
    propose = parts.replicas.propose

    async def work() -> None:
        for member in turns:
            random_bits = next(numbers).to_bytes(16, "big")
            command = CreatePost(member.user, "settled and durable", "Bilbao", (), (member.media,))
            execute = Execute(now_ms(), FEATURE_LEVEL, random_bits, 0, random_bits, b"", encode(command))
            applied = await propose(partition_of(member.user), execute)
            if not isinstance(applied.outcome, Accepted):
                raise RuntimeError(f"{command}: {applied.outcome}")

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(UNDER_WAY):
            nursery.start_soon(work)
    await parts.replicas.at_rest()
    return len(authors) / (time.perf_counter() - began)
