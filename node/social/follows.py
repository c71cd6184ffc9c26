"""Follows: what viewers and authors ask for, decided at the author's home (DESIGN §2).

| the pair is | follow, public | follow, private | unfollow | accept | reject | remove follower |
|---|---|---|---|---|---|---|
| nothing | granted | requested | – | not_found | – | – |
| requested | granted | – | nothing | granted | nothing | – |
| granted | – | – | nothing | – | – | nothing |

A dash changes nothing and succeeds. When a private account becomes public, its open requests are granted, a
piece of work at a time; one that meets the account private again stops.
"""

from itertools import islice
from typing import Final

import msgspec

from cluster.commands import Refused
from cluster.partition import Apply
from node.social import edges
from node.social.edges import End
from node.social.keys import BlockKey, UserKey
from node.social.machine import encode
from node.social.records import BLOCKS, FOLLOW_REQUESTS, USERS, User

REQUESTS_PER_PIECE: Final = 100  # times the 9 rows of a grant, below ROWS_PER_APPLY_MAX


class _Command(msgspec.Struct, array_like=True, frozen=True):
    pass


class Follow(_Command, frozen=True, tag=20):
    """For the author's partition. → `Followed`. Refused: not_found, invalid_field."""

    author: int
    viewer: int


class Unfollow(_Command, frozen=True, tag=21):
    """For the author's partition: ends a follow or takes back a request; whoever the author is. → None."""

    author: int
    viewer: int


class Accept(_Command, frozen=True, tag=22):
    """→ None. Refused: not_found (no such request, nor follower), unauthenticated."""

    author: int
    viewer: int


class Reject(_Command, frozen=True, tag=23):
    author: int
    viewer: int


class RemoveFollower(_Command, frozen=True, tag=24):
    author: int
    viewer: int


class Followed(msgspec.Struct, array_like=True, frozen=True):
    granted: bool  # False: requested


class GrantRequests(msgspec.Struct, array_like=True, frozen=True, tag=20):
    """Work: an account became public, its open requests are granted."""

    author: int


def acting(apply: Apply, user: int) -> User:
    """The user who acts at home; Refused `unauthenticated` unless the account is active."""
    account = USERS.get(apply, UserKey(user))
    if account is None or account.state != "active":
        raise Refused("unauthenticated", "this account is not active")
    return account


def follow(apply: Apply, command: Follow) -> Followed:
    author, viewer = command.author, command.viewer
    if author == viewer:
        raise Refused("invalid_field", "followed_id: one cannot follow oneself")
    account = USERS.get(apply, UserKey(author))
    hidden = account is None or account.state != "active" or BLOCKS.has(apply, BlockKey(author, viewer))
    if account is None or hidden:
        raise Refused("not_found", f"there is no user {author}")
    end = edges.end_of(apply, author, viewer)
    if end is End.GRANTED:
        return Followed(True)
    if account.private:
        if end is End.NOTHING:
            edges.request(apply, author, viewer)
        return Followed(False)
    if end is End.REQUESTED:  # the account has become public since
        edges.drop_request(apply, author, viewer)
    edges.grant(apply, author, viewer)
    return Followed(True)


def unfollow(apply: Apply, command: Unfollow) -> None:
    edges.revoke(apply, command.author, command.viewer)


def accept(apply: Apply, command: Accept) -> None:
    acting(apply, command.author)
    if edges.drop_request(apply, command.author, command.viewer):
        edges.grant(apply, command.author, command.viewer)
    elif edges.end_of(apply, command.author, command.viewer) is not End.GRANTED:
        raise Refused("not_found", f"there is no request from user {command.viewer}")


def reject(apply: Apply, command: Reject) -> None:
    acting(apply, command.author)
    if edges.end_of(apply, command.author, command.viewer) is End.REQUESTED:
        edges.revoke(apply, command.author, command.viewer)


def remove_follower(apply: Apply, command: RemoveFollower) -> None:
    acting(apply, command.author)
    if edges.end_of(apply, command.author, command.viewer) is End.GRANTED:
        edges.revoke(apply, command.author, command.viewer)


def grant_requests(apply: Apply, work: GrantRequests) -> GrantRequests | None:
    account = USERS.get(apply, UserKey(work.author))
    if account is None or account.state == "deleted" or account.private:
        return None
    found = list(islice(FOLLOW_REQUESTS.scan(apply, work.author), REQUESTS_PER_PIECE))
    viewers = [key.viewer for key, _ in found]
    for viewer in viewers:
        edges.drop_request(apply, work.author, viewer)
        edges.grant(apply, work.author, viewer)
    return work if len(viewers) == REQUESTS_PER_PIECE else None


def became_public(apply: Apply, author: int) -> None:
    apply.later(encode(GrantRequests(author)))


COMMANDS = {
    Follow: follow,
    Unfollow: unfollow,
    Accept: accept,
    Reject: reject,
    RemoveFollower: remove_follower,
}
MESSAGES = {
    edges.Granted: edges.granted,
    edges.Requested: edges.requested,
    edges.Revoked: edges.revoked,
    edges.Left: edges.left,
}
WORK = {GrantRequests: grant_requests}
