"""The node's own metrics: read from the parts' statistics at each scrape, so that keeping them costs nothing.

Names are `heliograph_…` in base units; labels never name a user.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from node.parts import Parts


class NodeCollector:
    """A collector for prometheus-client's registry."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        yield from self._storage()
        yield from self._cluster()
        yield from self._media()
        yield from self._feeds()

    def _storage(self) -> Iterator[Metric]:
        parts = self._parts
        statistics = parts.replicas.statistics()
        used = GaugeMetricFamily("heliograph_stored_bytes", "Bytes of data on disk", labels=["kind"])
        used.add_metric(["journal"], statistics.journal.bytes)
        used.add_metric(["shards"], sum(shard.used_bytes for shard in statistics.shards))
        used.add_metric(["blobs"], parts.blobs.statistics().bytes)
        yield used
        share = GaugeMetricFamily(
            "heliograph_lmdb_map_used_ratio", "Share of the map in use", labels=["shard"]
        )
        for number, shard in enumerate(statistics.shards):
            share.add_metric([str(number)], shard.used_bytes / shard.map_bytes)
        yield share
        yield GaugeMetricFamily(
            "heliograph_disk_free_bytes", "Bytes free on the disk", parts.room.disk.free_bytes
        )
        yield GaugeMetricFamily(
            "heliograph_storage_full", "1 while writes are refused", float(parts.room.full())
        )
        yield GaugeMetricFamily("heliograph_blobs", "Blobs stored", parts.blobs.statistics().blobs)

    def _cluster(self) -> Iterator[Metric]:
        statistics = self._parts.replicas.statistics()
        counters = {
            "heliograph_journal_batches": ("Journal writes, each synced once", statistics.journal_batches),
            "heliograph_journal_entries": ("Commands written to the journal", statistics.journal_entries),
            "heliograph_journal_sync_seconds": ("Seconds in journal syncs", statistics.journal.sync_s_total),
            "heliograph_commands_applied": ("Commands applied", statistics.applied),
            "heliograph_shard_commits": ("LMDB commits", statistics.commits),
            "heliograph_shard_commit_seconds": ("Seconds in LMDB commits", statistics.commit_seconds),
            "heliograph_messages_repeated": ("Messages sent again", statistics.messages_repeated),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(name, text, value)
        gauges = {
            "heliograph_commands_under_way": ("Commands proposed and not answered", statistics.proposals),
            "heliograph_messages_queued": (
                "Messages between partitions under way",
                statistics.messages_queued,
            ),
            "heliograph_partitions_working": ("Partitions with work to be continued", statistics.work),
            "heliograph_dead_letters": ("Messages refused and kept", statistics.dead_letters),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value)

    def _media(self) -> Iterator[Metric]:
        pool, workshop = self._parts.pool.statistics(), self._parts.workshop.statistics()
        jobs = CounterMetricFamily("heliograph_media_jobs", "Media jobs ended, by how", labels=["result"])
        jobs.add_metric(["done"], workshop.done)
        jobs.add_metric(["refused"], workshop.refused)
        jobs.add_metric(["failed"], workshop.failed)
        yield jobs
        yield GaugeMetricFamily("heliograph_media_jobs_running", "Media jobs under way", workshop.running)
        yield GaugeMetricFamily("heliograph_media_workers", "Worker processes", len(pool.worker_pids))
        yield CounterMetricFamily("heliograph_media_worker_deaths", "Workers that died", pool.died)
        yield CounterMetricFamily(
            "heliograph_media_cpu_seconds", "Processor time of answered jobs", pool.cpu_s
        )
        collector = self._parts.collector.statistics()
        yield CounterMetricFamily("heliograph_blobs_collected", "Blobs removed", collector.collected)

    def _feeds(self) -> Iterator[Metric]:
        feeds = self._parts.feeds.statistics()
        pages = CounterMetricFamily("heliograph_feed_pages", "Feed pages, by where from", labels=["source"])
        pages.add_metric(["cache"], feeds.cached_pages)
        pages.add_metric(["merge"], feeds.pages - feeds.cached_pages)
        yield pages
        yield GaugeMetricFamily("heliograph_feed_cache_bytes", "Bytes of cached feeds", feeds.cache.bytes)
        yield GaugeMetricFamily("heliograph_feed_cache_readers", "Readers with a cached feed", feeds.cache.entries)
