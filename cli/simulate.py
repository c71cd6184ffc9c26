"""`heliograph simulate`: a cluster in virtual time, broken in every way, and judged by the laws.

One seed is one history, the same at each run. It says what happened, or which law was broken and how.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

import click

from cli.output import json_option, note, print_fields, print_json

if TYPE_CHECKING:
    from cluster.simulation.history import History

NODES_MAX: Final = 7
SHOWN_EVERY: Final = 25  # histories between two lines of progress


@click.command("simulate")
@click.option("--seed", type=int, default=0, show_default=True, help="The history, or the first of several.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many histories.")
@click.option("--nodes", type=click.IntRange(1, NODES_MAX), help="How many nodes.  [default: by the seed]")
@click.option(
    "--minutes", type=click.FloatRange(0.05), default=1.0, show_default=True, help="Virtual, until all heals."
)
@click.option(
    "--trace", type=click.Path(dir_okay=False, path_type=Path), help="Write the events to this file."
)
@click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes.")
@json_option
def simulate(
    seed: int, seeds: int, nodes: int | None, minutes: float, trace: Path | None, jobs: int, as_json: bool
) -> None:
    """Run a cluster in virtual time, with faults, and judge it by the laws.

    The real state machine, consensus, mailboxes and membership, on a simulated network, clock and disk: nodes
    die and come back, join, lose their disks and are copied; links lose, delay and cut. The same seed gives
    the same history. Exits with 1 where a law was broken.
    """
    if seeds > 1:
        _many(range(seed, seed + seeds), nodes, round(minutes * 60), jobs, as_json)
    else:
        _one(seed, nodes, round(minutes * 60), trace, as_json)


def _one(seed: int, nodes: int | None, seconds: int, trace: Path | None, as_json: bool) -> None:
    from cluster.simulation.history import Violation, thin
    from cluster.simulation.many import nodes_of, replay
    from cluster.simulation.world import Options, World
    from node.traffic import SocialApplication

    size = nodes or nodes_of(seed)
    began = time.monotonic()
    with _opened(trace) if trace else nullcontext() as file:
        write = file.write if file is not None else None
        world = World(seed, SocialApplication(), Options(nodes=size, seconds=seconds), trace=write)
        broken = ""
        try:
            world.run()
        except Violation as violation:
            broken = str(violation)
        except AssertionError as impossible:
            broken = f"impossible: {impossible}"
    little = thin(world.history, seconds) if not broken else []
    facts = {"seed": seed, "nodes": size, "seconds": seconds, "trace_hash": world.kernel.digest()}
    if as_json:
        print_json({**facts, **_numbers(world.history), "broken": broken, "thin": little})
    else:
        print_fields({name.replace("_", " "): count for name, count in _numbers(world.history).items()})
        took = time.monotonic() - began
        note(f"seed {seed}, {size} nodes, {seconds} s in {took:.1f} s; trace {facts['trace_hash']}")
    if little:
        note(f"too little happened for this to prove much: {'; '.join(little)}")
    if broken:
        note(f"{broken}\nAgain: {replay(seed, size, seconds)}")
        sys.exit(1)


def _many(seeds: range, nodes: int | None, seconds: int, jobs: int, as_json: bool) -> None:
    from cluster.simulation.history import History, thin
    from cluster.simulation.many import replay, run_many
    from cluster.simulation.world import Options
    from node.traffic import SocialApplication

    total, failed = History(), []
    options = Options(nodes=nodes or 0, seconds=seconds)
    for count, result in enumerate(run_many(seeds, SocialApplication, options, processes=jobs), 1):
        total.add(result.history)
        little = "; ".join(thin(result.history, seconds))
        wrong = result.detail or (little and f"too little happened: {little}")
        if wrong:
            again = replay(result.seed, result.nodes, seconds)
            failed.append({"seed": result.seed, "broken": wrong, "again": again})
            note(f"seed {result.seed}: {wrong}\nAgain: {again}")
        elif count % SHOWN_EVERY == 0:
            note(f"{count} of {len(seeds)} histories, {len(failed)} failed")
    if as_json:
        print_json({"seeds": len(seeds), "seconds": seconds, **_numbers(total), "failed": failed})
    else:
        print_fields({name.replace("_", " "): count for name, count in _numbers(total).items()})
        note(f"{len(seeds)} histories of {seconds} s; {len(failed)} failed")
    if failed:
        sys.exit(1)


def _numbers(history: "History") -> dict[str, int]:
    return {name: getattr(history, name) for name in history.__struct_fields__}


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    with open(path, "w", encoding="utf-8") as file:
        yield file
