"""`heliograph keys …`: the keys that sign access tokens."""

from typing import Any

import click

from cli.client import Target, admin, target_options
from cli.output import json_option, print_fields, print_json


@click.group()
def keys() -> None:
    """The keys that sign access tokens."""


@keys.command("rotate")
@target_options
@json_option
def rotate(target: Target, as_json: bool) -> None:
    """Sign with a new key from now on; tokens signed before live out their time."""
    with admin(target) as client:
        found: dict[str, Any] = client.post("/v1/admin/keys/rotate", dict)
    if as_json:
        print_json(found)
    else:
        print_fields({"signs from now on": found["kid"], "keys whose tokens may live": found["keys"]})
