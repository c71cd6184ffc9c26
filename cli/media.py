"""`heliograph media failed …`: media jobs whose tries are used up."""

from typing import Any
from urllib.parse import quote

import click

from cli.client import Target, admin, target_options
from cli.letters import every, settle
from cli.output import json_option, print_fields, print_json, print_table

PATH = "/v1/admin/media/failed"


@click.group()
def media() -> None:
    """Media jobs whose tries are used up."""


@media.group("failed")
def failed() -> None:
    """Photographs that could not be made ready in three tries: dead letters."""


@failed.command("list")
@target_options
@json_option
def list_failed(target: Target, as_json: bool) -> None:
    """All of them."""
    with admin(target) as client:
        found = list(every(client, PATH, "failed"))
    if as_json:
        print_json(found)
        return
    rows = [
        (m["media_id"], m["owner"] or m["owner_id"], m["attempts"], m["failed_at"], m["reason"])
        for m in found
    ]
    print_table(("medium", "owner", "tries", "failed at", "reason"), rows, empty="no media job has failed")


@failed.command("show")
@click.argument("medium")
@target_options
@json_option
def show(target: Target, medium: str, as_json: bool) -> None:
    """One of them."""
    with admin(target) as client:
        found: dict[str, Any] = client.get(f"{PATH}/{quote(medium, safe='')}", dict)
    if as_json:
        print_json(found)
    else:
        print_fields({name.replace("_", " "): value for name, value in found.items()})


@failed.command("retry")
@click.argument("media", nargs=-1)
@click.option("--all", "all_of_them", is_flag=True, help="Every failed job.")
@target_options
def retry(target: Target, media: tuple[str, ...], all_of_them: bool) -> None:
    """Give jobs their three tries anew, at once."""
    with admin(target) as client:
        settle(client, PATH, "failed", "media_id", media, all_of_them, "retry", "begins anew")


@failed.command("drop")
@click.argument("media", nargs=-1)
@click.option("--all", "all_of_them", is_flag=True, help="Every failed job.")
@target_options
def drop(target: Target, media: tuple[str, ...], all_of_them: bool) -> None:
    """Forget the failed jobs; their media stay failed."""
    with admin(target) as client:
        settle(client, PATH, "failed", "media_id", media, all_of_them, "drop", "dropped")
