"""Nodes of a small cluster with real certificates, whose links run over loopback or in memory."""

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import trio

from cluster.peers import certificates
from cluster.peers.certificates import Credentials
from cluster.peers.hello import Name
from cluster.peers.links import Links, introduction

CLUSTER = bytes.fromhex("c1" * 16)
OTHER_CLUSTER = bytes.fromhex("c2" * 16)
A, B, C = (bytes([letter]) * 16 for letter in b"abc")
DAY_MS = 24 * 3600 * 1000
WAIT_S = 10.0  # for anything that a test waits for


def now_ms():
    return time.time_ns() // 1_000_000


def authority(cluster=CLUSTER, number=0):
    """The CA of a cluster; another `number` is another CA."""
    return _authority(cluster, number)


@cache
def _authority(cluster, _number):
    return certificates.make_authority(cluster, now_ms())


def credentials(directory, node, *, cluster=CLUSTER, ca=None, trusts=None, name=None, now=None, days=30):
    """Files for a node. By default all is right; every argument makes one thing wrong."""
    ca = ca or authority(cluster)
    key = certificates.new_key()
    name = name or Name(cluster, node)
    chain = certificates.issue(ca, certificates.request(key, name), name, now or now_ms(), days=days)
    key_path, chain_path = Path(directory, f"{node.hex()}.key"), Path(directory, f"{node.hex()}.pem")
    key_path.write_bytes(key)
    chain_path.write_bytes(chain)
    return Credentials(cluster, node, (trusts or ca).certificate, chain_path, key_path)


@dataclass
class Node:
    links: Links
    address: str = ""
    raft: list = field(default_factory=list)  # (sender, frame)
    connections: list = field(default_factory=list)  # (node, bool)
    told: list = field(default_factory=list)  # refusals of itself
    refused: dict = field(default_factory=dict)  # node → Refusal that `admits` gives
    _changed: trio.Event = field(default_factory=trio.Event)

    def changed(self):
        event, self._changed = self._changed, trio.Event()
        event.set()

    async def until(self, true):
        """Wait until `true()`; looked at whenever something came or a link changed."""
        with trio.fail_after(WAIT_S):
            while not true():
                await self._changed.wait()

    async def connected(self, node, is_connected=True):
        await self.until(lambda: self.links.connected(node) == is_connected)


def make_node(directory, node, *, boot=1, start=None, given=None, cluster=CLUSTER, **more):
    one = Node.__new__(Node)
    me = introduction(cluster, node, boot, start or node[:8], 1)
    Node.__init__(
        one,
        Links(
            me,
            given or credentials(directory, node, cluster=cluster),
            lambda hello: one.refused.get(hello.node),
            on_refused=lambda refusal: (one.told.append(refusal), one.changed()),
            **more,
        ),
    )
    one.links.on_raft = lambda sender, frame: (one.raft.append((sender, frame)), one.changed())
    one.links.on_connected = lambda who, is_up: (one.connections.append((who, is_up)), one.changed())
    return one


@asynccontextmanager
async def running(*nodes):
    """Run them, each behind a listener of its own on loopback."""
    async with trio.open_nursery() as nursery:
        for node in nodes:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            node.address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            await nursery.start(node.links.run, listeners)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def pair(directory, **more):
    """Two nodes, each connected to the other."""
    a, b = make_node(directory, A, **more), make_node(directory, B, **more)
    async with running(a, b):
        members = {A: a.address, B: b.address}
        a.links.connect_to(members)
        b.links.connect_to(members)
        await a.connected(B)
        await b.connected(A)
        yield a, b
