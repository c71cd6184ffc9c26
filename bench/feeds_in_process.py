"""How many feed pages a second does one process make from LMDB, as the bytes that HTTP would send?

A page is 20 posts, hydrated, with counts and `liked_by_me`. Readers are asked in turn: some hundreds, as are
active at once on such a node; and thousands, whose rows and renderings are in none of the processor's caches.
"""

import random
import time
from functools import partial
from typing import Final

import trio

from bench import bench_data
from bench.bulk import open_directory, open_replicas
from bench.figures import Row, at_least
from bench.measure import alternating
from bench.questions import Run
from cluster.replicas import Replicas, now_ms
from node.feeds.reader import Feeds
from node.feeds.rendering import Renderer
from node.http.media import sign_view
from node.http.tokens import SECRET_BYTES, Signer
from node.settings import Feed

ACTIVE: Final = 400  # readers in turn, as in data_size.py
MANY: Final = 4000
PAGES: Final = 1000  # of a round
PAGES_OF_EAGER: Final = 200
CACHE_BYTES: Final = 256 << 20  # for MANY too
PAGE: Final = 20
SEED: Final = 6
BY_MERGE, FROM_CACHE = "by merge", "from the cache"
GOALS: Final = {  # pages a second: (how, follows many) → at least
    (BY_MERGE, False): 6_000,
    (FROM_CACHE, False): 12_000,
    (BY_MERGE, True): 1_000,
    (FROM_CACHE, True): 10_000,
}


def answer(run: Run) -> list[Row]:
    bench_data.ensure(run)
    return trio.run(_measure, run)


async def _measure(run: Run) -> list[Row]:
    manifest, scale = bench_data.manifest_of(run), bench_data.scale_of(run)
    users = [member.user for member in manifest.members]
    random.Random(SEED).shuffle(users)
    eager = [member.user for member in manifest.eager]
    groups = [
        (f"{scale.follows} followed", users[:ACTIVE], PAGES, False, True),
        (f"{len(manifest.following[eager[0]]):,} followed", eager, PAGES_OF_EAGER, True, True),
        (
            f"{scale.follows} followed, {len(users[:MANY]):,} readers in turn",
            users[:MANY],
            PAGES,
            False,
            False,
        ),
    ]
    with open_directory(bench_data.node_of(run)) as directory:
        async with open_replicas(directory) as replicas:
            rows = []
            for who, readers, pages, large, has_goal in groups:
                works = [_Pages(replicas, readers, pages, cache_bytes) for cache_bytes in (0, CACHE_BYTES)]
                rates = alternating(works, rounds=5 if run.quick else 15)
                for how, rate, work in zip((BY_MERGE, FROM_CACHE), rates, works, strict=True):
                    goal = at_least(GOALS[how, large]) if has_goal else None
                    note = f"{len(readers):,} readers in turn, {work.cached:.0%} of pages cached"
                    what = f"feed page of {PAGE} posts, {who}, {how}"
                    rows.append(Row(run.question, what, "/s", rate, goal, note=note))
            return rows


class _Pages:
    """First pages of readers, one after the other; a call measures a round of them, in pages a second."""

    def __init__(self, replicas: Replicas, readers: list[int], pages: int, cache_bytes: int) -> None:
        self._replicas = replicas
        self._readers = readers
        self._pages = pages
        self._at = 0
        renderer = Renderer(partial(sign_view, Signer(bytes(SECRET_BYTES))))
        settings = Feed(cache_bytes=cache_bytes)
        self._feeds = Feeds(settings, renderer, shards=2, rows_bytes=settings.rows_bytes)
        replicas.on_rows(self._feeds.hot.changed)
        for reader in 2 * readers:  # the second page of a reader is kept
            self._ask(reader)
        self._before = self._feeds.statistics()

    def __call__(self) -> float:
        readers, at = self._readers, self._at
        self._at = at + self._pages
        began = time.perf_counter()
        for number in range(at, at + self._pages):
            self._ask(readers[number % len(readers)])
        return self._pages / (time.perf_counter() - began)

    def _ask(self, reader: int) -> None:
        with self._replicas.snapshot() as rows:
            page = self._feeds.page(rows, reader, None, PAGE, now_ms())
        if page.count != PAGE:
            raise RuntimeError(f"reader {reader} has a page of {page.count}")

    @property
    def cached(self) -> float:
        """The part of the pages of all rounds that came from the cache."""
        now = self._feeds.statistics()
        return (now.cached_pages - self._before.cached_pages) / (now.pages - self._before.pages)
