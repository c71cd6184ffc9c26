"""The pages: each reads what its address names, as whoever asks may see it, and renders it whole.

What a page may show is decided where the API decides it: by the same reads, with the same viewer. Addresses
carry no more than a cursor; a parameter that some other site hung on is passed over.
"""

from typing import Final

from quart import Response, request

from cluster.commands import Refused
from cluster.replicas import now_ms
from node.feeds.rendering import PostView
from node.http import accounts
from node.http.admission import viewer
from node.http.cookies import WEB
from node.http.openapi import Routes
from node.http.pages import PageQuery, opened, sealed
from node.http.posts import FEED_LIMIT, GRID_LIMIT
from node.http.problems import Problem
from node.http.web import Web
from node.social import listings, pages, people
from node.social.listings import PeoplePage
from node.social.pages import GridCursor
from node.social.people import NOBODY, UserView
from node.web.pages import OpenGraph, shortened, split_posts
from storage.rows import Reader

PEOPLE_LIMIT: Final = 30
NEWCOMERS_LOOKED_AT: Final = 24  # for the newest photos on the page of who is not signed in
NEWEST_EACH: Final = 3
NEWEST_SHOWN: Final = 9
LANGUAGES: Final = (("en", "English"), ("de", "Deutsch"))


def make_pages(web: Web) -> Routes:
    routes = Routes(WEB, "web_pages")
    parts, service = web.parts, web.parts.service
    avatar_url = parts.feeds.renderer.avatar_url

    # --- home ------------------------------------------------------------------------------------------
    @routes.add("GET", "/", "The feed; a welcome to who is not signed in", signed_in=False)
    async def home() -> Response:
        await web.caught_up()
        return welcome() if viewer() == NOBODY else feed()

    def feed() -> Response:
        before = opened(parts, asked(), "feed", int)
        with service.read() as rows:
            page = parts.feeds.page(rows, viewer(), before, FEED_LIMIT, now_ms())
        raws = split_posts(page.posts)
        return web.page(
            "feed.html", me=web.me(), posts=web.pages.posts(raws, web.words),
            first=web.pages.view(raws[0]) if raws else None, cursor=sealed(parts, page.next, "feed"),
            empty=not page.count and before is None,
        )  # fmt: skip

    def welcome() -> Response:
        found: list[PostView] = []
        with service.read() as rows:
            newest = listings.directory(rows, parts.partitions, NOBODY, None, NEWCOMERS_LOOKED_AT, avatar_url)
            for user in newest.users:
                if user.post_count:
                    grid = pages.grid_page(rows, int(user.id), NOBODY, None, NEWEST_EACH)
                    found += posts_of(rows, [seen.id for seen in grid.posts])
        found.sort(key=lambda post: post.published_at or "", reverse=True)
        t = web.words
        graph = OpenGraph("website", t("name"), t("welcome_more"), web.base + "/")
        return web.page("welcome.html", tiles=found[:NEWEST_SHOWN], og=graph)

    # --- posts -----------------------------------------------------------------------------------------
    @routes.add("GET", "/p/<id:post_id>", "A post and its comments", signed_in=False)
    async def post(post_id: int) -> Response:
        await web.caught_up()
        with service.read() as rows:
            pages.post_page(rows, post_id, viewer())
            raw = parts.feeds.render(rows, viewer(), [post_id], now_ms())
            if not raw:
                raise Problem("not_found")
            view = web.pages.view(raw[0])
            said = pages.comments_page(rows, post_id, viewer(), None, PEOPLE_LIMIT, avatar_url)
            public = people.may_see(rows, int(view.user.id), NOBODY).allowed
        t = web.words
        title = t("photo_of", name=view.user.display_name or view.user.username)
        return web.page(
            "post.html", me=web.me(), title=title, view=view, comments=said.comments,
            post=web.pages.post(raw[0], t, first=True, whole=True),
            comments_cursor=sealed(parts, said.after, f"comments/{post_id}"),
            og=graph_of_post(view, title) if public and view.upload_status == "complete" else None,
        )  # fmt: skip

    def graph_of_post(view: PostView, title: str) -> OpenGraph:
        medium = view.media[0]
        image = medium.urls.large.jpeg if medium.urls else None
        return OpenGraph(
            "article", title, shortened(view.caption or medium.alt), f"{web.base}/p/{view.id}",
            absolute(image), medium.width, medium.height, medium.alt,
        )  # fmt: skip

    # --- people ----------------------------------------------------------------------------------------
    @routes.add("GET", "/@<username>", "Somebody and their photos", signed_in=False)
    async def profile(username: str) -> Response:
        await web.caught_up()
        tiles: list[PostView] = []
        cursor, limited = None, False
        with service.read() as rows:
            user = user_named(rows, username)
            name = f"photos/{user.id}"
            after = opened(parts, asked(), name, GridCursor)
            try:
                grid = pages.grid_page(rows, int(user.id), viewer(), after, GRID_LIMIT)
                tiles = posts_of(rows, [seen.id for seen in grid.posts])
                cursor = sealed(parts, grid.after, name)
            except Refused as refusal:
                if refusal.code != "forbidden":
                    raise
                limited = True
        graph = OpenGraph(
            "profile", user.display_name or user.username, shortened(user.bio),
            f"{web.base}/@{user.username}", absolute(user.avatar_url),
        )  # fmt: skip
        return web.page(
            "profile.html", me=web.me(), user=user, tiles=tiles, cursor=cursor, limited=limited,
            og=None if user.private else graph,
        )  # fmt: skip

    @routes.add("GET", "/@<username>/followers", "Who follows somebody", signed_in=False)
    async def followers_page(username: str) -> Response:
        await web.caught_up()
        with service.read() as rows:
            user = user_named(rows, username)
            name = f"followers/{user.id}"
            after = opened(parts, asked(), name, int)
            page = listings.followers(rows, int(user.id), viewer(), after, PEOPLE_LIMIT, avatar_url)
        heading = web.words("followers_of", name=user.display_name or user.username)
        return people_page(page, name, f"/v1/users/{user.id}/followers", heading)

    @routes.add("GET", "/@<username>/following", "Whom somebody follows", signed_in=False)
    async def following_page(username: str) -> Response:
        await web.caught_up()
        with service.read() as rows:
            user = user_named(rows, username)
            name = f"following/{user.id}"
            after = opened(parts, asked(), name, int)
            page = listings.following(rows, int(user.id), viewer(), after, PEOPLE_LIMIT, avatar_url)
        heading = web.words("following_of", name=user.display_name or user.username)
        return people_page(page, name, f"/v1/users/{user.id}/following", heading)

    @routes.add("GET", "/people", "The directory", signed_in=False)
    async def directory_page() -> Response:
        await web.caught_up()
        after = opened(parts, asked(), "directory", int)
        with service.read() as rows:
            page = listings.directory(rows, parts.partitions, viewer(), after, PEOPLE_LIMIT, avatar_url)
        t = web.words
        return people_page(page, "directory", "/v1/users", t("people"), t("people_lead"))

    @routes.add("GET", "/requests", "Who asks to follow")
    async def requests_page() -> Response:
        await web.caught_up()
        after = opened(parts, asked(), "follow-requests", int)
        with service.read() as rows:
            page = listings.follow_requests(rows, viewer(), after, PEOPLE_LIMIT, avatar_url)
        t = web.words
        return people_page(
            page, "follow-requests", "/v1/follow-requests", t("requests"), t("requests_lead"), "requests"
        )

    @routes.add("GET", "/blocks", "Whom one blocks")
    async def blocks_page() -> Response:
        await web.caught_up()
        after = opened(parts, asked(), "blocks", int)
        with service.read() as rows:
            page = listings.blocks(rows, viewer(), after, PEOPLE_LIMIT, avatar_url)
        t = web.words
        return people_page(page, "blocks", "/v1/blocks", t("blocks"), t("blocks_lead"), "blocks")

    def people_page(
        page: PeoplePage, name: str, listed: str, heading: str, lead: str = "", kind: str = "people"
    ) -> Response:
        return web.page(
            "people.html", me=web.me(), users=page.users, cursor=sealed(parts, page.after, name), list=listed,
            heading=heading, lead=lead, kind=kind,
        )  # fmt: skip

    # --- one's own -------------------------------------------------------------------------------------
    @routes.add("GET", "/new", "Make a post")
    async def new_page() -> Response:
        return web.page("new.html", me=web.me(), photo_bytes_max=parts.settings.media.photo_bytes_max)

    @routes.add("GET", "/settings", "One's profile, password and preferences")
    async def settings_page() -> Response:
        await web.caught_up()
        with service.read() as rows:
            me = people.user_view(rows, viewer(), viewer(), avatar_url)
        return web.page("settings.html", me=me, languages=LANGUAGES)

    # --- reading ---------------------------------------------------------------------------------------
    def user_named(rows: Reader, username: str) -> UserView:
        found = accounts.named(parts, rows, username)
        views = people.user_views(rows, [found], viewer(), avatar_url) if found else []
        if not views:
            raise Problem("not_found")
        return views[0]

    def posts_of(rows: Reader, ids: list[int]) -> list[PostView]:
        """Posts that the viewer may see, as the caller found out."""
        return [web.pages.view(raw) for raw in parts.feeds.render(rows, viewer(), ids, now_ms())]

    def absolute(url: str | None) -> str | None:
        return web.base + url if url is not None and url.startswith("/") else url

    web.install(routes)
    return routes


def asked() -> PageQuery:
    return PageQuery(cursor=request.args.get("cursor"))
