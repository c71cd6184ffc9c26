"""What two nodes of a cluster say to each other beside Raft's own messages, and how it lies in bytes; pure.

Each is a msgpack array `[tag, …fields]`, fields in the order below. New fields go to the end with a default,
so that an older node skips them and a newer one fills them in; new messages get new tags, and a node that
does not know a tag answers `Failed("unknown", …)`. Node ids have 16 bytes, hashes 32. The sender is not in a
message: the link has authenticated it.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from cluster.raft.messages import Message
from cluster.raft.quiet import NodeHeartbeat

HASHES_MAX: Final = 1000  # of one HaveBlobs
MEMBERS_TOLD_MAX: Final = 64


class _Said(msgspec.Struct, array_like=True, frozen=True):
    pass


# --- Raft, all groups in one frame ---------------------------------------------------------------------
class RaftFrame(_Said, frozen=True):
    """`messages` are those of `cluster.raft.messages`, each in its own encoding."""

    sent_ms: int  # the sender's clock, Unix: for the comparison of clocks alone (DESIGN §6, law 4)
    heartbeat: NodeHeartbeat | None
    messages: tuple[msgspec.Raw, ...]


class OpenFrame(_Said, frozen=True):
    """The same bytes, of which the messages are read too."""

    sent_ms: int
    heartbeat: NodeHeartbeat | None
    messages: list[Message]


# --- commands and reads --------------------------------------------------------------------------------
class Propose(_Said, frozen=True, tag=1):
    """Take a command into the log, if you lead this partition in this very term."""

    partition: int
    term: int  # 0: whichever it leads in; for a command that does no harm when it is taken twice
    command: bytes
    grows: bool = True  # refused `storage_full` where the leader has no room for data that grows
    lane: int = 0  # what `CloseLane` names: drawn anew whenever a link broke


class Proposed(_Said, frozen=True, tag=2):
    """It is committed and applied. `outcome` is an encoded `cluster.commands.Outcome`."""

    index: int
    outcome: bytes
    sent: tuple[tuple[int, int], ...]  # (destination, sequence) of each message that it sent
    taken: tuple[tuple[int, int], ...]  # (source, inbox cursor), after a Deliver


class ReadIndex(_Said, frozen=True, tag=3):
    """How far must a replica have applied to see all that was answered before now? (dissertation §6.4) Asked
    of the leader of all of these partitions."""

    partitions: tuple[int, ...]


class Index(_Said, frozen=True, tag=4):
    """For each partition asked about; 0 where it could not be confirmed that the asked one leads."""

    indexes: tuple[int, ...]


class CloseLane(_Said, frozen=True, tag=25):
    """Take no more of this lane: its link broke. How far must be applied to see all of it that you took, in
    this very term?"""

    partition: int
    term: int
    lane: int


# --- state and blobs: offered by a small call, pulled in bulk ------------------------------------------
class OfferSnapshot(_Said, frozen=True, tag=5):
    """Pull my state of this partition, and answer when it is installed: `Index`, up to where it goes."""

    partition: int
    term: int  # in which the sender leads the partition


class FetchSnapshot(_Said, frozen=True, tag=6):
    partition: int


class OfferBlob(_Said, frozen=True, tag=7):
    """Pull this blob from me unless you have it; answer `Done` when it is durable under `index` with you."""

    hash: bytes
    size: int
    index: int  # of the Reserve that put it there


class FetchBlob(_Said, frozen=True, tag=8):
    hash: bytes


class HaveBlobs(_Said, frozen=True, tag=9):
    hashes: tuple[bytes, ...]


class Held(_Said, frozen=True, tag=10):
    """For each hash asked about: the reserve index of the file, 0 where there is none that is good."""

    indexes: tuple[int, ...]


class Done(_Said, frozen=True, tag=11):
    pass


# --- joining, looking at each other, what operators order ----------------------------------------------
class Describe(_Said, frozen=True, tag=12):
    """What a joiner must know before it makes its data directory. Asked without a certificate."""


class Described(_Said, frozen=True, tag=13):
    cluster: bytes
    partition_count: int
    level: int
    ca: bytes  # the CA's certificate, PEM


class Join(_Said, frozen=True, tag=14):
    """Asked without a certificate, over a link whose other end proved to be of the token's CA."""

    invitation: bytes
    secret: bytes
    node: bytes
    csr: bytes  # PEM
    address: str  # host:port of its peer listener
    zone: str
    level: int
    weight: int = 100

    def __repr__(self) -> str:  # the secret stays out of logs
        return f"Join({self.invitation.hex()}, node={self.node.hex()}, address={self.address!r})"


