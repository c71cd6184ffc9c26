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

BLOB_PARTITIONS: Final = (
    256  # the first so many hold blobs, whatever the cluster's count: hashes spread evenly
)
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
    index: (
        int  # of the log: the file that is put for this reservation carries it; also the reservation's name
    )


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
    mime: str  # type with which it is served


class ExpireReservations(msgspec.Struct, array_like=True, frozen=True, tag=142):
    """Remove reservations that have had their time: (hash, reservation) each, as they were read."""

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


def reserve(apply: Apply, command: Reserve) -> Reserved:
    if len(command.hash) != HASH_BYTES:
        raise Refused("invalid_field", f"a blob's hash has {HASH_BYTES} bytes, not {len(command.hash)}")
    key = ReservationKey(apply.partition, command.hash, apply.index)
    RESERVATIONS.put(apply, key, Reservation(command.until_ms))
    blob = _blob(apply, command.hash) or Blob(0, "", 0, 0, 0, 0)
    _put(apply, command.hash, blob, msgspec.structs.replace(blob, reservations=blob.reservations + 1))
    return Reserved(apply.index)


def reference(apply: Apply, command: Reference) -> None:
    reservation = ReservationKey(apply.partition, command.hash, command.reservation)
    blob = _blob(apply, command.hash)
    key = BlobReferenceKey(apply.partition, command.hash, command.media)
    held = BLOB_REFERENCES.get(apply, key)
    reserved = RESERVATIONS.has(apply, reservation)
    if blob is None or not (reserved or held):
        detail = f"reservation {command.reservation} of blob {command.hash.hex()} is no longer held"
        raise Refused("reservation_expired", detail)
    if reserved:
        RESERVATIONS.delete(apply, reservation)
    if held is None or not held.confirmed:
        if held is not None:
            UNCONFIRMED_REFERENCES.delete(apply, _unconfirmed(apply, command.hash, command.media, held))
        new = BlobReference(command.owner, False, False, apply.now)
        BLOB_REFERENCES.put(apply, key, new)
        UNCONFIRMED_REFERENCES.put(apply, _unconfirmed(apply, command.hash, command.media, new), PRESENT)
    after = Blob(
        command.size,
        command.mime,
        blob.references + (held is None),
        blob.public,
        blob.idle_since_ms,
        blob.reservations - reserved,
    )
    _put(apply, command.hash, blob, after)


def expire_reservations(apply: Apply, command: ExpireReservations) -> None:
    for blob_hash, number in command.reservations[:SWEPT_AT_ONCE_MAX]:
        key = ReservationKey(apply.partition, blob_hash, number)
        held = RESERVATIONS.get(apply, key)
        blob = _blob(apply, blob_hash)
        if held is not None and blob is not None and held.until_ms <= apply.now:
            RESERVATIONS.delete(apply, key)
            _put(apply, blob_hash, blob, msgspec.structs.replace(blob, reservations=blob.reservations - 1))


def sweep_references(apply: Apply, _: SweepReferences) -> Swept:
    old: list[UnconfirmedReferenceKey] = []
    for key, _present in UNCONFIRMED_REFERENCES.scan(apply, apply.partition):
        if key.since_ms > apply.now - SWEEP_AFTER_MS or len(old) == SWEPT_AT_ONCE_MAX:
            break
        old.append(key)
    for key in old:
        _release(apply, key.hash, key.media)
    return Swept(len(old))


def collect(apply: Apply, command: Collect) -> Collected:
    blob = _blob(apply, command.hash)
    if blob is not None:
        if blob.references or blob.reservations or blob.idle_since_ms > apply.now - COLLECT_AFTER_MS:
            raise Refused("conflict", f"blob {command.hash.hex()} is held or was within the last day")
        IDLE_BLOBS.delete(apply, IdleBlobKey(apply.partition, blob.idle_since_ms, command.hash))
        BLOBS.delete(apply, BlobKey(apply.partition, command.hash))
    return Collected(apply.index)


def keep(apply: Apply, _: int, message: Keep) -> None:
    """Refused `reference_missing` (a dead letter) only where a medium refers to bytes that were swept."""
    media = message.media
    key = BlobReferenceKey(apply.partition, message.hash, media)
    held = BLOB_REFERENCES.get(apply, key)
    blob = _blob(apply, message.hash)
    found, taken = held, media
    if held is None and message.provisional:
        taken = message.provisional
        found = BLOB_REFERENCES.get(apply, BlobReferenceKey(apply.partition, message.hash, taken))
    if found is None or blob is None:
        detail = f"blob {message.hash.hex()}: no reference of medium {media}"
        raise Refused("reference_missing", detail)
    if not found.confirmed:
        UNCONFIRMED_REFERENCES.delete(apply, _unconfirmed(apply, message.hash, taken, found))
    if taken != media:
        BLOB_REFERENCES.delete(apply, BlobReferenceKey(apply.partition, message.hash, taken))
    BLOB_REFERENCES.put(apply, key, BlobReference(message.owner, message.public, True, found.since_ms))
    if message.public != found.public:
        public = blob.public + (1 if message.public else -1)
        _put(apply, message.hash, blob, msgspec.structs.replace(blob, public=public))


