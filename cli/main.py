"""The command line: `heliograph …`.

Commands are named here and imported when one is asked for, so that `heliograph --help` and a shell's
completion are quick and no command pays for what another needs.
"""

from importlib import import_module
from typing import Final

import click

COMMANDS: Final[dict[str, tuple[str, str]]] = {  # name → (module:attribute, the line in --help)
    # for operators
    "node": ("cli.node:node", "Run a node and look after it."),
    "cluster": ("cli.cluster:cluster", "Nodes that hold the same data, and survive each other."),
    "config": ("cli.config:config", "Show and check settings."),
    "keys": ("cli.keys:keys", "The keys that sign access tokens."),
    "backup": ("cli.backup:backup", "Create, verify and restore backups."),
    "account": ("cli.account:account", "Create, show, suspend and delete accounts."),
    "media": ("cli.media:media", "Media jobs whose tries are used up."),
    "dead-letters": ("cli.dead_letters:dead_letters", "Messages between partitions that were refused."),
    # for people
    "simulate": ("cli.simulate:simulate", "A cluster in virtual time, with faults, judged by the laws."),
    "demo": ("cli.demo:demo", "A throw-away node with twelve people and their pictures."),
    "login": ("cli.login:login", "Sign in, or sign up."),
    "logout": ("cli.login:logout", "End the session."),
    "post": ("cli.post:post", "Post a photo, or several as an album."),
    "feed": ("cli.feed:feed", "The newest posts of those you follow."),
    "follow": ("cli.social:follow", "Follow somebody."),
    "unfollow": ("cli.social:unfollow", "Stop following somebody."),
    "like": ("cli.social:like", "Like a post."),
    "unlike": ("cli.social:unlike", "Take a like back."),
    "comment": ("cli.social:comment", "Comment on a post."),
}


class LazyGroup(click.Group):
    """A group that imports a command when it is run or its own help is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="heliograph", prog_name="heliograph")
def main() -> None:
    """A photo-sharing network in one process, or in a few that hold the same data.

    Begin with `heliograph node run`. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 denied,
    5 unreachable.
    """
