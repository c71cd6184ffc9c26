"""`heliograph dead-letters …`: messages between partitions that were refused where they arrived."""

from typing import Any
from urllib.parse import quote

import click

from cli.client import Target, admin, target_options
from cli.letters import every, settle
from cli.output import json_option, print_fields, print_json, print_table

PATH = "/v1/admin/dead-letters"


@click.group("dead-letters")
def dead_letters() -> None:
    """Messages between partitions that were refused, and kept."""


@dead_letters.command("list")
@target_options
@json_option
def list_letters(target: Target, as_json: bool) -> None:
    """All of them. A letter is named PARTITION:NUMBER."""
    with admin(target) as client:
        found = list(every(client, PATH, "letters"))
    if as_json:
        print_json(found)
        return
    rows = [(row["id"], row["kind"], row["source"], row["at"], row["code"], row["detail"]) for row in found]
    print_table(("letter", "kind", "from", "at", "code", "why"), rows, empty="there are no dead letters")


@dead_letters.command("show")
@click.argument("letter")
@target_options
@json_option
def show(target: Target, letter: str, as_json: bool) -> None:
    """One of them, with what it says."""
    with admin(target) as client:
        found: dict[str, Any] = client.get(f"{PATH}/{quote(letter, safe='')}", dict)
    if as_json:
        print_json(found)
    else:
        print_fields(found)


@dead_letters.command("retry")
@click.argument("letters", nargs=-1)
@click.option("--all", "all_of_them", is_flag=True, help="Every dead letter.")
@target_options
def retry(target: Target, letters: tuple[str, ...], all_of_them: bool) -> None:
    """Let refused messages take effect after all, where nothing stands in their way any more."""
    with admin(target) as client:
        settle(client, PATH, "letters", "id", letters, all_of_them, "retry", "took effect")


@dead_letters.command("drop")
@click.argument("letters", nargs=-1)
@click.option("--all", "all_of_them", is_flag=True, help="Every dead letter.")
@target_options
def drop(target: Target, letters: tuple[str, ...], all_of_them: bool) -> None:
    """Forget refused messages for ever."""
    with admin(target) as client:
        settle(client, PATH, "letters", "id", letters, all_of_them, "drop", "dropped")
