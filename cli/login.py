"""`heliograph login` and `logout`: the only commands that meet a password."""

import sys
from typing import Final

import click

from cli.network import Network, network_command
from cli.output import json_option, note, print_json

PASSWORD_CHARACTERS_MAX: Final = 4096  # of the line on stdin; the node says what a password may be


@click.command("login")
@click.argument("username", required=False)
@click.option("--sign-up", is_flag=True, help="Open an account first.")
@click.option("--display-name", help="With --sign-up: the name that others read.")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin instead of asking.")
@network_command
@json_option
def login(
    network: Network,
    username: str | None,
    sign_up: bool,
    display_name: str | None,
    password_stdin: bool,
    as_json: bool,
) -> None:
    """Sign in, and stay signed in for the commands that follow.

    The sign-in is kept in HELIOGRAPH_HOME, or in the folder `heliograph` of your configuration, for you alone
    to read. The password is not kept.
    """
    if display_name is not None and not sign_up:
        raise click.UsageError("--display-name goes with --sign-up")
    if username is None:
        if password_stdin or not sys.stdin.isatty():
            raise click.UsageError("who? give the USERNAME")
        username = click.prompt("Username", err=True)
    body = {"username": username, "password": _password(password_stdin, confirmed=sign_up)}
    if display_name is not None:
        body["display_name"] = display_name
    signed_in = network.sign_in("/v1/users" if sign_up else "/v1/sessions", body)
    if as_json:
        print_json({"url": network.url, "username": signed_in.username, "user_id": signed_in.user_id})
    else:
        note(f"signed in as {signed_in.username} at {network.url}")


@click.command("logout")
@network_command
def logout(network: Network) -> None:
    """End the session, at the node and here."""
    network.sign_out()
    note(f"signed out at {network.url}")


def _password(from_stdin: bool, *, confirmed: bool) -> str:
    if from_stdin:
        line = sys.stdin.readline(PASSWORD_CHARACTERS_MAX).rstrip("\r\n")
        if not line:
            raise click.UsageError("--password-stdin: there was no password on stdin")
        return line
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask for the password: use --password-stdin")
    password: str = click.prompt("Password", hide_input=True, confirmation_prompt=confirmed, err=True)
    return password
