"""A cluster of three nodes as they are run, with people on it: posts, an idle minute, deaths, a lost disk."""

import shutil
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from bench import bench_data, failover, refill
from bench.bench_data import Manifest, Scale
from bench.figures import Row, at_least, at_most
from bench.joined import Cluster, Joined, joined
from bench.lone_node import tokens
from bench.measure import cpu_seconds, percentile, resident_bytes
from bench.ordered import ask_all
from bench.questions import Run

NODES: Final = 3
UNDER_WAY: Final = 256
# Few people, since each has nine blobs that every node fetches; each one's medium may be in 100 posts.
PEOPLE: Final = Scale(600, likes_each=10, comments_each=10, eager=0)
QUICK: Final = Scale(300, likes_each=5, comments_each=5, eager=0)
WARM_POSTS: Final = 2000
REST_S: Final = 3.0  # after which groups have fallen quiet and what is missing was looked for


class Posted(msgspec.Struct, frozen=True):
    rate: float  # settled, per second
    p99_s: float
    lag_p99_s: float
    cpu_s: float  # of a processor, per post
    failed: int
    pushes: float  # into cached feeds, per post


class Idle(msgspec.Struct, frozen=True):
    share: float  # of a core
    resident: float  # bytes


def rows_of(run: Run, folder: Path) -> list[Row]:
    folder.mkdir(parents=True)
    manifest = trio.run(bench_data.make, folder / "data", QUICK if run.quick else PEOPLE)
    (folder / "manifest").write_bytes(msgspec.msgpack.encode(manifest))
    posts, rounds = (5000, 3) if run.quick else (10_000, 4)
    idle_s, kills, blobs = (4.0, 3, 24) if run.quick else (10.0, 9, 96)
    alone, alone_idle = _alone(folder, posts, rounds, idle_s)
    with joined(folder, folder / "data", folder / "manifest", NODES) as cluster:
        words = tokens(folder / "data", manifest.members)
        idle = idleness(cluster.nodes, idle_s)
        settled = posted(cluster.nodes, cluster, posts, rounds)
        cluster.well()
        return [
            *_posting(run.question, manifest, settled, alone),
            *_idling(run.question, idle, alone_idle),
            *failover.rows_of(run.question, cluster, words, kills),
            *refill.rows_of(run.question, cluster, words, blobs),
        ]


def _alone(folder: Path, posts: int, rounds: int, idle_s: float) -> tuple[Posted, Idle]:
    """The same on a copy of the data and one node."""
    copy = folder / "alone"
    shutil.copytree(folder / "data", copy)
    node = Joined(copy, folder / "manifest")
    node.start()
    try:
        idle = idleness([node], idle_s)
        return posted([node], None, posts, rounds), idle
    finally:
        node.process.end()
        shutil.rmtree(copy)


def idleness(nodes: list[Joined], seconds: float) -> Idle:
    """Of the node that takes most, a moment after something was asked of it."""
    time.sleep(REST_S)
    before = [cpu_seconds([node.pid]) for node in nodes]
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    shares = [(cpu_seconds([node.pid]) - used) / took for node, used in zip(nodes, before, strict=True)]
    return Idle(max(shares), max(resident_bytes(node.pid, node.data) for node in nodes))


def posted(nodes: list[Joined], cluster: Cluster | None, posts: int, rounds: int) -> Posted:
    """The median of several rounds, after all readers' feeds are cached."""
    ask_all([node.process for node in nodes], "warm")
    _round(nodes, cluster, WARM_POSTS)
    found = sorted((_round(nodes, cluster, posts) for _ in range(rounds)), key=lambda one: one.rate)
    return found[len(found) // 2]


def _round(nodes: list[Joined], cluster: Cluster | None, posts: int) -> Posted:
    shares = [UNDER_WAY // len(nodes) + (n < UNDER_WAY % len(nodes)) for n in range(len(nodes))]
    pids = [node.pid for node in nodes]
    used, began = cpu_seconds(pids), time.monotonic()
    for node, share in zip(nodes, shares, strict=True):
        node.process.order("post", under_way=share, posts=posts // len(nodes))
    told: list[dict[str, Any]] = [node.process.answer() for node in nodes]
    if cluster is not None:
        cluster.level()
    took = time.monotonic() - began
    latencies = [one for each in told for one in each["latencies"]]
    return Posted(
        rate=len(latencies) / took,
        p99_s=percentile(latencies, 99),
        lag_p99_s=percentile([one for each in told for one in each["lags"]], 99),
        cpu_s=(cpu_seconds(pids) - used) / max(1, len(latencies)),
        failed=sum(each["failed"] for each in told),
        pushes=sum(each["pushes"] for each in told) / max(1, len(latencies)),
    )


def _posting(question: str, manifest: Manifest, many: Posted, one: Posted) -> list[Row]:
    what = f"create-post commands, 50 followers each, durable on 2 of 3, settled, {UNDER_WAY} under way"
    beside = (
        f"one node: {one.rate:,.0f}/s, {_us(one)} of a processor each; three: {_us(many)}, "
        f"{many.pushes:.0f} pushes into cached feeds each, on all nodes; {len(manifest.members)} people; "
        "proposed by the nodes that lead"
    )
    late = (
        f"one node: {one.p99_s * 1e3:.0f} ms; event loops were late by {many.lag_p99_s * 1e3:.1f} ms, "
        "the worst of a hundred"
    )
    return [
        Row(question, what, "/s", many.rate, at_least(4000), beside, f"{many.failed} found no leader"),
        Row(question, "… the slowest of a hundred", "ms", many.p99_s * 1e3, beside=late),
    ]


def _us(posted: Posted) -> str:
    return f"{posted.cpu_s * 1e6:.0f} µs"


def _idling(question: str, idle: Idle, alone: Idle) -> list[Row]:
    return [
        Row(question, "idle cluster, per node", "% of a core", idle.share * 100, at_most(3),
            f"one node: {alone.share * 100:.1f} %"),
        Row(question, "… resident", "MB", idle.resident / 1e6, at_most(150),
            f"one node: {alone.resident / 1e6:.0f} MB; mapped data and workers apart"),
    ]  # fmt: skip
