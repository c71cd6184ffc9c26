"""The admin listener: metrics, backups, and what the CLI asks of a running node.

Its guards are the address it listens on (this machine only, by default) and a token that lies in the data
directory, readable by the node's user alone. What admins may do from afar, too, is in `shared_routes`.
"""

import hmac
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import msgspec
from quart import Response, g, request

from cluster.members.meta import KEYS_PER_MEMBER_MAX
from cluster.replicas import Stopped
from node.backup import BackupError, BackupLine, Failed, Made, create
from node.http import admin_accounts, admin_cluster, admin_letters, api
from node.http.admin_routes import AdminRoutes, Guard, operator
from node.http.application import Application, make_application
from node.http.bodies import read_json
from node.http.cluster_gauges import ClusterCollector
from node.http.gauges import NodeCollector
from node.http.openapi import Route, Routes, render
from node.http.problems import Body, Problem
from node.http.server import Server
from node.http.tokens import load_secret
from node.logs import get_logger
from node.parts import Parts, now_s
from node.seal import PASSPHRASE_MIN

log = get_logger("admin")


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
    partitions_working: int  # with work to be continued, as after an account's deletion
    dead_letters: int
    media_jobs_running: int
    media_jobs_waiting: int  # partitions with a job that is due or will be


class Rotated(msgspec.Struct, frozen=True):
    kid: str  # the key that signs from now on
    keys: int  # whose tokens may still live, this one included


class NewBackup(Body, frozen=True):
    destination: str  # a folder on the node's machine, absolute
    passphrase: str


def make_admin(parts: Parts, public: Server) -> Application:
    app = make_application(parts.settings.http, name="heliograph-admin")
    expected = parts.admin_token.encode()

    async def admit(route: Route) -> None:
        g.signed = None
        if not route.signed_in:
            return
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, expected):
            raise Problem("unauthenticated", "send the token in keys/admin.token of the data directory")

    app.admit = admit
    api.install_errors(app)
    parts.metrics.registry.register(NodeCollector(parts))
    parts.metrics.registry.register(ClusterCollector(parts))
    parts.metrics.watch_server(public, "http")
    for routes in [api.operations(parts), make_routes(parts), *shared_routes(parts, operator)]:
        app.register_blueprint(routes.blueprint)
    return app


def shared_routes(parts: Parts, guard: Guard) -> list[Routes]:
    """What the public listener offers to admins, too; `guard` is what each asks first."""
    return [
        status_routes(parts, guard),
        admin_accounts.make_routes(parts, guard),
        admin_letters.make_routes(parts, guard),
        admin_cluster.make_routes(parts, guard),
    ]


def make_routes(parts: Parts) -> Routes:
    """What is for the machine's operator alone."""
    routes = Routes("operator")

    @routes.add("GET", "/metrics", "Metrics in Prometheus's text format", answers={200: "text/plain"})
    async def metrics() -> Response:
        return Response(parts.metrics.expose(), content_type=parts.metrics.content_type)

    @routes.add(
        "POST", "/v1/admin/backups", "Make a backup; the answer is its progress, a line of JSON at a time",
        body=NewBackup, answers={200: "application/x-ndjson"},
    )  # fmt: skip
    async def make_backup() -> Response:
        wanted = await read_json(request, NewBackup)
        if len(wanted.passphrase) < PASSPHRASE_MIN:
            raise Problem("invalid_field", f"a passphrase has at least {PASSPHRASE_MIN} characters")
        lines = backup_lines(parts, Path(wanted.destination), wanted.passphrase)
        return Response(lines, content_type="application/x-ndjson")

    return routes


async def backup_lines(parts: Parts, destination: Path, passphrase: str) -> AsyncGenerator[bytes, None]:
    """A backup goes on as long as somebody reads its lines."""
    secret = load_secret(parts.directory.keys / "cluster.secret")
    steps = create(
        parts.replicas,
        parts.blobs,
        parts.collector,
        parts.fetching,
        parts.directory,
        destination,
        secret,
        passphrase,
    )
    line: BackupLine
    try:
        async with aclosing(steps):
            async for line in steps:
                yield msgspec.json.encode(line) + b"\n"
                if isinstance(line, Made):
                    log.info("backup_made", path=line.path, blobs=line.blobs, seconds=round(line.seconds, 3))
    except (BackupError, Stopped, OSError) as wrong:
        log.warning("backup_failed", destination=str(destination), reason=str(wrong))
        yield msgspec.json.encode(Failed(str(wrong))) + b"\n"


def status_routes(parts: Parts, guard: Guard) -> AdminRoutes:
    routes = AdminRoutes("admin", guard)

    @routes.add("GET", "/v1/admin/status", "How the node stands", answers={200: Status})
    async def status() -> Response:
        return render(status_of(parts))

    @routes.add(
        "POST", "/v1/admin/keys/rotate", "Sign access tokens with a new key; old ones live out their time",
        answers={200: Rotated}, problems=("conflict",),
    )  # fmt: skip
    async def rotate() -> Response:
        parts.keyring.forget_dead(now_s())
        if len(parts.keyring.public_keys()) >= KEYS_PER_MEMBER_MAX:
            detail = f"tokens of {KEYS_PER_MEMBER_MAX} keys may still live: wait for the end of some"
            raise Problem("conflict", detail)
        kid = parts.keyring.rotate(now_s())
        await parts.cluster.publish_keys()
        return render(Rotated(kid, len(parts.keyring.public_keys())))

    return routes


def status_of(parts: Parts) -> Status:
    replicas, workshop = parts.replicas.statistics(), parts.workshop.statistics()
    return Status(
        node_id=parts.directory.identity.node_id,
        boots=parts.directory.boots,
        partitions=parts.partitions,
        shards=parts.directory.identity.shard_count,
        ready=not parts.stopping.is_set(),
        full=getattr(parts.room.verdict, "reason", ""),
        used_bytes=parts.room.used_bytes,
        disk_free_bytes=parts.room.disk.free_bytes,
        blobs=parts.blobs.statistics().blobs,
        commands_under_way=replicas.proposals,
        messages_under_way=replicas.messages_queued,
        partitions_working=replicas.work,
        dead_letters=replicas.dead_letters,
        media_jobs_running=workshop.running,
        media_jobs_waiting=workshop.waiting,
    )
