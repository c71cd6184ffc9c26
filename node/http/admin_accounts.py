"""Accounts for admins: make, show, suspend, delete, give a password or a role.

Accounts made here are outside the sign-up limit and have no session yet.
"""

from typing import Literal

import msgspec
from quart import Response, request

from cluster.commands import Refused
from node.http.accounts import check_password
from node.http.admin_routes import AdminRoutes, Guard
from node.http.admission import tell
from node.http.bodies import read_json
from node.http.openapi import empty, render
from node.http.problems import Body, Problem
from node.parts import Parts
from node.social import accounts, deletion, people, sessions, texts
from node.social.keys import TimelineHeadKey, UserKey
from node.social.people import absent, rfc3339
from node.social.records import SESSIONS, TIMELINE_HEADS, USERS
from storage.ids import partition_of
from storage.rows import Reader


class NewAccount(Body, frozen=True):
    username: str
    password: str
    display_name: str = ""
    role: Literal["user", "admin"] = "user"


class GivenPassword(Body, frozen=True):
    password: str


class GivenRole(Body, frozen=True):
    role: Literal["user", "admin"]


class Account(msgspec.Struct, frozen=True):
    """An account as admins see it, whatever its state."""

    id: str
    username: str
    display_name: str
    role: str  # "user" | "admin"
    state: str  # "active" | "suspended" | "deleted" (what it made is still being taken away)
    private: bool
    created_at: str
    followers: int
    following: int
    posts: int
    sessions: int
    original_bytes: int  # of photographs as they came


def account(rows: Reader, user: int) -> Account:
    """Raises Refused not_found."""
    found = USERS.get(rows, UserKey(user))
    if found is None:
        raise absent(user)
    counts = people.counts(rows, user)
    head = TIMELINE_HEADS.get(rows, TimelineHeadKey(user))
    return Account(
        id=str(user),
        username=found.username,
        display_name=found.display_name,
        role=found.role,
        state=found.state,
        private=found.private,
        created_at=rfc3339(found.created_ms),
        followers=counts.followers,
        following=counts.following,
        posts=head.posts if head else 0,
        sessions=sum(1 for _ in SESSIONS.scan(rows, user)),
        original_bytes=counts.uploads,
    )


def make_routes(parts: Parts, guard: Guard) -> AdminRoutes:
    routes = AdminRoutes("admin_accounts", guard)
    service = parts.service

    @routes.add(
        "POST", "/v1/admin/accounts", "Make an account", body=NewAccount, answers={201: Account},
        problems=("username_taken", "invalid_password"),
    )  # fmt: skip
    async def make_account() -> Response:
        wanted = await read_json(request, NewAccount)
        check_password(wanted.password)
        try:
            texts.check_username(wanted.username)
        except Refused as refusal:  # before the password is hashed, which is dear
            raise Problem("invalid_username", refusal.detail) from None
        password_hash = await parts.passwords.hash(wanted.password)
        command = accounts.SignUp(wanted.username, wanted.display_name, password_hash, b"", 0)
        home = parts.partition_of_name(wanted.username)
        user = (await service.do(home, command, accounts.SignedUp)).result.user
        if wanted.role != "user":
            await change(user, accounts.SetRole(user, wanted.role))
        return render(await shown(user), 201)

    @routes.add(
        "GET", "/v1/admin/accounts/by-name/<username>", "An account by name", answers={200: Account},
        problems=("not_found",),
    )  # fmt: skip
    async def account_by_name(username: str) -> Response:
        with service.read() as rows:
            user = people.user_named(rows, parts.partition_of_name(username), username)
            if user is None:
                raise Refused("not_found", f"there is no account named {username[:40]}")
            return render(account(rows, user))

    @routes.add(
        "GET",
        "/v1/admin/accounts/<id:user_id>",
        "An account",
        answers={200: Account},
        problems=("not_found",),
    )
    async def account_by_id(user_id: int) -> Response:
        return render(await shown(user_id))

    @routes.add(
        "POST", "/v1/admin/accounts/<id:user_id>/suspend", "Hide an account and end its sessions",
        answers={200: Account}, problems=("not_found",),
    )  # fmt: skip
    async def suspend(user_id: int) -> Response:
        await change(user_id, accounts.Suspend(user_id))
        return render(await shown(user_id))

    @routes.add(
        "POST", "/v1/admin/accounts/<id:user_id>/unsuspend", "Show a suspended account again",
        answers={200: Account}, problems=("not_found",),
    )  # fmt: skip
    async def unsuspend(user_id: int) -> Response:
        await change(user_id, accounts.Unsuspend(user_id))
        return render(await shown(user_id))

    @routes.add(
        "POST", "/v1/admin/accounts/<id:user_id>/delete", "Delete an account and all that it made",
        answers={202: None}, problems=("not_found",),
    )  # fmt: skip
    async def delete(user_id: int) -> Response:
        await shown(user_id)
        await change(user_id, deletion.DeleteAccount(user_id))
        return empty(202)

    @routes.add(
        "POST", "/v1/admin/accounts/<id:user_id>/password", "Give a new password; all sessions end",
        body=GivenPassword, answers={204: None}, problems=("not_found", "invalid_password"),
    )  # fmt: skip
    async def give_password(user_id: int) -> Response:
        wanted = await read_json(request, GivenPassword)
        check_password(wanted.password)
        await shown(user_id)
        password_hash = await parts.passwords.hash(wanted.password)
        await change(user_id, sessions.ResetPassword(user_id, password_hash))
        return empty()

    @routes.add(
        "POST", "/v1/admin/accounts/<id:user_id>/role", "Give a role", body=GivenRole, answers={200: Account},
        problems=("not_found",),
    )  # fmt: skip
    async def give_role(user_id: int) -> Response:
        wanted = await read_json(request, GivenRole)
        await change(user_id, accounts.SetRole(user_id, wanted.role))
        return render(await shown(user_id))

    async def change(user: int, command: msgspec.Struct) -> None:
        # None of these makes the data grow worth speaking of, and a full node must let its admin act.
        tell(await service.do(partition_of(user), command, grows=False))

    async def shown(user: int) -> Account:
        await service.visible(partition_of(user))
        with service.read() as rows:
            return account(rows, user)

    return routes
