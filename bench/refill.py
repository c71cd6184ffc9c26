"""A node that lost its disk comes back under a new identity: how fast it is filled, and what others feel."""

import time
from typing import Any, Final

from bench.feed_readers import Readers
from bench.figures import Row, at_least, at_most
from bench.joined import Cluster
from bench.measure import percentile

LOOK_S: Final = 0.05
BEFORE_S: Final = 5.0
FILLED_S: Final = 180.0
BLOB_BYTES: Final = 8 << 20


def rows_of(question: str, cluster: Cluster, words: list[str], blobs: int) -> list[Row]:
    """`blobs`: how many of `BLOB_BYTES` are uploaded before."""
    cluster.nodes[0].ask("upload", count=blobs, size=BLOB_BYTES)
    cluster.well()
    lost = cluster.nodes[-1]
    others = cluster.others(lost)
    token = cluster.wiped(lost)
    with Readers(others, words) as before:
        time.sleep(BEFORE_S)
    target = others[0].ask("filled")
    with Readers(others, words) as during:
        began = time.monotonic()
        lost.start(token)
        looks = _looks(cluster, target)
        took = time.monotonic() - began
    cluster.well()
    states = _rate([(at, one["state_bytes"]) for at, one in looks])
    files = _rate([(at, one["blob_bytes"]) for at, one in looks])
    size = looks[-1][1]
    feeds = during.p99() / before.p99()
    beside = (
        f"{size['state_bytes'] / 1e6:.0f} MB, {size['states']} partitions, from the first byte to the last; "
        f"{took:.1f} s from its start until it had all, blobs too"
    )
    slowest = percentile([one.took for one in during.asked], 100)
    return [
        Row(question, "a wiped node refilled: metadata", "MB/s", states, at_least(20), beside),
        Row(question, "… blobs", "MB/s", files, at_least(100),
            f"{size['blob_bytes'] / 1e6:.0f} MB: {blobs} of {BLOB_BYTES >> 20} MiB, "
            f"{size['blobs'] - blobs:,} of a few bytes"),
        Row(question, "… p99 of the others' feeds meanwhile, beside before", "×", feeds, at_most(2),
            f"{before.p99() * 1e3:.1f} ms before, {during.p99() * 1e3:.1f} ms meanwhile, the slowest "
            f"{slowest * 1e3:.0f} ms of {len(during.asked):,}"),
    ]  # fmt: skip


def _looks(cluster: Cluster, target: dict[str, Any]) -> list[tuple[float, dict[str, Any]]]:
    """What the new node has, and when, until it has all."""
    looks: list[tuple[float, dict[str, Any]]] = []
    deadline = time.monotonic() + FILLED_S
    while time.monotonic() < deadline:
        looks.append((time.monotonic(), cluster.nodes[-1].ask("filled")))
        found = looks[-1][1]
        if found["ready"] and found["blobs"] >= target["blobs"]:
            return looks
        time.sleep(LOOK_S)
    raise RuntimeError(f"not filled after {FILLED_S:.0f} s: {looks[-1][1]}, of {target}")


def _rate(seen: list[tuple[float, int]]) -> float:
    """MB/s between the look before the first byte and that with the last."""
    first = next((number for number, (_, size) in enumerate(seen) if size > 0), None)
    if first is None:
        return 0.0
    last = next(number for number, (_, size) in enumerate(seen) if size == seen[-1][1])
    began = seen[max(0, first - 1)]
    return (seen[last][1] - began[1]) / max(1e-3, seen[last][0] - began[0]) / 1e6
