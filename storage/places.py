"""Where the entries of a partition lie in the segments of a journal; pure.

A follower that lags asks for some entries of one partition, which lie among those of all others: to look for
them takes a quarter of a second in a full segment. So the offset of each is remembered, four bytes an entry,
1 MB for a segment. Their indexes follow each other but where a leader was replaced, so only those at which a
run begins are kept.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import Final

from storage.entries import PREFIX_BYTES, Entry, HardState, Record, Truncation

_NO_INDEX: Final = -1
_CUT: Final = -1


class _Place:
    """Of one partition in one segment. Each event stands before the entry with its position: a run of entries
    begins, or (`cut`) those told so far with this index or a higher one are void."""

    __slots__ = ("events", "next", "offsets")

    def __init__(self) -> None:
        self.offsets = array("I")  # segments are far below 4 GiB
        self.events: list[tuple[int, int, bool]] = []  # position, index, cut
        self.next = _NO_INDEX  # the index that the current run goes on with


class Places:
    """Of one segment, told of its records from front to back."""

    __slots__ = ("_places",)

    def __init__(self) -> None:
        self._places: dict[int, _Place] = {}

    def note(self, records: Sequence[Record], offset: int) -> None:
        """Records that follow each other, the first at this offset. The hot path: no call per record but one
        for the array."""
        places = self._places
        for record in records:
            if type(record) is Entry:
                partition, _, index, command = record
                place = places.get(partition)
                if place is None:
                    place = places[partition] = _Place()
                if index != place.next:
                    place.events.append((len(place.offsets), index, False))
                place.next = index + 1
                place.offsets.append(offset)
                offset += PREFIX_BYTES + len(command)
            elif type(record) is HardState:
                offset += PREFIX_BYTES + len(record.vote)
            elif type(record) is Truncation:
                place = places.setdefault(record.partition, _Place())
                place.events.append((len(place.offsets), record.index, True))
                place.next = _NO_INDEX
                offset += PREFIX_BYTES

    def greatest(self) -> dict[int, int]:
        """The greatest index that each partition with entries has in the segment, of void ones too."""
        found: dict[int, int] = {}
        for partition, place in self._places.items():
            lasts = [index + count - 1 for index, count, _ in _events(place) if count]
            if lasts:
                found[partition] = max(lasts)
        return found


def find(segments: Sequence[Places], partition: int, first: int, last: int) -> Iterator[tuple[int, int]]:
    """The entries `first`, `first + 1`, … up to `last` or the first gap, as far as later records did not
    replace or void them: number of the segment and offset."""
    runs: list[tuple[int, int, int, int]] = []  # latest first: index, index behind, segment, position
    behind = last + 1
    for number in range(len(segments) - 1, -1, -1):
        place = segments[number]._places.get(partition)
        if place is None:
            continue
        for index, count, position in _events(place):
            if position == _CUT:
                behind = min(behind, index)
            elif first < min(index + count, behind):
                runs.append((index, min(index + count, behind), number, position))
    for wanted in range(first, last + 1):
        for index, stop, number, position in runs:
            if index <= wanted < stop:
                yield number, segments[number]._places[partition].offsets[position + wanted - index]
                break
        else:
            return


def _events(place: _Place) -> Iterator[tuple[int, int, int]]:
    """First index, number of entries and position of each run, the latest first; index, 0 and _CUT of what
    cuts."""
    end = len(place.offsets)
    for position, index, cut in reversed(place.events):
        yield (index, 0, _CUT) if cut else (index, end - position, position)
        end = position
