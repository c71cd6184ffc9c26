"""`heliograph follow|unfollow|like|unlike|comment`: one call each."""

from typing import Any

import click

from cli.network import Network, network_command, post_id
from cli.output import json_option, note, print_json

Answer = dict[str, Any]


@click.command("follow")
@click.argument("username")
@network_command
@json_option
def follow(network: Network, username: str, as_json: bool) -> None:
    """Follow somebody, or ask to follow a private account."""
    user = network.user_named(username)
    answer = network.call("POST", "/v1/follows", Answer, json={"followed_id": user.id})
    granted = answer["status"] == "SUCCESS"
    words = f"you follow {user.username}" if granted else f"{user.username} was asked to let you follow"
    _tell(answer, words, as_json)


@click.command("unfollow")
@click.argument("username")
@network_command
def unfollow(network: Network, username: str) -> None:
    """Stop following somebody, or take back the request."""
    user = network.user_named(username)
    network.call("DELETE", f"/v1/follows/{user.id}", type(None))
    note(f"you do not follow {user.username}")


@click.command("like")
@click.argument("post")
@network_command
@json_option
def like(network: Network, post: str, as_json: bool) -> None:
    """Like a post, named by its id or link."""
    answer = network.call("POST", f"/v1/posts/{post_id(post)}/like", Answer)
    _tell(answer, f"liked; likes: {answer['like_count']}", as_json)


@click.command("unlike")
@click.argument("post")
@network_command
@json_option
def unlike(network: Network, post: str, as_json: bool) -> None:
    """Take a like back."""
    answer = network.call("DELETE", f"/v1/posts/{post_id(post)}/like", Answer)
    _tell(answer, f"not liked; likes: {answer['like_count']}", as_json)


@click.command("comment")
@click.argument("post")
@click.argument("text")
@network_command
@json_option
def comment(network: Network, post: str, text: str, as_json: bool) -> None:
    """Comment on a post, named by its id or link."""
    answer = network.call("POST", f"/v1/posts/{post_id(post)}/comments", Answer, json={"text": text})
    _tell(answer, f"commented on {network.link(answer['post_id'])}", as_json)


def _tell(answer: Answer, words: str, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        note(words)
