"""The meta group's state machine: who is a member and who may become one, the cluster's settings and level.

A partition like the others, with a state machine of its own. On a lone node it has one voter from the first
start, so that what is decided here is decided the same way when nodes join. The rows are in
`cluster.members.meta_rows`. Refusals: `stale_boot`, `unknown_node`, `revoked`, `conflict`, `not_found`,
`invalid_field`, `rate_limited` (too many invitations), `level_too_low`, and `invitation_unknown`,
`invitation_expired`, `invitation_used`.
"""

from typing import Final

import msgspec

from cluster.commands import FEATURE_LEVEL, Refused
from cluster.keys import META_PARTITION
from cluster.members.layout import REPLICATION_FACTOR_MAX
from cluster.members.meta_rows import (
    CLUSTERS,
    INVITATIONS,
    MEMBERS,
    PUBLIC_KEYS,
    REPLICATION_FACTOR,
    REVOKED,
    SETTINGS,
    VERSIONS,
    WEIGHT_DEFAULT,
    Cluster,
    ClusterKey,
    Invitation,
    InvitationKey,
    Member,
    MemberKey,
    PublicKey,
    PublicKeyKey,
    Revoked,
    RevokedKey,
    Setting,
    SettingKey,
    VersionsKey,
    cluster,
    invitations,
    level_spoken,
    member,
    members,
    public_keys,
    replication_factor,
    revoked,
    stale,
    versions,
)
from cluster.partition import Apply
from cluster.raft.messages import MEMBERS_MAX

ID_BYTES: Final = 16
SECRET_HASH_BYTES: Final = 32
KEYS_PER_MEMBER_MAX: Final = 8  # public keys whose tokens may still live
KEYS_OUTLIVE_MS: Final = 3600 * 1000  # a member that is gone for good: its users' tokens, the longest of them
SETTING_BYTES_MAX: Final = 4096
INVITATIONS_OPEN_MAX: Final = 32
INVITATIONS_USED_MAX: Final = 32  # kept for a joiner that asks again; the oldest go
INVITATION_MS_MAX: Final = 30 * 24 * 3600 * 1000
ADDRESS_BYTES_MAX: Final = 300  # a DNS name has at most 253
ZONE_BYTES_MAX: Final = 64
WEIGHT_MAX: Final = 10_000
CERTIFICATE_BYTES_MAX: Final = 16 << 10


class _Command(msgspec.Struct, array_like=True, frozen=True):
    """Journals hold them: new fields go to the end, with a default."""


class Boot(_Command, frozen=True, tag=1):
    """A member starts. Refused `stale_boot` when its counter is not above the last: a copy (law 5). Said
    twice by one start, it is as if said once.

    A node that listens for peers says where, and its zone and weight; without an address all three stay.
    """

    node: bytes
    boot: int
    level: int = FEATURE_LEVEL
    start: bytes = b""  # 8 random bytes of this start; empty from a version that had none
    address: str = ""
    zone: str = ""
    weight: int = WEIGHT_DEFAULT


class PublishKeys(_Command, frozen=True, tag=2):
    """The keys with which a member signs access tokens now: (kid, public, until_ms); others of it go."""

    node: bytes
    keys: tuple[tuple[str, bytes, int], ...]


class SetSetting(_Command, frozen=True, tag=3):
    """A setting of the whole cluster; an empty value removes it."""

    name: str
    value: str


class Found(_Command, frozen=True, tag=4):
    """A lone node makes a cluster of itself and its data; once."""

    cluster: bytes  # 16 random bytes
    ca: bytes  # certificate, PEM
    ca_key: bytes  # sealed
    node: bytes
    address: str
    zone: str
    weight: int = WEIGHT_DEFAULT


class Invite(_Command, frozen=True, tag=5):
    """One node may join until then, if it knows the secret."""

    id: bytes  # 16 random bytes
    secret_hash: bytes
    expires_ms: int


class Admit(_Command, frozen=True, tag=6):
    """A node joins with an invitation, which is used up; the same node may ask again until it expires."""

    invitation: bytes
    secret_hash: bytes  # of what it showed
    node: bytes
    address: str
    zone: str
    weight: int = WEIGHT_DEFAULT
    level: int = FEATURE_LEVEL


