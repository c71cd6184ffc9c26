"""The feed over HTTP with the server on one core: beside a constant body, and beside Redis and PostgreSQL.

The constant has the size of a mean page and goes through the same server, access tokens, limits and metrics.
The pair has what the node has: one core for all that it is, which is its web process, Redis and PostgreSQL.
What it reaches when its databases get a second core is told beside it.
"""

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import msgspec

from bench import baselines, bench_data, lone_node
from bench.bench_data import Manifest
from bench.figures import Row, at_least, left_out
from bench.load import Load, request
from bench.load import run as send
from bench.machine import CLIENT_CORE, SERVER_CORE
from bench.measure import cpu_seconds
from bench.processes import Serving, serving
from bench.questions import Run

READERS: Final = 256  # so many take turns: their pages are made anew and found in caches as they are in life
CONNECTIONS: Final = 16
PAGE: Final = "/v1/feed?limit=20"
SHARE: Final = "feed over HTTP, one core: share of a constant body's rate"
TIMES: Final = "feed over HTTP, one core: beside the same API over Redis and PostgreSQL"


class Round(msgspec.Struct, frozen=True):
    rate: float  # answers per second
    p99_ms: float
    cpu_us: float  # processor time per answer of all that made it


def answer(run: Run) -> list[Row]:
    manifest = bench_data.ensure(run)
    data = bench_data.node_of(run)
    rounds, seconds = (2, 1.5) if run.quick else (5, 3.0)
    with lone_node.running(data, SERVER_CORE) as node:
        tokens = lone_node.tokens(data, manifest.members[:READERS])
        size = int(send(_load(node.port, PAGE, tokens, seconds)).require().body_bytes)
    body = '{"posts":"' + "x" * (size - 12) + '"}'
    with ExitStack() as stack:
        node = stack.enter_context(lone_node.running(data, SERVER_CORE, constant=body))
        beside, databases, why = _pair_of(stack, run, manifest)

        def node_s() -> float:
            return cpu_seconds([node.pid])

        def pair_s() -> float:
            return cpu_seconds([beside.pid, *(pid for one in databases for pid in one.processes())])

        works = [
            lambda: _round(_load(node.port, PAGE, tokens, seconds), node_s),
            lambda: _round(_load(node.port, "/bench/constant", tokens, seconds), node_s),
        ]
        if beside.port:
            works.append(lambda: _round(_load(beside.port, PAGE, tokens, seconds), pair_s))
        found: list[list[Round]] = [[], [], []]
        for _ in range(rounds):
            for results, work in zip(found, works, strict=False):
                results.append(work())
        for database in databases:
            database.move(CLIENT_CORE)
        spread = works[2]().rate if beside.port else 0.0
    return [_share(run, found, size), _times(run, found, spread, why), ceiling(run, size)]


def _round(load: Load, cpu: Callable[[], float]) -> Round:
    before = cpu()
    answered = send(load).require()
    return Round(answered.rate, answered.latencies_ms[2], (cpu() - before) / answered.answers * 1e6)


def _pair_of(
    stack: ExitStack, run: Run, manifest: Manifest
) -> tuple[Serving, tuple[baselines.Server, ...], str]:
    """The filled pair and its databases; or port 0, and why there is none."""
    try:
        redis = stack.enter_context(baselines.redis(run.folder / "pair-redis"))
        postgres = stack.enter_context(baselines.postgres(run.folder / "pair-postgres"))
    except baselines.Missing as missing:
        return Serving(0, 0), (), str(missing)
    from bench import pair  # it needs psycopg, which may be absent

    data = bench_data.node_of(run)
    one = pair.Pair(redis.port, postgres.port, str(data / lone_node.TOKEN_KEYS), bench_data.node_id_of(data))
    pair.fill(one, manifest)
    for database in (redis, postgres):
        database.move(SERVER_CORE)
    return stack.enter_context(serving("bench.pair", one, SERVER_CORE)), (redis, postgres), ""


def _load(port: int, path: str, tokens: list[str], seconds: float) -> Load:
    requests = [request("GET", path, [("authorization", f"Bearer {token}")]) for token in tokens]
    return Load(port, requests, CONNECTIONS, seconds)


def _medians(found: list[Round]) -> Round:
    columns = zip(*(msgspec.structs.astuple(one) for one in found), strict=True)
    return Round(*(statistics.median(column) for column in columns))


def _share(run: Run, found: list[list[Round]], size: int) -> Row:
    feed, constant = _medians(found[0]), _medians(found[1])
    share = statistics.median(a.rate / b.rate for a, b in zip(found[0], found[1], strict=True))
    beside = (
        f"{feed.rate:,.0f}/s, {feed.cpu_us:,.0f} µs of CPU, p99 {feed.p99_ms:.0f} ms at {CONNECTIONS} "
        f"connections; constant body of {size:,} bytes {constant.rate:,.0f}/s, {constant.cpu_us:,.0f} µs"
    )
    return Row(run.question, SHARE, "%", share * 100, at_least(75), beside)


def _times(run: Run, found: list[list[Round]], spread: float, why: str) -> Row:
    if why:
        return left_out(run.question, TIMES, why, "×", at_least(2))
    feed, other = _medians(found[0]), _medians(found[2])
    times = statistics.median(a.rate / b.rate for a, b in zip(found[0], found[2], strict=True))
    beside = (
        f"{feed.rate:,.0f}/s; Redis + PostgreSQL {other.rate:,.0f}/s, {other.cpu_us:,.0f} µs of CPU, on the "
        f"same one core ({spread:,.0f}/s when the databases have another)"
    )
    return Row(run.question, TIMES, "×", times, at_least(2), beside)


def ceiling(run: Run, size: int) -> Row:
    """What the load client itself can ask, of nginx: far above what is measured with it."""
    files = run.folder / "ceiling"
    files.mkdir(exist_ok=True)
    (files / "page").write_bytes(b"x" * size)
    what = "the load client's own ceiling, one core"
    try:
        with baselines.nginx(run.folder / "ceiling-nginx", files, SERVER_CORE) as server:
            rate = send(Load(server.port, [request("GET", "/page")], CONNECTIONS, 1.5)).require().rate
    except baselines.Missing as missing:
        return left_out(run.question, what, str(missing))
    return Row(run.question, what, "/s", rate, beside=f"nginx serving {size:,} bytes")
