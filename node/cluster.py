"""A node's life as a member: its links, its registration, who it listens to, and how it lets others join.

A node without a cluster has one of these too: it opens no port, knows nobody, and can be made the first of a
cluster while it runs (`found`). What is decided lies in the meta group's rows; this shell follows them: it
keeps links to exactly the members that they name, refuses whom they refuse, and ends when they say that this
node is a member no more.
"""

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec
import trio

from cluster.commands import FEATURE_LEVEL, Refused
from cluster.forwarding import Unavailable
from cluster.keys import META_PARTITION
from cluster.members import meta, meta_rows
from cluster.members.meta_rows import Cluster as ClusterRow
from cluster.members.reconcile import is_needed
from cluster.peers import certificates, hello, invitations
from cluster.peers.certificates import BadCertificate
from cluster.peers.errors import PeerRefused
from cluster.peers.hello import Hello, Refusal
from cluster.peers.invitations import Invitation
from cluster.peers.links import Links, introduction
from cluster.peers.messages import Describe, Described, Join, Joined
from cluster.replicas import Overloaded, Replicas, StorageFull, now_ms
from cluster.router import Router
from node import joining
from node.http.server import CannotListen
from node.joining import Expelled, Pledge
from node.logs import get_logger
from node.settings import Cluster as ClusterSettings
from storage.directory import DataDirectory, cluster_file

log = get_logger("cluster")

REGISTER_AGAIN_S: Final = 1.0  # a start without a majority serves reads meanwhile
RENEWAL_LOOK_S: Final = (
    3600.0  # between two looks at the certificate, which is renewed ten days before its end
)
LOOK_AGAIN_S: Final = 5.0  # the meta group's rows are looked at when they change, and this often in any case
MS: Final = 1000
EVERYWHERE: Final = frozenset({"0.0.0.0", "::", ""})  # listens, and is no address to be reached at
_META_ROWS: Final = META_PARTITION.to_bytes(2, "big")


class NotAllowed(Exception):
    """An operator asked what does not fit how the node stands; the text says why."""


class UnknownNode(Exception):
    """No member has this id."""


Attach = Callable[[Links], None]  # a part that has something to say to other nodes is told of the links


class Listening(NamedTuple):
    """The peer listener, before anybody is served on it."""

    listeners: list[trio.SocketListener]
    address: str  # where other nodes reach it

    def close(self) -> None:
        for listener in self.listeners:
            listener.socket.close()


async def listen(settings: ClusterSettings) -> Listening:
    """Raises CannotListen."""
    host, port = settings.host, settings.port
    if host in EVERYWHERE and not settings.advertise:
        nowhere = "no other node can reach it there; set cluster.advertise to HOST:PORT as they see it"
        raise CannotListen(host, port, OSError(errno.EADDRNOTAVAIL, nowhere))
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as wrong:
        raise CannotListen(host, port, wrong) from wrong
    taken = listeners[0].socket.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    return Listening(listeners, settings.advertise or f"{shown}:{taken}")


class Founded(msgspec.Struct, frozen=True):
    cluster: bytes
    address: str


