"""Measuring: medians of rounds, percentiles, and what the kernel counts for a process."""

import contextlib
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

ROUNDS: Final = 5


def alternating(works: Sequence[Callable[[], float]], *, rounds: int = ROUNDS) -> list[float]:
    """Each of `works` returns a rate or a time; they take turns, so a slow minute hits all of them alike.

    Returns the median of each.
    """
    found: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for values, work in zip(found, works, strict=True):
            values.append(work())
    return [statistics.median(values) for values in found]


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


# --- what the kernel counts ----------------------------------------------------------------------------
def written_bytes(pid: int | str = "self") -> int:
    """What a process has handed to write calls so far: of LMDB whole pages, of a journal its records.

    The kernel's other count (`write_bytes`) is of no use here: it takes the whole of a large folio for
    dirty when 4 KB of it were written.
    """
    lines = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(lines["wchar"])


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time of these processes so far, all threads, user and system."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a worker that has ended since
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int, apart: Path) -> int:
    """Resident memory of a process, without pages mapped from files under `apart` (an LMDB map is page
    cache, which the kernel takes back when it likes); program text counts."""
    total = 0
    counts = True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if "-" in first and not first.endswith(":"):
            counts = str(apart) not in line
        elif counts and first == "Rss:":
            total += int(line.split()[1]) * 1024
    return total


def forget_cached(folder: Path) -> None:
    """Ask the kernel to drop the page cache of all files below, so that the next read comes from disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def folder_bytes(folder: Path) -> int:
    """Disk blocks in use below a folder (LMDB's files are sparse)."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
