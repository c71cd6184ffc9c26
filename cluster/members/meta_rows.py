"""What the meta group keeps: its keys, records and tables, and how they are read.

Members, who was a member and may not come back, the cluster itself, invitations, public keys, settings. The
readers here take any rows of this node's replica of the meta group; what changes them is
`cluster.members.meta`.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from cluster.commands import FEATURE_LEVEL, Declined
from cluster.keys import META_PARTITION
from cluster.members.layout import Layout, Placed, layout_of
from storage.keys import U16, Bytes16, Key, Text
from storage.records import Codec
from storage.rows import Reader, Table

WEIGHT_DEFAULT: Final = 100  # a node's share of the work, beside the others' weights
REPLICATION_FACTOR: Final = "replication_factor"  # the name of a setting: replicas of a partition that vote
REPLICATION_FACTOR_DEFAULT: Final = 3


class MemberKey(Key, kind=0x10):
    partition: U16
    node: Bytes16


class PublicKeyKey(Key, kind=0x11):
    partition: U16
    kid: Text


class SettingKey(Key, kind=0x12):
    partition: U16
    name: Text


class ClusterKey(Key, kind=0x13):
    """One row, once a cluster was made."""

    partition: U16


class InvitationKey(Key, kind=0x14):
    partition: U16
    id: Bytes16


class RevokedKey(Key, kind=0x15):
    partition: U16
    node: Bytes16


class VersionsKey(Key, kind=0x16):
    """One row."""

    partition: U16


class Member(msgspec.Struct, array_like=True, frozen=True):
    boot: int  # raised at each start; 0: admitted, not started yet
    joined_ms: int
    level: int  # the feature level that it speaks
    start: bytes = b""  # random, of the start registered last: two processes never share one; empty: untold
    address: str = ""  # host:port of its peer listener; empty on a lone node
    zone: str = ""  # what fails together
    weight: int = WEIGHT_DEFAULT


class PublicKey(msgspec.Struct, array_like=True, frozen=True):
    node: bytes
    public: bytes  # Ed25519, 32 bytes
    since_ms: int
    until_ms: int  # 0 while it signs; then when its last token dies


class Setting(msgspec.Struct, array_like=True, frozen=True):
    value: str
    at_ms: int


class Cluster(msgspec.Struct, array_like=True, frozen=True):
    id: bytes  # 16 bytes
    ca: bytes  # its certificate, PEM
    ca_key: bytes  # sealed with a key that is not here: every member can open it, a backup's reader cannot
    founder: bytes
    founded_ms: int


class Invitation(msgspec.Struct, array_like=True, frozen=True):
    """One node may join with the secret behind `secret_hash`, before it expires."""

    secret_hash: bytes
    made_ms: int
    expires_ms: int
    used_by: bytes = b""  # the node that was admitted with it
    used_ms: int = 0


class Revoked(msgspec.Struct, array_like=True, frozen=True):
    """A node that was a member. Its certificate may live on, so this row stays."""

    at_ms: int
    boot: int  # the last that was registered


class Versions(msgspec.Struct, array_like=True, frozen=True):
    layout: int = 0  # raised by each change of what the layout is made of
    level: int = 1  # the feature level that the cluster has risen to


def _member_2(old: list[object]) -> list[object]:
    return [*old, b"", "", "", WEIGHT_DEFAULT]


MEMBERS: Final = Table(MemberKey, Codec(Member, 2, {1: _member_2}))
PUBLIC_KEYS: Final = Table(PublicKeyKey, Codec(PublicKey))
SETTINGS: Final = Table(SettingKey, Codec(Setting))
CLUSTERS: Final = Table(ClusterKey, Codec(Cluster))
INVITATIONS: Final = Table(InvitationKey, Codec(Invitation))
REVOKED: Final = Table(RevokedKey, Codec(Revoked))
VERSIONS: Final = Table(VersionsKey, Codec(Versions))


# --- readers -------------------------------------------------------------------------------------------
def members(rows: Reader) -> dict[bytes, Member]:
    return {key.node: member for key, member in MEMBERS.scan(rows, META_PARTITION)}


def member(rows: Reader, node: bytes) -> Member | None:
    return MEMBERS.get(rows, MemberKey(META_PARTITION, node))


def addresses(rows: Reader) -> dict[bytes, str]:
    """Where the members listen for each other, of those that have said so."""
    return {node: member.address for node, member in members(rows).items() if member.address}


def public_keys(rows: Reader) -> dict[str, PublicKey]:
    return {key.kid: row for key, row in PUBLIC_KEYS.scan(rows, META_PARTITION)}


def cluster(rows: Reader) -> Cluster | None:
    """None on a node that was never part of one."""
    return CLUSTERS.get(rows, ClusterKey(META_PARTITION))


def invitations(rows: Reader) -> dict[bytes, Invitation]:
    return {key.id: row for key, row in INVITATIONS.scan(rows, META_PARTITION)}


def revoked(rows: Reader) -> dict[bytes, Revoked]:
    return {key.node: row for key, row in REVOKED.scan(rows, META_PARTITION)}


def settings(rows: Reader) -> dict[str, Setting]:
    return {key.name: row for key, row in SETTINGS.scan(rows, META_PARTITION)}


def versions(rows: Reader) -> Versions:
    return VERSIONS.get(rows, VersionsKey(META_PARTITION)) or Versions()


def layout_version(rows: Reader) -> int:
    return versions(rows).layout


def level(rows: Reader) -> int:
    """The feature level that commands are stamped with: every member speaks it."""
    return versions(rows).level


def level_spoken(rows: Reader) -> int:
    """What all members speak: `RaiseLevel` may raise the cluster's level to it."""
    return min((member.level for member in members(rows).values()), default=FEATURE_LEVEL)


