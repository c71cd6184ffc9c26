"""The questions of the benchmark, one file each, and the process that answers one.

Each question is answered by a process of its own, so that none finds the memory, the threads or the core of
another; what they share is the folder of the run, with the bench data made once. A module of a question has
`answer(run) -> list[Row]`.
"""

import importlib
import sys
import traceback
from pathlib import Path
from typing import Final

import msgspec

from bench.figures import Row, left_out


class Question(msgspec.Struct, frozen=True):
    name: str
    module: str
    limit_s: float  # then it is stopped and its rows are left out
    quick_limit_s: float
    needs_data: bool = True


class Run(msgspec.Struct, frozen=True):
    """What a question is given."""

    question: str
    folder: Path  # of the run: bench data, data directories of nodes, sockets
    quick: bool


DATA: Final = "data"

# In this order: what only reads comes before what adds to the data.
QUESTIONS: Final = (
    Question(DATA, "bench.bench_data", 900, 120, needs_data=False),
    Question("feeds-in-process", "bench.feeds_in_process", 120, 40),
    Question("data-size", "bench.data_size", 90, 30),
    Question("photograph", "bench.photograph", 60, 20, needs_data=False),
    Question("create-posts", "bench.create_posts", 90, 30),
    Question("feed-http", "bench.feed_http", 150, 60),
    Question("feed-page", "bench.feed_page", 90, 40),
    Question("cold-start", "bench.cold_start", 60, 30),
    Question("serve-media", "bench.serve_media", 90, 40),
    Question("uploads", "bench.uploads", 150, 50),
    Question("mixed-load", "bench.mixed_load", 180, 70),
    Question("replication", "bench.replication", 600, 240, needs_data=False),
    Question("million-followers", "bench.million_followers", 600, 90, needs_data=False),
)


def named(name: str) -> Question:
    return next(question for question in QUESTIONS if question.name == name)


def answer(run: Run, to: Path) -> None:
    """Answer one question in this process and write its rows as JSON."""
    try:
        rows: list[Row] = importlib.import_module(named(run.question).module).answer(run)
    except Exception:  # noqa: BLE001 - whatever a question dies of is its answer, and the others go on
        traceback.print_exc()
        rows = [left_out(run.question, run.question, f"failed: {_last_line()}")]
    to.write_bytes(msgspec.json.encode(rows))


def _last_line() -> str:
    error = sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1]
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:200]


if __name__ == "__main__":
    _name, _folder, _quick, _to = sys.argv[1:]
    answer(Run(_name, Path(_folder), _quick == "quick"), Path(_to))
