"""Follows, requests and blocks over HTTP."""

from collections.abc import Callable

import msgspec
from quart import Response, request

from node.feeds.rendering import Renderer
from node.http.admission import Admission, signed, tell, viewer
from node.http.bodies import read_json
from node.http.openapi import Routes, empty, render
from node.http.pages import PageQuery, Users, asked, opened, sealed
from node.http.problems import Body, Problem
from node.parts import Parts
from node.service import Retry
from node.social import blocks, follows, listings, people
from node.social.edges import FOLLOWS_MAX
from node.social.listings import PeoplePage
from node.social.retries import NoteRequest
from storage.ids import IdError, parse_id, partition_of
from storage.rows import Reader


class NewFollow(Body, frozen=True):
    followed_id: str


class FollowStatus(msgspec.Struct, frozen=True):
    status: str  # "SUCCESS" | "REQUESTED"


def make_routes(parts: Parts, admission: Admission, renderer: Renderer) -> Routes:
    routes = Routes("follows")
    service = parts.service
    avatar_url = renderer.avatar_url

    async def follow(author: int, retry: Retry | None) -> Response:
        who = signed()
        check_room(who.user, author)
        done = await service.do(
            partition_of(author), follows.Follow(author, who.user), follows.Followed,
            by=who.user, retry=retry, told=partition_of(who.user),
        )  # fmt: skip
        tell(done)
        if not done.under_way:
            await service.visible(partition_of(who.user))
            check_room(who.user, author)  # the viewer's home may have declined the grant
        return render(FollowStatus("SUCCESS" if done.result.granted else "REQUESTED"))

    def check_room(user: int, author: int) -> None:
        with service.read() as rows:
            full = not people.may_follow_more(rows, user)
            if full and people.following_edge(rows, user, author) is None:
                raise Problem("too_many_follows", f"at most {FOLLOWS_MAX} accounts")

    async def unfollow(author: int) -> Response:
        who = signed()
        command = follows.Unfollow(author, who.user)
        tell(await service.do(partition_of(author), command, grows=False, told=partition_of(who.user)))
        return empty()

    @routes.add(
        "POST", "/v1/follows", "Follow, or ask to follow a private account", body=NewFollow,
        answers={200: FollowStatus}, problems=("not_found", "too_many_follows", "invalid_field"),
        idempotent_by_key=True,
    )  # fmt: skip
    async def follow_named() -> Response:
        wanted = await read_json(request, NewFollow)
        try:
            author = parse_id(wanted.followed_id)
        except IdError as wrong:
            raise Problem("invalid_field", f"followed_id: {wrong}") from None
        me = signed().user
        async with admission.once(me, wanted.followed_id.encode()) as retry:
            if retry:
                # The follow is remembered at the author's home; with which author the key came, at one's own.
                await service.do(partition_of(me), NoteRequest(me), by=me, retry=retry)
            return await follow(author, retry)

    @routes.add(
        "DELETE", "/v1/follows/<id:followed_id>", "Stop following, or take back a request",
        answers={204: None},
    )  # fmt: skip
    async def unfollow_named(followed_id: int) -> Response:
        return await unfollow(followed_id)

    @routes.add(
        "POST", "/v1/users/<id:user_id>/follow", "Follow, or ask to follow a private account",
        answers={200: FollowStatus}, problems=("not_found", "too_many_follows", "invalid_field"),
        idempotent_by_key=True,
    )  # fmt: skip
    async def follow_user(user_id: int) -> Response:
        async with admission.once(signed().user) as retry:
            return await follow(user_id, retry)

    @routes.add(
        "DELETE", "/v1/users/<id:user_id>/follow", "Stop following, or take back a request",
        answers={204: None},
    )  # fmt: skip
    async def unfollow_user(user_id: int) -> Response:
        return await unfollow(user_id)

    # --- lists -----------------------------------------------------------------------------------------
    def people_page(name: str, page_of: Callable[[Reader, int | None, int], PeoplePage]) -> Response:
        query = asked()
        after = opened(parts, query, name, int)
        with service.read() as rows:
            page = page_of(rows, after, query.limit or 30)
        return render(Users(page.users, sealed(parts, page.after, name)))

    @routes.add(
        "GET", "/v1/users/<id:user_id>/followers", "Who follows a user, newest first", query=PageQuery,
        answers={200: Users}, signed_in=False, problems=("not_found", "forbidden", "invalid_cursor"),
    )  # fmt: skip
    async def followers(user_id: int) -> Response:
        return people_page(
            f"followers/{user_id}",
            lambda rows, after, limit: listings.followers(rows, user_id, viewer(), after, limit, avatar_url),
        )

    @routes.add(
        "GET", "/v1/users/<id:user_id>/following", "Whom a user follows, newest first", query=PageQuery,
        answers={200: Users}, signed_in=False, problems=("not_found", "forbidden", "invalid_cursor"),
    )  # fmt: skip
    async def following(user_id: int) -> Response:
        return people_page(
            f"following/{user_id}",
            lambda rows, after, limit: listings.following(rows, user_id, viewer(), after, limit, avatar_url),
        )

    @routes.add("DELETE", "/v1/followers/<id:user_id>", "Remove a follower", answers={204: None})
    async def remove_follower(user_id: int) -> Response:
        who = signed()
        command = follows.RemoveFollower(who.user, user_id)
        tell(await service.do(partition_of(who.user), command, grows=False))
        return empty()

    # --- requests --------------------------------------------------------------------------------------
    @routes.add(
        "GET", "/v1/follow-requests", "Who asks to follow", query=PageQuery, answers={200: Users},
        problems=("invalid_cursor",),
    )  # fmt: skip
    async def requests() -> Response:
        me = signed().user
        return people_page(
            "follow-requests",
            lambda rows, after, limit: listings.follow_requests(rows, me, after, limit, avatar_url),
        )

    @routes.add(
        "POST", "/v1/follow-requests/<id:user_id>/accept", "Grant a request", answers={204: None},
        problems=("not_found",), idempotent_by_key=True,
    )  # fmt: skip
    async def accept(user_id: int) -> Response:
        me = signed().user
        async with admission.once(me) as retry:
            command = follows.Accept(me, user_id)
            tell(await service.do(partition_of(me), command, by=me, retry=retry))
        return empty()

    @routes.add(
        "POST", "/v1/follow-requests/<id:user_id>/reject", "Refuse a request", answers={204: None},
        problems=("not_found",), idempotent_by_key=True,
    )  # fmt: skip
    async def reject(user_id: int) -> Response:
        me = signed().user
        async with admission.once(me) as retry:
            command = follows.Reject(me, user_id)
            tell(await service.do(partition_of(me), command, by=me, retry=retry, grows=False))
        return empty()

    # --- blocks ----------------------------------------------------------------------------------------
    @routes.add(
        "POST", "/v1/users/<id:user_id>/block", "Block: follows end and both are hidden from each other",
        answers={204: None}, problems=("not_found", "invalid_field"), idempotent_by_key=True,
    )  # fmt: skip
    async def block(user_id: int) -> Response:
        me = signed().user
        async with admission.once(me) as retry:
            with service.read() as rows:
                if not people.blockable(rows, user_id, me):
                    raise people.absent(user_id)
            command = blocks.BlockUser(me, user_id)
            home, other = partition_of(me), partition_of(user_id)
            tell(await service.do(home, command, by=me, retry=retry, told=other))
        return empty()

    @routes.add("DELETE", "/v1/users/<id:user_id>/block", "Unblock", answers={204: None})
    async def unblock(user_id: int) -> Response:
        who = signed()
        command = blocks.UnblockUser(who.user, user_id)
        tell(await service.do(partition_of(who.user), command, grows=False, told=partition_of(user_id)))
        return empty()

    @routes.add(
        "GET", "/v1/blocks", "Whom one blocks", query=PageQuery, answers={200: Users},
        problems=("invalid_cursor",),
    )  # fmt: skip
    async def blocked() -> Response:
        me = signed().user
        return people_page(
            "blocks", lambda rows, after, limit: listings.blocks(rows, me, after, limit, avatar_url)
        )

    return routes
