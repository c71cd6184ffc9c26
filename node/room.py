"""Room: whether there is space for writes, watched once a second (law 9).

Past the soft limit (the quota, or the reserve of free disk) commands that make the data grow are refused
before they enter the log, while reads and deletes go on. A reserve file keeps room for the journal and for
LMDB commits even when something else fills the disk.
"""

from collections.abc import Callable
from typing import Final

import trio

from node.logs import get_logger
from node.settings import Storage
from storage.directory import DataDirectory
from storage.space import (
    RESERVE_FILE_BYTES,
    DiskSpace,
    Full,
    ReserveFile,
    Room,
    SpaceLimits,
    Verdict,
    judge,
    measure,
)

log = get_logger("storage")

LOOK_EVERY_S: Final = 1.0


class RoomWatch:
    """`full` is asked by the router for every command that grows."""

    def __init__(self, directory: DataDirectory, settings: Storage, used_bytes: Callable[[], int]) -> None:
        self._directory = directory
        self._used_bytes = used_bytes
        size = min(RESERVE_FILE_BYTES, settings.reserve_bytes)
        self._reserve = ReserveFile(directory.reserve, size) if size else None
        self._limits = SpaceLimits(settings.quota_bytes or None, settings.reserve_bytes)
        self.verdict: Verdict = Room()
        self.used_bytes = 0
        self.disk = DiskSpace(0, 0)

    def full(self) -> bool:
        return isinstance(self.verdict, Full)

    def look(self) -> None:
        """Measure and judge. Blocking, for microseconds; only taking the reserve back costs more."""
        self.disk = measure(self._directory.path)
        self.used_bytes = self._used_bytes()
        free = self.disk.free_bytes
        if self._reserve is not None:
            self._reserve.tend(free)
            free = self._reserve.available(free)
        before, self.verdict = self.verdict, judge(self.verdict, self.used_bytes, free, self._limits)
        if type(before) is not type(self.verdict):
            if isinstance(self.verdict, Full):
                log.warning("storage_full", reason=self.verdict.reason)
            else:
                log.info("storage_has_room", used_bytes=self.used_bytes)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.to_thread.run_sync(self.look)
            await trio.sleep(LOOK_EVERY_S)
