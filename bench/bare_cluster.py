"""A benchmarked cluster of `bench.replica_process`es: started, grown, asked and ended by a question."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.replica_process import Node, identity
from cluster.peers import certificates
from cluster.peers.hello import Name

CLUSTER: Final = bytes(16)
STOP_S: Final = 60.0


class Process:
    """One node, as its orders and answers go."""

    def __init__(self, told: Node) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.replica_process", msgspec.json.encode(told).decode()],
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


@contextmanager
def bare_cluster(folder: Path, nodes: int, partitions: int) -> Iterator[list[Process]]:
    """`nodes` processes whose groups all of them vote in, their leaders spread."""
    now = time.time_ns() // 1_000_000
    authority = certificates.make_authority(CLUSTER, now)
    processes: list[Process] = []
    try:
        for number in range(nodes):
            own = folder / str(number)
            own.mkdir(parents=True)
            key, name = certificates.new_key(), Name(CLUSTER, identity(number))
            chain = certificates.issue(authority, certificates.request(key, name), name, now)
            (own / "node.key").write_bytes(key)
            (own / "node.pem").write_bytes(chain)
            processes.append(Process(Node(str(own), number, partitions, CLUSTER, authority.certificate)))
        addresses = {
            identity(number).hex(): process.answer()["address"] for number, process in enumerate(processes)
        }
        ask_all(processes, "members", addresses=addresses)
        processes[0].order("grow", nodes=nodes)
        processes[0].answer()
        yield processes
    finally:
        for process in processes:
            process.end()
