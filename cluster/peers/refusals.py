"""What was refused and what broke, counted by code and logged, without letting a stranger fill the log."""

from collections import Counter
from typing import Final

import structlog
import trio

LOGGED_EVERY_S: Final = 10.0  # one line for each code and party; the count goes on
PARTIES_MAX: Final = 1000  # remembered for that; beyond, all are forgotten and may be logged again

log = structlog.stdlib.get_logger("heliograph.peers")


class Refusals:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._logged: dict[tuple[str, str], tuple[float, int]] = {}  # when, and how many since

    def note(self, event: str, code: str, detail: str, party: str) -> None:
        """`party`: a node id in hex, or an address. `detail` may hold what a peer sent, and nothing
        secret."""
        self.counts[code] += 1
        now = trio.current_time()
        when, since = self._logged.get((code, party), (-LOGGED_EVERY_S, 0))
        if now - when < LOGGED_EVERY_S:
            self._logged[code, party] = (when, since + 1)
            return
        if len(self._logged) >= PARTIES_MAX:
            self._logged.clear()
        self._logged[code, party] = (now, 0)
        log.warning(event, code=code, detail=detail, peer=party, unlogged=since)
