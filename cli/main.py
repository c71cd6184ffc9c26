"""The command line: `heliograph …`."""

import sys
from pathlib import Path

import click
import trio

from node.app import Addresses, run_node
from node.logs import set_up
from node.settings import SettingsError, load


@click.group()
def main() -> None:
    """A photo-sharing network in one process."""


@main.group()
def node() -> None:
    """Run a node and look after it."""


@node.command("run")
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--http", "http", default=None)
@click.option("--admin", default=None)
@click.option("--config", type=click.Path(path_type=Path), default=None)
@click.option("--set", "flags", multiple=True)
def run(data: Path, http: str | None, admin: str | None, config: Path | None, flags: tuple[str, ...]) -> None:
    """Run a node on a data directory."""
    flags = list(flags)  # type: ignore[assignment]
    for section, address in (("http", http), ("admin", admin)):
        if address:
            host, _, port = address.rpartition(":")
            flags = [*flags, f"{section}.host={host}", f"{section}.port={port}"]  # type: ignore[assignment]
    try:
        settings = load(flags=flags, config=config)
    except SettingsError as wrong:
        click.echo(str(wrong), err=True)
        sys.exit(2)
    set_up(form=settings.logs.format, level=settings.logs.level)

    async def start() -> None:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            addresses: Addresses = await nursery.start(run_node, data, settings, stop)
            click.echo(f"listening on {addresses.http.url} (admin {addresses.admin.url})", err=True)

    trio.run(start)
