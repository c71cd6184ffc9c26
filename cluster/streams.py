"""Change streams: a partition's ordered record of what happened to its timelines, with offsets; pure.

The application publishes bytes while it applies a command; each gets the next offset. Whoever follows a
stream keeps one offset; what is older than the stream keeps is fetched anew from the rows themselves.
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, NamedTuple

from cluster.keys import STREAMS, Change, Head, StreamKey
from storage.rows import Reader, Writer

KEEP_MS: Final = 7 * 24 * 3600 * 1000  # a follower away for longer starts from the timelines
FORGET_PER_COMMAND_MAX: Final = 500  # rows; forgetting is never in a hurry


class Published(NamedTuple):
    partition: int
    offset: int
    body: bytes


def append(rows: Writer, head: Head, partition: int, now: int, body: bytes) -> Published:
    offset = head.stream_next
    STREAMS.put(rows, StreamKey(partition, offset), Change(now, body))
    head.stream_next += 1
    return Published(partition, offset, body)


def follow(rows: Reader, partition: int, offset: int) -> Iterator[Published]:
    """The changes from `offset` on, in order; offsets begin at 1."""
    for key, change in STREAMS.scan(rows, partition, beyond=StreamKey(partition, max(offset, 1) - 1)):
        yield Published(partition, key.offset, change.body)


def forgettable(rows: Reader, head: Head, partition: int, now: int) -> int:
    """The offset below which all is older than the stream keeps, bounded per command. A few reads only:
    every partition is asked."""

    def is_kept(offset: int) -> bool:
        change = STREAMS.get(rows, StreamKey(partition, offset))
        return change is None or change.at_ms > now - KEEP_MS

    first = head.stream_first
    last = min(head.stream_next, first + FORGET_PER_COMMAND_MAX)
    return first + bisect_left(range(first, last), True, key=is_kept)


def forget(rows: Writer, head: Head, partition: int, below: int) -> None:
    below = min(below, head.stream_next, head.stream_first + FORGET_PER_COMMAND_MAX)
    for offset in range(head.stream_first, below):
        STREAMS.delete(rows, StreamKey(partition, offset))
    head.stream_first = max(head.stream_first, below)
