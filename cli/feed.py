"""`heliograph feed`: one's feed, newest first, as a person reads it or as JSON."""

import sys
from datetime import UTC, datetime
from typing import Any, Final

import click
import msgspec

from cli.network import Network, Post, network_command
from cli.output import PIPED_WIDTH, called, json_option, note, print_json, printable

PAGE_MAX: Final = 100  # posts that the API gives at once
LIMIT_MAX: Final = 10_000
# A unit is used up to the next; beyond the last the date says more.
UNITS: Final = ((1, "s"), (60, "min"), (3600, "h"), (86400, "d"))
DATE_AFTER_S: Final = 7 * 86400


class Page(msgspec.Struct, frozen=True):
    posts: list[dict[str, Any]]
    next_cursor: str | None


@click.command("feed")
@click.option(
    "--limit", type=click.IntRange(1, LIMIT_MAX), default=10, show_default=True, help="How many posts."
)
@click.option("--cursor", help="Go on where a page ended: its next_cursor.")
@network_command
@json_option
def feed(network: Network, limit: int, cursor: str | None, as_json: bool) -> None:
    """The newest posts of those you follow, and your own.

    With --json: {posts, next_cursor}, posts as the API gives them.
    """
    page = read_feed(network, limit, cursor)
    if as_json:
        print_json(page)
    elif not page.posts:
        note(f"nothing yet: follow somebody ({called()} follow USERNAME)")
    else:
        _print(network, msgspec.convert(page.posts, list[Post]))


def read_feed(network: Network, limit: int, cursor: str | None) -> Page:
    """`limit` posts from `cursor` on, in as many pages as that takes."""
    posts: list[dict[str, Any]] = []
    while True:
        asked: dict[str, str | int] = {"limit": min(PAGE_MAX, limit - len(posts))}
        if cursor is not None:
            asked["cursor"] = cursor
        page = network.call("GET", "/v1/feed", Page, params=asked)
        posts += page.posts
        cursor = page.next_cursor
        if cursor is None or len(posts) >= limit:
            return Page(posts, cursor)


def ago(published_at: str, now: datetime) -> str:
    """How long ago an RFC 3339 time was, for people."""
    then = datetime.fromisoformat(published_at)
    seconds = max(0, int((now - then).total_seconds()))
    if seconds >= DATE_AFTER_S:
        return f"{then.astimezone():%Y-%m-%d}"
    size, unit = next(one for one in reversed(UNITS) if seconds >= one[0] or one[0] == 1)
    return f"{seconds // size} {unit} ago"


def _print(network: Network, posts: list[Post]) -> None:
    from rich.console import Console

    terminal = sys.stdout.isatty()
    console = Console() if terminal else Console(width=PIPED_WIDTH, no_color=True)
    now = datetime.now(UTC)
    for post in posts:
        console.print(_drawn(network, post, now), soft_wrap=True)


def _drawn(network: Network, post: Post, now: datetime) -> Any:
    """A post as lines; what users wrote is text and never markup."""
    from rich.text import Text

    author = Text(printable(post.user.username), style="bold")
    if post.user.display_name:
        author.append(f"  {printable(post.user.display_name)}", style="not bold")
    if post.published_at:
        author.append(f"  {ago(post.published_at, now)}", style="not bold dim")
    lines = [author]
    if post.caption:
        lines.append(Text(printable(post.caption)))
    if post.location:
        lines.append(Text(f"at {printable(post.location)}", style="italic"))
    lines.append(Text(" · ".join(_counts(post)), style="dim"))
    if post.photo_url:
        lines.append(Text(f"photo {printable(network.absolute(post.photo_url))}", style="dim"))
    lines.append(Text(f"post  {network.link(post.id)}", style="cyan"))
    return Text("\n").join(lines).append("\n")


def _counts(post: Post) -> list[str]:
    likes = f"{post.like_count} like{'' if post.like_count == 1 else 's'}"
    said = f"{post.comment_count} comment{'' if post.comment_count == 1 else 's'}"
    counts = [likes + (" (yours too)" if post.liked_by_me else ""), said]
    if len(post.media) > 1:
        counts.append(f"{len(post.media)} photos")
    return counts