class Revoke(_Command, frozen=True, tag=7):
    """A node is no member any more, for ever: dead, stolen or unwanted."""

    node: bytes


class RaiseLevel(_Command, frozen=True, tag=8):
    """The cluster's feature level, when every member speaks it."""

    level: int


Command = Boot | PublishKeys | SetSetting | Found | Invite | Admit | Revoke | RaiseLevel

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Command).decode


def encode(command: Command) -> bytes:
    return _encode(command)


class MetaMachine:
    """The state machine of the meta group (`cluster.partition.StateMachine`)."""

    def execute(self, apply: Apply, body: bytes) -> bytes:
        match _decode(body):
            case Boot() as boot:
                _boot(apply, boot)
            case PublishKeys() as keys:
                _publish_keys(apply, keys)
            case SetSetting() as setting:
                _set(apply, setting)
            case Found() as found:
                _found(apply, found)
            case Invite() as invite:
                _invite(apply, invite)
            case Admit() as admit:
                _admit(apply, admit)
            case Revoke() as revoke:
                _revoke(apply, revoke)
            case RaiseLevel() as level:
                _raise_level(apply, level)
        return b""

    def receive(self, apply: Apply, source: int, body: bytes) -> None:
        raise Refused("not_found", f"the meta group takes no messages; partition {source} sent one")

    def proceed(self, apply: Apply, work: bytes) -> bytes | None:
        return None


# --- members -------------------------------------------------------------------------------------------
def _boot(apply: Apply, command: Boot) -> None:
    node, before = command.node, member(apply, command.node)
    if before is None:
        _check_stranger(apply, node)
        # A cluster without members was restored from a backup: who starts on its data is the first.
        if cluster(apply) is not None and members(apply):
            raise Refused("unknown_node", f"node {node.hex()} is no member; it joins with an invitation")
    elif command.boot < before.boot:
        _refuse_copy(node, command.boot, f"but boot {before.boot} was seen")
    elif command.boot == before.boot:
        if command.start and command.start == before.start:
            return
        _refuse_copy(node, command.boot, "but another start with this number was seen")
    _check_level(apply, command.level)
    told = before or Member(0, apply.now, command.level)
    address, zone, weight = told.address, told.zone, told.weight
    if command.address:
        address, zone, weight = command.address, command.zone, command.weight
        _check_place(address, zone, weight)
    _put_member(
        apply,
        node,
        Member(command.boot, told.joined_ms, command.level, command.start, address, zone, weight),
    )


def _refuse_copy(node: bytes, boot: int, why: str) -> None:
    said = stale(node, boot, why)
    raise Refused(said.code, said.detail)


def _found(apply: Apply, command: Found) -> None:
    if (there := cluster(apply)) is not None:
        raise Refused("conflict", f"this is cluster {there.id.hex()} already")
    _check_bytes("cluster", command.cluster, ID_BYTES)
    if not command.ca or not command.ca_key or len(command.ca) + len(command.ca_key) > CERTIFICATE_BYTES_MAX:
        raise Refused("invalid_field", f"a CA's certificate and key have 1 to {CERTIFICATE_BYTES_MAX} bytes")
    _check_place(command.address, command.zone, command.weight)
    known = members(apply)
    founder = known.get(command.node)
    if founder is None:
        raise Refused("unknown_node", f"node {command.node.hex()} has not started here")
    for node in known:
        if node != command.node:  # a name that this data had before it was restored from a backup
            MEMBERS.delete(apply, MemberKey(META_PARTITION, node))
            _end_keys(apply, node)
    made = Cluster(command.cluster, command.ca, command.ca_key, command.node, apply.now)
    CLUSTERS.put(apply, ClusterKey(META_PARTITION), made)
    _put_member(
        apply,
        command.node,
        msgspec.structs.replace(
            founder, address=command.address, zone=command.zone, weight=command.weight
        ),
    )  # fmt: skip


