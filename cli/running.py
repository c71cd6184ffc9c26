"""Running a node from the command line: signals, the first words to a person, and how each end is told.

What is the world's fault (a port in use, a directory that another node holds, a damaged journal) ends with
one clear line. What is ours (a bug, a shard that stopped) is logged with its traceback. Both exit 1.
"""

import errno
import signal
import ssl
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click
import msgspec
import trio

from cli.client import DATA
from cli.output import DENIED, FAILED, USAGE, called
from cluster.commands import Refused
from node.app import Addresses, run_node
from node.http.server import CannotListen
from node.joining import CannotJoin, Expelled
from node.logs import get_logger, set_up
from node.settings import Settings, SettingsError, load
from storage.blobs import BlobsFailed
from storage.directory import DirectoryDamaged, DirectoryForeign, DirectoryInUse, DirectoryTooNew
from storage.journal import JournalDamaged, JournalFailed, JournalFull
from storage.records import RecordDamaged, RecordTooNew
from storage.shard import UNREADABLE, ShardFull

log = get_logger("node")

# The world's fault: no traceback would tell an operator more than the exception's own words.
WORLD: Final = (
    *(DirectoryInUse, DirectoryForeign, DirectoryTooNew, DirectoryDamaged),
    *(JournalDamaged, JournalFailed, JournalFull, RecordDamaged, RecordTooNew, BlobsFailed),
    *(ShardFull, *UNREADABLE),
    *(Refused, SettingsError, ssl.SSLError, CannotListen, CannotJoin, Expelled),
)


def run_until_signal(data: Path, flags: Sequence[str], config: Path | None, token: str | None = None) -> int:
    """Run the node; the exit code."""
    try:
        settings = load(flags=flags, config=config)
    except SettingsError as wrong:
        click.echo(f"Error: {wrong}", err=True)
        return USAGE
    terminal = sys.stderr.isatty()
    if terminal and "logs.format" not in settings.sources:
        settings = msgspec.structs.replace(
            settings, logs=msgspec.structs.replace(settings.logs, format="console")
        )
    set_up(form=settings.logs.format, level=settings.logs.level)
    return trio.run(_run, data, settings, token)


async def _run(data: Path, settings: Settings, token: str | None) -> int:
    serving = trio.Event()
    try:
        await _run_node(data, settings, token, serving)
    except Exception as error:  # noqa: BLE001  # the outermost frame: every end is told
        return _tell(error, data, settings, serving.is_set())
    return 0


async def _run_node(data: Path, settings: Settings, token: str | None, serving: trio.Event) -> None:
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                async for number in signals:
                    if stop.is_set():
                        log.warning("stopping_at_once", signal=signal.Signals(number).name)
                        nursery.cancel_scope.cancel()
                    stop.set()

            async def ended() -> None:
                await run_node(data, settings, stop, token, task_status=started)
                nursery.cancel_scope.cancel()

            started = _Started(data, settings, serving)
            nursery.start_soon(listen)
            nursery.start_soon(ended)


class _Started:
    """What run_node reports to: the moment at which it serves."""

    def __init__(self, data: Path, settings: Settings, serving: trio.Event) -> None:
        self._data = data
        self._settings = settings
        self._serving = serving

    def started(self, value: Addresses | None = None) -> None:
        self._serving.set()
        if value is not None and self._settings.logs.format == "console":
            click.echo(greeting(value, self._data), err=True)


def greeting(at: Addresses, data: Path) -> str:
    """Where the node listens and what to do next."""
    return f"""
  Heliograph is running.

    for people and programs   {at.http.url}    the API: {at.http.url}/docs
    for its operator          {at.admin.url}    {called()} node status{_data_flag(data)}
    its data                  {data.resolve()}

  Next, in another terminal: open an account and post a photograph
    {called()} login YOUR-NAME --sign-up --url {at.http.url}
    {called()} post PHOTO.jpg
  or with curl: README.md goes from sign-up to feed. Ctrl-C stops the node.
"""


def _data_flag(data: Path) -> str:
    """What a command about this node needs, to find it from the same folder."""
    return "" if data == Path(DATA) else f" --data {data}"


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in nested groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def _tell(error: BaseException, data: Path, settings: Settings, serving: bool) -> int:
    causes = [leaf for leaf in leaves(error) if not isinstance(leaf, trio.Cancelled)]
    words = [word for cause in causes if (word := _world(cause, serving))]
    if causes and len(words) == len(causes):
        for word in dict.fromkeys(words):
            log.error("the node cannot run", reason=word, data=str(data))
            if settings.logs.format == "json":
                click.echo(f"Error: {word}", err=True)
        return DENIED if any(isinstance(cause, Expelled) for cause in causes) else FAILED
    log.critical("the node stopped: a bug, or a shard that could not go on", exc_info=error)
    return FAILED


def _world(error: BaseException, serving: bool) -> str:
    """The clear word for what is the world's fault; empty for what is ours."""
    if isinstance(error, JournalDamaged):
        return f"the journal is damaged: {error}. Restore a backup; do not delete the file, it is evidence"
    if isinstance(error, UNREADABLE):
        return f"a shard is damaged: {error}. Restore a backup elsewhere; keep this directory, it is evidence"
    if isinstance(error, ShardFull):
        return f"{error}. Nothing is lost: with room on the disk, the next start takes it from the journal"
    if isinstance(error, CannotListen):
        return f"{error}; --http, --admin and --cluster name others"
    if isinstance(error, WORLD):
        return str(error)
    if isinstance(error, OSError) and not serving:
        if error.filename:
            return f"{error.filename}: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"no room for a start: {error.strerror}. Make some: a start needs a few MiB"
        return str(error)
    return ""
