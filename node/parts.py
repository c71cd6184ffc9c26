"""The parts of a running node, as routes and operators are given them. Built in `app.py`, nowhere else."""

import time
from dataclasses import dataclass

import trio
from blake3 import blake3

from cluster.copies.fetching import Fetching
from cluster.copies.placement import Placement
from cluster.copies.repair import Repair
from cluster.copies.scrub import Scrub
from cluster.replicas import Replicas
from node.cluster import Cluster
from node.conduct import Conduct
from node.feeds.reader import Feeds
from node.filling import Filling
from node.http.cursors import Cursors
from node.http.limits import Limits, Proxies
from node.http.metrics import Metrics
from node.http.tokens import Keyring, Signer
from node.media.collection import Collector
from node.media.intake import Intake
from node.media.pool import Pool
from node.media.workshop import Workshop
from node.operations import Operations
from node.passwords import Passwords
from node.room import RoomWatch
from node.service import Service
from node.settings import Settings
from storage.blobs import Blobs
from storage.directory import DataDirectory


@dataclass(frozen=True)
class Parts:
    """What there is; each route takes what it needs."""

    settings: Settings
    directory: DataDirectory
    replicas: Replicas
    service: Service
    blobs: Blobs
    fetching: Fetching  # blobs from other nodes
    placement: Placement  # … and to them
    repair: Repair
    scrub: Scrub
    cluster: Cluster
    conduct: Conduct
    filling: Filling
    operations: Operations
    intake: Intake
    pool: Pool
    workshop: Workshop
    collector: Collector
    room: RoomWatch
    feeds: Feeds
    passwords: Passwords
    keyring: Keyring
    signer: Signer  # of upload URLs and of media that not everybody may see
    cursors: Cursors
    limits: Limits
    proxies: Proxies
    metrics: Metrics
    name_key: bytes  # of the keyed hash that places names: the cluster's, so all nodes agree
    retry_key: bytes  # of the keyed digests of `Idempotency-Key`: the cluster's, too
    partitions: int
    admin_token: str
    stopping: trio.Event  # set when the node begins to end: it serves on, but is not ready

    def partition_of_name(self, name: str) -> int:
        """Where an account of this name lives. Names are one whatever their case."""
        digest = blake3(name.lower().encode(), key=self.name_key).digest(8)
        return int.from_bytes(digest, "big") % self.partitions


def now_s() -> int:
    """Seconds since 1970, for tokens, cursors and signatures."""
    return int(time.time())
