"""Nodes that keep blobs and exchange them over real links on loopback; what rows would say is told to them.

async with cluster(tmp_path, "abc") as (a, b, c):
    digest = a.put(b"bytes", index=7)
    await a.placement.place(digest, 5, 7)
"""

from contextlib import asynccontextmanager

import trio
from blake3 import blake3

from cluster.copies.copies import Wanted
from cluster.copies.fetching import Fetching
from cluster.copies.placement import Placement
from cluster.copies.repair import Repair
from cluster.copies.scrub import Scrub
from cluster.raft.messages import Configuration
from storage.blobs import BlobMissing, Blobs
from tests.cluster.peers.cluster import make_node, now_ms, running

PARTITIONS = 4
WAIT_S = 10.0


class Rows:
    """What is referred to, alike on every node (`cluster.copies.fetching.Catalogue`)."""

    partitions = PARTITIONS

    def __init__(self):
        self.referred = {}  # digest → Wanted

    def home(self, digest):
        return digest[1] % PARTITIONS

    def wanted(self, digest):
        return self.referred.get(digest)

    def referenced(self, partition, beyond, most):
        found = (digest for digest in self.referred if self.home(digest) == partition and digest > beyond)
        return [self.referred[digest] for digest in sorted(found)[:most]]

    def refer(self, data, index=1):
        digest = blake3(data).digest()
        self.referred[digest] = Wanted(digest, len(data), index)
        return digest


class Keeper:
    """One node: its files, its links, and the parts of it that store and fetch."""

    def __init__(self, path, letter, rows):
        self.me = letter.encode() * 16
        self.path = path / letter
        for name in ("blobs", "staging", "quarantine"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        self.node = make_node(path, self.me)
        self.members = Configuration(())
        self.rows = rows
        self.full = False
        self.begin()

    def begin(self):
        """As after a start of the process."""
        self.blobs = Blobs(*(self.path / name for name in ("blobs", "staging", "quarantine")))
        self.fetching = Fetching(self.me, self.blobs, self.rows, lambda _: self.members.members)
        self.placement = Placement(
            self.me, self.blobs, self.fetching, self.rows.home, lambda _: self.members, lambda: self.full
        )
        self.repair = Repair(self.blobs, self.fetching, self.rows, now_ms)
        self.scrub = Scrub(self.blobs, self.fetching, now_ms, b"\x80")
        self.fetching.attach(self.node.links)
        self.placement.attach(self.node.links)

    def put(self, data, index=1):
        staged = self.blobs.stage(len(data))
        staged.write(data)
        digest, _ = staged.finish()
        self.blobs.place(staged, digest, index)
        return digest

    def has(self, digest):
        try:
            return self.blobs.reserve_index(digest)
        except BlobMissing:
            return 0

    def read(self, digest):
        with self.blobs.open(digest) as file:
            return file.read()

    def file_of(self, digest):
        (found,) = (self.path / "blobs").glob(f"*/*/{digest.hex()}.*")
        return found

    async def until_has(self, digest):
        with trio.fail_after(WAIT_S):
            while not self.has(digest):
                await trio.sleep(0.005)

    def meet(self, keepers):
        self.node.links.connect_to({other.me: other.node.address for other in keepers})

    async def sees(self, other, is_connected=True):
        await self.node.connected(other.me, is_connected)


@asynccontextmanager
async def cluster(path, letters, *, voters=None):
    """Nodes that all know each other; all vote, unless `voters` names some. They share what rows say."""
    rows = Rows()
    keepers = [Keeper(path, letter, rows) for letter in letters]
    voters = voters or letters
    members = Configuration(
        tuple(k.me for k, letter in zip(keepers, letters, strict=True) if letter in voters),
        tuple(k.me for k, letter in zip(keepers, letters, strict=True) if letter not in voters),
    )
    async with running(*(keeper.node for keeper in keepers)), trio.open_nursery() as nursery:
        for keeper in keepers:
            keeper.members = members
            keeper.meet(keepers)
            await nursery.start(keeper.fetching.run)
            await nursery.start(keeper.placement.run)
        for keeper in keepers:
            for other in keepers:
                if other is not keeper:
                    await keeper.sees(other)
        yield keepers
        nursery.cancel_scope.cancel()
