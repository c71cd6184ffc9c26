"""The load client: a process of its own on another core, keep-alive connections, raw HTTP/1.1.

Closed loop: each connection sends its next request when the answer to the last has come, so what is found is
the highest rate. One epoll loop and no HTTP library: about 20 µs a request, so it is not what is measured
(`feed_http` states its ceiling against nginx). The open loop is in `open_load.py`.
"""

import re
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from bench.machine import CLIENT_CORE, pin
from bench.measure import percentile

BUFFER_BYTES: Final = 256 << 10
PAST_END_S: Final = 30.0  # a server that is silent for so long is said to be stuck

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Load(msgspec.Struct, frozen=True):
    """What to send: connection k begins with request k and goes round."""

    port: int
    requests: list[bytes]
    connections: int
    seconds: float
    warm_s: float = 0.5
    core: int = CLIENT_CORE


class Answered(msgspec.Struct, frozen=True):
    rate: float  # answers per second
    body_rate: float  # bytes of bodies per second
    latencies_ms: list[float]  # 50th, 90th, 99th percentile
    statuses: dict[int, int]
    body_bytes: float  # mean
    answers: int  # all of them, those before the measuring began too

    def require(self, status: int = 200) -> "Answered":
        """Raises RuntimeError where anything else was answered: then the rate says nothing."""
        if set(self.statuses) != {status}:
            raise RuntimeError(f"statuses {self.statuses}, want {status} alone")
        return self


def run(load: Load) -> Answered:
    """Have a new process on the client's core send the load."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=msgspec.msgpack.encode(load),
        stdout=subprocess.PIPE,
        check=True,
    )
    return msgspec.msgpack.decode(done.stdout, type=Answered)


def request(method: str, path: str, headers: Sequence[tuple[str, str]] = (), body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers)]
    if body or method in ("POST", "PUT"):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class _Connection:
    __slots__ = ("began", "body_left", "head", "next", "socket", "status")

    def __init__(self, port: int, first: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.next = first
        self.head = b""
        self.body_left = -1  # -1: the head has not come yet
        self.began = 0.0
        self.status = 0


class _Client:
    def __init__(self, load: Load) -> None:
        self.load = load
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self.latencies: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.bytes = 0
        self.before = 0

    def closed_loop(self) -> Answered:
        poll = select.epoll()
        connections = [_Connection(self.load.port, number) for number in range(self.load.connections)]
        by_number = {one.socket.fileno(): one for one in connections}
        for one in connections:
            poll.register(one.socket.fileno(), select.EPOLLIN)
            self._send(one)
        began = time.perf_counter() + self.load.warm_s
        end = began + self.load.seconds
        measuring = False
        while (now := time.perf_counter()) < end:
            if not measuring and now >= began:
                measuring, began = True, now
                self.before = len(self.latencies)
                self.latencies.clear()
                self.statuses.clear()
                self.bytes = 0
            ready = poll.poll(PAST_END_S)
            if not ready:
                raise RuntimeError(f"no answer in {PAST_END_S:.0f} s")
            for number, _ in ready:
                self._receive(by_number[number])
        took = time.perf_counter() - began
        answers = sum(self.statuses.values())
        return Answered(
            answers / took,
            self.bytes / took,
            [percentile(self.latencies, percent) * 1000 for percent in (50, 90, 99)],
            dict(self.statuses),
            self.bytes / max(1, answers),
            self.before + answers,
        )

    def _send(self, one: _Connection) -> None:
        requests = self.load.requests
        data = requests[one.next % len(requests)]
        one.next += self.load.connections
        one.began = time.perf_counter()
        one.socket.sendall(data)

    def _receive(self, one: _Connection) -> None:
        size = one.socket.recv_into(self.buffer)
        if not size:
            raise RuntimeError("the server closed a connection that was kept alive")
        if one.body_left < 0:
            one.head += self.buffer[:size].tobytes()
            end = one.head.find(b"\r\n\r\n")
            if end < 0:
                return
            found = _LENGTH.search(one.head, 0, end + 2)
            length = int(found[1]) if found else 0
            one.status = int(one.head[9:12])
            self.bytes += length
            one.body_left = length - (len(one.head) - end - 4)
        else:
            one.body_left -= size
        if one.body_left <= 0:
            self.latencies.append(time.perf_counter() - one.began)
            self.statuses[one.status] += 1
            one.head, one.body_left = b"", -1
            self._send(one)


if __name__ == "__main__":
    _load = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Load)
    pin(_load.core)
    sys.stdout.buffer.write(msgspec.msgpack.encode(_Client(_load).closed_loop()))
