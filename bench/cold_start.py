"""A node that has just started on all data: its first feed page, and the memory it has before anybody asks.

Before each start the kernel is told to forget the cached pages of every file of the data directory.
"""

import http.client
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench import bench_data, lone_node
from bench.baselines import free_port, wait_for_port
from bench.figures import Row, at_most
from bench.measure import forget_cached, resident_bytes
from bench.questions import Run

IDLE_S: Final = 3.0  # after which a started node has done what it does by itself
STOP_S: Final = 60.0
RUN: Final = "from cli.main import main; main()"


def answer(run: Run) -> list[Row]:
    manifest = bench_data.ensure(run)
    data = bench_data.node_of(run)
    rounds = 3 if run.quick else 5
    pages, starts, idle = [], [], 0
    for number in range(rounds):
        forget_cached(data)
        began = time.perf_counter()
        with _as_run(data) as (process, port):
            starts.append(time.perf_counter() - began)
            member = manifest.members[number * 37 % len(manifest.members)]
            pages.append(_first_page(port, lone_node.tokens(data, [member])[0]))
            if number == rounds - 1:
                time.sleep(IDLE_S)
                idle = resident_bytes(process.pid, data)
    users = len(manifest.members)
    return [
        Row(run.question, "first feed page after a cold start", "ms", statistics.median(pages) * 1000,
            at_most(50), f"worst of {rounds}: {max(pages) * 1000:.1f} ms"),
        Row(run.question, "from a cold start to serving", "s", statistics.median(starts),
            beside=f"all data of {users:,} users, nothing cached"),
        Row(run.question, "node alone, resident when idle", "MB", idle / 1e6, at_most(120),
            "mapped data and workers apart"),
    ]  # fmt: skip


@contextmanager
def _as_run(data: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A node as `heliograph node run` starts it."""
    port, admin = free_port(), free_port()
    command = [sys.executable, "-c", RUN, "node", "run", "--data", str(data)]
    command += ["--http", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}", "--set", "logs.level=warning"]
    process = subprocess.Popen(command)
    try:
        wait_for_port(port, process)
        yield process, port
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _first_page(port: int, token: str) -> float:
    """Seconds from the first byte of a new connection to the end of the page."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/v1/feed?limit=20", headers={"authorization": f"Bearer {token}"})
    answered = connection.getresponse()
    answered.read()
    took = time.perf_counter() - began
    connection.close()
    if answered.status != 200:
        raise RuntimeError(f"the first page was answered with {answered.status}")
    return took
