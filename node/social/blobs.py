"""Blob references, visibility and reservations: the rows of partition(hash), which decide what bytes stay.

The order of DESIGN §4: `Reserve` holds a hash while its bytes travel; `Reference` turns the reservation into
a reference of a medium; the medium's own partition then says `Keep`, with who may see it, and at last `Drop`.
`Collect` takes a blob that nothing has held for a day. What is a right to keep bytes is always a row, never
a time: a reservation holds until its row is removed, and a `Reference` needs that row.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from cluster.commands import Refused
from cluster.partition import Apply
from node.social.keys import BlobKey, BlobReferenceKey, IdleBlobKey, ReservationKey, UnconfirmedReferenceKey
from node.social.machine import encode
from node.social.records import (
    BLOB_REFERENCES,
    BLOBS,
    IDLE_BLOBS,
    RESERVATIONS,
    UNCONFIRMED_REFERENCES,
    Blob,
    BlobReference,
    Reservation,
)
from storage.rows import PRESENT, Reader

BLOB_PARTITIONS: Final = 256  # the first so many hold blobs, whatever the cluster's count: hashes spread evenly
COLLECT_AFTER_MS: Final = 24 * 3600 * 1000  # nothing held the blob for so long
SWEEP_AFTER_MS: Final = 24 * 3600 * 1000  # a reference whose medium never came
SWEPT_AT_ONCE_MAX: Final = 200  # rows named or found per command
HASH_BYTES: Final = 32


def blob_partition(blob: bytes) -> int:
    """The partition that holds everything about the blob with this BLAKE3 hash."""
    return int.from_bytes(blob[:2], "big") % BLOB_PARTITIONS


# --- commands to partition(hash) -----------------------------------------------------------------------
class Reserve(msgspec.Struct, array_like=True, frozen=True, tag=140):
    """Hold the hash while its bytes are on their way; answers `Reserved`."""

    hash: bytes
    until_ms: int  # after this the reservation may be named in `ExpireReservations`


class Reserved(msgspec.Struct, array_like=True, frozen=True):
    index: int  # of the log: the file that is put for this reservation carries it; also the reservation's name


class Reference(msgspec.Struct, array_like=True, frozen=True, tag=141):
    """The bytes are stored: refer to them by a medium. Refused `reservation_expired` without the reservation.

    `media` is the medium's id or, where that is not minted yet, a provisional number with its top bit set
    (`PROVISIONAL`), which the later `Keep` replaces.
    """

    hash: bytes
    reservation: int
    media: int
    owner: int
    size: int  # bytes
    type: str  # mime type with which it is served


class ExpireReservations(msgspec.Struct, array_like=True, frozen=True, tag=142):
    """Remove reservations that have had their time: (hash, reservation) each, as `expired_reservations` saw."""

    reservations: tuple[tuple[bytes, int], ...]


class SweepReferences(msgspec.Struct, array_like=True, frozen=True, tag=143):
    """Remove references that no medium confirmed for a day, up to SWEPT_AT_ONCE_MAX; answers `Swept`."""


class Swept(msgspec.Struct, array_like=True, frozen=True):
    count: int


class Collect(msgspec.Struct, array_like=True, frozen=True, tag=144):
    """Forget a blob that nothing held for a day; answers `Collected`. Refused `conflict` otherwise."""

    hash: bytes


class Collected(msgspec.Struct, array_like=True, frozen=True):
    below: int  # owners unlink only files that carry a lower index


# --- messages from p(owner) ----------------------------------------------------------------------------
class Keep(msgspec.Struct, array_like=True, frozen=True, tag=140):
    """The medium exists and shows the blob to everybody or not; confirms the reference."""

    hash: bytes
    media: int
    owner: int
    public: bool
    provisional: int = 0  # the number under which the reference was made, if not the medium's id


class Drop(msgspec.Struct, array_like=True, frozen=True, tag=141):
    """The medium no longer refers to the blob."""

    hash: bytes
    media: int


PROVISIONAL: Final = 1 << 63  # ids keep this bit clear until 2058
