"""What replication costs: commands that are durable on two of three nodes, three processes on this machine.

The commands come from where their partitions are led, as they do when people are spread over the nodes; the
same commands on one node stand beside them.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from bench import replicated_people
from bench.bare_cluster import bare_cluster
from bench.figures import Row, at_least, at_most
from bench.ordered import Process
from bench.questions import Run

NODES: Final = 3
PARTITIONS: Final = 256  # as a cluster has them
UNDER_WAY: Final = 256
WARM_S: Final = 2.0


class Load(msgspec.Struct, frozen=True):
    """What all processes together did in one measurement."""

    rate: float  # commands a second
    latencies: list[float]  # seconds, sorted
    lags: list[float]  # of the event loops, seconds, sorted
    failed: int
    cpu_s: float  # of a processor, per command


def answer(run: Run) -> list[Row]:
    folder = run.folder / "replication"
    try:
        return [*_bare(run, folder), *replicated_people.rows_of(run, folder / "people")]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _bare(run: Run, folder: Path) -> list[Row]:
    seconds, rounds = (3.0, 3) if run.quick else (6.0, 5)
    with bare_cluster(folder / "one", 1, PARTITIONS) as processes:
        loaded(processes, UNDER_WAY, WARM_S)
        alone = middle(loaded(processes, UNDER_WAY, seconds) for _ in range(rounds))
    shutil.rmtree(folder / "one")
    with bare_cluster(folder / "three", NODES, PARTITIONS) as processes:
        loaded(processes, UNDER_WAY, WARM_S)
        many = middle(loaded(processes, UNDER_WAY, seconds) for _ in range(rounds))
        one = loaded(processes[:1], 1, seconds)
    beside = f"one node: {alone.rate:,.0f}/s, {alone.cpu_s * 1e6:.0f} µs of a processor each"
    note = f"{many.cpu_s * 1e6:.0f} µs of a processor each, three nodes; {many.failed} found no leader"
    return [
        Row(run.question, "bare commands, durable on 2 of 3, 256 under way", "/s", many.rate,
            at_least(12_000), beside, note),
        Row(run.question, "… the slowest of a hundred", "ms", at(many.latencies, 0.99) * 1e3, at_most(90)),
        Row(run.question, "… the event loop was late, the worst of a hundred", "ms",
            at(many.lags, 0.99) * 1e3, at_most(10)),
        Row(run.question, "one command under way, durable on 2 of 3", "ms", at(one.latencies, 0.5) * 1e3,
            at_most(5)),
    ]  # fmt: skip


def loaded(processes: list[Process], under_way: int, seconds: float) -> Load:
    """Keep so many commands under way for so long, shared among the processes."""
    shares = [under_way // len(processes) + (n < under_way % len(processes)) for n in range(len(processes))]
    for process, share in zip(processes, shares, strict=True):
        process.order("load", under_way=share, seconds=seconds)
    found: list[dict[str, Any]] = [process.answer() for process in processes]
    latencies = sorted(one for each in found for one in each["latencies"])
    return Load(
        rate=len(latencies) / seconds,
        latencies=latencies,
        lags=sorted(one for each in found for one in each["lags"]),
        failed=sum(each["failed"] for each in found),
        cpu_s=sum(each["cpu"] for each in found) / max(1, len(latencies)),
    )


def middle(loads: Iterable[Load]) -> Load:
    """The median of several rounds."""
    found = sorted(loads, key=lambda load: load.rate)
    return found[len(found) // 2]


def at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]
