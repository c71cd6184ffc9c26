"""`heliograph account …`: accounts, through a running node's admin listener.

Passwords come from a prompt or from standard input, never from the command line, which others can read.
"""

import sys
from typing import Any

import click

from cli.client import AdminClient, Target, admin, target_options
from cli.output import json_option, note, print_fields, print_json

ROLES = ("user", "admin")


@click.group()
def account() -> None:
    """Create, show, suspend and delete accounts."""


def named(command: Any) -> Any:
    """USERNAME, or `--id ID` in its place."""
    command = click.option("--id", "user_id", metavar="ID", help="Its id, in place of its name.")(command)
    return click.argument("username", required=False)(command)


def password_option(command: Any) -> Any:
    return click.option(
        "--password-stdin", is_flag=True, help="Read the password from standard input: its first line."
    )(command)


def ask_password(from_stdin: bool) -> str:
    if from_stdin:
        line = sys.stdin.readline()
        if not line.endswith("\n") and not line:
            raise click.UsageError("--password-stdin: standard input was empty")
        return line.removesuffix("\n").removesuffix("\r")
    if not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask for a password: use --password-stdin")
    typed: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return typed


def find(client: AdminClient, username: str | None, user_id: str | None) -> dict[str, Any]:
    """The account. Exit code 3 without one."""
    if (username is None) == (user_id is None):
        raise click.UsageError("name the account: USERNAME or --id ID")
    if user_id is not None:
        if not (user_id.isascii() and user_id.isdecimal()):
            raise click.UsageError(f"--id {user_id!r}: an id is a decimal number")
        return client.get(f"/v1/admin/accounts/{user_id}", dict)
    from urllib.parse import quote

    return client.get(f"/v1/admin/accounts/by-name/{quote(username or '', safe='')}", dict)


def tell(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        print_fields({name.replace("_", " "): value for name, value in found.items()})


@account.command("create")
@click.argument("username")
@click.option("--display-name", default="", help="The name that is shown.")
@click.option("--role", type=click.Choice(ROLES), default="user", show_default=True)
@password_option
@target_options
@json_option
def create(
    target: Target, username: str, display_name: str, role: str, password_stdin: bool, as_json: bool
) -> None:
    """Make an account, outside the limit on sign-ups."""
    with admin(target) as client:
        password = ask_password(password_stdin)
        body = {"username": username, "password": password, "display_name": display_name, "role": role}
        tell(client.post("/v1/admin/accounts", dict, body), as_json)


@account.command("show")
@named
@target_options
@json_option
def show(target: Target, username: str | None, user_id: str | None, as_json: bool) -> None:
    """Show an account, whatever its state."""
    with admin(target) as client:
        tell(find(client, username, user_id), as_json)


@account.command("suspend")
@named
@target_options
@json_option
def suspend(target: Target, username: str | None, user_id: str | None, as_json: bool) -> None:
    """Hide an account and end its sessions; what it made stays."""
    with admin(target) as client:
        found = find(client, username, user_id)
        tell(client.post(f"/v1/admin/accounts/{found['id']}/suspend", dict), as_json)


@account.command("unsuspend")
@named
@target_options
@json_option
def unsuspend(target: Target, username: str | None, user_id: str | None, as_json: bool) -> None:
    """Show a suspended account again."""
    with admin(target) as client:
        found = find(client, username, user_id)
        tell(client.post(f"/v1/admin/accounts/{found['id']}/unsuspend", dict), as_json)


@account.command("role")
@named
@click.option("--role", type=click.Choice(ROLES), required=True)
@target_options
@json_option
def role(target: Target, username: str | None, user_id: str | None, role: str, as_json: bool) -> None:
    """Give an account a role. An admin's next request has it."""
    with admin(target) as client:
        found = find(client, username, user_id)
        tell(client.post(f"/v1/admin/accounts/{found['id']}/role", dict, {"role": role}), as_json)


@account.command("password")
@named
@password_option
@target_options
def password(target: Target, username: str | None, user_id: str | None, password_stdin: bool) -> None:
    """Give an account a new password; all its sessions end."""
    with admin(target) as client:
        found = find(client, username, user_id)
        body = {"password": ask_password(password_stdin)}
        client.post(f"/v1/admin/accounts/{found['id']}/password", type(None), body)
        note(f"{found['username']} has a new password; all sessions ended")


@account.command("delete")
@named
@click.option("--yes", is_flag=True, help="Do not ask.")
@target_options
def delete(target: Target, username: str | None, user_id: str | None, yes: bool) -> None:
    """Delete an account and all that it made. There is no way back but a backup."""
    with admin(target) as client:
        found = find(client, username, user_id)
        if not yes:
            if not sys.stdin.isatty():
                raise click.UsageError("no terminal to ask whether you are sure: use --yes")
            words = f"Delete {found['username']} with {found['posts']} posts?"
            click.confirm(words, abort=True, err=True)
        client.post(f"/v1/admin/accounts/{found['id']}/delete", type(None))
        note(f"{found['username']} is gone; what it made is being taken away")
