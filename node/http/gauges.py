"""The node's own metrics: read from the parts' statistics at each scrape, so that keeping them costs nothing.

Only what no statistic can tell later is measured as it happens: the lag from a post's publication to the
moment at which the feeds hear of it. Names are `heliograph_…` in base units; labels never name a user.
"""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Final

from prometheus_client import Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from cluster.replicas import ReplicaStatistics, now_ms
from cluster.router import RouterStatistics
from cluster.streams import Published as StreamRecord
from node.parts import Parts
from node.social import changes, jobs
from storage.ids import time_of

# Seconds. A commit may wait for 50 ms; what matters beyond is whether it is one second or a minute.
LAG_BUCKETS_S: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)
FAILED_COUNTED_MAX: Final = 10_000  # media dead letters that a scrape counts: more are as bad


class NodeCollector:
    """A collector for prometheus-client's registry."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lag = Histogram(
            "heliograph_publish_visible_seconds",
            "Seconds from a post's publication to its news reaching the feeds, after its commit",
            buckets=LAG_BUCKETS_S,
            registry=parts.metrics.registry,
        )
        parts.replicas.on_changes(self._changed)

    def _changed(self, records: list[StreamRecord]) -> None:
        now = now_ms()
        for record in records:
            change = changes.decode(record.body)
            if isinstance(change, changes.Published):
                # An id's time may run ahead of the clock when a millisecond's ids are used up.
                self._lag.observe(max(0, now - time_of(change.published)) / 1000)

    def collect(self) -> Iterator[Metric]:
        statistics = self._parts.replicas.statistics()
        yield from self._node()
        yield from self._storage(statistics)
        yield from _cluster(statistics)
        yield from _forwarding(self._parts.service.router.statistics())
        yield from self._dead_letters(statistics)
        yield from self._media()
        yield from self._feeds()

    def _node(self) -> Iterator[Metric]:
        identity = self._parts.directory.identity
        about = {"version": version("heliograph"), "node": identity.node_id}
        yield InfoMetricFamily("heliograph_node", "The version that runs, and the node's id", about)
        yield GaugeMetricFamily("heliograph_boots", "Starts of this node", self._parts.directory.boots)
        ready = float(not self._parts.stopping.is_set() and self._parts.service.ready)
        yield GaugeMetricFamily("heliograph_ready", "1 while the node takes new work", ready)

    def _storage(self, statistics: ReplicaStatistics) -> Iterator[Metric]:
        parts = self._parts
        blobs = parts.blobs.statistics()
        used = GaugeMetricFamily("heliograph_stored_bytes", "Bytes of data on disk", labels=["kind"])
        used.add_metric(["journal"], statistics.journal.bytes)
        used.add_metric(["shards"], sum(shard.used_bytes for shard in statistics.shards))
        used.add_metric(["blobs"], blobs.bytes)
        yield used
        share = GaugeMetricFamily(
            "heliograph_lmdb_map_used_ratio", "Share of the map in use", labels=["shard"]
        )
        rows = GaugeMetricFamily("heliograph_rows", "Rows stored", labels=["shard"])
        for number, shard in enumerate(statistics.shards):
            share.add_metric([str(number)], shard.used_bytes / shard.map_bytes)
            rows.add_metric([str(number)], shard.entries)
        yield share
        yield rows
        yield GaugeMetricFamily("heliograph_journal_segments", "Journal files", statistics.journal.segments)
        yield GaugeMetricFamily("heliograph_disk_free_bytes", "Free on the disk", parts.room.disk.free_bytes)
        yield GaugeMetricFamily("heliograph_disk_bytes", "Size of the disk", parts.room.disk.total_bytes)
        full = float(parts.room.full())
        yield GaugeMetricFamily("heliograph_storage_full", "1 while writes are refused", full)
        yield GaugeMetricFamily("heliograph_blobs", "Blobs stored", blobs.blobs)
        yield GaugeMetricFamily("heliograph_uploads_staged", "Uploads begun and not ended", blobs.staged)
        yield CounterMetricFamily("heliograph_blobs_damaged", "Blobs found damaged", blobs.damaged)

    def _dead_letters(self, statistics: ReplicaStatistics) -> Iterator[Metric]:
        letters = GaugeMetricFamily(
            "heliograph_dead_letters", "What was refused and waits for an admin", labels=["kind"]
        )
        letters.add_metric(["message"], statistics.dead_letters)
        letters.add_metric(["media"], self._failed_media())
        yield letters

    def _failed_media(self) -> int:
        count = 0
        with self._parts.service.read() as rows:
            for partition in range(self._parts.partitions):
                count += len(jobs.failed_jobs(rows, partition, 0, FAILED_COUNTED_MAX - count))
        return count

    def _media(self) -> Iterator[Metric]:
        pool, workshop = self._parts.pool.statistics(), self._parts.workshop.statistics()
        ended = CounterMetricFamily("heliograph_media_jobs", "Media jobs ended, by how", labels=["result"])
        ended.add_metric(["done"], workshop.done)
        ended.add_metric(["refused"], workshop.refused)
        ended.add_metric(["failed"], workshop.failed)
        yield ended
        yield GaugeMetricFamily("heliograph_media_jobs_running", "Media jobs under way", workshop.running)
        yield GaugeMetricFamily(
            "heliograph_media_partitions_waiting",
            "Partitions with a job that is due or will be",
            workshop.waiting,
        )
        yield GaugeMetricFamily("heliograph_media_workers", "Worker processes", len(pool.worker_pids))
        yield CounterMetricFamily("heliograph_media_worker_deaths", "Workers that died", pool.died)
        yield CounterMetricFamily(
            "heliograph_media_cpu_seconds", "Processor time of answered jobs", pool.cpu_s
        )
        collector = self._parts.collector.statistics()
        yield CounterMetricFamily("heliograph_blobs_collected", "Blobs removed", collector.collected)
        yield CounterMetricFamily("heliograph_uploads_expired", "Uploads that never came", collector.expired)
        yield from self._copies()

    def _copies(self) -> Iterator[Metric]:
        """Blobs between nodes, and whether all that rows refer to is here and right."""
        parts = self._parts
        placement, fetching = parts.placement.statistics(), parts.fetching.statistics()
        copies = CounterMetricFamily("heliograph_blob_copies", "Blobs moved, by how", labels=["way"])
        copies.add_metric(["placed"], placement.offered)
        copies.add_metric(["taken"], placement.pulled)
        copies.add_metric(["fetched"], fetching.fetched)
        copies.add_metric(["sent"], fetching.sent)
        yield copies
        repair, scrub = parts.repair.statistics(), parts.scrub.statistics()
        yield GaugeMetricFamily(
            "heliograph_blobs_missing",
            "Blobs that the last round of repair left missing",
            repair.last_missing,
        )
        yield CounterMetricFamily(
            "heliograph_repair_checked", "References held against files", repair.checked
        )
        yield CounterMetricFamily("heliograph_scrub_checked", "Files of blobs read again", scrub.checked)
        yield CounterMetricFamily("heliograph_scrub_bytes", "Bytes of files read again", scrub.bytes)

    def _feeds(self) -> Iterator[Metric]:
        feeds = self._parts.feeds.statistics()
        pages = CounterMetricFamily("heliograph_feed_pages", "Feed pages, by where from", labels=["source"])
        pages.add_metric(["cache"], feeds.cached_pages)
        pages.add_metric(["merge"], feeds.pages - feeds.cached_pages)
        yield pages
        rows = CounterMetricFamily(
            "heliograph_feed_rows", "Rows that feed pages asked for, by where from", labels=["source"]
        )
        rows.add_metric(["memory"], feeds.hot.hits)
        rows.add_metric(["shards"], feeds.hot.misses)
        yield rows
        yield GaugeMetricFamily("heliograph_feed_rows_bytes", "Bytes of rows kept in memory", feeds.hot.bytes)
        cache = feeds.cache
        yield GaugeMetricFamily("heliograph_feed_cache_bytes", "Bytes of cached feeds", cache.bytes)
        yield GaugeMetricFamily("heliograph_feed_cache_readers", "Readers with a cached feed", cache.entries)
        yield CounterMetricFamily("heliograph_feed_cache_evictions", "Feeds pushed out", cache.evictions)
        yield CounterMetricFamily("heliograph_feed_cache_pushes", "Posts put into feeds", cache.pushes)
        yield CounterMetricFamily("heliograph_feed_cache_resets", "Gaps that emptied the cache", cache.resets)
        yield GaugeMetricFamily("heliograph_feed_rows_bytes", "Bytes of rows kept for feeds", feeds.hot.bytes)
        reads = CounterMetricFamily("heliograph_feed_rows", "Rows that feeds asked for", labels=["source"])
        reads.add_metric(["memory"], feeds.hot.hits)
        reads.add_metric(["shards"], feeds.hot.misses)
        yield reads


def _cluster(statistics: ReplicaStatistics) -> Iterator[Metric]:
    yield SummaryMetricFamily(
        "heliograph_journal_batch_entries",
        "Commands per journal write; each write is synced once",
        count_value=statistics.journal_batches,
        sum_value=statistics.journal_entries,
    )
    yield SummaryMetricFamily(
        "heliograph_journal_sync_seconds",
        "Seconds of a journal sync",
        count_value=statistics.journal.syncs,
        sum_value=statistics.journal.sync_s_total,
    )
    yield SummaryMetricFamily(
        "heliograph_shard_commit_seconds",
        "Seconds of an LMDB commit",
        count_value=statistics.commits,
        sum_value=statistics.commit_seconds,
    )
    written = statistics.journal.written_bytes
    yield CounterMetricFamily("heliograph_journal_written_bytes", "Bytes written to the journal", written)
    yield CounterMetricFamily("heliograph_commands_applied", "Commands applied", statistics.applied)
    repeated = statistics.messages_repeated
    yield CounterMetricFamily("heliograph_messages_repeated", "Messages sent again", repeated)
    yield GaugeMetricFamily(
        "heliograph_commands_under_way", "Commands proposed and not answered", statistics.proposals
    )
    yield GaugeMetricFamily(
        "heliograph_messages_queued", "Messages between partitions under way", statistics.messages_queued
    )
    yield GaugeMetricFamily(
        "heliograph_partitions_working", "Partitions with work to be continued", statistics.work
    )


def _forwarding(router: RouterStatistics) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "heliograph_commands_waiting", "Commands that wait for their leaders' answers", router.waiting
    )
    asked = CounterMetricFamily(
        "heliograph_commands_forwarded", "Commands between nodes, by who asked", labels=["by"]
    )
    asked.add_metric(["this"], router.forwarded)
    asked.add_metric(["others"], router.served)
    yield asked
    yield CounterMetricFamily(
        "heliograph_commands_repeated", "Attempts beyond a command's first", router.repeated
    )
    yield CounterMetricFamily(
        "heliograph_commands_unavailable", "Commands given up for want of a majority", router.unavailable
    )
    yield CounterMetricFamily(
        "heliograph_read_questions", "Questions to other leaders, how far a read must see", router.questions
    )
    yield CounterMetricFamily(
        "heliograph_stale_reads", "Reads answered though no leader confirmed them", router.stale
    )
