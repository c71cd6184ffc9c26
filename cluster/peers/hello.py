"""Who speaks: the first frame of each side of a link, and what is looked at before all else; pure.

The dialling node speaks first, the other answers with its own Hello or with a Refusal, and nothing else is
sent before the other's Hello was read. Both sides look at both: a Hello must be of this cluster, be the one
its certificate names, and be admitted by what the node knows of its members. The first eight fields and the
frame around them are the same in every version, so that any two versions can tell each other whether they
can talk.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

VERSION_MIN: Final = 1  # of the protocol that this node speaks: the previous one and its own
VERSION_MAX: Final = 1
START_BYTES: Final = 8
ID_BYTES: Final = 16  # of a node, and of a cluster
CONTROL: Final = "control"  # Raft, and calls
BULK: Final = "bulk"  # streams, one at a time
LANES: Final = (CONTROL, BULK)
SCHEME: Final = "heliograph"
ADDRESS_CHARS_MAX: Final = 300
DETAIL_CHARS_MAX: Final = 300  # of a refusal: goes into logs

# Codes of refusals. Composition's `admits` may use those of the second group.
BAD_HELLO: Final = "bad_hello"
NO_COMMON_VERSION: Final = "no_common_version"
FOREIGN_CLUSTER: Final = "foreign_cluster"
WRONG_IDENTITY: Final = "wrong_identity"  # the certificate is another node's, or another node answered
NO_CERTIFICATE: Final = "no_certificate"
BUSY: Final = "busy"
STALE_BOOT: Final = "stale_boot"  # a later start of this node, or another one with this boot, is known
REVOKED: Final = "revoked"
UNKNOWN_NODE: Final = "unknown_node"
FINAL: Final = frozenset({STALE_BOOT, REVOKED})  # a node that hears this of itself must end


class Hello(msgspec.Struct, array_like=True, frozen=True):
    version_min: int
    version_max: int
    cluster: bytes  # empty: a joiner that does not know it yet
    node: bytes  # empty: speaks without a certificate
    boot: int
    start: bytes  # random, of this start of the process
    level: int  # the feature level that the node's program knows
    lane: str
    address: str = ""  # host:port at which it can be dialled; empty: it does not say


class Refusal(msgspec.Struct, array_like=True, frozen=True):
    code: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}" if self.detail else self.code


class Name(NamedTuple):
    """Whom a certificate names."""

    cluster: bytes
    node: bytes

    @property
    def uri(self) -> str:
        return f"{SCHEME}://{self.cluster.hex()}/{self.node.hex()}"


Admits = Callable[[Hello], Refusal | None]

encode = msgspec.msgpack.Encoder().encode
_decode_hello = msgspec.msgpack.Decoder(Hello).decode
_decode_refusal = msgspec.msgpack.Decoder(Refusal).decode


def decode_hello(data: bytes) -> Hello:
    """Raises msgspec.DecodeError: the peer's fault."""
    hello: Hello = _decoded(_decode_hello, data)
    return hello


def decode_refusal(data: bytes) -> Refusal:
    """Raises msgspec.DecodeError. Cut to what a log line can carry."""
    refusal: Refusal = _decoded(_decode_refusal, data)
    return Refusal(refusal.code[:DETAIL_CHARS_MAX], refusal.detail[:DETAIL_CHARS_MAX])


def _decoded(decode: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return decode(data)
    except UnicodeDecodeError as error:  # msgspec lets it pass as it is
        raise msgspec.DecodeError(str(error)) from None


def parse_name(uri: str) -> Name | None:
    """None for what names no node."""
    scheme, _, rest = uri.partition("://")
    cluster, _, node = rest.partition("/")
    if scheme != SCHEME or len(cluster) != 2 * ID_BYTES or len(node) != 2 * ID_BYTES:
        return None
    try:
        name = Name(bytes.fromhex(cluster), bytes.fromhex(node))
    except ValueError:
        return None
    return name if name.uri == uri else None


def name_in(certificate: Any) -> Name | None:
    """Of a verified certificate, as `ssl` describes it. None where it does not name exactly one node."""
    names = [value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "URI"]
    return parse_name(names[0]) if len(names) == 1 else None


def common_version(mine: Hello, theirs: Hello) -> int | None:
    """The highest that both speak."""
    highest = min(mine.version_max, theirs.version_max)
    return highest if highest >= max(mine.version_min, theirs.version_min) else None


def judge(mine: Hello, theirs: Hello, name: Name | None) -> Refusal | None:
    """What is wrong with a Hello by itself and beside the certificate of its link (`name`, None without)."""
    wide = len(theirs.address) > ADDRESS_CHARS_MAX
    if theirs.version_min > theirs.version_max or len(theirs.start) != START_BYTES or theirs.boot < 0 or wide:
        return Refusal(BAD_HELLO, "a field is out of range")
    if common_version(mine, theirs) is None:
        return Refusal(
            NO_COMMON_VERSION,
            f"versions {theirs.version_min} to {theirs.version_max} of the protocol are spoken there, "
            f"{mine.version_min} to {mine.version_max} here",
        )
    if theirs.lane not in LANES or theirs.lane != mine.lane:
        return Refusal(BAD_HELLO, "no such lane")
    if name is None:
        return _judge_stranger(mine, theirs)
    if name.cluster != mine.cluster or theirs.cluster != mine.cluster:
        return Refusal(FOREIGN_CLUSTER, f"this is a node of cluster {mine.cluster.hex()}")
    if name.node != theirs.node:
        return Refusal(WRONG_IDENTITY, f"the certificate is that of node {name.node.hex()}")
    if theirs.node == mine.node:
        return Refusal(WRONG_IDENTITY, f"this is node {mine.node.hex()} itself")
    return None


def _judge_stranger(mine: Hello, theirs: Hello) -> Refusal | None:
    if theirs.node or theirs.lane != CONTROL:
        return Refusal(NO_CERTIFICATE, "a node shows its certificate")
    if theirs.cluster and theirs.cluster != mine.cluster:
        return Refusal(FOREIGN_CLUSTER, f"this is a node of cluster {mine.cluster.hex()}")
    return None
