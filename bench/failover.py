"""One of three nodes is killed with kill -9, again and again: how long writes and reads pause.

Every partition that the dying node leads is written to by one of the others, again and again; a write's time
counts until it succeeds, whatever was answered before. Readers ask the others for their feeds meanwhile.
"""

import time
from typing import Any, Final

from bench.feed_readers import Readers
from bench.figures import Row, at_most
from bench.joined import Cluster, Joined
from bench.measure import percentile

PEOPLE: Final = range(256)  # not the meta group
BEFORE_S: Final = 1.0  # all is as ever
AFTER_S: Final = 5.0


def rows_of(question: str, cluster: Cluster, words: list[str], kills: int) -> list[Row]:
    pauses: list[float] = []
    reads: list[float] = []
    counts = {"writes": 0, "refused": 0, "stale": 0}
    back: list[float] = []
    for number in range(kills):
        victim = cluster.nodes[-1 - number % len(cluster.nodes)]
        killed = _kill(cluster, victim, words)
        pauses += killed["pauses"]
        reads += killed["reads"]
        for name in counts:
            counts[name] += killed[name]
        victim.start()
        back.append(cluster.well())
    beside = (
        f"{kills} kills, {len(pauses)} partitions led by the killed: half paused {_ms(pauses, 50)}, "
        f"the worst {_ms(pauses, 100)}; {counts['writes']:,} writes, {counts['refused']} attempts refused"
    )
    read = (
        f"the slowest of {len(reads):,} feeds over HTTP from the other nodes; 99 of 100 took "
        f"{_ms(reads, 99)} at most; {counts['stale']} marked stale"
    )
    return [
        Row(question, "one node killed: pause of writes to a partition that it led, p99", "s",
            percentile(pauses, 99), at_most(2), beside),
        Row(question, "… pause of reads on the others", "ms", max(reads) * 1e3, at_most(300), read),
        Row(question, "… started again, until all is level and in its place", "s", percentile(back, 50),
            beside=f"from its first answer; the longest {max(back):.1f} s"),
    ]  # fmt: skip


def _kill(cluster: Cluster, victim: Joined, words: list[str]) -> dict[str, Any]:
    led = [partition for partition in victim.ask("led") if partition in PEOPLE]
    others = cluster.others(victim)
    for number, node in enumerate(others):
        own = led[number :: len(others)]
        node.process.order("probe", partitions=own, seconds=BEFORE_S + AFTER_S)
    with Readers(others, words) as readers:
        time.sleep(BEFORE_S)
        victim.process.kill()
        found = [node.process.answer() for node in others]
    if readers.wrong:
        raise RuntimeError(f"{len(readers.wrong)} reads failed: {readers.wrong[0]}")
    return {
        "pauses": [pause for one in found for pause in one["pauses"]],
        "writes": sum(one["writes"] for one in found),
        "refused": sum(one["refused"] for one in found),
        "reads": [one.took for one in readers.asked],
        "stale": sum(one.stale for one in readers.asked),
    }


def _ms(values: list[float], percent: float) -> str:
    return f"{percentile(values, percent) * 1e3:.0f} ms"
