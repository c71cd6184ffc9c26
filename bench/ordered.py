"""Nodes in processes of their own that a question gives orders: a line of JSON each, answered by a line."""

import os
import subprocess
import sys
import time
from typing import Any, Final

import msgspec
import trio

from bench.processes import lines_of_input

STOP_S: Final = 60.0
LAG_EVERY_S: Final = 0.01


class Process:
    """One node, as its orders and answers go."""

    def __init__(self, module: str, told: msgspec.Struct) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, msgspec.json.encode(told).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def order(self, name: str, **arguments: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode({"order": name, **arguments}) + b"\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a node ended, with {self.process.wait(STOP_S)}")
        return msgspec.json.decode(line)

    def ask(self, name: str, **arguments: Any) -> Any:
        self.order(name, **arguments)
        return self.answer()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def ask_all(processes: list[Process], name: str, **arguments: Any) -> list[Any]:
    for process in processes:
        process.order(name, **arguments)
    return [process.answer() for process in processes]


# --- in the node's process -----------------------------------------------------------------------------
async def obey(running: object) -> None:
    """Each order is a coroutine of `running`; returns when whoever started the process wants it to end."""
    async for line in lines_of_input():
        order = msgspec.json.decode(line)
        say(await getattr(running, order.pop("order"))(**order))


def say(what: Any) -> None:
    data = msgspec.json.encode(what) + b"\n"
    while data:
        data = data[os.write(1, data) :]


async def watch_the_loop(lags: list[float]) -> None:
    """Until cancelled: how late the event loop comes, in seconds."""
    while True:
        due = time.perf_counter() + LAG_EVERY_S
        await trio.sleep(LAG_EVERY_S)
        lags.append(time.perf_counter() - due)
