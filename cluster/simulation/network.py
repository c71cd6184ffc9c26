"""The network of a history: delay, loss, disorder, repetition, and cuts in one direction or both.

Frames of Raft may get lost, doubled and overtaken, which is more than a link does to them. Calls, like those
over TCP, are never doubled: a call, or its answer, is lost where a link would have broken.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from cluster.simulation.kernel import MS, Kernel

STRAGGLER_MS_MAX: Final = 1_500


class Weather(NamedTuple):
    delay: tuple[int, int] = (200, 1_200)  # µs, one way: least and greatest
    loss: float = 0.0
    doubled: float = 0.0
    stragglers: float = 0.002  # overtaken by much


FAIR: Final = Weather()
WEATHERS: Final = (
    FAIR,
    FAIR,
    Weather((1 * MS, 12 * MS), 0.01, 0.01, 0.005),
    Weather((5 * MS, 60 * MS), 0.0, 0.02, 0.02),
    Weather((300, 3 * MS), 0.15, 0.05, 0.02),
    Weather((2 * MS, 25 * MS), 0.35, 0.1, 0.05),
)


class Network:
    """Between nodes, by their numbers."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.weather = FAIR
        self.cuts: set[tuple[int, int]] = set()  # (sender, receiver) between which nothing passes
        self.sent = self.lost = 0

    def is_open(self, sender: int, to: int) -> bool:
        return (sender, to) not in self.cuts

    def connected(self, one: int, other: int) -> bool:
        return self.is_open(one, other) and self.is_open(other, one)

    def delay(self) -> int:
        kernel, weather = self._kernel, self.weather
        delay = kernel.between(*weather.delay)
        if kernel.chance(weather.stragglers):
            delay += kernel.between(0, STRAGGLER_MS_MAX * MS)
        return delay

    def send(self, sender: int, to: int, deliver: Callable[..., None], *arguments: Any) -> None:
        """A frame that may be lost or doubled. It arrives only if the way is open then too."""
        self.sent += 1
        if (sender, to) in self.cuts or self._kernel.chance(self.weather.loss):
            self.lost += 1
            return
        copies = 2 if self._kernel.chance(self.weather.doubled) else 1
        for _ in range(copies):
            self._kernel.after(self.delay(), self._arrive, sender, to, deliver, arguments)

    def call(self, sender: int, to: int, deliver: Callable[..., None], *arguments: Any) -> bool:
        """A call or an answer: once, or never. False: it was lost at once."""
        self.sent += 1
        if (sender, to) in self.cuts or self._kernel.chance(self.weather.loss / 4):
            self.lost += 1
            return False
        self._kernel.after(self.delay(), self._arrive, sender, to, deliver, arguments)
        return True

    def _arrive(self, sender: int, to: int, deliver: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if (sender, to) in self.cuts:
            self.lost += 1
            return
        deliver(*arguments)
