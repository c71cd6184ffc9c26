"""What a node measures of its cluster: links, groups, clocks, blobs under way between nodes, snapshots.

Labels hold other nodes' ids, of which there are few. A node without a cluster shows zeros.
"""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from node.parts import Parts

NODE_LETTERS: Final = 8  # of an id: enough to tell a cluster's nodes apart


class ClusterCollector:
    """A collector for prometheus-client's registry."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        yield from self._groups()
        yield from self._links()
        yield from self._blobs()
        yield from self._snapshots()

    def _groups(self) -> Iterator[Metric]:
        replicas, conduct = self._parts.replicas.statistics(), self._parts.conduct
        yield GaugeMetricFamily("heliograph_groups_led", "Groups that this node leads", replicas.led)
        yield GaugeMetricFamily(
            "heliograph_groups_leaderless", "Groups of which no leader is known here", replicas.leaderless
        )
        yield GaugeMetricFamily(
            "heliograph_groups_changing",
            "Groups led here whose members or leader are not yet those of the layout",
            conduct.changing,
        )
        yield GaugeMetricFamily(
            "heliograph_clock_off_seconds",
            "How far this node's clock is ahead of the median of all nodes'",
            conduct.clock_off_ms / 1000,
        )
        yield CounterMetricFamily(
            "heliograph_raft_frames_dropped", "Frames of peers that came too fast", replicas.frames_dropped
        )
        yield CounterMetricFamily(
            "heliograph_raft_frames_bad", "Frames of peers that could not be read", replicas.bad_frames
        )

    def _links(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "heliograph_peer_linked", "1 while there is a link to the node", labels=["peer"]
        )
        waits = GaugeMetricFamily(
            "heliograph_peer_queued_bytes", "Bytes that wait for the link", labels=["peer"]
        )
        trips = GaugeMetricFamily(
            "heliograph_peer_round_trip_seconds", "Seconds of the last ping", labels=["peer"]
        )
        refused = CounterMetricFamily(
            "heliograph_peer_refusals", "Links refused, broken or ended, by why", labels=["code"]
        )
        links = self._parts.cluster.links
        if links is not None:
            statistics = links.statistics()
            for node, peer in statistics.peers.items():
                name = node.hex()[:NODE_LETTERS]
                up.add_metric([name], float(peer.connected))
                waits.add_metric([name], peer.queued_bytes)
                if peer.round_trip_s is not None:
                    trips.add_metric([name], peer.round_trip_s)
            for code, count in statistics.refused.items():
                refused.add_metric([code], count)
        yield from (up, waits, trips, refused)

    def _blobs(self) -> Iterator[Metric]:
        parts = self._parts
        placement, fetching = parts.placement.statistics(), parts.fetching.statistics()
        repair, scrub = parts.repair.statistics(), parts.scrub.statistics()
        given = CounterMetricFamily(
            "heliograph_blobs_offered", "Blobs offered to nodes, by how that ended", labels=["result"]
        )
        given.add_metric(["taken"], placement.offered)
        given.add_metric(["left_to_repair"], placement.left)
        yield given
        yield GaugeMetricFamily(
            "heliograph_blobs_missing", "Blobs that the last look found missing", repair.last_missing
        )
        yield CounterMetricFamily(
            "heliograph_blobs_fetched", "Blobs fetched from nodes", fetching.fetched + repair.fetched
        )
        yield CounterMetricFamily(
            "heliograph_blobs_fetches_failed", "Blobs that no node could give", fetching.failed
        )
        yield CounterMetricFamily("heliograph_scrub_checked", "Blobs read and compared", scrub.checked)
        yield CounterMetricFamily("heliograph_scrub_rounds", "Times that all blobs were", scrub.rounds)

    def _snapshots(self) -> Iterator[Metric]:
        snapshots = self._parts.filling.statistics()
        moved = CounterMetricFamily(
            "heliograph_snapshot_bytes", "Bytes of partitions' states between nodes", labels=["way"]
        )
        ended = CounterMetricFamily(
            "heliograph_snapshots", "States of partitions that went between nodes", labels=["way"]
        )
        moved.add_metric(["given"], snapshots.given_bytes if snapshots else 0)
        moved.add_metric(["taken"], snapshots.taken_bytes if snapshots else 0)
        ended.add_metric(["given"], snapshots.sent if snapshots else 0)
        ended.add_metric(["taken"], snapshots.taken if snapshots else 0)
        yield from (moved, ended)
