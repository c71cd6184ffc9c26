"""Keys and records of what the cluster keeps beside the application's rows: mailboxes, streams, memory.

Kinds below 0x20; the application's begin there. A partition's head does not lie in the partition's own range
but with the other heads of its shard: each command changes one, and together they fill few pages.
"""

from typing import Final

import msgspec

from storage.keys import U16, U64, Bytes16, Id, Key
from storage.records import Codec
from storage.rows import Present, Table

HEADS_PARTITION: Final = 0xFFFE  # not a partition: the range of the heads
META_PARTITION: Final = 0xFFFF  # the meta group's own


class HeadKey(Key, kind=0x01):
    partition: U16  # HEADS_PARTITION
    of: U16


class OutboxKey(Key, kind=0x02):
    partition: U16
    destination: U16
    sequence: U64


class SentKey(Key, kind=0x03):
    """The last sequence sent to a destination; a pair keeps its row."""

    partition: U16
    destination: U16


class TakenKey(Key, kind=0x04):
    """The inbox cursor: the last sequence taken from a source; a pair keeps its row."""

    partition: U16
    source: U16


class DeadLetterKey(Key, kind=0x05):
    partition: U16
    number: U64


class StreamKey(Key, kind=0x06):
    partition: U16
    offset: U64


class WorkKey(Key, kind=0x07):
    partition: U16
    number: U64


class RememberedDueKey(Key, kind=0x08):
    """Since when a scope remembers something: what is too old is found without its user."""

    partition: U16
    oldest_ms: U64
    scope: U64


class GroupKey(Key, kind=0x09):
    """The members of a partition's group as last applied. Beside its head, and no part of its digest."""

    partition: U16  # HEADS_PARTITION
    of: U16


class InstallKey(Key, kind=0x0A):
    """That the partition's rows are being replaced by those of a snapshot."""

    partition: U16  # HEADS_PARTITION
    of: U16


# What was remembered of a user's commands lies with the user's other rows (the family of the application).
_OWNER_ROWS: Final = 0x40


class RememberedScopeKey(Key, kind=0x70, family=_OWNER_ROWS):
    scope: Id


class RememberedOrderKey(Key, kind=0x71, family=_OWNER_ROWS):
    scope: Id
    number: U64


class RememberedKey(Key, kind=0x72, family=_OWNER_ROWS):
    scope: Id
    id: Bytes16


class Head(msgspec.Struct, array_like=True):
    """Where a partition stands. Mutable: its owner, the shard's writer thread, keeps it decoded."""

    applied: int = 0  # index of the last applied entry
    term: int = 0
    incarnation: int = 1  # raised by a recovery with loss
    minted_time: int = 0
    minted_sequence: int = -1
    sent: int = 0  # the last outbox sequence
    outbox_rows: int = 0
    stream_first: int = 1
    stream_next: int = 1
    work_next: int = 1
    work_rows: int = 0
    dead_next: int = 1
    dead_rows: int = 0


class GroupRow(msgspec.Struct, array_like=True, frozen=True):
    voters: tuple[bytes, ...]
    learners: tuple[bytes, ...]
    index: int  # of the entry that made it so; 0: the founder's
    base: int = 0  # of the last snapshot installed: what the journal has up to there may be another leader's
    base_term: int = 0


class InstallRow(msgspec.Struct, array_like=True, frozen=True):
    """Written before the first old row goes, removed with the last new one: a start between finishes it."""

    spool: str  # name of the file under staging/snapshots/
    index: int
    term: int
    voters: tuple[bytes, ...]
    learners: tuple[bytes, ...]


class Sent(msgspec.Struct, array_like=True, frozen=True):
    sequence: int


class Taken(msgspec.Struct, array_like=True, frozen=True):
    sequence: int


class OutboxRow(msgspec.Struct, array_like=True, frozen=True):
    previous: int
    body: bytes


class DeadLetter(msgspec.Struct, array_like=True, frozen=True):
    source: int
    sequence: int
    at_ms: int
    code: str
    detail: str
    body: bytes


class Change(msgspec.Struct, array_like=True, frozen=True):
    at_ms: int
    body: bytes


class RememberedScope(msgspec.Struct, array_like=True, frozen=True):
    oldest: int  # number of the oldest remembered command
    oldest_ms: int
    next: int


class RememberedOrder(msgspec.Struct, array_like=True, frozen=True):
    id: bytes
    at_ms: int


class Remembered(msgspec.Struct, array_like=True, frozen=True):
    at_ms: int
    fingerprint: bytes
    outcome: bytes  # encoded Outcome


HEADS: Final = Table(HeadKey, Codec(Head))
GROUPS: Final = Table(GroupKey, Codec(GroupRow))
INSTALLS: Final = Table(InstallKey, Codec(InstallRow))
OUTBOX: Final = Table(OutboxKey, Codec(OutboxRow))
SENT: Final = Table(SentKey, Codec(Sent))
TAKEN: Final = Table(TakenKey, Codec(Taken))
DEAD_LETTERS: Final = Table(DeadLetterKey, Codec(DeadLetter))
STREAMS: Final = Table(StreamKey, Codec(Change))
WORK: Final = Table(WorkKey, Codec(bytes))
REMEMBERED_SCOPES: Final = Table(RememberedScopeKey, Codec(RememberedScope))
REMEMBERED_ORDER: Final = Table(RememberedOrderKey, Codec(RememberedOrder))
REMEMBERED: Final = Table(RememberedKey, Codec(Remembered))
REMEMBERED_DUE: Final = Table(RememberedDueKey, Codec(Present))
