"""How often nodes without a certificate are heard: a bucket that fills with time; pure.

A stranger costs a signature before it is known to be one, so what is bounded here is how many are served,
and `cluster.peers.serving` bounds how many handshakes are under way.
"""

from typing import Final

BURST: Final = 60  # links at once: a cluster of seven is made by a script in one go, with three each
EVERY_MS: Final = 500  # afterwards one in this time


class Strangers:
    """`now` in ms of any clock that does not go back."""

    def __init__(self, burst: int = BURST, every_ms: int = EVERY_MS) -> None:
        self._burst = burst
        self._every_ms = every_ms
        self._spent_until = 0  # the time at which the bucket would be full again

    def admits(self, now: int) -> bool:
        """Take one, if there is one."""
        spent_until = max(self._spent_until, now) + self._every_ms
        if spent_until - now > self._burst * self._every_ms:
            return False
        self._spent_until = spent_until
        return True
