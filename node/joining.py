"""How a node comes to belong to a cluster, as it lies in its data directory; each step survives a crash.

    cluster.json     the cluster's id, and the token while the node is still joining
    keys/ca.pem      the CA's certificate
    keys/node.pem    the node's certificate, made anew every few weeks
    keys/node.key    its private key

A joiner's directory is made with its cluster.json, before it has an identity; the key is made before the node
asks to be admitted, so that whoever asks twice is the same node; the token goes last. A founder's directory
has its state first, and gets these files after the meta group has taken the cluster: a crash in between is
mended by the next start, which finds the cluster in its own rows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import trio

from cluster.commands import FEATURE_LEVEL
from cluster.members.meta_rows import Cluster as ClusterRow
from cluster.peers import certificates, invitations, join
from cluster.peers.certificates import BadCertificate, Credentials
from cluster.peers.errors import PeerRefused, PeerSilent, PeerUnreachable
from cluster.peers.hello import Name
from cluster.peers.invitations import BadInvitation, Invitation
from cluster.peers.join import NotInvited
from cluster.peers.messages import Described, Join, Joined
from node.logs import get_logger
from node.settings import Cluster as ClusterSettings
from node.settings import Settings
from storage.directory import DataDirectory, cluster_file, has_identity, write_durably

log = get_logger("cluster")

AUTHORITY, CHAIN, KEY = "ca.pem", "node.pem", "node.key"
ID_BYTES: Final = 16
ASK_AGAIN_S: Final = (0.5, 10.0)  # between two tries to be admitted: at first, at most
ASKED_FOR_S: Final = 120.0  # then the start ends: whoever started it wants to know
FINAL_REFUSALS: Final = frozenset(  # asking again would bring nothing else
    {"invitation_unknown", "invitation_expired", "invitation_used", "revoked", "conflict", "level_too_low",
     "invalid_field"}
)  # fmt: skip


class CannotJoin(Exception):
    """The world's fault: a directory, a token or a cluster that do not fit; the text says what would."""


class Expelled(Exception):
    """This node may not go on as it is: it was revoked, or its directory is a copy. Nothing mends that but a
    new identity."""


class Pledge(msgspec.Struct, frozen=True):
    """What cluster.json says."""

    cluster: str  # its id in hex
    token: str = ""  # as long as the node is not yet admitted
    founder: bool = False  # it was there before the cluster: what names no members is its own
    peers: dict[str, str] = {}  # node id → address, as told at the admission: whom to speak to first

    @property
    def cluster_id(self) -> bytes:
        return bytes.fromhex(self.cluster)


def read_pledge(raw: bytes) -> Pledge | None:
    """None where there is no cluster.json. Raises CannotJoin."""
    if not raw:
        return None
    try:
        pledge = msgspec.json.decode(raw, type=Pledge)
        whole = len(pledge.cluster_id) == ID_BYTES
    except ValueError as wrong:
        raise CannotJoin(f"cluster.json of the data directory cannot be read: {wrong}") from wrong
    if not whole:
        raise CannotJoin(f"cluster.json of the data directory names the cluster {pledge.cluster!r}")
    return pledge


def is_pledged(directory: DataDirectory) -> bool:
    """Whether the node belongs to a cluster, or is joining one."""
    return read_pledge(cluster_file(directory.path)) is not None


def is_founder(directory: DataDirectory) -> bool:
    """Whether groups whose state names no members are this node's alone: a joiner waits to be told."""
    pledge = read_pledge(cluster_file(directory.path))
    return pledge is None or pledge.founder


def write_pledge(directory: DataDirectory, pledge: Pledge) -> None:
    write_durably(directory.cluster_file, encode_pledge(pledge))


def encode_pledge(pledge: Pledge) -> bytes:
    return msgspec.json.format(msgspec.json.encode(pledge)) + b"\n"


# --- keys and certificates -----------------------------------------------------------------------------
def own_key(directory: DataDirectory) -> bytes:
    """The node's private key, made at the first call. Raises OSError."""
    path = directory.keys / KEY
    try:
        return path.read_bytes()
    except FileNotFoundError:
        key = certificates.new_key()
        write_durably(path, key)
        return key


def credentials(directory: DataDirectory, cluster_id: bytes) -> Credentials:
    """Raises OSError where the CA's certificate is not there."""
    keys = directory.keys
    authority = (keys / AUTHORITY).read_bytes()
    return Credentials(cluster_id, directory.node_id, authority, keys / CHAIN, keys / KEY)


def keep(directory: DataDirectory, authority: bytes, chain: bytes) -> None:
    write_durably(directory.keys / AUTHORITY, authority)
    write_durably(directory.keys / CHAIN, chain)


def request(directory: DataDirectory, cluster_id: bytes) -> bytes:
    """A request for a certificate of this node's key."""
    return certificates.request(own_key(directory), Name(cluster_id, directory.node_id))


def sign(row: ClusterRow, secret: bytes, csr: bytes, node: bytes, now: int) -> bytes:
    """A certificate for a member, by the CA that every member can open. Raises BadCertificate."""
    authority = certificates.open_key(row.ca, row.ca_key, secret)
    return certificates.issue(authority, csr, Name(row.id, node), now)


def certify(directory: DataDirectory, row: ClusterRow, secret: bytes, now: int) -> None:
    """Give this node a certificate of its own making, and keep it. Raises BadCertificate, OSError."""
    keep(directory, row.ca, sign(row, secret, request(directory, row.id), directory.node_id, now))


