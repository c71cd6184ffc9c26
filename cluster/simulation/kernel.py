"""Virtual time: one heap of events, one source of chance, and a hash over all that happened.

Times are integers, microseconds since the history began. Two runs with one seed draw the same numbers in the
same order, so they have the same events and the same hash; nothing here reads a clock.
"""

import heapq
from collections.abc import Callable
from random import Random
from typing import Any, Final

from blake3 import blake3

MS: Final = 1_000
SECOND: Final = 1_000_000
EPOCH_MS: Final = 1_800_000_000_000  # what clocks that are right show at the beginning: Unix, in 2027

Trace = Callable[[str], object]


class Kernel:
    def __init__(self, seed: int, trace: Trace | None = None) -> None:
        self.random = Random(seed)
        self.now = 0
        self.events = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._hash = blake3()
        self._trace = trace

    def after(self, delay: int, call: Callable[..., None], *arguments: Any) -> None:
        """Events of one moment happen in the order in which they were asked for."""
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + delay, self._sequence, call, arguments))

    def run_until(self, when: int) -> None:
        heap = self._heap
        while heap and heap[0][0] <= when:
            self.now, _, call, arguments = heapq.heappop(heap)
            self.events += 1
            call(*arguments)
        self.now = when

    # --- chance --------------------------------------------------------------------------------------------
    def between(self, low: int, high: int) -> int:
        return low + int(self.random.random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def draw_bytes(self, size: int) -> bytes:
        return self.random.getrandbits(8 * size).to_bytes(size, "big")

    # --- the trace -----------------------------------------------------------------------------------------
    def note(self, event: str, data: bytes = b"") -> None:
        """What happened, for the hash and the trace; `data` goes into the hash alone."""
        line = f"{self.now} {event}\n"
        self._hash.update(line.encode())
        if data:
            self._hash.update(data)
        if self._trace is not None:
            self._trace(line)

    def digest(self) -> str:
        return self._hash.hexdigest()[:32]
