"""A feed page with all data against one with a tenth of it, merged from LMDB, for the same number of readers.

Timelines, posts and likes of ten times as many users are read through trees that are one level deeper at
most; the pages of both are in memory.
"""

import random
import time
from functools import partial
from typing import Final

import trio

from bench import bench_data
from bench.bulk import open_directory, open_replicas
from bench.figures import Row, at_most
from bench.measure import alternating
from bench.questions import Run
from cluster.replicas import Replicas, now_ms
from node.feeds.reader import Feeds
from node.feeds.rendering import Renderer
from node.http.media import sign_view
from node.http.tokens import SECRET_BYTES, Signer
from node.settings import Feed

READERS: Final = 400
SEED: Final = 5
PAGE: Final = 20
SECRET: Final = bytes(SECRET_BYTES)


def answer(run: Run) -> list[Row]:
    for tenth in (False, True):
        bench_data.ensure(run, tenth)
    return trio.run(_measure, run)


async def _measure(run: Run) -> list[Row]:
    with (
        open_directory(bench_data.node_of(run)) as all_directory,
        open_directory(bench_data.node_of(run, tenth=True)) as tenth_directory,
    ):
        async with open_replicas(all_directory) as everything, open_replicas(tenth_directory) as tenth:
            works = [
                _Pages(everything, [m.user for m in bench_data.manifest_of(run).members]),
                _Pages(tenth, [m.user for m in bench_data.manifest_of(run, tenth=True).members]),
            ]
            for work in works:
                work()
            full, small = alternating(works, rounds=5 if run.quick else 9)
    users = bench_data.scale_of(run).users
    beside = f"{full:.0f} µs a page with {users:,} users, {small:.0f} µs with {users // 10:,}"
    return [
        Row(
            run.question,
            "feed page with all data beside a tenth of it",
            "×",
            full / small,
            at_most(1.3),
            beside,
        )
    ]


class _Pages:
    """Pages of many readers, merged, without the cache; the time of one in µs."""

    def __init__(self, replicas: Replicas, users: list[int]) -> None:
        self._replicas = replicas
        settings = Feed(cache_bytes=0)
        renderer = Renderer(partial(sign_view, Signer(SECRET)))
        self._feeds = Feeds(settings, renderer, shards=2, rows_bytes=settings.rows_bytes)
        replicas.on_rows(self._feeds.hot.changed)
        self._readers = random.Random(SEED).sample(users, min(READERS, len(users)))

    def __call__(self) -> float:

        began = time.perf_counter()
        for reader in self._readers:
            with self._replicas.snapshot() as rows:
                page = self._feeds.page(rows, reader, None, PAGE, now_ms())
            if page.count != PAGE:
                raise RuntimeError(f"reader {reader} has a page of {page.count}")
        return (time.perf_counter() - began) / len(self._readers) * 1e6