def replication_factor(rows: Reader) -> int:
    row = SETTINGS.get(rows, SettingKey(META_PARTITION, REPLICATION_FACTOR))
    return int(row.value) if row is not None else REPLICATION_FACTOR_DEFAULT


def placed(rows: Reader) -> dict[bytes, Placed]:
    """What the layout is made of."""
    return {
        node: Placed(member.zone, member.weight, member.joined_ms) for node, member in members(rows).items()
    }


def layout(rows: Reader, partitions: int) -> Layout:
    """The layout of this version, by the rows alone: the same on every node. To be kept until the version
    changes."""
    return layout_of(layout_version(rows), placed(rows), replication_factor(rows), partitions)


# --- who may speak --------------------------------------------------------------------------------------
def refuses(rows: Reader, node: bytes, boot: int, start: bytes, cluster_id: bytes) -> Declined | None:
    """Why a peer that says hello is not listened to: `foreign_cluster`, `revoked`, `unknown_node`, or
    `stale_boot` (law 5: this start is not its last one, or two run with the same number).

    Where nothing of the meta group has arrived yet, on a node that has just joined, nothing can be said
    against anybody: the peer's certificate alone decides.
    """
    mine = cluster(rows)
    if mine is None:
        return None
    if cluster_id != mine.id:
        return Declined("foreign_cluster", f"it is of cluster {cluster_id.hex()}, this is {mine.id.hex()}")
    return refuses_start(members(rows), revoked(rows), node, boot, start)


def refuses_start(
    known: Mapping[bytes, Member], gone: Mapping[bytes, Revoked], node: bytes, boot: int, start: bytes
) -> Declined | None:
    if node in gone:
        return Declined("revoked", f"node {node.hex()} was revoked")
    registered = known.get(node)
    if registered is None:
        return Declined("unknown_node", f"node {node.hex()} is no member")
    if boot < registered.boot:
        return stale(node, boot, f"but boot {registered.boot} was seen")
    if boot == registered.boot and registered.start and start != registered.start:
        return stale(node, boot, "but another start with this number was seen")
    return None


def stale(node: bytes, boot: int, why: str) -> Declined:
    return Declined(
        "stale_boot",
        f"node {node.hex()} starts as boot {boot}, {why}: "
        "this data directory is a copy or was restored; start it under a new identity",
    )
