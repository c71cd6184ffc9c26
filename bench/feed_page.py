"""The home page of the web app, rendered on the server, beside the same ten posts as JSON.

One node on one core, the readers in turn. The page is asked for as a browser does, with the session's cookie;
packed costs what compressing each page costs beside.
"""

import statistics
from typing import Final, NamedTuple

from bench import bench_data, lone_node
from bench.feed_http import CONNECTIONS, READERS
from bench.figures import Row, at_least
from bench.load import Load, request
from bench.load import run as send
from bench.machine import SERVER_CORE
from bench.measure import cpu_seconds
from bench.questions import Run

POSTS: Final = 10  # both give so many without being asked
SHARE: Final = "feed page as HTML: share of the JSON feed's rate"
PACKED: Final = "feed page as HTML, packed: share of the JSON feed's rate"


class Round(NamedTuple):
    rate: float  # answers per second
    size: float  # bytes of one
    cpu_us: float  # of the node, for one


def answer(run: Run) -> list[Row]:
    manifest = bench_data.ensure(run)
    data = bench_data.node_of(run)
    rounds, seconds = (2, 1.5) if run.quick else (5, 3.0)
    with lone_node.running(data, SERVER_CORE) as node:
        tokens = lone_node.tokens(data, manifest.members[:READERS])

        def rate(path: str, headers: dict[str, str]) -> Round:
            requests = [
                request("GET", path, [(name, value.format(token)) for name, value in headers.items()])
                for token in tokens
            ]
            before = cpu_seconds([node.pid])
            found = send(Load(node.port, requests, CONNECTIONS, seconds)).require()
            cpu_us = (cpu_seconds([node.pid]) - before) / found.answers * 1e6
            return Round(found.rate, found.body_bytes, cpu_us)

        cookie = {"cookie": "heliograph-session={}~"}
        works = (
            ("/v1/feed", {"authorization": "Bearer {}"}),
            ("/", cookie),
            ("/", {**cookie, "accept-encoding": "gzip"}),
        )
        found = [[rate(*work) for work in works] for _ in range(rounds)]
    return [_row(run, SHARE, found, 1), _row(run, PACKED, found, 2)]


def _row(run: Run, what: str, found: list[list[Round]], at: int) -> Row:
    share = statistics.median(one[at].rate / one[0].rate for one in found)
    page, json = (_told([one[which] for one in found]) for which in (at, 0))
    return Row(run.question, what, "%", share * 100, at_least(50), f"{page}; JSON {json}")


def _told(rounds: list[Round]) -> str:
    rate, size, cpu_us = (statistics.median(column) for column in zip(*rounds, strict=True))
    return f"{rate:,.0f}/s, {size:,.0f} bytes, {cpu_us:,.0f} µs of CPU"