def is_certified(directory: DataDirectory, row: ClusterRow, now: int) -> bool:
    """Whether what lies in the directory can be shown for a while."""
    try:
        chain = (directory.keys / CHAIN).read_bytes()
        name = certificates.verify(chain, row.ca, now)
        return name == Name(row.id, directory.node_id) and now < certificates.renew_at(chain)
    except (OSError, BadCertificate):
        return False


def first_peers(pledge: Pledge | None) -> dict[bytes, str]:
    return {bytes.fromhex(node): address for node, address in pledge.peers.items()} if pledge else {}


def told_peers(members: Sequence[tuple[bytes, str]]) -> dict[str, str]:
    return {node.hex(): address for node, address in members}


# --- the joiner's steps --------------------------------------------------------------------------------
async def begin(path: Path, token: str, settings: Settings, now: float) -> DataDirectory | None:
    """The first step: where `path` is nobody's yet, make it the directory of a joiner. None: it was begun
    before, and is opened as any other. Raises CannotJoin, and what DataDirectory.open raises."""
    invitation = _read(token)
    pledge = read_pledge(cluster_file(path))
    if pledge is None and has_identity(path):
        raise CannotJoin(
            f"{path} holds the data of a node that is no member of a cluster. Join with an empty directory, "
            "or make a cluster of that node: `heliograph cluster init`"
        )
    if pledge is not None and not pledge.token:
        _want_same(path, pledge, await _known(invitation, path))
        return None
    _, described = await _described(invitation)
    if pledge is not None:
        _want_same(path, pledge, described.cluster)
    pledge = Pledge(described.cluster.hex(), token)
    directory = DataDirectory.open(
        path,
        now=now,
        shard_count=settings.storage.shards,
        partition_count=described.partition_count,
        cluster=encode_pledge(pledge),
    )
    write_pledge(directory, pledge)  # the newer token, where there was one
    return directory


async def admitted(directory: DataDirectory, address: str, settings: ClusterSettings, secret: Path) -> None:
    """The second step, if it is not done yet: ask to be admitted, and keep what comes of it. `address`: where
    the others will reach this node; `secret`: the file for the cluster's. Raises CannotJoin."""
    pledge = read_pledge(cluster_file(directory.path))
    if pledge is None or not pledge.token:
        return
    invitation = _read(pledge.token)
    asked = Join(
        invitation.invitation,
        invitation.secret,
        directory.node_id,
        request(directory, pledge.cluster_id),
        address,
        settings.zone,
        FEATURE_LEVEL,
        settings.weight,
    )
    described, joined = await _asked(invitation, pledge, asked)
    keep(directory, described.ca, joined.chain)
    write_durably(secret, joined.secret)
    write_pledge(directory, Pledge(pledge.cluster, peers=told_peers(joined.members)))
    log.info("joined", cluster=pledge.cluster, members=len(joined.members))


async def _asked(invitation: Invitation, pledge: Pledge, asked: Join) -> tuple[Described, Joined]:
    """Asked twice, a node is told the same: so it asks until it is told."""
    wait = ASK_AGAIN_S[0]
    last: Exception | None = None
    with trio.move_on_after(ASKED_FOR_S):
        while True:
            try:
                address, described = await join.described(invitation)
                if described.cluster != pledge.cluster_id:
                    raise CannotJoin(
                        f"{address} is of cluster {described.cluster.hex()}, not {pledge.cluster}"
                    )
                return described, await join.join(invitation, address, described, asked)
            except NotInvited as wrong:
                raise CannotJoin(str(wrong)) from wrong
            except PeerRefused as wrong:
                if wrong.code in FINAL_REFUSALS:
                    raise CannotJoin(f"not admitted: {wrong}") from wrong
                last = wrong
            except (PeerSilent, PeerUnreachable) as wrong:
                last = wrong
            log.warning("not_yet_admitted", reason=str(last))
            await trio.sleep(wait)
            wait = min(wait * 2, ASK_AGAIN_S[1])
    raise CannotJoin(
        f"not admitted within {ASKED_FOR_S:.0f} s: {last}. Started again, the node goes on asking"
    )


async def _described(invitation: Invitation) -> tuple[str, Described]:
    try:
        return await join.described(invitation)
    except (NotInvited, PeerUnreachable, PeerSilent, PeerRefused) as wrong:
        raise CannotJoin(f"nobody who invited can be asked: {wrong}") from wrong


async def _known(invitation: Invitation, path: Path) -> bytes:
    """The invitation's cluster, without asking if the CA is the one that is known here."""
    try:
        fingerprint = certificates.fingerprint((path / "keys" / AUTHORITY).read_bytes())
    except (OSError, BadCertificate):
        fingerprint = b""
    pledge = read_pledge(cluster_file(path))
    if pledge is not None and invitations.is_authority(invitation, fingerprint):
        return pledge.cluster_id
    return (await _described(invitation))[1].cluster


def _want_same(path: Path, pledge: Pledge, cluster_id: bytes) -> None:
    if pledge.cluster_id != cluster_id:
        raise CannotJoin(
            f"{path} belongs to cluster {pledge.cluster}; the token is of {cluster_id.hex()}. "
            "Join with an empty directory"
        )


def _read(token: str) -> Invitation:
    try:
        return invitations.read(token)
    except BadInvitation as wrong:
        raise CannotJoin(f"--join: {wrong}") from None
