"""Nodes of a cluster made as people make one: the first is founded on data that it has, the others join it.

Each is a `bench.cluster_node` and serves HTTP as ever. It may be killed, started again, and lose its disk.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.cluster_node import Node
from bench.ordered import Process, ask_all

WELL_S: Final = 120.0  # for all replicas to be level again, and all leaders in their places
LOOK_S: Final = 0.1
FLAGS: Final = (
    f"feed.cache_bytes={1 << 30}",  # all readers' feeds are kept
    f"storage.segment_bytes={4 << 20}",  # small, so that states must travel, not logs
)


class Joined:
    """One node of it, whichever process runs it."""

    def __init__(self, data: Path, manifest: Path) -> None:
        self.data = data
        self.port = 0
        self.node = ""
        self._manifest = manifest
        self.process: Process

    def start(self, token: str = "") -> None:
        self.begin(token)
        self.serves()

    def begin(self, token: str = "") -> None:
        told = Node(str(self.data), str(self._manifest), token, FLAGS)
        self.process = Process("bench.cluster_node", told)

    def serves(self) -> None:
        said = self.process.answer()
        self.port, self.node = said["port"], said["node"]

    @property
    def pid(self) -> int:
        return self.process.process.pid

    def ask(self, name: str, **arguments: Any) -> Any:
        return self.process.ask(name, **arguments)


class Cluster:
    def __init__(self, folder: Path, manifest: Path) -> None:
        self.nodes: list[Joined] = []
        self._folder = folder
        self._manifest = manifest

    def found(self, data: Path) -> None:
        self.nodes.append(Joined(data, self._manifest))
        self.nodes[0].start()
        self.nodes[0].ask("give_blobs")
        self.nodes[0].ask("found")

    def join(self) -> None:
        token = self.nodes[0].ask("invite")
        self.nodes.append(Joined(self._folder / f"node{len(self.nodes)}", self._manifest))
        self.nodes[-1].start(token)
        self.well()

    def others(self, than: Joined) -> list[Joined]:
        return [node for node in self.nodes if node is not than]

    def well(self) -> float:
        """Wait until every node says that all is level and in its place; how long that took, in seconds."""
        began = time.monotonic()
        while time.monotonic() < began + WELL_S:
            found = [node.ask("standing") for node in self.nodes]
            if all(one["healthy"] for one in found) and len({one["blobs"] for one in found}) == 1:
                return time.monotonic() - began
            time.sleep(LOOK_S)
        raise RuntimeError(f"not well after {WELL_S:.0f} s: {found}")

    def level(self) -> None:
        """Wait until each node can read what any of them had answered."""
        heads: dict[str, int] = {}
        for found in self._ask_all("heads"):
            heads.update(found)
        self._ask_all("reach", heads=heads)

    def _ask_all(self, name: str, **arguments: Any) -> list[Any]:
        return ask_all([node.process for node in self.nodes], name, **arguments)

    def wiped(self, node: Joined) -> str:
        """Kill a node, lose its disk, revoke it, and invite another in its place; the token."""
        node.process.kill()
        shutil.rmtree(node.data)
        other = self.others(node)[0]
        other.ask("revoke", node=node.node)
        token: str = other.ask("invite")
        return token

    def end(self) -> None:
        for node in self.nodes:
            node.process.end()


@contextmanager
def joined(folder: Path, data: Path, manifest: Path, nodes: int) -> Iterator[Cluster]:
    """`nodes` of a cluster whose first has `data`, which it changes."""
    cluster = Cluster(folder, manifest)
    try:
        cluster.found(data)
        for _ in range(nodes - 1):
            cluster.join()
        yield cluster
    finally:
        cluster.end()
