"""Metrics: one registry, and what is measured of every request. Names are `heliograph_…` in base units.

A label never holds a user, an id or a path as it was asked: only the route's pattern, so that the number of
series is bounded by the code and not by the clients.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from node.http.server import Server

# Seconds. Dense where our answers lie (0.5 ms to 100 ms), so that p50, p95 and p99 are near.
LATENCY_BUCKETS_S = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1),
    *(0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0),
)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

Totals = tuple[Callable[[], None], Callable[[float], None]]


class Metrics:
    """The registry of one node, and the requests' own metrics. Other parts register theirs in `registry`."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = Counter(
            "heliograph_http_requests",
            "Requests answered, by route, method and status class",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "heliograph_http_request_seconds",
            "Seconds from a request's head to the end of its answer, by route and status class",
            ("route", "status"),
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        # Looking a child up by its labels takes a lock and new strings; ours are few, so they are kept.
        self._children: dict[tuple[str, str, int], Totals] = {}

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request. `route` is its pattern, or `none` where none fitted."""
        # A client may invent methods; they are one.
        key = (route, method if method in METHODS else "other", status // 100)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._child(route, key[1], f"{status // 100}xx")
        child[0]()
        child[1](seconds)

    def watch_server(self, server: Server, listener: str) -> None:
        """Show a server's statistics, read at each scrape."""
        gauge = Gauge(
            f"heliograph_{listener}_connections",
            f"Connections of the {listener} listener: open now, and totals since the start",
            ("state",),
            registry=self.registry,
        )
        reads: dict[str, Callable[[], float]] = {
            "open": lambda: server.statistics().connections,
            "accepted": lambda: server.statistics().accepted_total,
            "refused": lambda: server.statistics().refused_total,
            "failed": lambda: server.statistics().failed_total,
            "cut": lambda: server.statistics().cut_total,
        }
        for state, read in reads.items():
            gauge.labels(state).set_function(read)

    def expose(self) -> bytes:
        """All metrics in Prometheus's text format, of `content_type`."""
        return generate_latest(self.registry)

    def _child(self, route: str, method: str, status: str) -> Totals:
        return (
            self._requests.labels(route, method, status).inc,
            self._seconds.labels(route, status).observe,
        )
