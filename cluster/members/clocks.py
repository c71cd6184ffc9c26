"""Is this node's clock off? Compared with what its peers' frames say (DESIGN §6, law 4); pure.

Time decides no safety here. But commands carry the proposer's clock, and people see it: a node whose clock
is off should lead nothing. Each frame names its sender's time when it left, so what arrives shows that time
minus the way: of some samples the one that came quickest is nearest the truth. The median is taken over all
clocks, this one's among them, so one that is off among three or more is found out by all and misleads nobody;
of two nobody can say which is right.
"""

from collections import deque
from typing import Final

OFF_MS_MAX: Final = 500
SAMPLE_EVERY_MS: Final = 1000  # of one peer
SAMPLES: Final = 8
STALE_MS: Final = 20_000  # a peer that was not heard for so long says nothing any more
PEERS_MIN: Final = 2  # with fewer, there is no telling who is right


class Clocks:
    """`now`: this node's clock, ms since 1970, as its commands carry it. `ticks`: any steady clock, in ms."""

    def __init__(self) -> None:
        self._samples: dict[bytes, deque[tuple[int, int]]] = {}  # peer → (ticks, how far it is ahead)

    def wants(self, peer: bytes, ticks: int) -> bool:
        """Whether a sample of this peer is due."""
        samples = self._samples.get(peer)
        return not samples or ticks - samples[-1][0] >= SAMPLE_EVERY_MS

    def heard(self, peer: bytes, sent: int, now: int, ticks: int) -> None:
        samples = self._samples.setdefault(peer, deque(maxlen=SAMPLES))
        samples.append((ticks, sent - now))

    def off_ms(self, ticks: int) -> int:
        """How far this clock is ahead of the median of all (behind, where it is negative)."""
        return -_median(self._ahead(ticks))

    def is_off(self, ticks: int) -> bool:
        return abs(self.off_ms(ticks)) > OFF_MS_MAX

    def peers_off(self, ticks: int) -> tuple[bytes, ...]:
        """Those whose clocks are off: they give their leads away, and should not be given any."""
        return tuple(peer for peer, off in self.peers_off_ms(ticks).items() if abs(off) > OFF_MS_MAX)

    def peers_off_ms(self, ticks: int) -> dict[bytes, int]:
        """How far each peer's clock is ahead of the median of all; of those that can be judged."""
        ahead = self._ahead(ticks)
        middle = _median(ahead)
        return {peer: offset - middle for peer, offset in ahead.items()}

    def forget(self, peer: bytes) -> None:
        self._samples.pop(peer, None)

    def _ahead(self, ticks: int) -> dict[bytes, int]:
        """Of the peers that were heard lately; of none, where they are too few to tell."""
        ahead = {
            peer: max(offset for at, offset in samples if ticks - at <= STALE_MS)
            for peer, samples in self._samples.items()
            if samples and ticks - samples[-1][0] <= STALE_MS
        }
        return ahead if len(ahead) >= PEERS_MIN else {}


def _median(ahead: dict[bytes, int]) -> int:
    """Of all clocks, this one's among them; the lower of two in the middle."""
    clocks = sorted([0, *ahead.values()])
    return clocks[(len(clocks) - 1) // 2]
