"""Metrics: what is counted, and what never becomes a label."""

import httpx

from node.http.application import make_application
from node.http.metrics import Metrics
from tests.node.http.servers import make_settings, ours


async def test_requests_are_counted_by_route_and_class():
    metrics = Metrics()
    app = make_application(make_settings(), metrics.observe)

    @app.get("/users/<id:user_id>")
    async def user(user_id):
        return str(user_id)

    async with ours(app) as running, httpx.AsyncClient(base_url=running.url) as client:
        metrics.watch_server(running.server, "http")
        for user_id in (123456, 987654, 5):
            await client.get(f"/users/{user_id}")
        await client.get("/private-path-of-someone")
        for number in range(3):
            await client.request(f"INVENTED{number}", "/users/5")
        assert len(metrics._children) == 3  # a client that invents methods takes no memory
        text = metrics.expose().decode()
        value = metrics.registry.get_sample_value
        labels = {"route": "/users/<id:user_id>", "method": "GET", "status": "2xx"}
        assert value("heliograph_http_requests_total", labels) == 3
        assert (
            value("heliograph_http_requests_total", {"route": "none", "method": "GET", "status": "4xx"}) == 1
        )
        seconds = {"route": "/users/<id:user_id>", "status": "2xx"}
        assert value("heliograph_http_request_seconds_count", seconds) == 3
        assert 0 < value("heliograph_http_request_seconds_sum", seconds) < 5
        assert value("heliograph_http_connections", {"state": "open"}) == 1
        for never in ("123456", "private-path", "INVENTED"):
            assert never not in text
        ours_only = [line for line in text.splitlines() if line.startswith("# TYPE") and "http" in line]
        assert all(" heliograph_" in line for line in ours_only) and ours_only


def test_quantiles_can_be_read_from_the_buckets():
    metrics = Metrics()
    for milliseconds in range(1, 1001):
        metrics.observe("/x", "GET", 200, milliseconds / 1000)
    below = {
        float(sample.labels["le"]): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "heliograph_http_request_seconds_bucket"
    }
    for share in (0.5, 0.95, 0.99):
        bound = min(edge for edge, count in below.items() if count >= share * 1000)
        assert share <= bound <= 2.5 * share
