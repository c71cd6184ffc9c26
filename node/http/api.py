"""The public application: all routes of the API and the pages of the web app, put together."""

from importlib.metadata import version
from typing import Any, Final

import msgspec
from quart import Response

from cluster.commands import Refused
from cluster.copies.placement import NotEnoughCopies
from cluster.members import meta_rows
from cluster.replicas import Overloaded, Stopped
from cluster.router import StorageFull, Unavailable
from node.http import accounts, follows, media, posts, web, web_cluster, web_forms, web_pages
from node.http.admin_routes import young_admin
from node.http.admission import OPERATIONS, Admission, filling, problem_of
from node.http.application import Application, make_application
from node.http.cookies import Cookies
from node.http.openapi import Routes, pages, render
from node.http.problems import Problem, answer
from node.http.tokens import key_set_of
from node.media.intake import TooLarge
from node.parts import Parts
from node.passwords import Busy
from node.web.assets import Assets
from node.web.catalogue import Catalogue
from node.web.pages import Pages

STOPPING_RETRY_AFTER_S: Final = "5"  # another node, or this one anew, may be asked then


class KeySet(msgspec.Struct, frozen=True):
    keys: list[dict[str, str]]


class Health(msgspec.Struct, frozen=True):
    status: str


def make_api(parts: Parts) -> Application:
    from node.http import admin  # it mounts `operations` of this module on its own listener

    app = make_application(parts.settings.http, parts.metrics.observe)
    admission = Admission(parts)
    app.admit = admission.admit
    app.find_file = media.make_finder(parts)
    install_errors(app)
    renderer = parts.feeds.renderer
    uploads = media.Uploads(parts)
    described = [
        accounts.make_routes(parts, admission, renderer),
        follows.make_routes(parts, admission, renderer),
        posts.make_routes(parts, admission, renderer, uploads),
        media.make_routes(parts, admission, uploads),
        *admin.shared_routes(parts, young_admin(parts)),
        operations(parts),
    ]
    for routes in described:
        app.register_blueprint(routes.blueprint)
    every = [route for routes in described for route in routes.described]
    app.register_blueprint(pages(lambda: every, version=version("heliograph")))
    add_web(app, parts, admission)
    return app


def add_web(app: Application, parts: Parts, admission: Admission) -> None:
    """The web app: pages beside the API, and who has its cookie is known to both."""
    sessions = accounts.Sessions(parts, parts.feeds.renderer)
    cookies = Cookies(parts, sessions)
    admission.of_cookie = cookies.claims
    catalogue = Catalogue()
    pages_of = web.Web(parts, cookies, Pages(Assets(catalogue), catalogue))
    for routes in (
        web.make_shell(pages_of), web_forms.make_forms(pages_of, sessions), web_pages.make_pages(pages_of),
        web_cluster.make_cluster_page(pages_of),
    ):  # fmt: skip
        app.register_blueprint(routes.blueprint)
    pages_of.install_unknown(app)


def install_errors(app: Application) -> None:
    """Give what the layers below raise its place in the table of problems."""

    async def of_below(error: Exception) -> Any:
        problem = problem_of(error)
        assert problem is not None
        return answer(problem)

    for kind in (Refused, Overloaded, NotEnoughCopies, Stopped, StorageFull, TooLarge, Busy, Unavailable):
        app.register_error_handler(kind, of_below)


def operations(parts: Parts) -> Routes:
    routes = Routes(OPERATIONS)

    @routes.add(
        "GET", "/healthz", "The process lives", answers={200: Health}, signed_in=False, asks_who=False,
        limit="none",
    )  # fmt: skip
    async def healthz() -> Response:
        return render(Health("ok"))

    @routes.add(
        "GET", "/readyz", "The node can serve", answers={200: Health}, signed_in=False,
        asks_who=False, limit="none", problems=("unavailable",),
    )  # fmt: skip
    async def readyz() -> Response:
        if parts.stopping.is_set():
            raise Problem("unavailable", "this node is stopping", {"Retry-After": STOPPING_RETRY_AFTER_S})
        if not parts.service.ready:
            raise filling()
        return render(Health("full" if parts.room.full() else "ok"))

    @routes.add(
        "GET", "/.well-known/jwks.json", "The public keys of access tokens", answers={200: KeySet},
        signed_in=False, asks_who=False,
    )  # fmt: skip
    async def jwks() -> Response:
        with parts.service.read() as rows:
            keys = meta_rows.public_keys(rows)
        return render(key_set_of({kid: key.public for kid, key in keys.items()}))

    return routes
