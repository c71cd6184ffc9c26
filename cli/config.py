"""`heliograph config …`: what the settings are and where each comes from, without starting a node."""

from pathlib import Path
from typing import Any

import click
import msgspec

from cli.output import USAGE, fail, json_option, note, print_json, print_table


@click.group()
def config() -> None:
    """Show and check settings."""


def settings_options(command: Any) -> Any:
    command = click.option("--set", "flags", metavar="KEY=VALUE", multiple=True, help="One setting.")(command)
    return click.option("--config", "file", type=click.Path(path_type=Path), help="A TOML file.")(command)


def loaded(file: Path | None, flags: tuple[str, ...]) -> Any:
    from node.settings import SettingsError, load

    try:
        return load(flags=flags, config=file)
    except SettingsError as wrong:
        fail(str(wrong), USAGE)


@config.command("show")
@settings_options
@click.option("--changed", is_flag=True, help="Only what differs from the defaults.")
@click.option("--toml", "as_toml", is_flag=True, help="As a file for --config, with what each means.")
@json_option
def show(file: Path | None, flags: tuple[str, ...], changed: bool, as_toml: bool, as_json: bool) -> None:
    """Every setting: its value, where that comes from, and what it means."""
    from node.settings import describe

    rows = [row for row in describe(loaded(file, flags)) if not changed or row.value != row.default]
    if as_json:
        print_json([msgspec.structs.asdict(row) for row in rows])
    elif as_toml:
        click.echo(toml(rows), nl=False)
    else:
        print_table(
            ("setting", "value", "from", "meaning"),
            [(row.key, written(row.value), row.source, row.meaning) for row in rows],
            empty="all settings have their defaults",
        )


@config.command("check")
@settings_options
def check(file: Path | None, flags: tuple[str, ...]) -> None:
    """Say whether a node could start with these settings; exit code 2 if not."""
    settings = loaded(file, flags)
    note(f"good: {len(settings.sources)} settings are given, all others have their defaults")


def toml(rows: list[Any]) -> str:
    """The settings as the file that `--config` reads."""
    lines: list[str] = []
    section = ""
    for row in rows:
        table, _, name = row.key.partition(".")
        if table != section:
            lines += ["", f"[{table}]"] if lines else [f"[{table}]"]
            section = table
        lines.append(f"{name} = {msgspec.json.encode(row.value).decode()}  # {row.meaning}")
    return "\n".join(lines) + "\n" if lines else ""


def written(value: Any) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)
