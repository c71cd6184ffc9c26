"""The admin listener: metrics, and what the CLI asks of a running node.

Its guards are the address it listens on (this machine only, by default) and a token that lies in the data
directory, readable by the node's user alone.
"""

import hmac

import msgspec
from quart import Response, request

from node.http.api import install_errors
from node.http.application import Application, make_application
from node.http.gauges import NodeCollector
from node.http.openapi import Route, Routes, render
from node.http.problems import Problem
from node.http.server import Server
from node.parts import Parts


class Status(msgspec.Struct, frozen=True):
    """How the node stands."""

    node_id: str
    boots: int
    partitions: int
    shards: int
    ready: bool
    full: str  # why writes are refused; empty while they are welcome
    used_bytes: int
    disk_free_bytes: int
    blobs: int
    commands_under_way: int
    messages_under_way: int
    dead_letters: int
    media_jobs_running: int
    media_jobs_failed: int


def make_admin(parts: Parts, public: Server) -> Application:
    app = make_application(parts.settings.http, name="heliograph-admin")
    expected = parts.admin_token.encode()

    async def admit(_route: Route) -> None:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, expected):
            raise Problem("unauthenticated", "send the token in keys/admin.token of the data directory")

    app.admit = admit
    install_errors(app)
    parts.metrics.registry.register(NodeCollector(parts))
    parts.metrics.watch_server(public, "http")
    app.register_blueprint(make_routes(parts).blueprint)
    return app


def make_routes(parts: Parts) -> Routes:
    routes = Routes("admin")

    @routes.add("GET", "/metrics", "Metrics in Prometheus's text format", answers={200: None})
    async def metrics() -> Response:
        return Response(parts.metrics.expose(), content_type=parts.metrics.content_type)

    @routes.add("GET", "/v1/admin/status", "How the node stands", answers={200: Status})
    async def status() -> Response:
        replicas, workshop = parts.replicas.statistics(), parts.workshop.statistics()
        verdict = parts.room.verdict
        return render(
            Status(
                node_id=parts.directory.identity.node_id,
                boots=parts.directory.boots,
                partitions=parts.partitions,
                shards=parts.directory.identity.shard_count,
                ready=not parts.stopping.is_set(),
                full=getattr(verdict, "reason", ""),
                used_bytes=parts.room.used_bytes,
                disk_free_bytes=parts.room.disk.free_bytes,
                blobs=parts.blobs.statistics().blobs,
                commands_under_way=replicas.proposals,
                messages_under_way=replicas.messages_queued,
                dead_letters=replicas.dead_letters,
                media_jobs_running=workshop.running,
                media_jobs_failed=workshop.failed,
            )
        )

    return routes
