"""The mixed load: readers, likers and photographers, in a process of its own on the client's core.

Open loop: each request has an intended start (Poisson arrivals, seeded) and its latency counts from there,
whether or not the server was ready for it, so a slow second is felt by all who came in it ("coordinated
omission" is what one gets otherwise). Closed loop, with `rate` 0: so many workers as fast as they are served,
which finds the highest rate. For every photo somebody who follows its author looks into their feed every
100 ms until it is there.
"""

import random
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from typing import Any, Final

import msgspec
import trio

from bench.load import request
from bench.machine import CLIENT_CORE, pin
from bench.measure import percentile
from bench.pictures import unlike

CYCLE: Final = (
    ("feed",) * 90 + ("variant",) * 10 + ("like",) * 5 + ("photo",)
)  # 100 reads : 5 likes : 1 photo
FEED_LIMIT: Final = 20
LOOK_EVERY_S: Final = 0.1
LOOK_FOR_S: Final = 30.0
ANSWER_S: Final = 60.0
RECEIVE_BYTES: Final = 256 << 10
SEED: Final = 7
WITHIN: Final = "bench-boundary-7MA4YWxk"


class Author(msgspec.Struct, frozen=True):
    token: str
    follower_token: str


class Mix(msgspec.Struct, frozen=True):
    port: int
    readers: list[str]  # access tokens
    posts: list[str]  # ids, to be liked
    authors: list[Author]
    variants: list[str]  # paths; those of photos published meanwhile join them
    photo: bytes
    seconds: float
    rate: float  # requests per second; 0: closed loop
    workers: int = 32


class Timing(msgspec.Struct, frozen=True):
    count: int
    p50_ms: float
    p99_ms: float
    worst_ms: float


class Mixed(msgspec.Struct, frozen=True):
    rate: float  # answers per second
    timings: dict[str, Timing]  # by kind, and "visible": published → in a follower's feed
    failed: dict[str, int]  # kind and status or error → count
    late_start_p99_ms: float  # how late this client itself was: near 0, or its figures are its own
    variants: list[str]


def run(mix: Mix) -> Mixed:
    done = subprocess.run(
        [sys.executable, "-m", "bench.open_load"],
        input=msgspec.msgpack.encode(mix),
        stdout=subprocess.PIPE,
        check=True,
    )
    return msgspec.msgpack.decode(done.stdout, type=Mixed)


