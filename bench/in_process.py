"""A node without its listeners in this process: for what is measured below HTTP."""

import gc
import shutil
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from bench.questions import Run
from node.app import GC_THRESHOLDS, SWITCH_INTERVAL_S, open_parts
from node.logs import set_up
from node.parts import Parts
from node.settings import load
from storage.directory import DataDirectory


@asynccontextmanager
async def parts_of(data: Path, flags: Sequence[str] = ()) -> AsyncIterator[Parts]:
    """Everything a node on `data` consists of, running."""
    settings = load(flags=flags, environment={})
    set_up(form=settings.logs.format, level="warning")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*GC_THRESHOLDS)
    with DataDirectory.open(data, now=time.time(), shard_count=settings.storage.shards) as directory:
        async with open_parts(directory, settings, trio.Event()) as parts:
            yield parts


def copied(run: Run, data: Path) -> Path:
    """A copy of a data directory, for a question that adds to it; removed by whoever asked."""
    copy = run.folder / f"copy-{run.question}"
    if copy.exists():
        shutil.rmtree(copy)
    shutil.copytree(data, copy)
    return copy
