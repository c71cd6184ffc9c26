"""Uploads as fast as they are taken: a process of its own, one thread with a blocking socket per connection.

Bodies begin as a JPEG does and go on with noise, each unlike the others, so that nothing can be recognised;
no picture comes of them, which keeps the node's own work on pictures out of the figure.
"""

import os
import queue
import socket
import subprocess
import sys
import threading
import time
from typing import Final

import msgspec

from bench.load import request
from bench.machine import CLIENT_CORE, pin

MAGIC: Final = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
NOISE_BYTES: Final = 4 << 20
UNIQUE_BYTES: Final = 32


class Uploads(msgspec.Struct, frozen=True):
    port: int
    paths: list[str]  # one each
    size: int  # bytes of each body
    connections: int


class Uploaded(msgspec.Struct, frozen=True):
    seconds: float
    latencies_s: list[float]


def run(uploads: Uploads) -> Uploaded:
    done = subprocess.run(
        [sys.executable, "-m", "bench.upload_load"],
        input=msgspec.msgpack.encode(uploads),
        stdout=subprocess.PIPE,
        check=True,
    )
    return msgspec.msgpack.decode(done.stdout, type=Uploaded)


def _send_all(uploads: Uploads) -> Uploaded:
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for path in uploads.paths:
        waiting.put(path)
    noise = memoryview(os.urandom(NOISE_BYTES))
    latencies: list[float] = []
    failures: list[str] = []

    def work() -> None:
        with socket.create_connection(("127.0.0.1", uploads.port)) as connection:
            while not failures:
                try:
                    path = waiting.get_nowait()
                except queue.Empty:
                    return
                began = time.perf_counter()
                answer = _put(connection, path, uploads.size, noise)
                if b" 200 " not in answer[:16]:
                    failures.append(answer.decode(errors="replace")[:400])
                latencies.append(time.perf_counter() - began)

    threads = [threading.Thread(target=work) for _ in range(uploads.connections)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError(failures[0])
    return Uploaded(time.perf_counter() - began, latencies)


def _put(connection: socket.socket, path: str, size: int, noise: memoryview) -> bytes:
    head = request("PUT", path, [("content-type", "application/octet-stream")])
    head = head.replace(b"content-length: 0", b"content-length: %d" % size)
    start = MAGIC + os.urandom(UNIQUE_BYTES)
    connection.sendall(head + start)
    left = size - len(start)
    while left:
        piece = noise[: min(left, len(noise))]
        connection.sendall(piece)
        left -= len(piece)
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = connection.recv(65536)
        if not data:
            raise RuntimeError("the server closed the connection before its answer")
        answer += data
    return answer


if __name__ == "__main__":
    _uploads = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Uploads)
    pin(CLIENT_CORE)
    sys.stdout.buffer.write(msgspec.msgpack.encode(_send_all(_uploads)))
