"""What a person or a program sees: tables on a terminal, JSON with --json, progress on stderr, exit codes.

What comes from users (names, reasons, texts) may hold anything, so nothing is printed that a terminal would
obey.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any, Final, NoReturn, TypeVar

import click
import msgspec

FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
DENIED: Final = 4
UNREACHABLE: Final = 5
KEPT: Final = "\n\u200c\u200d"  # line end, zero-width non-joiner and joiner: not printable, and harmless
PIPED_WIDTH: Final = 1000  # columns where no terminal says how many it has: lines are not folded

F = TypeVar("F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """The command could not do what it was asked; the text says why, the code is the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]  # click reads it from the instance, too

    def show(self, file: Any = None) -> None:
        click.echo(f"{click.style('Error', fg='red')}: {printable(self.message)}", err=True)


def fail(message: str, code: int = FAILED) -> NoReturn:
    raise Failure(message, code)


def json_option(command: F) -> F:
    """`--json`, as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for programs.")(command)


def print_json(value: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "nothing") -> None:
    """Rows under headings. `empty` is said on stderr where there are none."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=place == 0)  # what is typed again stays whole
    for row in rows:
        table.add_row(*(Text(printable(_said(cell))) for cell in row))
    if table.row_count:
        _console().print(table)
    else:
        note(empty)


def print_fields(fields: dict[str, Any]) -> None:
    """One thing: a line per field."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(name, Text(printable(_said(value))))
    _console().print(table)


def _said(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def note(text: str) -> None:
    """A word for the person, not part of the result."""
    click.echo(printable(text), err=True)


def printable(text: str) -> str:
    """The text with what a terminal would obey shown as `·`; line ends stay, and what joins emoji and
    Persian letters."""
    return "".join(letter if letter.isprintable() or letter in KEPT else "·" for letter in text)


def called() -> str:
    """How the person can call this program again: `heliograph` where that is found, else its path."""
    own, found = Path(sys.argv[0]), which("heliograph")
    if own.name != "heliograph" or (found and Path(found).resolve() == own.resolve()):
        return "heliograph"
    below = Path.cwd()
    return str(own.relative_to(below)) if own.is_absolute() and own.is_relative_to(below) else str(own)


def size(count: int) -> str:
    """Bytes for people: `1.5 GiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


class Advance:
    """Progress of one command. `tell` may be called as often as one likes."""

    def __init__(self, tell: Callable[[str, int, int], None]) -> None:
        self.tell = tell  # what is being done, how much is done, of how much (0: nobody knows)


@contextmanager
def progress() -> Iterator[Advance]:
    """A bar on stderr, where that is a terminal; nothing otherwise."""
    if not sys.stderr.isatty():
        yield Advance(lambda _what, _done, _total: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("…", total=None)

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        yield Advance(tell)


def _console() -> Any:
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH, no_color=True)
