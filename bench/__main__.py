"""`python -m bench`: the questions, one after another, then the table, a JSON file and a picture."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench import chart, machine
from bench.baselines import missing_programs
from bench.figures import Report, Row, Verdict, left_out
from bench.questions import DATA, QUESTIONS, Question, named

COLOURS: Final = {
    Verdict.MET: "green",
    Verdict.MISSED: "bold red",
    Verdict.TOLD: "dim",
    Verdict.LEFT_OUT: "yellow",
}
BUDGET_S: Final = 35 * 60  # of a whole run; what does not fit is left out and says so
ANSWER_S_MIN: Final = 5  # no question is answered in less
QUICK_BUDGET_S: Final = 7 * 60
STOP_S: Final = 10  # for a question that ran over its time to take its servers with it


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([question.name for question in QUESTIONS]),
    metavar="NAME",
    help="Only this question (again for more). One of: " + ", ".join(q.name for q in QUESTIONS) + ".",
)
@click.option("--quick", is_flag=True, help="A tenth of the data and shorter rounds: under 7 minutes.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("bench-results"), show_default=True)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Keep bench data here and use what is there already; otherwise a temporary folder, removed.",
)
def main(only: tuple[str, ...], quick: bool, out: Path, folder: Path | None) -> None:
    """Measure Heliograph beside Redis, PostgreSQL and nginx, and print one table."""
    console = Console(stderr=True)
    began, started = datetime.now(UTC), time.monotonic()
    line = machine.describe()
    missing = missing_programs()
    console.print(f"[bold]Heliograph bench[/bold] on {escape(line)}")
    for program in missing:
        console.print(f"[yellow]not installed, so not compared with: {escape(program)}[/yellow]")
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="heliograph-bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)  # PostgreSQL runs as another user and must get through
        rows: list[Row] = []
        for question in chosen(only):
            left_s = (QUICK_BUDGET_S if quick else BUDGET_S) - (time.monotonic() - started)
            if question.needs_data and rows[0].verdict is Verdict.LEFT_OUT:
                rows.append(left_out(question.name, question.name, "there is no bench data"))
                continue
            with console.status(f"{question.name} …"):
                rows += ask(question, folder.resolve(), quick, left_s, console)
    report = Report(
        line, began.isoformat(timespec="seconds"), time.monotonic() - started, quick, rows, missing
    )
    out.mkdir(parents=True, exist_ok=True)
    name = "bench-quick" if quick else "bench"
    (out / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    (out / f"{name}.svg").write_text(chart.draw(report))
    Console(width=None if sys.stdout.isatty() else 200).print(table(report))
    console.print(f"{report.seconds:.0f} s; written to {out}/{name}.json and {out}/{name}.svg")


def chosen(only: tuple[str, ...]) -> list[Question]:
    """The questions asked for, and before them the data that they need."""
    found = [question for question in QUESTIONS if not only or question.name in only]
    if any(question.needs_data for question in found) and found[0].name != DATA:
        found.insert(0, named(DATA))
    return found


def ask(question: Question, folder: Path, quick: bool, left_s: float, console: Console) -> list[Row]:
    """The rows of one question, from a process in a session of its own so that its servers end with it."""
    limit = min(left_s, question.quick_limit_s if quick else question.limit_s)
    if limit < ANSWER_S_MIN:
        return [left_out(question.name, question.name, "the run's time was used up")]
    to = folder / f"{question.name}.rows.json"
    to.unlink(missing_ok=True)
    log = folder / f"{question.name}.log"
    command = [
        sys.executable,
        "-m",
        "bench.questions",
        question.name,
        str(folder),
        "quick" if quick else "full",
    ]
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, str(to)], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            end_session(process)
        except BaseException:
            end_session(process)
            raise
    seconds = time.monotonic() - began
    if not to.exists():
        why = f"stopped after {seconds:.0f} s" if seconds >= limit else f"ended with {process.returncode}"
        rows = [left_out(question.name, question.name, why)]
    else:
        rows = msgspec.json.decode(to.read_bytes(), type=list[Row])
    console.print(f"{question.name}: {seconds:.0f} s")
    if any(row.verdict is Verdict.LEFT_OUT for row in rows):
        tail = log.read_text(errors="replace").strip().splitlines()[-12:]
        console.print(escape("\n".join(tail)), style="dim", highlight=False)
    return rows


def end_session(process: subprocess.Popen[bytes]) -> None:
    """Stop a question and all it started; its session is our own making."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def table(report: Report) -> Table:
    found = Table(title=f"Heliograph on {escape(report.machine)}", title_justify="left", show_lines=False)
    found.add_column("what", overflow="fold", ratio=5)
    found.add_column("to reach", justify="right", no_wrap=True)
    found.add_column("reached", justify="right", no_wrap=True)
    found.add_column("beside, in the same run", overflow="fold", ratio=5)
    found.add_column("", no_wrap=True)
    before = ""
    for row in report.rows:
        if before and row.question != before:
            found.add_section()
        before = row.question
        verdict = row.verdict
        beside = row.beside or row.note
        colour = COLOURS[verdict]
        found.add_row(
            escape(row.what),
            row.to_reach,
            row.reached,
            escape(beside),
            f"[{colour}]{verdict.value}[/{colour}]",
        )
    return found


if __name__ == "__main__":
    main()
