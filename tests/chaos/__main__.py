"""`make chaos MINUTES=30`: five nodes under load, one fault after another, until the time is up.

    python -m tests.chaos --minutes 30 --nodes 5 --seed 1 [--only kill_and_restart --only one_way]

Begins with one node and grows. Every tenth fault all is compared: what was acknowledged, every node's feeds,
the digests. Prints what the people felt, and exits 1 where a law did not hold or too few requests were
answered.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from itertools import groupby
from pathlib import Path
from random import Random

import trio

from tests.chaos import checks
from tests.chaos.faults import Faults, mount_small, told, unmount
from tests.chaos.load import Crowd
from tests.chaos.processes import Cluster

AVAILABILITY_MIN = 0.9  # of the requests to running nodes, whatever happens to those
SMALL_MIB = 400  # of the one node whose disk is filled
SLOW_S = 5.0  # a write that took longer is told with all that it met
COMPARED_EVERY = 10  # faults
WRITERS, READERS = 8, 4
ROUND = (
    *("kill_and_restart", "cut_off_one", "stop_and_continue", "one_way", "kill_and_restart"),
    *("cut_one_link", "hold_one", "slow_wires", "wiped_disk", "kill_and_restart", "cut_in_two"),
    *("rolling_restart", "kill_all"),
)


async def run(arguments, folder):
    """The exit code."""
    rng = Random(arguments.seed)
    small = folder / "small"
    has_small = mount_small(small, SMALL_MIB)
    if not has_small:
        print("  no tmpfs can be mounted here: the full disk is left out", flush=True)
    cluster = Cluster(folder)
    crowd = Crowd(cluster, WRITERS, READERS, arguments.seed)
    faults = Faults(cluster, crowd, rng)
    until = time.monotonic() + arguments.minutes * 60
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(cluster.run)
            first = await cluster.found()
            await crowd.sign_up()
            async with trio.open_nursery() as people:
                people.start_soon(crowd.live)
                if has_small:
                    await cluster.join(first, small / "node")
                while len(cluster.nodes) < arguments.nodes:
                    show(await faults.bring("growth"))
                await many(faults, crowd, arguments, until, has_small)
                crowd.end()
            await cluster.healthy()
            await checks.everything(crowd, cluster.up)
            nursery.cancel_scope.cancel()
    finally:
        for node in cluster.nodes.values():
            node.kill()
        if has_small:
            unmount(small)
        print(told_by_kind(faults), flush=True)
        print(told(crowd.book, ()), flush=True)
    if crowd.book.availability < AVAILABILITY_MIN:
        print(f"  too few were answered: at least {AVAILABILITY_MIN:.0%} are wanted")
        return 1
    return 0


async def many(faults, crowd, arguments, until, has_small):
    names = list(arguments.only or (*ROUND, *(["full_disk"] if has_small else [])))
    number = 0
    while time.monotonic() < until:
        if number % len(names) == 0:
            faults.rng.shuffle(names)
        show(await faults.bring(names[number % len(names)]))
        number += 1
        if number % COMPARED_EVERY == 0:
            await checks.digests_equal(faults.cluster.up)
        if crowd.book.violations:
            raise checks.Wrong(crowd.book.violations[:5])


def show(felt):
    print(
        f"  {felt.name:20} {felt.lasted_s:7.1f}s {felt.deeds:6} deeds; worst write {felt.write_s:6.2f}s, "
        f"worst read {felt.read_s:6.2f}s",
        flush=True,
    )
    if felt.write_s > SLOW_S:
        for (node, seconds, words), tries in groupby(felt.trail):
            times = sum(1 for _ in tries)
            print(
                f"      node {node}, {seconds:5.2f}s: {words}" + f" ({times} times)" * (times > 1), flush=True
            )


def told_by_kind(faults):
    """For each kind of fault: how often, and the median and the worst of what was felt."""
    kinds = defaultdict(list)
    for felt in faults.felt:
        kinds[felt.name].append(felt)
    lines = [
        f"\n  {'fault':20} {'times':>5} {'write: median':>14} {'worst':>8} {'read: median':>13} {'worst':>8}"
    ]
    for name, felt in sorted(kinds.items()):
        writes, reads = sorted(one.write_s for one in felt), sorted(one.read_s for one in felt)
        middle = len(felt) // 2
        lines.append(
            f"  {name:20} {len(felt):5} {writes[middle]:13.2f}s {writes[-1]:7.2f}s "
            f"{reads[middle]:12.2f}s {reads[-1]:7.2f}s"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", action="append", choices=sorted({*ROUND, "full_disk"}))
    arguments = parser.parse_args()
    if arguments.seed is None:
        arguments.seed = time.time_ns() % 10**6
    print(f"  seed {arguments.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="heliograph-chaos-"))
    try:
        code = trio.run(run, arguments, folder)
    except BaseException:
        print(f"  what is left of the nodes, and their logs: {folder}")
        raise
    shutil.rmtree(folder)
    sys.exit(code)


if __name__ == "__main__":
    main()