class Joined(_Said, frozen=True, tag=15):
    chain: bytes  # PEM: the node's certificate
    secret: bytes  # the cluster's, from which shared keys are derived
    members: tuple[tuple[bytes, str], ...]  # node id, address

    def __repr__(self) -> str:
        return f"Joined({len(self.members)} members)"


class NodeStatus(_Said, frozen=True, tag=18):
    pass


class Status(_Said, frozen=True, tag=19):
    body: bytes  # JSON of what the node says of itself


class GetDigests(_Said, frozen=True, tag=21):
    """Of the last `Digest` command that your replicas have applied, of these partitions."""

    partitions: tuple[int, ...]


class Digests(_Said, frozen=True, tag=22):
    """(partition, index, digest) each; none of a partition that applied no such command since the start."""

    digests: tuple[tuple[int, int, bytes], ...]


class Order(_Said, frozen=True, tag=23):
    """An operator wants it, of this node: `transfer` these partitions to `node`; `keep` the leadership of
    these for a while, whoever is to lead them; `repair` or `scrub` the blobs now. Or the sender is about to
    end, or has no room: `leave` it out when leads are given."""

    what: str
    partitions: tuple[int, ...] = ()
    node: bytes = b""


class Ordered(_Said, frozen=True, tag=24):
    """It is done, or begun, but for these partitions: (partition, why not)."""

    refused: tuple[tuple[int, str], ...] = ()


class Failed(_Said, frozen=True, tag=20):
    """Any request may be answered so. `leader`: whom to ask instead, if known (`not_leader`)."""

    code: str
    detail: str
    leader: bytes = b""


Request = (
    Propose
    | ReadIndex
    | OfferSnapshot
    | FetchSnapshot
    | OfferBlob
    | FetchBlob
    | HaveBlobs
    | Describe
    | Join
    | NodeStatus
    | GetDigests
    | Order
    | CloseLane
)
Response = Proposed | Index | Held | Done | Described | Joined | Status | Digests | Ordered | Failed

# What answers which, beside Failed; the link holds peers to it. Requests that are not here are of streams.
ANSWERS: Final[dict[type, type]] = {
    Propose: Proposed,
    ReadIndex: Index,
    OfferSnapshot: Index,
    OfferBlob: Done,
    HaveBlobs: Held,
    Describe: Described,
    Join: Joined,
    NodeStatus: Status,
    GetDigests: Digests,
    Order: Ordered,
    CloseLane: Index,
}

encode = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_response = msgspec.msgpack.Decoder(Response).decode
_decode_frame = msgspec.msgpack.Decoder(RaftFrame).decode
_decode_open_frame = msgspec.msgpack.Decoder(OpenFrame).decode


def decode_request(data: bytes | memoryview) -> Any:
    """Raises msgspec.DecodeError: the peer's fault, or a tag of a newer version."""
    return _decoded(_decode_request, data)


def decode_response(data: bytes | memoryview) -> Any:
    """Raises msgspec.DecodeError."""
    return _decoded(_decode_response, data)


def decode_frame(data: bytes | memoryview) -> RaftFrame:
    """Raises msgspec.DecodeError. The messages in it are decoded by `cluster.raft.messages.decode`."""
    frame: RaftFrame = _decoded(_decode_frame, data)
    return frame


def decode_open_frame(data: bytes | memoryview) -> OpenFrame:
    """Raises msgspec.DecodeError."""
    frame: OpenFrame = _decoded(_decode_open_frame, data)
    return frame


def _decoded(decode: Callable[[bytes | memoryview], Any], data: bytes | memoryview) -> Any:
    try:
        return decode(data)
    except UnicodeDecodeError as error:  # msgspec lets it pass as it is
        raise msgspec.DecodeError(str(error)) from None
