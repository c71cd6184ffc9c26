"""Filling: the state of partitions goes to nodes that lack more than the journal has, as Raft asks for it.

The transport is `cluster.snapshots.exchange`; here is who asks for it and who is told how it ended.
"""

from collections.abc import Sequence
from pathlib import Path

import trio

from cluster.peers.errors import PeerRefused, PeerSilent, PeerUnreachable
from cluster.peers.links import Links
from cluster.raft.effects import NeedSnapshot
from cluster.replicas import Replicas
from cluster.snapshots.exchange import Snapshots, SnapshotStatistics
from cluster.snapshots.spool import FOLDER
from node.logs import get_logger
from storage.shard import Shard

log = get_logger("cluster")


class Filling:
    """One per node; `run` in its nursery, `attach` when there are others."""

    def __init__(self, me: bytes, replicas: Replicas, shards: Sequence[Shard], staging: Path) -> None:
        self._me = me
        self._replicas = replicas
        self._shards = shards
        self._folder = staging / FOLDER
        self._snapshots: Snapshots | None = None
        self._nursery: trio.Nursery | None = None

    def attach(self, links: Links) -> None:
        replicas = self._replicas
        self._folder.mkdir(exist_ok=True)
        self._snapshots = Snapshots(
            self._me, replicas.partitions, replicas, links, self._shards, self._folder
        )
        replicas.pieces = self._snapshots.pieces
        replicas.on_need_snapshot = self._needed

    def _needed(self, partition: int, need: NeedSnapshot) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._send, partition, need)

    async def _send(self, partition: int, need: NeedSnapshot) -> None:
        assert self._snapshots is not None
        try:
            index = await self._snapshots.send(need.node, partition, need.term)
        except (PeerUnreachable, PeerSilent, PeerRefused) as wrong:
            log.info("snapshot_not_sent", partition=partition, node=need.node.hex(), reason=str(wrong))
            self._replicas.snapshot_failed(partition, need.node)
        else:
            self._replicas.snapshot_sent(partition, need.node, index)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def statistics(self) -> SnapshotStatistics | None:
        """None on a node alone."""
        return self._snapshots.statistics() if self._snapshots is not None else None
