"""Serving a variant of about 200 KB and an original of 8 MB, beside nginx with sendfile, each on one core.

The node asks on every request whether the blob is public (or whether its viewer's signature is good).
"""

import http.client
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

from bench import baselines, bench_data, lone_node
from bench.figures import Row, at_most, left_out
from bench.load import Load, request
from bench.load import run as send
from bench.machine import SERVER_CORE
from bench.open_load import WITHIN, multipart, path_of
from bench.pictures import photograph_of
from bench.questions import Run

PHOTO_BYTES: Final = 8 << 20
VARIANT_BYTES: Final = 200_000
CONNECTIONS: Final = 16
READY_S: Final = 30.0
VISIBLE_S: Final = 5.0
OK: Final = 200
NOT_FOUND: Final = 404
GOALS: Final = {"variant": at_most(5), "8 MB": at_most(2)}


def answer(run: Run) -> list[Row]:
    manifest = bench_data.ensure(run)
    data = bench_data.node_of(run)
    files = run.folder / "served"
    files.mkdir(exist_ok=True)
    with lone_node.running(data) as node:
        token = lone_node.tokens(data, manifest.members[-1:])[0]
        paths = _published(node.port, token)
        bodies = {name: _get(node.port, path) for name, path in paths.items()}
    for name, body in bodies.items():
        (files / name.replace(" ", "-")).write_bytes(body)
    try:
        with (
            baselines.nginx(run.folder / "served-nginx", files, SERVER_CORE) as nginx,
            lone_node.running(data, SERVER_CORE) as node,
        ):
            return [
                _compared(run, name, len(bodies[name]), (node.port, path), nginx.port)
                for name, path in paths.items()
            ]
    except baselines.Missing as missing:
        what = "serving a 200 KB variant and 8 MB beside nginx"
        return [left_out(run.question, what, str(missing), "×", GOALS["variant"])]


def _compared(run: Run, name: str, size: int, ours: tuple[int, str], nginx_port: int) -> Row:
    rounds, seconds = (2, 1.5) if run.quick else (5, 2.5)
    places = (ours, (nginx_port, "/" + name.replace(" ", "-")))
    rates: list[list[float]] = [[], []]
    for _ in range(rounds):
        for found, (port, path) in zip(rates, places, strict=True):
            load = Load(port, [request("GET", path)], CONNECTIONS, seconds)
            found.append(send(load).require().rate)
    times = statistics.median(theirs / mine for mine, theirs in zip(*rates, strict=True))
    mine, theirs = (statistics.median(found) for found in rates)
    shown = f"a variant of {size / 1000:.0f} KB" if name == "variant" else "8 MB"
    megabytes = size / 1e6
    beside = (
        f"{mine * megabytes:,.0f} MB/s, {mine:,.0f}/s; nginx {theirs * megabytes:,.0f} MB/s, {theirs:,.0f}/s"
    )
    return Row(
        run.question, f"serving {shown}, one core: nginx's rate over ours", "×", times, GOALS[name], beside
    )


def _published(port: int, token: str) -> dict[str, str]:
    """Post a photo of 8 MB; the paths of the variant nearest 200 KB, and of the original."""
    photo = photograph_of(PHOTO_BYTES)
    kind = f"multipart/form-data; boundary={WITHIN}"
    post = _ask(port, "POST", "/v1/photos", token, multipart(photo, "served"), kind)["post"]
    post = _until(lambda: _ask(port, "GET", f"/v1/posts/{post['id']}", token), "complete")
    urls = post["media"][0]["urls"]
    variants = [path_of(url) for sizes in urls.values() if isinstance(sizes, dict) for url in sizes.values()]
    nearest = min(variants, key=lambda path: abs(len(_get(port, path)) - VARIANT_BYTES))
    return {"variant": nearest, "8 MB": path_of(urls["original"])}


def _until(look: Callable[[], dict[str, Any]], status: str) -> dict[str, Any]:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        post = look()
        if post["upload_status"] == status:
            return post
        time.sleep(0.1)
    raise RuntimeError(f"the post is {post['upload_status']} after {READY_S} s: {post['failure']}")


def _ask(
    port: int, method: str, path: str, token: str, body: bytes | None = None, kind: str = ""
) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_S)
    headers = {"authorization": f"Bearer {token}"} | ({"content-type": kind} if kind else {})
    connection.request(method, path, body, headers)
    answered = connection.getresponse()
    found: dict[str, Any] = json.loads(answered.read())
    connection.close()
    if answered.status // 100 != 2:
        raise RuntimeError(f"{method} {path}: {answered.status} {found}")
    return found


def _get(port: int, path: str) -> bytes:
    """The bytes of a medium; it may take a moment after publication until its partition lets all see it."""
    deadline = time.monotonic() + VISIBLE_S
    while (found := _got(port, path))[0] == NOT_FOUND and time.monotonic() < deadline:
        time.sleep(0.01)
    status, body = found
    if status != OK:
        raise RuntimeError(f"GET {path}: {status} {body[:200]!r}")
    return body


def _got(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_S)
    connection.request("GET", path)
    answered = connection.getresponse()
    body = answered.read()
    connection.close()
    return answered.status, body
