"""`heliograph demo --nodes 3`: the demo's people on a cluster of several nodes, each a process of its own.

The nodes are started, joined and looked at by the commands that a person would type, and can be killed and
started again with those that are printed. When the demo ends, its nodes end, and their data go.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from cli.client import Target, admin
from cli.output import Failure, called, note, print_table

STARTED_S: Final = 60.0  # for a node to serve
WELL_S: Final = 120.0  # for all replicas to be level
ENDED_S: Final = 20.0  # for a node to end by itself
LOOK_S: Final = 0.1
PROGRAM: Final = "from cli.main import main; main(prog_name='heliograph')"


class Node(NamedTuple):
    number: int
    data: Path
    config: Path
    log: Path
    url: str
    process: subprocess.Popen[bytes]

    @property
    def target(self) -> Target:
        return Target(self.data, None, None)

    @property
    def start(self) -> str:
        """How a person starts it again."""
        return f"{called()} node run --data {self.data} --config {self.config}"


class Cluster:
    """The nodes of the demo. Methods block; `close` leaves no process behind."""

    def __init__(self, folder: Path, host: str, port: int, flags: Sequence[str]) -> None:
        self.nodes: list[Node] = []
        self._folder = folder
        self._host = host
        self._port = port  # of the first; 0: free ones
        self._flags = flags
        self._closed = False

    def grow(self, count: int) -> None:
        """Start and join so many nodes. Raises Failure."""
        self._check_free(count)
        first = self._begin(1)
        with admin(first.target) as client:
            client.post("/v1/admin/cluster/init", dict)
            for number in range(2, count + 1):
                invited: dict[str, Any] = client.post("/v1/admin/cluster/invitations", dict)
                self._begin(number, "--join", invited["token"])
            self._wait_until_well()

    def _check_free(self, count: int) -> None:
        """Another node on one of the ports would answer in the place of ours."""
        for port in range(self._port, self._port + count) if self._port else ():
            try:
                socket.create_server((self._host, port)).close()
            except OSError as wrong:
                why = os.strerror(wrong.errno or 0)  # create_server's own words go on and on
                raise Failure(
                    f"cannot listen on {self._host}:{port}: {why}; {count} nodes take the ports from "
                    f"{self._port} on, --http names others"
                ) from None

    def _begin(self, number: int, *words: str) -> Node:
        port = self._port + number - 1 if self._port else _free_port(self._host)
        name = f"node{number}"
        data, config, log = (self._folder / (name + ending) for ending in ("", ".toml", ".log"))
        config.write_text(_settings([*self._flags, f"http.host={self._host}", f"http.port={port}"]))
        command = [sys.executable, "-c", PROGRAM, "node", "run", "--data", str(data), "--config", str(config)]
        with open(log, "ab") as file:
            # A session of its own: Ctrl-C in the terminal ends the demo, which ends its nodes.
            process = subprocess.Popen([*command, *words], stderr=file, stdout=file, start_new_session=True)
        node = Node(number, data, config, log, f"http://{self._host}:{port}", process)
        self.nodes.append(node)
        if self._closed:  # from another thread, while this one was starting it
            process.kill()
        self._wait_until_served(node)
        return node

    def _wait_until_served(self, node: Node) -> None:
        for _ in range(round(STARTED_S / LOOK_S)):
            try:
                if httpx.get(f"{node.url}/healthz", trust_env=False).is_success:
                    return
            except httpx.TransportError:
                pass
            try:
                node.process.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                continue
            raise Failure(_last_word(node.log))
        raise Failure(f"node {node.number} does not serve within {STARTED_S:.0f} s: see {node.log}")

    def _wait_until_well(self) -> None:
        with admin(self.nodes[0].target) as client:
            for _ in range(round(WELL_S / LOOK_S)):
                found: dict[str, Any] = client.get("/v1/admin/cluster/status", dict)
                if found["healthy"] and found["nodes"] == len(self.nodes):
                    return
                time.sleep(LOOK_S)
        raise Failure(f"the nodes are not level within {WELL_S:.0f} s: {found['words']}")

    def facts(self) -> list[dict[str, Any]]:
        return [{"url": node.url, "data": str(node.data), "pid": node.process.pid} for node in self.nodes]

    def tell(self) -> None:
        """What there is to try."""
        rows = [(node.number, node.url, node.process.pid, node.data) for node in self.nodes]
        print_table(("node", "address", "process", "data"), rows)
        sys.stdout.flush()
        first, last = self.nodes[0], self.nodes[-1]
        note(
            f"""
  Each node serves everything. Kill one, and go on reading and posting on another:
    kill -9 {last.process.pid}
    {called()} cluster status --data {first.data} --watch

  Or watch it in the browser, signed in as an admin, at {first.url}/admin/cluster:
    {called()} account role ada --role admin --data {first.data}

  Start it again, and see it catch up:
    {last.start}
"""
        )

    def close(self) -> None:
        self._closed = True
        for node in self.nodes:
            for pid in {node.process.pid, _holder(node.data)} - {0}:
                _send(pid, signal.SIGTERM)
        for node in self.nodes:
            try:
                node.process.wait(ENDED_S)
            except subprocess.TimeoutExpired:
                node.process.kill()
                node.process.wait()


def _settings(flags: Sequence[str]) -> str:
    """As a file for --config: one that is started again needs nothing else."""
    from node.settings import load

    given = load(flags=[*flags, "admin.port=0", f"cluster.port={_free_port('127.0.0.1')}"], environment={})
    lines: list[str] = []
    for section in ("http", "admin", "cluster", "media", "limits"):
        keys = [key for key in given.sources if key.startswith(section + ".")]
        lines.append(f"[{section}]")
        for key in keys:
            name = key.partition(".")[2]
            value = getattr(getattr(given, section), name)
            lines.append(f"{name} = {str(value).lower() if isinstance(value, bool) else _written(value)}")
    return "\n".join(lines) + "\n"


def _written(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _holder(data: Path) -> int:
    """The process that runs on the directory now: one that was started again by hand is ended, too."""
    try:
        return int((data / "lock").read_text())
    except (OSError, ValueError):
        return 0


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _last_word(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    words = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
    return (words or lines or ["a node ended without a word"])[-1]
