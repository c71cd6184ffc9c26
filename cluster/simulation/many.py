"""Many histories, one a seed, in as many processes as there are cores."""

import multiprocessing
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final, NamedTuple

import msgspec

from cluster.simulation.build import PRODUCTION, Build
from cluster.simulation.history import History, Violation
from cluster.simulation.traffic import Application
from cluster.simulation.world import Options, World
from cluster.starts import LogGap
from storage.journal import JournalFailed

SIZES: Final = (5, 3, 5, 4, 5, 3, 5, 6)  # nodes, by seed


class Result(NamedTuple):
    seed: int
    nodes: int
    history: History
    digest: str  # of the trace
    checker: str  # which law was broken; empty: none
    detail: str


def nodes_of(seed: int) -> int:
    return SIZES[seed % len(SIZES)]


def run_one(application: Callable[[], Application], options: Options, build: Build, seed: int) -> Result:
    """A history in which a law was broken is a result; so is one in which a core found something that cannot
    be."""
    size = options.nodes or nodes_of(seed)
    world = World(seed, application(), msgspec.structs.replace(options, nodes=size), build)
    try:
        world.run()
    except Violation as wrong:
        return Result(seed, size, world.history, "", wrong.checker, str(wrong))
    except (AssertionError, LookupError, ValueError, TypeError, LogGap, JournalFailed) as wrong:
        place = traceback.extract_tb(wrong.__traceback__)[-1]
        detail = f"{type(wrong).__name__}: {wrong} ({place.name}, {place.filename}:{place.lineno})"
        return Result(seed, size, world.history, "", type(wrong).__name__, detail)
    return Result(seed, size, world.history, world.kernel.digest(), "", "")


def run_many(
    seeds: Iterable[int],
    application: Callable[[], Application],
    options: Options,
    *,
    processes: int = 2,
    build: Build = PRODUCTION,
) -> Iterator[Result]:
    """In the order of the seeds; without a number of nodes, each has its own. `application` is called in each
    process: it must be importable."""
    run = partial(run_one, application, options, build)
    if processes == 1:
        yield from map(run, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(run, seeds)


def replay(seed: int, nodes: int, seconds: int) -> str:
    """The command that shows this history again."""
    return f"heliograph simulate --seed {seed} --nodes {nodes} --minutes {seconds / 60:g}"
