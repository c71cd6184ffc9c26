"""Servers of our own that a question measures: a process each, which prints its port and ends with its input.

They end too when the question is killed: its end of the pipe closes then, whatever happened.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import msgspec
import trio

STOP_S = 60.0  # a node drains and commits first


class Serving(msgspec.Struct, frozen=True):
    pid: int
    port: int


@contextlib.contextmanager
def serving(module: str, what: msgspec.Struct, core: int | None = None) -> Iterator[Serving]:
    """Run `python -m module` with `what` as JSON in its argument, on one core or on all."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, msgspec.json.encode(what).decode()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{module} ended before it served, with {process.wait()}")
        yield Serving(process.pid, int(line))
    finally:
        process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def announce(port: int) -> None:
    """In the server's process: it takes connections now."""
    os.write(1, b"%d\n" % port)


async def until_input_ends() -> None:
    """In the server's process: return when whoever started it wants it to end, or is gone."""
    while True:
        await trio.lowlevel.wait_readable(0)
        if not os.read(0, 4096):
            return


async def lines_of_input() -> AsyncIterator[bytes]:
    """In the server's process: what it is told, line by line, until whoever started it wants it to end."""
    waiting = b""
    while True:
        await trio.lowlevel.wait_readable(0)
        data = os.read(0, 1 << 16)
        if not data:
            return
        *lines, waiting = (waiting + data).split(b"\n")
        for line in lines:
            yield line
