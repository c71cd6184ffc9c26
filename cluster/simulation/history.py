"""What happened in a history, in numbers, and what must not have."""

from typing import Final

import msgspec


class Violation(Exception):
    """What must always hold did not. `checker` is the law that says so."""

    def __init__(self, checker: str, detail: str) -> None:
        super().__init__(f"{checker}: {detail}")
        self.checker = checker


class History(msgspec.Struct):
    commits: int = 0  # entries committed, each counted once
    leaders: int = 0  # terms in which somebody led, over all groups
    answered: int = 0  # commands that clients have their answer to
    refused: int = 0  # of these: by the state machine
    retried: int = 0
    forwarded: int = 0  # commands that reached their leader through another node
    unsettled: int = 0  # clients were told that it is not known
    unavailable: int = 0  # … or that nothing was done
    reads: int = 0
    messages: int = 0  # between partitions, taken
    kills: int = 0
    cuts: int = 0
    storms: int = 0  # changes of the weather
    jumps: int = 0  # of clocks
    stalls: int = 0  # nodes that stood still for a while
    full: int = 0  # disks that had no room
    changes: int = 0  # of members of groups
    transfers: int = 0
    snapshots: int = 0  # installed
    joins: int = 0
    removals: int = 0
    lost_disks: int = 0
    copies_refused: int = 0
    frames: int = 0
    events: int = 0

    def add(self, other: "History") -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def faults(self) -> int:
        return self.kills + self.cuts + self.storms + self.jumps + self.stalls + self.full + self.lost_disks


# Below this a minute proves too little. Most have ten times as much; the unluckiest of 300 were mostly
# without a majority.
LEAST_PER_MINUTE: Final = {"commits": 200, "leaders": 20, "answered": 25, "messages": 10, "faults": 5}


def thin(history: History, seconds: int) -> list[str]:
    """What there was too little of."""
    return [
        f"{name} {getattr(history, name)}, want {least * seconds // 60}"
        for name, least in LEAST_PER_MINUTE.items()
        if getattr(history, name) * 60 < least * seconds
    ]
