"""The cluster for admins: how it stands, who belongs to it, who leads, and what an operator may order."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta
from quart import Response, request

from cluster.keys import META_PARTITION
from cluster.replicas import now_ms
from cluster.reports import Picture
from node.cluster import Cluster, NotAllowed, UnknownNode
from node.http import admin_letters
from node.http.admin_letters import FailedMedium, Letter, ListQuery
from node.http.admin_routes import AdminRoutes, Guard
from node.http.bodies import read_json
from node.http.openapi import empty, render
from node.http.problems import Body, Problem
from node.operations import (
    ClusterSetting,
    Compared,
    Member,
    Operations,
    PartitionView,
    Started,
    Transferred,
)
from node.parts import Parts
from node.social.people import rfc3339
from node.web.cluster_view import ClusterView, LetterView, Line, cluster_view
from storage.directory import NODE_ID_BYTES

LETTERS_SHOWN: Final = 25  # of each kind, on the page of the cluster
META: Final = "meta"  # how a person names the meta group's partition


class Members(msgspec.Struct, frozen=True):
    members: tuple[Member, ...]


class Partitions(msgspec.Struct, frozen=True):
    meta: int  # the number under which the meta group is listed
    partitions: tuple[PartitionView, ...]


class ClusterSettings(msgspec.Struct, frozen=True):
    settings: tuple[ClusterSetting, ...]


class Founded(msgspec.Struct, frozen=True):
    cluster_id: str
    node_id: str
    address: str  # where other nodes reach this one


class NewInvitation(Body, frozen=True):
    hours: Annotated[float, Meta(gt=0, le=24 * 30)] = 24.0


class Invited(msgspec.Struct, frozen=True):
    token: str
    expires_at: str


class RevokedNode(msgspec.Struct, frozen=True):
    node_id: str


class Transfer(Body, frozen=True):
    node: str
    partition: str | None = None  # a number or `meta`; None: every one in which the node votes


class ChangedSetting(Body, frozen=True):
    name: str
    value: str  # empty: the default again


class Ordered(Body, frozen=True):
    """Nothing more is to be said."""


def make_routes(parts: Parts, guard: Guard) -> AdminRoutes:
    routes = AdminRoutes("admin_cluster", guard)
    _add_views(routes, parts.operations)

    @routes.add(
        "GET", "/v1/admin/cluster/overview", "All that the page of the cluster shows",
        answers={200: ClusterView},
    )  # fmt: skip
    async def cluster_overview() -> Response:
        return render(await overview(parts))

    _add_membership(routes, parts.cluster)
    _add_orders(routes, parts.operations)
    return routes


async def overview(parts: Parts) -> ClusterView:
    """The cluster as this node sees it, with its dead letters."""
    found = await parts.operations.overview()
    failed = admin_letters.list_failed(parts, ListQuery(limit=LETTERS_SHOWN))
    refused = admin_letters.list_letters(parts, ListQuery(limit=LETTERS_SHOWN))
    letters = [*map(_of_medium, failed.failed), *map(_of_message, refused.letters)]
    return cluster_view(found, letters, bool(failed.next or refused.next), now_ms())


def _of_medium(failed: FailedMedium) -> LetterView:
    what = Line("cluster_failed_photo", {"owner": failed.owner or failed.owner_id, "count": failed.attempts})
    return LetterView(f"/v1/admin/media/failed/{failed.media_id}", what, failed.reason, failed.failed_at)


def _of_message(letter: Letter) -> LetterView:
    partition, _, _ = letter.id.partition(":")
    what = Line("cluster_refused", {"kind": letter.kind, "source": letter.source, "to": partition})
    detail = f"{letter.code}: {letter.detail}"
    return LetterView(f"/v1/admin/dead-letters/{letter.id}", what, detail, letter.at)


def _add_views(routes: AdminRoutes, cluster: Operations) -> None:
    @routes.add("GET", "/v1/admin/cluster/status", "How the cluster stands", answers={200: Picture})
    async def cluster_status() -> Response:
        return render(await cluster.picture())

    @routes.add("GET", "/v1/admin/cluster/members", "The nodes of the cluster", answers={200: Members})
    async def cluster_members() -> Response:
        return render(Members(cluster.members()))

    @routes.add(
        "GET",
        "/v1/admin/cluster/partitions",
        "Who leads, votes and learns in each",
        answers={200: Partitions},
    )
    async def cluster_partitions() -> Response:
        return render(Partitions(META_PARTITION, await cluster.partitions()))

    @routes.add("GET", "/v1/admin/cluster/settings", "Settings of all nodes", answers={200: ClusterSettings})
    async def cluster_settings() -> Response:
        return render(ClusterSettings(cluster.settings()))


def _add_membership(routes: AdminRoutes, cluster: Cluster) -> None:
    @routes.add(
        "POST", "/v1/admin/cluster/init", "Make this node the first of a cluster", body=Ordered,
        answers={200: Founded}, problems=("conflict",),
    )  # fmt: skip
    async def cluster_init() -> Response:
        await read_json(request, Ordered)
        with _allowed():
            founded = await cluster.found()
        return render(Founded(founded.cluster.hex(), cluster.me.hex(), founded.address))

    @routes.add(
        "POST", "/v1/admin/cluster/invitations", "A token with which one node may join, once",
        body=NewInvitation, answers={201: Invited}, problems=("conflict",),
    )  # fmt: skip
    async def cluster_invite() -> Response:
        wanted = await read_json(request, NewInvitation)
        with _allowed():
            token, expires = await cluster.invite(wanted.hours)
        return render(Invited(token, rfc3339(expires)), 201)

    @routes.add(
        "POST", "/v1/admin/cluster/members/<node>/revoke", "Remove a node for ever", body=Ordered,
        answers={200: RevokedNode}, problems=("conflict", "not_found"),
    )  # fmt: skip
    async def cluster_revoke(node: str) -> Response:
        await read_json(request, Ordered)
        with _allowed():
            await cluster.revoke(_node_id(node))
        return render(RevokedNode(node))


def _add_orders(routes: AdminRoutes, cluster: Operations) -> None:
    @routes.add(
        "POST", "/v1/admin/cluster/transfer", "Give leaderships to a node", body=Transfer,
        answers={200: Transferred}, problems=("conflict", "not_found"),
    )  # fmt: skip
    async def cluster_transfer() -> Response:
        wanted = await read_json(request, Transfer)
        with _allowed():
            partitions = None if wanted.partition is None else [_partition(wanted.partition)]
            return render(await cluster.transfer(_node_id(wanted.node), partitions))

    @routes.add(
        "POST", "/v1/admin/cluster/settings", "Change a setting of all nodes", body=ChangedSetting,
        answers={204: None}, problems=("not_found", "invalid_field"),
    )  # fmt: skip
    async def change_cluster_setting() -> Response:
        wanted = await read_json(request, ChangedSetting)
        await cluster.change_setting(wanted.name, wanted.value)
        return empty()

    @routes.add(
        "POST", "/v1/admin/cluster/repair", "Let all nodes look for blobs that they lack", body=Ordered,
        answers={200: Started},
    )  # fmt: skip
    async def cluster_repair() -> Response:
        await read_json(request, Ordered)
        return render(await cluster.order("repair"))

    @routes.add(
        "POST", "/v1/admin/cluster/scrub", "Let all nodes read all their blobs", body=Ordered,
        answers={200: Started},
    )  # fmt: skip
    async def cluster_scrub() -> Response:
        await read_json(request, Ordered)
        return render(await cluster.order("scrub"))

    @routes.add(
        "POST", "/v1/admin/cluster/digest", "Compare all replicas byte for byte", body=Ordered,
        answers={200: Compared},
    )  # fmt: skip
    async def cluster_digest() -> Response:
        await read_json(request, Ordered)
        return render(await cluster.digest())


class _allowed:
    """What an operator asked and may not be, as a problem."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, wrong: BaseException | None, trace: object) -> None:
        if isinstance(wrong, NotAllowed):
            raise Problem("conflict", str(wrong)) from None
        if isinstance(wrong, UnknownNode):
            raise Problem("not_found", str(wrong)) from None


def _node_id(text: str) -> bytes:
    try:
        node = bytes.fromhex(text)
    except ValueError:
        node = b""
    if len(node) != NODE_ID_BYTES:
        raise UnknownNode(f"{text[:64]!r} is no node's id")
    return node


def _partition(text: str) -> int:
    if text == META:
        return META_PARTITION
    if not (text.isascii() and text.isdecimal() and len(text) < 6):
        raise Problem("not_found", f"{text[:40]!r} is no partition")
    return int(text)
