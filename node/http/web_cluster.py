"""The page of the cluster, for admins: how it stands, who leads what, and what waits for somebody to decide.

To everybody else it is an address that leads nowhere. It shows what `/v1/admin/cluster/overview` says, which
its script asks for again and again; both ask for a session that was opened a short while ago.
"""

from typing import Final

from quart import Response, g

from node.http.admin_cluster import overview
from node.http.admin_routes import is_admin, young_admin
from node.http.cookies import WEB
from node.http.openapi import Routes
from node.http.problems import Problem
from node.http.web import Web
from node.web import ring

PATH: Final = "/admin/cluster"


def make_cluster_page(web: Web) -> Routes:
    routes = Routes(WEB, "web_cluster")
    parts = web.parts
    guard = young_admin(parts)

    @routes.add("GET", PATH, "The cluster, for admins", signed_in=False)
    async def cluster_page() -> Response:
        if not is_admin(g.signed):
            raise Problem("not_found")
        try:
            guard()
        except Problem as old:
            return sign_in_again(old)
        view = await overview(parts)
        lanes, count = len(view.nodes), len(view.ring)
        return web.page(
            "cluster.html", me=web.me(), view=view, shapes=ring.shapes(lanes, count),
            tracks=ring.tracks(lanes), edge=ring.EDGE,
            turns=[ring.turn(number, count) for number in range(count)], shape=ring.name,
        )  # fmt: skip

    def sign_in_again(old: Problem) -> Response:
        t = web.words
        return web.page(
            "problem.html", old.status, me=web.me(), heading=t("cluster"), detail=t("cluster_old_session"),
            back=f"/sign-in?next={PATH}", action=t("sign_in"),
        )  # fmt: skip

    web.install(routes)
    return routes
