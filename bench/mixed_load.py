"""The mixed load over HTTP: 100 reads (90 feed pages, 10 variants) : 5 likes : 1 photo of 8 MB.

First as fast as 32 workers are served, which is the highest rate; then an open loop at half of it, in which
latencies count from each request's intended start. The node has all cores, the client one of them. Afterwards
the node's memory is taken: it has served many thousands of pages and photographs then.
"""

from typing import Final

from bench import bench_data, lone_node, open_load
from bench.figures import Goal, Row, at_most
from bench.measure import resident_bytes
from bench.open_load import Author, Mix, Mixed
from bench.pictures import photograph_of
from bench.questions import Run

READERS: Final = 2000
LIKED_POSTS: Final = 20_000
AUTHORS: Final = 100
WARM_S: Final = 4.0  # workers start, caches fill, there are variants to ask for
PHOTO_BYTES: Final = (8 << 20) - 4096  # of the 8 MB that a photo may have
GOALS: Final[dict[str, tuple[str, Goal]]] = {
    "feed": ("feed page p99", at_most(100)),
    "photo": ("8 MB photo acknowledged p99", at_most(2000)),
    "visible": ("published → visible to a follower p99", at_most(2000)),
    "variant": ("variant p99", at_most(200)),
    "like": ("like p99", at_most(100)),
}
WITHOUT_GOAL: Final = ("like",)


def answer(run: Run) -> list[Row]:
    manifest = bench_data.ensure(run)
    data = bench_data.node_of(run)
    members = manifest.members
    photo = photograph_of(PHOTO_BYTES)
    with lone_node.running(data) as node:
        tokens = lone_node.tokens(data, members)
        token_of = {member.user: token for member, token in zip(members, tokens, strict=True)}
        authors = [
            Author(token_of[author], token_of[viewer])
            for viewer, followed in list(manifest.following.items())[:AUTHORS]
            if viewer in token_of
            for author in followed[:1]
        ]
        posts = [str(posted.post) for posted in manifest.posts[-LIKED_POSTS:]]
        highest_s, open_s = (8.0, 20.0) if run.quick else (20.0, 90.0)
        readers = tokens[:READERS]
        warm = open_load.run(Mix(node.port, readers, posts, authors, [], photo, WARM_S, rate=0))
        highest = open_load.run(
            Mix(node.port, readers, posts, authors, warm.variants, photo, highest_s, rate=0)
        )
        _require(highest)
        half = open_load.run(
            Mix(node.port, readers, posts, authors, highest.variants, photo, open_s, highest.rate / 2)
        )
        after = resident_bytes(node.pid, data)
    return [*_rows(run, highest, half), _memory(run, after)]


def _require(mixed: Mixed) -> None:
    if mixed.failed:
        raise RuntimeError(f"the mixed load failed: {mixed.failed}")


def _rows(run: Run, highest: Mixed, half: Mixed) -> list[Row]:
    at = f"at {highest.rate / 2:,.0f}/s, half of the highest rate"
    failed = f"; failed: {half.failed}" if half.failed else ""
    rows = [
        Row(
            run.question,
            "mixed load, highest rate (100 reads : 5 likes : 1 photo of 8 MB)",
            "/s",
            highest.rate,
            beside=f"all cores, 32 workers; this client then began {half.late_start_p99_ms:.1f} ms late",
        )
    ]
    for kind, (name, goal) in GOALS.items():
        timing = half.timings.get(kind)
        if timing is None:
            raise RuntimeError(f"no {kind} was answered: {half.failed}")
        beside = f"p50 {timing.p50_ms:.0f} ms, worst {timing.worst_ms:.0f} ms of {timing.count:,}{failed}"
        wanted = None if kind in WITHOUT_GOAL else goal
        rows.append(Row(run.question, f"mixed load {at}: {name}", "ms", timing.p99_ms, wanted, beside))
    return rows


def _memory(run: Run, after: int) -> Row:
    what = "node alone, resident after the mixed load"
    return Row(run.question, what, "MB", after / 1e6, at_most(400), "mapped data and workers apart")