class _Client:
    def __init__(self, mix: Mix) -> None:
        self._mix = mix
        self._random = random.Random(SEED)
        self._idle: list[trio.SocketStream] = []
        self._seconds: dict[str, list[float]] = {}
        self._failed: Counter[str] = Counter()
        self._late: list[float] = []
        self._photos = 0
        self._lookers: trio.Nursery  # those who wait for a photo; they may outlast the load
        self.variants = list(mix.variants)

    async def open_loop(self) -> Mixed:
        began = trio.current_time()
        due, number = began, 0
        async with trio.open_nursery() as self._lookers, trio.open_nursery() as nursery:
            while True:
                due += self._random.expovariate(self._mix.rate)
                if due - began > self._mix.seconds:
                    break
                await trio.sleep_until(due)
                self._late.append(trio.current_time() - due)
                nursery.start_soon(self._one, CYCLE[number * 37 % len(CYCLE)], due)
                number += 1
        return self._result(self._mix.seconds)

    async def closed_loop(self) -> Mixed:
        began = trio.current_time()
        turns = iter(range(1 << 60))

        async def work() -> None:
            while trio.current_time() - began < self._mix.seconds:
                await self._one(CYCLE[next(turns) * 37 % len(CYCLE)], trio.current_time())

        async with trio.open_nursery() as self._lookers:
            async with trio.open_nursery() as nursery:
                for _ in range(self._mix.workers):
                    nursery.start_soon(work)
            took = trio.current_time() - began
        return self._result(took)

    def _result(self, took: float) -> Mixed:
        timings = {
            kind: Timing(len(all_), *(percentile(all_, p) * 1000 for p in (50, 99, 100)))
            for kind, all_ in self._seconds.items()
        }
        answers = sum(timing.count for kind, timing in timings.items() if kind != "visible")
        late = percentile(self._late, 99) * 1000
        return Mixed(answers / took, timings, dict(self._failed), late, self.variants[-200:])

    # --- one request -----------------------------------------------------------------------------------
    async def _one(self, kind: str, due: float) -> None:
        if kind == "variant" and not self.variants:
            kind = "feed"
        work = {"feed": self._feed, "variant": self._variant, "like": self._like, "photo": self._photo}[kind]
        try:
            with trio.fail_after(ANSWER_S):
                status = await work()
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            self._failed[f"{kind}: {type(error).__name__}"] += 1
            return
        if status // 100 != 2:
            self._failed[f"{kind}: {status}"] += 1
            return
        self._seconds.setdefault(kind, []).append(trio.current_time() - due)

    async def _feed(self) -> int:
        status, _ = await self._ask(
            "GET", f"/v1/feed?limit={FEED_LIMIT}", self._random.choice(self._mix.readers)
        )
        return status

    async def _variant(self) -> int:
        status, _ = await self._ask("GET", self._random.choice(self.variants), "")
        return status

    async def _like(self) -> int:
        post, token = self._random.choice(self._mix.posts), self._random.choice(self._mix.readers)
        status, _ = await self._ask("POST", f"/v1/posts/{post}/like", token)
        return status

    async def _photo(self) -> int:
        """Post a photo while a follower looks for it; the answer's time is taken before the looking ends."""
        self._photos += 1
        author = self._mix.authors[self._photos % len(self._mix.authors)]
        caption = f"bench photo {time.time_ns()} {self._photos}"
        body = multipart(unlike(self._mix.photo), caption)
        self._lookers.start_soon(self._look, author, caption.encode())
        kind = f"multipart/form-data; boundary={WITHIN}"
        status, _ = await self._ask("POST", "/v1/photos", author.token, body, kind)
        return status

    async def _look(self, author: Author, caption: bytes) -> None:
        """Look into a follower's feed until the post is there."""
        until = trio.current_time() + LOOK_FOR_S
        while trio.current_time() < until:
            await trio.sleep(LOOK_EVERY_S)
            try:
                status, page = await self._ask("GET", "/v1/feed?limit=50", author.follower_token)
            except (OSError, trio.BrokenResourceError) as error:
                self._failed[f"visible: {type(error).__name__}"] += 1
                return
            if status == 200 and caption in page:
                seen = time.time()
                posts = msgspec.json.decode(page)["posts"]
                post = next(post for post in posts if post["caption"].encode() == caption)
                lag = seen - datetime.fromisoformat(post["published_at"]).timestamp()
                self._seconds.setdefault("visible", []).append(max(0.0, lag))
                self._remember(post)
                return
        self._failed[f"visible: not within {LOOK_FOR_S:.0f} s"] += 1

    def _remember(self, post: dict[str, Any]) -> None:
        """Its variants can be asked for from now on."""
        for urls in post["media"][0]["urls"].values():
            if isinstance(urls, dict):
                self.variants += [path_of(url) for url in urls.values()]

    async def _ask(
        self, method: str, path: str, token: str, body: bytes = b"", content_type: str = "application/json"
    ) -> tuple[int, bytes]:
        headers = [("authorization", f"Bearer {token}")] if token else []
        if body:
            headers.append(("content-type", content_type))
        stream = self._idle.pop() if self._idle else await trio.open_tcp_stream("127.0.0.1", self._mix.port)
        try:
            await stream.send_all(request(method, path, headers, body))
            head, rest = await _head(stream)
            pieces = [rest]
            missing = _length(head) - len(rest)
            while missing > 0:
                data = await stream.receive_some(RECEIVE_BYTES)
                if not data:
                    raise ConnectionError("closed within an answer")
                pieces.append(data)
                missing -= len(data)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        if b"\r\nconnection: close" in head:
            await trio.aclose_forcefully(stream)
        else:
            self._idle.append(stream)
        return int(head[9:12]), b"".join(pieces)


def multipart(photo: bytes, caption: str) -> bytes:
    """The form of POST /v1/photos."""
    head = (
        f'--{WITHIN}\r\ncontent-disposition: form-data; name="caption"\r\n\r\n{caption}\r\n'
        f'--{WITHIN}\r\ncontent-disposition: form-data; name="photo"; filename="bench.jpg"\r\n'
        "content-type: image/jpeg\r\n\r\n"
    )
    return b"".join((head.encode(), photo, f"\r\n--{WITHIN}--\r\n".encode()))


def path_of(url: str) -> str:
    """The path of a URL that may be absolute."""
    return url if url.startswith("/") else "/" + url.split("/", 3)[3]


async def _head(stream: trio.SocketStream) -> tuple[bytes, bytes]:
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        more = await stream.receive_some(RECEIVE_BYTES)
        if not more:
            raise ConnectionError("closed before an answer")
        data += more
    return data[: end + 2].lower(), data[end + 4 :]


def _length(head: bytes) -> int:
    at = head.find(b"\r\ncontent-length:")
    return 0 if at < 0 else int(head[at + 17 : head.index(b"\r\n", at + 2)])


if __name__ == "__main__":
    _mix = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Mix)
    pin(CLIENT_CORE)
    _client = _Client(_mix)
    _result = trio.run(_client.open_loop if _mix.rate else _client.closed_loop)
    sys.stdout.buffer.write(msgspec.msgpack.encode(_result))