def _invite(apply: Apply, command: Invite) -> None:
    _check_founded(apply)
    _check_bytes("invitation", command.id, ID_BYTES)
    _check_bytes("secret_hash", command.secret_hash, SECRET_HASH_BYTES)
    if not apply.now < command.expires_ms <= apply.now + INVITATION_MS_MAX:
        raise Refused("invalid_field", f"an invitation expires within {INVITATION_MS_MAX} ms from now")
    known = invitations(apply)
    if command.id in known:
        raise Refused("conflict", f"there is an invitation {command.id.hex()} already")
    expired = {id for id, row in known.items() if row.expires_ms <= apply.now}
    live = {id: row for id, row in known.items() if id not in expired}
    used = sorted((row.used_ms, id) for id, row in live.items() if row.used_by)
    if len(live) - len(used) >= INVITATIONS_OPEN_MAX:
        raise Refused("rate_limited", f"{INVITATIONS_OPEN_MAX} invitations are open: let some expire")
    swept = [id for _, id in used[: max(0, len(used) - INVITATIONS_USED_MAX)]]
    for id in (*sorted(expired), *swept):
        INVITATIONS.delete(apply, InvitationKey(META_PARTITION, id))
    row = Invitation(command.secret_hash, apply.now, command.expires_ms)
    INVITATIONS.put(apply, InvitationKey(META_PARTITION, command.id), row)


def _admit(apply: Apply, command: Admit) -> None:
    _check_founded(apply)
    key = InvitationKey(META_PARTITION, command.invitation)
    row = INVITATIONS.get(apply, key)
    if row is None or row.secret_hash != command.secret_hash:
        raise Refused("invitation_unknown", "there is no such invitation")
    if row.expires_ms <= apply.now:
        ago = f"{(apply.now - row.expires_ms) // 1000} s ago"
        raise Refused("invitation_expired", f"this invitation expired {ago}")
    if row.used_by not in (b"", command.node):
        raise Refused("invitation_used", f"node {row.used_by.hex()} has joined with this invitation")
    _check_stranger(apply, command.node)
    _check_bytes("node", command.node, ID_BYTES)
    _check_level(apply, command.level)
    _check_place(command.address, command.zone, command.weight)
    before = member(apply, command.node)
    if before is not None and not row.used_by:
        raise Refused("conflict", f"node {command.node.hex()} is a member already")
    if before is None and len(members(apply)) >= MEMBERS_MAX:
        raise Refused("conflict", f"a cluster has at most {MEMBERS_MAX} members")
    INVITATIONS.put(
        apply, key, msgspec.structs.replace(row, used_by=command.node, used_ms=row.used_ms or apply.now)
    )
    told = before or Member(0, apply.now, command.level)
    _put_member(
        apply,
        command.node,
        msgspec.structs.replace(
            told, address=command.address, zone=command.zone, weight=command.weight, level=command.level
        ),
    )


def _revoke(apply: Apply, command: Revoke) -> None:
    _check_founded(apply)
    known = members(apply)
    gone = known.get(command.node)
    if gone is None:
        if command.node in revoked(apply):
            return
        raise Refused("unknown_node", f"node {command.node.hex()} is no member")
    if len(known) == 1:
        raise Refused("conflict", f"node {command.node.hex()} is the last member")
    MEMBERS.delete(apply, MemberKey(META_PARTITION, command.node))
    REVOKED.put(apply, RevokedKey(META_PARTITION, command.node), Revoked(apply.now, gone.boot))
    for kid, row in public_keys(apply).items():
        if row.node == command.node:
            PUBLIC_KEYS.delete(apply, PublicKeyKey(META_PARTITION, kid))
    _raise_layout(apply)


def _put_member(apply: Apply, node: bytes, after: Member) -> None:
    before = member(apply, node)
    MEMBERS.put(apply, MemberKey(META_PARTITION, node), after)
    if before is None or (before.zone, before.weight) != (after.zone, after.weight):
        _raise_layout(apply)


def _raise_layout(apply: Apply) -> None:
    now = versions(apply)
    VERSIONS.put(
        apply, VersionsKey(META_PARTITION), msgspec.structs.replace(now, layout=now.layout + 1)
    )  # fmt: skip


