"""The meta group: who is a member, their boot counters and public keys, the cluster's settings.

A partition like the others, with a state machine of its own. On a lone node it has one voter from the first
start, so that what is decided here is decided the same way when nodes join.
"""

from typing import Final

import msgspec

from cluster.commands import FEATURE_LEVEL, Refused
from cluster.keys import META_PARTITION
from cluster.partition import Apply
from storage.keys import U16, Bytes16, Key, Text
from storage.records import Codec
from storage.rows import Reader, Table

KEYS_PER_MEMBER_MAX: Final = 8  # public keys whose tokens may still live
SETTING_BYTES_MAX: Final = 4096


class MemberKey(Key, kind=0x10):
    partition: U16
    node: Bytes16


class PublicKeyKey(Key, kind=0x11):
    partition: U16
    kid: Text


class SettingKey(Key, kind=0x12):
    partition: U16
    name: Text


class Member(msgspec.Struct, array_like=True, frozen=True):
    boot: int  # raised at each start; a start that is not above it is a restored copy's
    joined_ms: int
    level: int  # the feature level that it speaks


class PublicKey(msgspec.Struct, array_like=True, frozen=True):
    node: bytes
    public: bytes  # Ed25519, 32 bytes
    since_ms: int
    until_ms: int  # 0 while it signs; then when its last token dies


class Setting(msgspec.Struct, array_like=True, frozen=True):
    value: str
    at_ms: int


MEMBERS: Final = Table(MemberKey, Codec(Member))
PUBLIC_KEYS: Final = Table(PublicKeyKey, Codec(PublicKey))
SETTINGS: Final = Table(SettingKey, Codec(Setting))


class Boot(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """A member starts. Refused `stale_boot` when its counter is not above the last: a copy (law 5)."""

    node: bytes
    boot: int
    level: int = FEATURE_LEVEL


class PublishKeys(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """The keys with which a member signs access tokens now: (kid, public, until_ms); others of it go."""

    node: bytes
    keys: tuple[tuple[str, bytes, int], ...]


class SetSetting(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """A setting of the whole cluster; an empty value removes it."""

    name: str
    value: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Boot | PublishKeys | SetSetting).decode


def encode(command: Boot | PublishKeys | SetSetting) -> bytes:
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
        return b""

    def receive(self, apply: Apply, source: int, body: bytes) -> None:
        raise Refused("not_found", f"the meta group takes no messages; partition {source} sent one")

    def proceed(self, apply: Apply, work: bytes) -> bytes | None:
        return None


def _boot(apply: Apply, command: Boot) -> None:
    key = MemberKey(META_PARTITION, command.node)
    member = MEMBERS.get(apply, key)
    if member is not None and command.boot <= member.boot:
        raise Refused(
            "stale_boot",
            f"node {command.node.hex()} starts as boot {command.boot}, but boot {member.boot} was seen: "
            "this data directory is a copy or was restored; start it under a new identity",
        )
    joined = member.joined_ms if member else apply.now
    MEMBERS.put(apply, key, Member(command.boot, joined, command.level))


def _publish_keys(apply: Apply, command: PublishKeys) -> None:
    if len(command.keys) > KEYS_PER_MEMBER_MAX:
        raise Refused("invalid_field", f"{len(command.keys)} keys: at most {KEYS_PER_MEMBER_MAX} a member")
    wanted = {kid for kid, _, _ in command.keys}
    known = {key.kid: row for key, row in PUBLIC_KEYS.scan(apply, META_PARTITION)}
    for kid, row in known.items():
        if row.node == command.node and kid not in wanted:
            PUBLIC_KEYS.delete(apply, PublicKeyKey(META_PARTITION, kid))
    for kid, public, until_ms in command.keys:
        before = known.get(kid)
        if before is not None and before.node != command.node:
            raise Refused("conflict", f"key {kid} belongs to another member")
        since = before.since_ms if before else apply.now
        PUBLIC_KEYS.put(
            apply, PublicKeyKey(META_PARTITION, kid), PublicKey(command.node, public, since, until_ms)
        )


def _set(apply: Apply, command: SetSetting) -> None:
    key = SettingKey(META_PARTITION, command.name)
    if not command.value:
        SETTINGS.delete(apply, key)
    elif len(command.value) + len(command.name) > SETTING_BYTES_MAX:
        raise Refused("invalid_field", f"a cluster setting has at most {SETTING_BYTES_MAX} bytes")
    else:
        SETTINGS.put(apply, key, Setting(command.value, apply.now))


def members(rows: Reader) -> dict[bytes, Member]:
    return {key.node: member for key, member in MEMBERS.scan(rows, META_PARTITION)}


def public_keys(rows: Reader) -> dict[str, PublicKey]:
    return {key.kid: row for key, row in PUBLIC_KEYS.scan(rows, META_PARTITION)}
