"""Uploads of 8 MB bodies beside a bare receive-write-sync loop, and memory while 4 GB come in one body.

The node hashes, reserves, places by name, syncs file and folder, refers and tells p(owner); the loop only
writes and syncs. Both may use all cores; the client has one for itself as far as they leave it.
"""

import http.client
import json
import shutil
import statistics
import threading
from pathlib import Path
from typing import Final

from bench import bench_data, lone_node, upload_load
from bench.bare_upload import Bare
from bench.figures import Row, at_least, at_most
from bench.measure import resident_bytes
from bench.open_load import path_of
from bench.processes import Serving, serving
from bench.questions import Run
from bench.upload_load import Uploads

BODY_BYTES: Final = 8 << 20
CONNECTIONS: Final = 4
LARGE_BYTES: Final = 4 << 30
LOOK_EVERY_S: Final = 0.02
FLAGS: Final = ("media.workers=1", f"media.photo_bytes_max={LARGE_BYTES}", "media.upload_expiry_s=86400")


def answer(run: Run) -> list[Row]:
    manifest = bench_data.ensure(run)
    data = bench_data.node_of(run)
    rounds, each = (2, 16) if run.quick else (5, 32)
    bare_folder = run.folder / "bare-uploads"
    bare_folder.mkdir(exist_ok=True)
    large = LARGE_BYTES // 4 if run.quick else LARGE_BYTES
    try:
        with (
            lone_node.running(data, flags=FLAGS) as node,
            serving("bench.bare_upload", Bare(str(bare_folder))) as bare,
        ):
            token = lone_node.tokens(data, manifest.members[:1])[0]
            ours, loop = [], []
            for _ in range(rounds):
                ours.append(
                    _rate(node, promised(node.port, token, BODY_BYTES, each), BODY_BYTES, CONNECTIONS)
                )
                loop.append(_rate(bare, ["/"] * each, BODY_BYTES, CONNECTIONS))
            before = resident_bytes(node.pid, data)
            peak = _peak_during(node, data, promised(node.port, token, large, 1), large)
    finally:
        shutil.rmtree(bare_folder)
    ratio = statistics.median(a / b for a, b in zip(ours, loop, strict=True))
    beside = f"{statistics.median(ours):.0f} MB/s; bare trio loop {statistics.median(loop):.0f} MB/s"
    gigabytes = large / 2**30
    return [
        Row(run.question, "upload of 8 MB bodies beside a bare trio receive-write-fsync loop", "×", ratio,
            at_least(0.5), beside),
        Row(run.question, f"node's memory during a body of {gigabytes:.0f} GB", "MB", peak / 1e6,
            at_most(150), f"{before / 1e6:.0f} MB before it; mapped data apart"),
    ]  # fmt: skip


def promised(port: int, token: str, size: int, count: int) -> list[str]:
    """Paths of as many upload URLs."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    paths = []
    for _ in range(count):
        body = json.dumps({"content_type": "image/jpeg", "size": size})
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        connection.request("POST", "/v1/media/upload", body, headers)
        answered = connection.getresponse()
        found = json.loads(answered.read())
        if answered.status != 201:
            raise RuntimeError(f"{answered.status}: {found}")
        paths.append(path_of(found["upload_url"]))
    connection.close()
    return paths


def _rate(server: Serving, paths: list[str], size: int, connections: int) -> float:
    """MB/s of one round."""
    uploaded = upload_load.run(Uploads(server.port, paths, size, connections))
    return len(paths) * size / 1e6 / uploaded.seconds


def _peak_during(node: Serving, data: Path, paths: list[str], size: int) -> int:
    """The most memory the node had resident while one body came."""
    over = threading.Event()
    peak = 0

    def look() -> None:
        nonlocal peak
        while not over.wait(LOOK_EVERY_S):
            peak = max(peak, resident_bytes(node.pid, data))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        _rate(node, paths, size, 1)
    finally:
        over.set()
        looking.join()
    return peak
