"""When something that is done in rounds, for ever, is due again; pure. Times are seconds of one clock.

A round is due `every_s` after the last ended. Whoever has a reason hurries it: then it is due `soon_s` after
the reason, and after the end of the last, so reasons that come thick make no rounds that do.
"""

import math


class Rounds:
    def __init__(self, every_s: float, soon_s: float) -> None:
        self.every_s = every_s
        self.soon_s = soon_s
        self._due = math.inf
        self._ended = -math.inf

    def begin(self, now: float) -> None:
        """Of a life: the first round is due soon."""
        self._due = now + self.soon_s

    def hurry(self, now: float) -> None:
        self._due = min(self._due, max(now, self._ended) + self.soon_s)

    def started(self) -> None:
        """What hurries it from here on wants another round."""
        self._due = math.inf

    def ended(self, now: float) -> None:
        self._ended = now
        self._due = min(now + self.every_s, max(self._due, now + self.soon_s))

    def next_deadline(self) -> float:
        return self._due
