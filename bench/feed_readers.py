"""Readers who ask for their feeds over HTTP at an even pace, while something happens to the nodes."""

import http.client
import random
import threading
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from bench.joined import Joined
from bench.measure import percentile

READERS: Final = 10  # of each node, with a connection each: who waits keeps no other waiting
EVERY_S: Final = 0.4  # each of them: 25 pages a second of a node, few enough to change nothing
TIMEOUT_S: Final = 30.0
SEED: Final = 5


class Asked(NamedTuple):
    began: float  # of the monotonic clock
    took: float  # seconds
    stale: bool


class Readers:
    """They read until the block ends. A page's time counts from when it was to be asked for."""

    def __init__(self, nodes: Sequence[Joined], words: list[str]) -> None:
        self.asked: list[Asked] = []
        self.wrong: list[str] = []
        self._words = words
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(node.port, number))
            for node in nodes
            for number in range(READERS)
        ]

    def __enter__(self) -> "Readers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def p99(self) -> float:
        """Seconds. Raises RuntimeError where a reader was not served: then it says nothing."""
        if self.wrong:
            raise RuntimeError(f"{len(self.wrong)} readers were not served: {self.wrong[0]}")
        return percentile([one.took for one in self.asked], 99)

    def _ask(self, port: int, number: int) -> None:
        try:
            self._read(port, number)
        except (OSError, http.client.HTTPException) as wrong:
            self.wrong.append(repr(wrong))

    def _read(self, port: int, number: int) -> None:
        dice = random.Random(SEED + number)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        due = time.monotonic() - EVERY_S * (1 - number / READERS)
        while not self._over.is_set():
            due += EVERY_S
            if (early := due - time.monotonic()) > 0:
                time.sleep(early)
            headers = {"authorization": f"Bearer {dice.choice(self._words)}"}
            connection.request("GET", "/v1/feed?limit=20", headers=headers)
            answered = connection.getresponse()
            body = answered.read()
            if answered.status != 200:
                self.wrong.append(f"{answered.status} {body[:200]!r}")
            stale = answered.headers.get("heliograph-stale") is not None
            self.asked.append(Asked(due, time.monotonic() - due, stale))
        connection.close()