def drop(apply: Apply, _: int, message: Drop) -> None:
    _release(apply, message.hash, message.media)


def _release(apply: Apply, blob_hash: bytes, media: int) -> None:
    """Take a reference away; one that is gone already is passed over."""
    key = BlobReferenceKey(apply.partition, blob_hash, media)
    held = BLOB_REFERENCES.get(apply, key)
    blob = _blob(apply, blob_hash)
    if held is None or blob is None:
        return
    if not held.confirmed:
        UNCONFIRMED_REFERENCES.delete(apply, _unconfirmed(apply, blob_hash, media, held))
    BLOB_REFERENCES.delete(apply, key)
    after = msgspec.structs.replace(blob, references=blob.references - 1, public=blob.public - held.public)
    _put(apply, blob_hash, blob, after)


def _unconfirmed(apply: Apply, blob_hash: bytes, media: int, held: BlobReference) -> UnconfirmedReferenceKey:
    return UnconfirmedReferenceKey(apply.partition, held.since_ms, blob_hash, media)


def _blob(apply: Apply, blob_hash: bytes) -> Blob | None:
    return BLOBS.get(apply, BlobKey(apply.partition, blob_hash))


def _put(apply: Apply, blob_hash: bytes, before: Blob, after: Blob) -> None:
    """Write the blob's row, and its place among the idle ones: since when nothing has held it."""
    held = after.references + after.reservations > 0
    if held and before.idle_since_ms:
        IDLE_BLOBS.delete(apply, IdleBlobKey(apply.partition, before.idle_since_ms, blob_hash))
        after = msgspec.structs.replace(after, idle_since_ms=0)
    elif not held and not before.idle_since_ms:
        after = msgspec.structs.replace(after, idle_since_ms=apply.now)
        IDLE_BLOBS.put(apply, IdleBlobKey(apply.partition, apply.now, blob_hash), PRESENT)
    BLOBS.put(apply, BlobKey(apply.partition, blob_hash), after)


# --- reads ---------------------------------------------------------------------------------------------
def served(rows: Reader, blob_hash: bytes) -> Blob | None:
    """A blob that some medium refers to (`public` > 0: serve it to everybody), or None; one get."""
    blob = BLOBS.get(rows, BlobKey(blob_partition(blob_hash), blob_hash))
    return blob if blob is not None and blob.references else None


def is_known(rows: Reader, blob_hash: bytes) -> bool:
    """Whether the blob has a row: something refers to it, reserves it, or did within the last day."""
    return BLOBS.has(rows, BlobKey(blob_partition(blob_hash), blob_hash))


def referenced(rows: Reader, partition: int, beyond: bytes, most: int) -> list[tuple[bytes, int]]:
    """Hash and size of blobs that some medium refers to, in the order of their hashes, after `beyond`."""
    after = BlobKey(partition, beyond) if beyond else None
    found: list[tuple[bytes, int]] = []
    for key, blob in BLOBS.scan(rows, partition, beyond=after):
        if blob.references:
            found.append((key.hash, blob.size))
            if len(found) == most:
                break
    return found


def collectable(rows: Reader, partition: int, now: int, most: int = SWEPT_AT_ONCE_MAX) -> list[bytes]:
    """Hashes of blobs that `Collect` would take now, longest idle first."""
    found: list[bytes] = []
    for key, _ in IDLE_BLOBS.scan(rows, partition):
        if key.since_ms > now - COLLECT_AFTER_MS or len(found) == most:
            break
        found.append(key.hash)
    return found


def expired_reservations(
    rows: Reader, partition: int, now: int, most: int = SWEPT_AT_ONCE_MAX
) -> list[tuple[bytes, int]]:
    """What `ExpireReservations` may be given now."""
    found: list[tuple[bytes, int]] = []
    for key, held in RESERVATIONS.scan(rows, partition):
        if held.until_ms <= now:
            found.append((key.hash, key.reservation))
        if len(found) == most:
            break
    return found


def unconfirmed_since(rows: Reader, partition: int) -> int | None:
    """Since when (ms) the oldest unconfirmed reference waits; None without one. What a sweeper asks first."""
    for key, _ in UNCONFIRMED_REFERENCES.scan(rows, partition):
        return key.since_ms
    return None


# --- what the media of a user send ---------------------------------------------------------------------
def send_keep(
    apply: Apply, blob_hash: bytes, media: int, owner: int, public: bool, provisional: int = 0
) -> None:
    message = Keep(blob_hash, media, owner, public, provisional)
    apply.send(blob_partition(blob_hash), encode(message))


def send_drop(apply: Apply, blob_hash: bytes, media: int) -> None:
    apply.send(blob_partition(blob_hash), encode(Drop(blob_hash, media)))


_Functions = dict[type, Callable[..., Any]]
COMMANDS: Final[_Functions] = {
    Reserve: reserve,
    Reference: reference,
    ExpireReservations: expire_reservations,
    SweepReferences: sweep_references,
    Collect: collect,
}
MESSAGES: Final[_Functions] = {Keep: keep, Drop: drop}