class Cluster:
    """`run` must be running. Methods belong to the trio thread."""

    def __init__(
        self,
        directory: DataDirectory,
        settings: ClusterSettings,
        replicas: Replicas,
        router: Router,
        secret: bytes,
        attachments: Sequence[Attach],
        public_keys: Callable[[], tuple[tuple[str, bytes, int], ...]],
        listening: Listening | None = None,
    ) -> None:
        """`listening`: the peer listener of a node that belongs to a cluster already."""
        self.me = directory.node_id
        self.start = os.urandom(hello.START_BYTES)
        self.links: Links | None = None
        self.address = ""  # where other nodes reach this one
        self._directory = directory
        self._settings = settings
        self._replicas = replicas
        self._router = router
        self._secret = secret
        self._attachments = attachments
        self._public_keys = public_keys
        self._listening = listening
        self._pledge = joining.read_pledge(cluster_file(directory.path))
        self._met: dict[bytes, Hello] = {}  # who dialled in: where it is now, whatever the rows say
        self._changed = trio.Event()
        self._one = trio.Lock()  # founding is one at a time
        self._expelled: Expelled | None = None
        self._nursery: trio.Nursery
        self._followers: list[Callable[[], None]] = []
        replicas.on_rows(self._rows_written)

    @property
    def id(self) -> bytes:
        """The cluster's id; empty for a node alone."""
        return self._pledge.cluster_id if self._pledge is not None else b""

    def on_members(self, follower: Callable[[], None]) -> None:
        """Call `follower` when the meta group's rows have changed: members, settings, layout."""
        self._followers.append(follower)

    # --- the life of it --------------------------------------------------------------------------------
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Reports when the node may serve: a lone one when its start is registered, a member
        at once. Raises Expelled, Refused (a lone node's start that was refused), CannotListen."""
        async with trio.open_nursery() as self._nursery:
            row = self._row()
            if row is not None and self.me in self._members() and self._pledge is None:
                self._equip(row)  # founded, and then it crashed
            if self._pledge is not None:
                await self._open(self._listening or await listen(self._settings), row)
                self._nursery.start_soon(self._registered)
            else:
                await self._register()
            self._nursery.start_soon(self._follow)
            task_status.started()
            await trio.sleep_forever()

    async def _open(self, listening: Listening, row: ClusterRow | None) -> None:
        """Speak to the other nodes from now on. Raises BadCertificate, OSError."""
        assert self._pledge is not None
        self.address = listening.address
        directory, cluster_id = self._directory, self._pledge.cluster_id
        if row is not None and not joining.is_certified(directory, row, now_ms()):
            joining.certify(directory, row, self._secret, now_ms())
        me = introduction(cluster_id, self.me, directory.boots, self.start, FEATURE_LEVEL, listening.address)
        links = Links(me, joining.credentials(directory, cluster_id), self._admits, on_refused=self._told)
        links.on_raft = self._replicas.frame
        links.on_connected = self._replicas.connected
        links.on_met = self._meet
        links.serve(Describe, self._describe)
        links.serve(Join, self._join)
        self._replicas.send_frame = links.send_raft
        for attach in self._attachments:
            attach(links)
        self.links = links
        self._look()
        await self._nursery.start(links.run, listening.listeners)
        self._nursery.start_soon(self._renew)
        log.info("peers_served", address=self.address, cluster=cluster_id.hex())

    async def _follow(self) -> None:
        """Keep up with the meta group's rows."""
        while True:
            changed = self._changed = trio.Event()
            self._look()
            if self._expelled is not None:
                raise self._expelled
            with trio.move_on_after(LOOK_AGAIN_S):
                await changed.wait()

    def _rows_written(self, keys: Iterable[bytes]) -> None:
        if any(key.startswith(_META_ROWS) for key in keys):
            self._changed.set()

    def _look(self) -> None:
        """What do the rows say now?"""
        if self.links is None:
            return
        with self._router.read() as rows:
            row, members, gone = meta_rows.cluster(rows), meta_rows.members(rows), meta_rows.revoked(rows)
        addresses = {node: member.address for node, member in members.items() if member.address}
        if row is None:  # nothing has arrived here yet: those who were named at the admission bring it
            addresses = joining.first_peers(self._pledge)
        elif self.me in gone:
            self._expel(hello.REVOKED, "this node was revoked: it is no member any more")
        for node, met in list(self._met.items()):
            known = members.get(node)
            if node in gone or (known is not None and known.boot >= met.boot):
                del self._met[node]  # the rows know more of it by now
            elif met.address:
                addresses[node] = met.address
        self._replicas.set_peers(addresses)
        self.links.connect_to(addresses)
        self.links.review()
        for follower in self._followers:
            follower()

    def _admits(self, peer: Hello) -> Refusal | None:
        """A node that the rows do not know has a certificate, so it was admitted, and this replica has not
        heard of it yet. It may lead the meta group by now: who else would tell?"""
        with self._router.read() as rows:
            refused = meta_rows.refuses(rows, peer.node, peer.boot, peer.start, peer.cluster)
        if refused is None or refused.code == hello.UNKNOWN_NODE:
            return None
        return Refusal(refused.code, refused.detail)

    def _meet(self, peer: Hello) -> None:
        """Whoever dials in is dialled where it says that it is, if that is news: since it came or moved, no
        row of it may have reached this replica."""
        self._met[peer.node] = peer
        self._changed.set()

    def _told(self, refusal: Refusal) -> None:
        """Another node says that this one is not wanted any more."""
        if refusal.code == hello.STALE_BOOT and self._expelled is None:
            self._directory.take_back_boot()
        self._expel(refusal.code, refusal.detail)

    def _expel(self, code: str, detail: str) -> None:
        if self._expelled is None:
            log.error("expelled", code=code, detail=detail)
            self._expelled = Expelled(f"{code}: {detail}. Start it on an empty directory, with an invitation")
            self._changed.set()

    # --- registration ----------------------------------------------------------------------------------
    async def _register(self) -> None:
        """Tell the meta group of this start, and which keys sign its tokens: a restored copy is refused here
        (law 5). Raises Refused, Unavailable, Overloaded, StorageFull."""
        settings = self._settings
        boot = meta.Boot(
            self.me,
            self._directory.boots,
            FEATURE_LEVEL,
            self.start,
            self.address,
            settings.zone,
            settings.weight,
        )
        try:
            await self._decide(boot)
        except Refused as refusal:
            if refusal.code == hello.STALE_BOOT:
                self._directory.take_back_boot()
            raise
        await self.publish_keys()

    async def publish_keys(self) -> None:
        """Tell the meta group which public keys this node's tokens are checked with."""
        await self._decide(meta.PublishKeys(self.me, self._public_keys()))

    async def _registered(self) -> None:
        """A member serves what it has while there is no majority to register with."""
        while True:
            try:
                await self._register()
            except Refused as refusal:
                raise Expelled(f"{refusal.code}: {refusal.detail}") from refusal
            except (Unavailable, Overloaded, StorageFull) as wrong:
                log.warning("not_registered", reason=str(wrong))
                await trio.sleep(REGISTER_AGAIN_S)
            else:
                log.info("registered", boot=self._directory.boots)
                return

    async def _renew(self) -> None:
        """A third of its life before the end, the certificate is made anew."""
        while True:
            await trio.sleep(RENEWAL_LOOK_S)
            row = self._row()
            try:
                if row is not None and not joining.is_certified(self._directory, row, now_ms()):
                    joining.certify(self._directory, row, self._secret, now_ms())
                    assert self.links is not None
                    self.links.show(joining.credentials(self._directory, row.id))
                    log.info("certificate_renewed")
            except (BadCertificate, OSError) as wrong:
                log.error("certificate_not_renewed", reason=str(wrong))

    # --- founding and inviting -------------------------------------------------------------------------
    async def found(self) -> Founded:
        """Make this node, with its data, the first of a cluster. Raises NotAllowed, and what the router
        raises."""
        async with self._one:
            if self._row() is not None or self._pledge is not None:
                raise NotAllowed(f"this node belongs to cluster {self.id.hex()} already")
            try:
                listening = await listen(self._settings)
            except CannotListen as wrong:
                raise NotAllowed(str(wrong)) from wrong
            try:
                await self._decide(self._founding(listening.address))
                await self._router.visible(META_PARTITION)
            except BaseException:
                listening.close()
                raise
            row = self._row()
            assert row is not None
            self._equip(row)
            await self._open(listening, row)
            log.info("cluster_founded", cluster=row.id.hex())
            return Founded(row.id, self.address)

    def _founding(self, address: str) -> meta.Found:
        """The command, with a CA whose key only who knows the cluster's secret can open."""
        cluster_id = os.urandom(joining.ID_BYTES)
        authority = certificates.make_authority(cluster_id, now_ms())
        sealed = certificates.seal_key(authority, self._secret)
        settings = self._settings
        return meta.Found(
            cluster_id,
            authority.certificate,
            sealed,
            self.me,
            address,
            settings.zone,
            settings.weight,
        )

    def _equip(self, row: ClusterRow) -> None:
        """Give the founder what a joiner gets when it is admitted."""
        joining.certify(self._directory, row, self._secret, now_ms())
        self._pledge = Pledge(row.id.hex(), founder=True)
        joining.write_pledge(self._directory, self._pledge)

    async def invite(self, hours: float) -> tuple[str, int]:
        """A token with which one node may join, and until when (ms). Raises NotAllowed, Refused."""
        row = self._require_cluster()
        secret, invitation = os.urandom(invitations.SECRET_BYTES), os.urandom(joining.ID_BYTES)
        expires = now_ms() + int(hours * 3600 * MS)
        await self._decide(meta.Invite(invitation, invitations.secret_hash(secret), expires))
        with self._router.read() as rows:
            addresses = meta_rows.addresses(rows)
        own = addresses.pop(self.me, self.address)
        token = Invitation(
            certificates.fingerprint(row.ca), (own, *addresses.values()), invitation, secret, expires
        )
        log.info("invited", invitation=invitation.hex(), expires_ms=expires)
        return invitations.write(token), expires

    async def revoke(self, node: bytes) -> None:
        """Remove a member for ever. Raises NotAllowed, UnknownNode, Refused."""
        self._require_cluster()
        self._check_dispensable(node)
        try:
            await self._decide(meta.Revoke(node))
        except Refused as refusal:
            if refusal.code == "unknown_node":
                raise UnknownNode(refusal.detail) from refusal
            raise
        log.warning("revoked", node=node.hex())

    def _check_dispensable(self, node: bytes) -> None:
        """A node is shut out at once: groups that would stand still without it hold it back."""
        assert self.links is not None
        alive = {self.me, *filter(self.links.connected, self._members())}
        held = [
            p for p in self._replicas.partitions if is_needed(self._replicas.configuration(p), node, alive)
        ]
        if held:
            raise NotAllowed(
                f"without node {node.hex()} {len(held)} groups would have no majority alive: "
                "let another node join first, or start those that are not heard"
            )

    def _require_cluster(self) -> ClusterRow:
        row = self._row()
        if row is None and self._pledge is not None:
            raise NotAllowed("this node has just joined and is being given its data; ask another one")
        if row is None or self.links is None:
            raise NotAllowed("this node is alone: make a cluster of it first, with `heliograph cluster init`")
        return row

    # --- what joiners ask ------------------------------------------------------------------------------
    async def _describe(self, _: bytes, _request: Describe) -> Described:
        with self._router.read() as rows:
            row, level = meta_rows.cluster(rows), meta_rows.level(rows)
        if row is None:
            raise PeerRefused("unavailable", "this node has not heard yet of the cluster that it joined")
        return Described(row.id, self._directory.identity.partition_count, level, row.ca)

    async def _join(self, _: bytes, asked: Join) -> Joined:
        """Whoever knows the secret of an invitation becomes a member; asked again, it is told the same."""
        row = self._row()
        if row is None:
            raise PeerRefused("unavailable", "this node has not heard yet of the cluster that it joined")
        try:
            chain = joining.sign(row, self._secret, asked.csr, asked.node, now_ms())
            await self._decide(
                meta.Admit(
                    asked.invitation,
                    invitations.secret_hash(asked.secret),
                    asked.node,
                    asked.address,
                    asked.zone,
                    asked.weight,
                    asked.level,
                )
            )
        except Refused as refusal:
            log.warning("join_refused", node=asked.node.hex(), code=refusal.code, detail=refusal.detail)
            raise PeerRefused(refusal.code, refusal.detail) from refusal
        except BadCertificate as wrong:
            raise PeerRefused("invalid_field", str(wrong)) from wrong
        except (Unavailable, Overloaded, StorageFull) as wrong:
            raise PeerRefused("unavailable", str(wrong)) from wrong
        await self._router.visible(META_PARTITION)
        with self._router.read() as rows:
            addresses = meta_rows.addresses(rows)
        log.info("admitted", node=asked.node.hex(), address=asked.address)
        return Joined(chain, self._secret, tuple(addresses.items()))

    # --- rows and commands -----------------------------------------------------------------------------
    async def _decide(self, command: meta.Command) -> None:
        """A command to the meta group, whoever leads it."""
        await self._router.execute(META_PARTITION, meta.encode(command), grows=False)

    def _row(self) -> ClusterRow | None:
        with self._router.read() as rows:
            return meta_rows.cluster(rows)

    def _members(self) -> dict[bytes, meta_rows.Member]:
        with self._router.read() as rows:
            return meta_rows.members(rows)
