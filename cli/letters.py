"""What the commands about dead letters share: going through a list, and retrying or dropping some of it."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import click

from cli.client import AdminClient
from cli.output import Failure, note


def every(client: AdminClient, path: str, field: str) -> Iterator[dict[str, Any]]:
    """Everything in a paged list, a page at a time."""
    after = None
    while True:
        page: dict[str, Any] = client.get(path, dict, after=after)
        yield from page[field]
        after = page["next"]
        if after is None:
            return


def settle(
    client: AdminClient,
    path: str,
    field: str,
    key: str,
    names: tuple[str, ...],
    all_of_them: bool,
    action: str,
    done: str,
) -> None:
    """Retry or drop each. One that cannot be is told, the others go on; the exit code is the last's."""
    if bool(names) == all_of_them:
        raise click.UsageError("name which, or say --all")
    chosen = [letter[key] for letter in every(client, path, field)] if all_of_them else list(names)
    failed: Failure | None = None
    for name in chosen:
        try:
            client.post(f"{path}/{quote(name, safe='')}/{action}", type(None))
            note(f"{name}: {done}")
        except Failure as failure:
            note(f"{name}: {failure.message}")
            failed = failure
    if not chosen:
        note("there are none")
    if failed is not None:
        raise SystemExit(failed.exit_code)
