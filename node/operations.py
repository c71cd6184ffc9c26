"""What an operator sees of a cluster and may order: its picture, who leads what, transfers, digests, repair.

What only one node knows is asked of it (`NodeStatus`), and what only one node can do is ordered there
(`Order`): whoever is asked by the operator speaks to the others.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, Protocol

import msgspec
import trio

from cluster import reports
from cluster.commands import FEATURE_LEVEL, Digest, Refused
from cluster.forwarding import Unavailable
from cluster.keys import META_PARTITION
from cluster.members import meta, meta_rows
from cluster.peers.errors import PeerRefused, PeerSilent, PeerUnreachable
from cluster.peers.messages import Digests, GetDigests, NodeStatus, Order, Ordered, Status
from cluster.raft.effects import ChangeRefused, NotLeader, RaftStatistics
from cluster.replicas import Overloaded, Replicas, StorageFull
from cluster.reports import Overview, Picture, Report, is_behind
from cluster.router import Router
from node import joining
from node.conduct import LEAVE, Conduct
from node.logs import get_logger
from node.social.people import rfc3339
from storage.directory import DataDirectory, cluster_file

log = get_logger("cluster")

HEARD_WITHIN_S: Final = 2.0  # for a node's report: one that is slower counts as not heard
ORDERED_WITHIN_S: Final = 10.0  # for an order to be begun: hundreds of leaderships are handed over in that
DIGESTED_WITHIN_S: Final = 600.0  # for one partition: it is read whole
DIGESTS_AT_ONCE: Final = 4  # partitions: each stops the writer of its shard for as long as it is read
LEVEL_WITHIN_S: Final = 30.0  # for the other replicas to have applied the same command
LOOK_EVERY_S: Final = 0.1
KEEP_S: Final = 600.0  # how long a leadership that was given by hand stays where it is
REPAIR, SCRUB, TRANSFER, KEEP = "repair", "scrub", "transfer", "keep"
SETTINGS: Final = {  # name → default, meaning
    meta_rows.REPLICATION_FACTOR: (
        str(meta_rows.REPLICATION_FACTOR_DEFAULT),
        "voters of each partition, an odd number up to 7; a write is acknowledged by their majority",
    ),
}


class Member(msgspec.Struct, frozen=True):
    node_id: str
    address: str
    zone: str
    weight: int
    boot: int
    level: int
    joined_at: str
    state: str  # "this one" | "linked" | "not linked"


class PartitionView(msgspec.Struct, frozen=True):
    """As this node knows it."""

    partition: int
    leader: str  # empty: none is heard
    term: int
    voters: tuple[str, ...]
    learners: tuple[str, ...]
    applied: int
    behind: tuple[str, ...]  # members that lack much, as the leader says


class ClusterSetting(msgspec.Struct, frozen=True):
    name: str
    value: str
    default: str
    meaning: str


class NotDone(msgspec.Struct, frozen=True):
    partition: int
    why: str


class Transferred(msgspec.Struct, frozen=True):
    transferred: int
    refused: tuple[NotDone, ...]


class Unheard(msgspec.Struct, frozen=True):
    node_id: str
    address: str
    why: str


class Started(msgspec.Struct, frozen=True):
    begun: int  # nodes
    unheard: tuple[Unheard, ...]


class Different(msgspec.Struct, frozen=True):
    partition: int
    index: int
    digests: dict[str, str]  # node → digest


class Compared(msgspec.Struct, frozen=True):
    compared: int  # partitions
    replicas: int  # nodes that were compared
    different: tuple[Different, ...]
    unheard: tuple[NotDone, ...]
    seconds: float


class Links(Protocol):
    """What is used of `cluster.peers.links.Links`."""

    async def call(self, node: bytes, request: Any, *, deadline_s: float) -> Any: ...

    def connected(self, node: bytes) -> bool: ...

    def away_s(self, node: bytes) -> float: ...


class Operations:
    """Of one node. `attach` gives it the others."""

    def __init__(
        self,
        directory: DataDirectory,
        replicas: Replicas,
        router: Router,
        conduct: Conduct,
        said: Callable[[Report], Report],
        orders: Mapping[str, Callable[[], Awaitable[object]]],
    ) -> None:
        """`said`: adds to a report what other parts know (disk, blobs); `orders`: what `order` may begin,
        and leave to itself."""
        self.me = directory.node_id
        self._directory = directory
        self._replicas = replicas
        self._router = router
        self._conduct = conduct
        self._said = said
        self._orders = orders
        self._links: Links | None = None
        self._nursery: trio.Nursery | None = None
        self._began = trio.current_time()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled: carries out what was ordered."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def attach(self, links: Any) -> None:
        self._links = links
        links.serve(NodeStatus, self._told_status)
        links.serve(GetDigests, self._told_digests)
        links.serve(Order, self._ordered)

    # --- views -----------------------------------------------------------------------------------------
    async def report(self) -> Report:
        """What this node says of itself."""
        replicas = self._replicas
        votes = learns = 0
        led = []
        for number in replicas.partitions:
            members = replicas.configuration(number)
            votes += self.me in members.voters
            learns += self.me in members.learners
            # A quiet group's leader is one until somebody writes, even where nobody is left to agree.
            if replicas.leads(number) and sum(map(self._reaches, members.voters)) >= members.quorum:
                led.append(number)
        behind: dict[str, list[int]] = {}
        for number, group in (await replicas.group_statistics(led)).items():
            for node in _lagging(group):
                behind.setdefault(node.hex(), []).append(number)
        return self._said(
            Report(
                up_s=trio.current_time() - self._began,
                cpu_s=time.process_time(),
                applied=replicas.statistics().applied,
                node_id=self.me.hex(),
                version=version("heliograph"),
                level=FEATURE_LEVEL,
                boot=self._directory.boots,
                leads=tuple(led),
                votes=votes,
                learns=learns,
                behind={node: tuple(partitions) for node, partitions in behind.items()},
                changing=self._conduct.changing,
                clock_off_ms=self._conduct.clock_off_ms,
            )
        )

    async def _told_status(self, _: bytes, _request: NodeStatus) -> Status:
        return Status(msgspec.json.encode(await self.report()))

    async def picture(self) -> Picture:
        """The cluster as this node sees it now: every member is asked, and has HEARD_WITHIN_S."""
        return (await self.overview()).picture

    async def overview(self) -> Overview:
        """The picture, and what it was made of."""
        with self._router.read() as rows:
            row, members = meta_rows.cluster(rows), meta_rows.members(rows)
        addresses = {node.hex(): member.address for node, member in members.items()}
        addresses.setdefault(self.me.hex(), "")
        heard, unheard = await self._heard([node for node in members if node != self.me])
        cluster_id = row.id.hex() if row is not None else self._pledged_to()
        replicas = self._replicas
        voters = {number: replicas.configuration(number).voters for number in replicas.partitions}
        joined = sorted(members.items(), key=lambda found: (found[1].joined_ms, found[0]))
        return Overview(
            picture=reports.picture(
                self.me.hex(), cluster_id, addresses, heard, unheard, self._replicas.partitions
            ),
            reports=heard,
            zones={node.hex(): member.zone for node, member in joined} or {self.me.hex(): ""},
            away_s={node: away for node in unheard if (away := self._away_s(node))},
            voters={number: tuple(node.hex() for node in found) for number, found in voters.items()},
        )

    def _pledged_to(self) -> str:
        """The cluster of a node that has joined a moment ago, and has no rows yet; empty for one alone."""
        pledge = joining.read_pledge(cluster_file(self._directory.path))
        return pledge.cluster if pledge is not None else ""

    async def _heard(self, others: Iterable[bytes]) -> tuple[dict[str, Report], dict[str, str]]:
        """What this node and those of the others that answer say of themselves; of the rest, why not."""
        heard, unheard = {self.me.hex(): await self.report()}, {}

        async def ask(node: bytes) -> None:
            try:
                status = await self._call(node, NodeStatus(), HEARD_WITHIN_S)
                heard[node.hex()] = msgspec.json.decode(status.body, type=Report)
            except (PeerUnreachable, PeerSilent, PeerRefused, msgspec.DecodeError) as wrong:
                unheard[node.hex()] = str(wrong)

        async with trio.open_nursery() as nursery:
            for node in others:
                nursery.start_soon(ask, node)
        return heard, unheard

    def _away_s(self, node: str) -> float:
        return self._links.away_s(bytes.fromhex(node)) if self._links is not None else 0.0

    def members(self) -> tuple[Member, ...]:
        with self._router.read() as rows:
            if meta_rows.cluster(rows) is None:
                return ()
            found = meta_rows.members(rows)
        return tuple(
            Member(
                node_id=node.hex(),
                address=member.address,
                zone=member.zone,
                weight=member.weight,
                boot=member.boot,
                level=member.level,
                joined_at=rfc3339(member.joined_ms),
                state=self._state(node),
            )
            for node, member in sorted(found.items())
        )

    def _state(self, node: bytes) -> str:
        if node == self.me:
            return "this one"
        return "linked" if self._reaches(node) else "not linked"

    def _reaches(self, node: bytes) -> bool:
        return node == self.me or (self._links is not None and self._links.connected(node))

    async def partitions(self) -> tuple[PartitionView, ...]:
        replicas = self._replicas
        groups = await replicas.group_statistics(replicas.partitions)
        views = []
        for number, group in groups.items():
            standing, members = replicas.standing(number), replicas.configuration(number)
            views.append(
                PartitionView(
                    partition=number,
                    leader=standing.leader.hex() if standing.leader else "",
                    term=standing.term,
                    voters=tuple(node.hex() for node in members.voters),
                    learners=tuple(node.hex() for node in members.learners),
                    applied=replicas.applied_index(number),
                    behind=tuple(node.hex() for node in _lagging(group)),
                )
            )
        return tuple(views)

    def settings(self) -> tuple[ClusterSetting, ...]:
        with self._router.read() as rows:
            kept = meta_rows.settings(rows)
        return tuple(
            ClusterSetting(name, kept[name].value if name in kept else default, default, meaning)
            for name, (default, meaning) in SETTINGS.items()
        )

    # --- orders ----------------------------------------------------------------------------------------
    async def change_setting(self, name: str, value: str) -> None:
        """An empty value puts the default back. Raises Refused not_found, invalid_field."""
        if name not in SETTINGS:
            raise Refused("not_found", f"{name[:60]!r} is no setting of a cluster: {', '.join(SETTINGS)} is")
        await self._router.execute(META_PARTITION, meta.encode(meta.SetSetting(name, value)), grows=False)

    async def transfer(self, node: bytes, partitions: Sequence[int] | None) -> Transferred:
        """Give the leadership of these partitions (None: of all in which it votes) to `node`, for KEEP_S."""
        replicas = self._replicas
        if partitions is None:
            partitions = [n for n in replicas.partitions if node in replicas.configuration(n).voters]
        by_leader: dict[bytes, list[int]] = {}
        refused: list[NotDone] = []
        for number in partitions:
            leader = replicas.standing(number).leader if number in replicas.partitions else None
            if number not in replicas.partitions:
                refused.append(NotDone(number, "there is no such partition"))
            elif leader is None:
                refused.append(NotDone(number, "it has no leader that is heard"))
            else:
                by_leader.setdefault(leader, []).append(number)
        await self._order(node, Order(KEEP, tuple(partitions)))
        for leader, numbers in by_leader.items():
            if leader == node:
                continue
            wrong, answer = await self._order(leader, Order(TRANSFER, tuple(numbers), node))
            refused += [NotDone(number, wrong) for number in numbers if wrong]
            refused += [NotDone(number, why) for number, why in answer]
        return Transferred(len(partitions) - len(refused), tuple(refused))

    async def order(self, what: str) -> Started:
        """Let all members begin something."""
        unheard, begun = [], 0
        with self._router.read() as rows:
            members = meta_rows.addresses(rows)
        members.setdefault(self.me, "")
        for node, address in members.items():
            wrong, _ = await self._order(node, Order(what))
            if wrong:
                unheard.append(Unheard(node.hex(), address, wrong))
            else:
                begun += 1
        return Started(begun, tuple(unheard))

    async def _order(self, node: bytes, order: Order) -> tuple[str, tuple[tuple[int, str], ...]]:
        """What went wrong with the whole of it, and with parts of it."""
        try:
            if node == self.me:
                return "", (await self._ordered(node, order)).refused
            return "", (await self._call(node, order, ORDERED_WITHIN_S)).refused
        except (PeerUnreachable, PeerSilent, PeerRefused) as wrong:
            return str(wrong) or type(wrong).__name__, ()

    async def _ordered(self, sender: bytes, order: Order) -> Ordered:
        """What an operator wants of this node, or a node that ends of all."""
        if order.what == KEEP:
            self._conduct.keep(order.partitions, KEEP_S)
        elif order.what == LEAVE:
            self._conduct.leaves(sender)
        elif order.what == TRANSFER:
            return Ordered(tuple([one async for one in self._transferred(order)]))
        elif order.what in self._orders:
            if self._nursery is None:
                raise PeerRefused("unavailable", "the node stops")
            self._nursery.start_soon(self._orders[order.what])
        else:
            raise PeerRefused("unknown", f"{order.what[:40]!r} is nothing that this node can do")
        return Ordered()

    async def _transferred(self, order: Order) -> AsyncIterator[tuple[int, str]]:
        # Kept until it is handed over: what is let go first would be spread over all others meanwhile.
        self._conduct.keep(order.partitions, ORDERED_WITHIN_S)
        for number in order.partitions:
            try:
                await self._replicas.transfer(number, order.node)
            except KeyError as wrong:
                yield number, f"there is no such partition: {wrong}"
            except (NotLeader, ChangeRefused) as wrong:
                if self._replicas.standing(number).leader != order.node:
                    yield number, str(wrong)
        self._conduct.let_go(order.partitions)

    async def _call(self, node: bytes, request: Any, within_s: float) -> Any:
        if self._links is None:
            raise PeerUnreachable("this node is alone")
        return await self._links.call(node, request, deadline_s=within_s)

    # --- digests ---------------------------------------------------------------------------------------
    async def digest(self) -> Compared:
        """Compare all replicas of all partitions at equal indexes."""
        began = trio.current_time()
        with self._router.read() as rows:
            nodes = tuple(meta_rows.members(rows)) or (self.me,)
        comparison = Comparison(nodes)
        limiter = trio.CapacityLimiter(DIGESTS_AT_ONCE)

        async def order(number: int) -> None:
            try:
                async with limiter:
                    with trio.fail_after(DIGESTED_WITHIN_S):
                        await self._router.order(number, Digest())
                comparison.wanted.add(number)
            except (Unavailable, Overloaded, StorageFull, trio.TooSlowError) as wrong:
                comparison.unheard.append(NotDone(number, str(wrong) or "no answer in time"))

        async with trio.open_nursery() as nursery:
            for number in self._replicas.partitions:
                nursery.start_soon(order, number)
        with trio.move_on_after(LEVEL_WITHIN_S):
            while comparison.wanted:
                for node in nodes:
                    await self._ask_digests(node, comparison)
                comparison.take_level()
                if comparison.wanted:
                    await trio.sleep(LOOK_EVERY_S)
        return comparison.ended(trio.current_time() - began)

    async def _ask_digests(self, node: bytes, comparison: "Comparison") -> None:
        """What `node` found of the partitions that are not compared yet."""
        asked = GetDigests(tuple(sorted(comparison.wanted)))
        try:
            if node == self.me:
                answer = await self._told_digests(node, asked)
            else:
                answer = await self._call(node, asked, HEARD_WITHIN_S)
        except (PeerUnreachable, PeerSilent, PeerRefused) as wrong:
            comparison.silent[node] = str(wrong) or type(wrong).__name__
        else:
            comparison.silent.pop(node, None)
            comparison.heard(node, answer.digests)

    async def _told_digests(self, _: bytes, asked: GetDigests) -> Digests:
        found = ((number, self._replicas.digested(number)) for number in asked.partitions)
        return Digests(tuple((number, *last) for number, last in found if last is not None))


class Comparison:
    """Digests of many partitions by many nodes, until all are at one index."""

    def __init__(self, nodes: Sequence[bytes]) -> None:
        self.nodes = nodes
        self.wanted: set[int] = set()  # partitions that are not compared yet
        self.silent: dict[bytes, str] = {}  # nodes that do not answer, and why
        self.unheard: list[NotDone] = []
        self._told: dict[int, dict[bytes, tuple[int, bytes]]] = {}
        self._compared = 0
        self._different: list[Different] = []

    def heard(self, node: bytes, digests: Iterable[tuple[int, int, bytes]]) -> None:
        for partition, index, digest in digests:
            self._told.setdefault(partition, {})[node] = (index, digest)

    def take_level(self) -> None:
        """Compare those that all nodes have found at the same index."""
        for number in sorted(self.wanted):
            told = self._told.get(number, {})
            if len(told) < len(self.nodes) or len({index for index, _ in told.values()}) != 1:
                continue
            self.wanted.discard(number)
            self._compared += 1
            if len({digest for _, digest in told.values()}) > 1:
                found = {node.hex(): digest.hex() for node, (_, digest) in told.items()}
                self._different.append(Different(number, next(iter(told.values()))[0], found))

    def ended(self, seconds: float) -> Compared:
        silent = "; ".join(f"node {node.hex()[:8]}: {why}" for node, why in sorted(self.silent.items()))
        why = silent or f"not all replicas came to the same index in {LEVEL_WITHIN_S:.0f} s"
        left = [NotDone(number, why) for number in sorted(self.wanted)]
        return Compared(
            self._compared, len(self.nodes), tuple(self._different), (*self.unheard, *left), seconds
        )


def _lagging(group: RaftStatistics) -> list[bytes]:
    return [node for node in group.followers if is_behind(group, node)]
