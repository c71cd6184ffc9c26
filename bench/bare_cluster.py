"""A benchmarked cluster of `bench.replica_process`es: started, grown, asked and ended by a question."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.ordered import Process, ask_all
from bench.replica_process import Node, identity
from cluster.peers import certificates
from cluster.peers.hello import Name

CLUSTER: Final = bytes(16)


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
            told = Node(str(own), number, partitions, CLUSTER, authority.certificate)
            processes.append(Process("bench.replica_process", told))
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