# --- keys ----------------------------------------------------------------------------------------------
def _publish_keys(apply: Apply, command: PublishKeys) -> None:
    if len(command.keys) > KEYS_PER_MEMBER_MAX:
        raise Refused("invalid_field", f"{len(command.keys)} keys: at most {KEYS_PER_MEMBER_MAX} a member")
    _check_stranger(apply, command.node)
    registered = members(apply)
    if cluster(apply) is not None and command.node not in registered:
        raise Refused("unknown_node", f"node {command.node.hex()} is no member")
    wanted = {kid for kid, _, _ in command.keys}
    known = public_keys(apply)
    for kid, row in known.items():
        ended = row.node not in registered and 0 < row.until_ms <= apply.now
        if ended or (row.node == command.node and kid not in wanted):
            PUBLIC_KEYS.delete(apply, PublicKeyKey(META_PARTITION, kid))
    for kid, public, until_ms in command.keys:
        before = known.get(kid)
        if before is not None and before.node != command.node:
            raise Refused("conflict", f"key {kid} belongs to another member")
        since = before.since_ms if before else apply.now
        PUBLIC_KEYS.put(
            apply, PublicKeyKey(META_PARTITION, kid), PublicKey(command.node, public, since, until_ms)
        )


def _end_keys(apply: Apply, node: bytes) -> None:
    """The keys of a member that is gone for good reasons end with the tokens that they signed."""
    for kid, row in public_keys(apply).items():
        if row.node == node and not row.until_ms:
            ends = msgspec.structs.replace(row, until_ms=apply.now + KEYS_OUTLIVE_MS)
            PUBLIC_KEYS.put(apply, PublicKeyKey(META_PARTITION, kid), ends)


# --- settings ------------------------------------------------------------------------------------------
def _set(apply: Apply, command: SetSetting) -> None:
    key = SettingKey(META_PARTITION, command.name)
    factor = replication_factor(apply)
    if not command.value:
        SETTINGS.delete(apply, key)
    elif len(command.value) + len(command.name) > SETTING_BYTES_MAX:
        raise Refused("invalid_field", f"a cluster setting has at most {SETTING_BYTES_MAX} bytes")
    else:
        if command.name == REPLICATION_FACTOR:
            _check_replication_factor(command.value)
        SETTINGS.put(apply, key, Setting(command.value, apply.now))
    if replication_factor(apply) != factor:
        _raise_layout(apply)


def _check_replication_factor(value: str) -> None:
    allowed = [str(number) for number in range(1, REPLICATION_FACTOR_MAX + 1, 2)]
    if value not in allowed:
        raise Refused("invalid_field", f"{REPLICATION_FACTOR} is one of {', '.join(allowed)}, not {value!r}")


def _raise_level(apply: Apply, command: RaiseLevel) -> None:
    now, spoken = versions(apply), level_spoken(apply)
    if command.level < now.level:
        raise Refused("conflict", f"the cluster's feature level is {now.level}, and never falls")
    if command.level > spoken:
        raise Refused("level_too_low", f"a member speaks level {spoken} only")
    if command.level > now.level:
        VERSIONS.put(
            apply, VersionsKey(META_PARTITION), msgspec.structs.replace(now, level=command.level)
        )  # fmt: skip


# --- checks --------------------------------------------------------------------------------------------
def _check_founded(apply: Apply) -> None:
    if cluster(apply) is None:
        raise Refused("conflict", "this node is alone: make a cluster of it first (heliograph cluster init)")


def _check_stranger(apply: Apply, node: bytes) -> None:
    if REVOKED.has(apply, RevokedKey(META_PARTITION, node)):
        raise Refused("revoked", f"node {node.hex()} was revoked")


def _check_level(apply: Apply, level: int) -> None:
    needed = versions(apply).level
    if level < needed:
        raise Refused("level_too_low", f"it speaks feature level {level}, the cluster is at {needed}")


def _check_bytes(name: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise Refused("invalid_field", f"{name} has {len(value)} bytes instead of {size}")


def _check_place(address: str, zone: str, weight: int) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or len(address.encode()) > ADDRESS_BYTES_MAX:
        raise Refused("invalid_field", f"{address[:ADDRESS_BYTES_MAX]!r} is not host:port")
    if len(zone.encode()) > ZONE_BYTES_MAX:
        raise Refused("invalid_field", f"a zone's name has at most {ZONE_BYTES_MAX} bytes")
    if not 1 <= weight <= WEIGHT_MAX:
        raise Refused("invalid_field", f"a weight lies between 1 and {WEIGHT_MAX}, not at {weight}")
