"""The machine a run took place on, and its cores: one for what is measured, another for who asks."""

import os
import platform
from pathlib import Path
from typing import Final

_CORES: Final = sorted(os.sched_getaffinity(0))
SERVER_CORE: Final = _CORES[0]
CLIENT_CORE: Final = _CORES[-1]  # the same one where there is only one; then `describe` says so


def describe() -> str:
    """One line: processor, cores, kernel, Python."""
    alone = ", server and client share one" if SERVER_CORE == CLIENT_CORE else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{_processor()}, {len(_CORES)} cores{alone}, {memory:.0f} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def pin(core: int, pid: int = 0) -> None:
    os.sched_setaffinity(pid, {core})


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
