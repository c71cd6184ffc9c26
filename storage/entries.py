"""What a journal keeps, as values: entries of the partitions' logs, hard states, truncations.

Apart from the journal itself, so that pure code can make them.
"""

from typing import Final, NamedTuple

PREFIX_BYTES: Final = 27  # of a record in a segment, before its tail


class Entry(NamedTuple):
    """A command at its place in one partition's log. A later entry with the same index replaces this one."""

    partition: int  # u16
    term: int  # u64
    index: int  # type: ignore[assignment]  # u64; the field's name hides tuple.index, which nobody needs
    command: bytes  # at most storage.segments.RECORD_BYTES_MAX


class HardState(NamedTuple):
    """What one replica must not forget. The last one of a partition holds."""

    partition: int
    term: int
    vote: bytes  # a node id of 16 bytes, or empty for none
    commit: int


class Truncation(NamedTuple):
    """Earlier entries of the partition with this index or a higher one are void."""

    partition: int
    index: int  # type: ignore[assignment]  # u64


Record = Entry | HardState | Truncation
