"""The feed over HTTP with the server on one core: beside a constant body, and beside Redis and PostgreSQL.

The constant has the size of a mean page and goes through the same server, access tokens, limits and metrics.
The pair has what the node has: one core for all that it is, which is its web process, Redis and PostgreSQL.
What it reaches when its databases get a second core is told beside it.
"""

import statistics
from contextlib import ExitStack
from typing import Final

from bench import baselines, bench_data, lone_node
from bench.bench_data import Manifest
from bench.figures import Row, at_least, left_out
from bench.load import Answered, Load, request
from bench.load import run as send
from bench.machine import CLIENT_CORE, SERVER_CORE
from bench.processes import serving
from bench.questions import Run

READERS: Final = 256  # so many take turns: their pages are made anew and found in caches as they are in life
CONNECTIONS: Final = 16
PAGE: Final = "/v1/feed?limit=20"
SHARE: Final = "feed over HTTP, one core: share of a constant body's rate"
TIMES: Final = "feed over HTTP, one core: beside the same API over Redis and PostgreSQL"


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
        found: list[list[Answered]] = [[], [], []]
        rates = [
            lambda: send(_load(node.port, PAGE, tokens, seconds)).require(),
            lambda: send(_load(node.port, "/bench/constant", tokens, seconds)).require(),
        ]
        if beside:
            rates.append(lambda: send(_load(beside, PAGE, tokens, seconds)).require())
        for _ in range(rounds):
            for answers, work in zip(found, rates, strict=False):
                answers.append(work())
        for database in databases:
            database.move(CLIENT_CORE)
        spread = rates[2]().rate if beside else 0.0
    return _rows(run, found, size, spread, why) + ceiling(run, size)


def _pair_of(stack: ExitStack, run: Run, manifest: Manifest) -> tuple[int, tuple[baselines.Server, ...], str]:
    """The port of the filled pair and its databases, or 0 and why there is none."""
    try:
        redis = stack.enter_context(baselines.redis(run.folder / "pair-redis"))
        postgres = stack.enter_context(baselines.postgres(run.folder / "pair-postgres"))
    except baselines.Missing as missing:
        return 0, (), str(missing)
    from bench import pair  # it needs psycopg, which may be absent

    data = bench_data.node_of(run)
    one = pair.Pair(redis.port, postgres.port, str(data / lone_node.TOKEN_KEYS), bench_data.node_id_of(data))
    pair.fill(one, manifest)
    for database in (redis, postgres):
        database.move(SERVER_CORE)
    return stack.enter_context(serving("bench.pair", one, SERVER_CORE)).port, (redis, postgres), ""


def _load(port: int, path: str, tokens: list[str], seconds: float) -> Load:
    requests = [request("GET", path, [("authorization", f"Bearer {token}")]) for token in tokens]
    return Load(port, requests, CONNECTIONS, seconds)


def _rows(run: Run, found: list[list[Answered]], size: int, spread: float, why: str) -> list[Row]:
    feed, constant, other = (
        statistics.median(answer.rate for answer in answers) if answers else 0.0 for answers in found
    )
    share = statistics.median(
        100 * ours.rate / theirs.rate for ours, theirs in zip(found[0], found[1], strict=True)
    )
    slow = statistics.median(answer.latencies_ms[2] for answer in found[0])
    what = f"{feed:,.0f}/s (p99 {slow:.0f} ms at {CONNECTIONS} connections)"
    rows = [
        Row(
            run.question,
            SHARE,
            "%",
            share,
            at_least(75),
            f"{what}; constant body of {size:,} bytes {constant:,.0f}/s",
        )
    ]
    if why:
        return [*rows, left_out(run.question, TIMES, why, "×", at_least(2))]
    times = statistics.median(
        ours.rate / theirs.rate for ours, theirs in zip(found[0], found[2], strict=True)
    )
    beside = (
        f"{feed:,.0f}/s; Redis + PostgreSQL {other:,.0f}/s on the same one core "
        f"({spread:,.0f}/s when the databases have another)"
    )
    return [*rows, Row(run.question, TIMES, "×", times, at_least(2), beside)]


def ceiling(run: Run, size: int) -> list[Row]:
    """What the load client itself can ask, of nginx: far above what is measured with it."""
    files = run.folder / "ceiling"
    files.mkdir(exist_ok=True)
    (files / "page").write_bytes(b"x" * size)
    what = "the load client's own ceiling, one core"
    try:
        with baselines.nginx(run.folder / "ceiling-nginx", files, SERVER_CORE) as server:
            rate = send(Load(server.port, [request("GET", "/page")], CONNECTIONS, 1.5)).require().rate
    except baselines.Missing as missing:
        return [left_out(run.question, what, str(missing))]
    return [Row(run.question, what, "/s", rate, beside=f"nginx serving {size:,} bytes")]
