"""64-bit identifiers that sort by time and carry their own route.

Layout, from the top bit: 41 bits of milliseconds since 2024-01-01 UTC, 13 bits of partition, 10 bits of
sequence. The top bit of the word stays clear until 2058, so an id also fits a signed 64-bit column. Ids are
minted while a command is applied, from the command's own time, so replicas mint the same ones.
"""

from typing import NamedTuple

EPOCH_MS = 1_704_067_200_000  # 2024-01-01T00:00:00Z in Unix milliseconds
PARTITION_BITS = 13
SEQUENCE_BITS = 10
PARTITIONS_MAX = 1 << PARTITION_BITS
SEQUENCE_MAX = (1 << SEQUENCE_BITS) - 1
TIME_MAX = (1 << 41) - 1
ID_MAX = (1 << 64) - 1

_PARTITION_MASK = PARTITIONS_MAX - 1
_TIME_SHIFT = PARTITION_BITS + SEQUENCE_BITS


class Minted(NamedTuple):
    """The last id of a partition: its time in ms since `EPOCH_MS` and its sequence. State, not a clock."""

    time: int
    sequence: int


NOTHING_MINTED = Minted(0, -1)


class IdError(ValueError):
    """A text that is not an id: the client's fault."""


def mint(now_ms: int, partition: int, last: Minted) -> tuple[int, Minted]:
    """The next id after `last`: time is the later of the command's (Unix ms) and the last one's.

    When the 1,024 ids of a millisecond are used up, the time moves on by one, so ids of one partition
    always grow even when the proposer's clock stands still or goes back.
    """
    time = max(now_ms - EPOCH_MS, last.time)
    sequence = last.sequence + 1 if time == last.time else 0
    if sequence > SEQUENCE_MAX:
        time, sequence = time + 1, 0
    if time > TIME_MAX:
        raise OverflowError(f"id time {time} ms is past the 41 bits that ids have")
    return compose(time, partition, sequence), Minted(time, sequence)


def compose(time: int, partition: int, sequence: int) -> int:
    return time << _TIME_SHIFT | partition << SEQUENCE_BITS | sequence


def partition_of(identifier: int) -> int:
    """The partition in which the object lives; the id is its own route."""
    return identifier >> SEQUENCE_BITS & _PARTITION_MASK


def time_of(identifier: int) -> int:
    """Unix milliseconds at which the id was minted."""
    return (identifier >> _TIME_SHIFT) + EPOCH_MS


def parse_id(text: str) -> int:
    """The id in a decimal string as clients write it; raises IdError for anything else.

    One spelling per id: no sign, no spaces, no leading zero, ASCII digits only.
    """
    if not (0 < len(text) <= 20 and text.isascii() and text.isdigit()) or (text[0] == "0" and text != "0"):
        raise IdError(f"{text[:40]!r} is not an id: want a decimal string like '1234567890'")
    value = int(text)
    if value > ID_MAX:
        raise IdError(f"id {text} is over 64 bits")
    return value
