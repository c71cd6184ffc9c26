"""A node as it is run, in a process of its own, that takes orders: to join others, to post, to be looked at.

Commands that it is told to give go to the partitions that it leads itself, as they do when people are spread
over the nodes; probes go through its router, to partitions that others lead.
"""

import gc
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from bench.bench_data import Manifest, Member, blobs_of, text_of
from bench.lone_node import UNLIMITED
from bench.ordered import obey, say, watch_the_loop
from cluster.commands import FEATURE_LEVEL, Accepted, Execute
from cluster.forwarding import Unavailable
from cluster.raft.effects import Lost, NotLeader
from cluster.replicas import Overloaded, now_ms
from node import joining
from node.app import GC_THRESHOLDS, SWITCH_INTERVAL_S, open_parts
from node.http.api import make_api
from node.http.server import Address, Server
from node.logs import set_up
from node.parts import Parts
from node.settings import Settings, load
from node.social.blobs import PROVISIONAL, Reserve, Reserved
from node.social.machine import encode
from node.social.posts import CreatePost
from storage.directory import DataDirectory
from storage.ids import partition_of

AGAIN_S: Final = 0.01  # after a command that found no leader
PROBE_EVERY_S: Final = 0.1  # of each partition
PROBE_S_MAX: Final = 30.0  # a pause longer than that ends the question
PAGE_POSTS: Final = 20
INVITED_HOURS: Final = 1.0
PIECE_BYTES: Final = 1 << 20
PLACED_AT_ONCE: Final = 8


class Node(msgspec.Struct, frozen=True):
    """What the process is told about itself."""

    data: str
    manifest: str  # who is there
    token: str = ""  # of an invitation
    flags: tuple[str, ...] = ()


class Running:
    """The node while it runs; each public coroutine is an order."""

    def __init__(self, parts: Parts, manifest: Manifest) -> None:
        self._parts = parts
        self._manifest = manifest
        self._turn = 0

    # --- the cluster -----------------------------------------------------------------------------------
    async def found(self) -> None:
        await self._parts.cluster.found()

    async def invite(self) -> str:
        return (await self._parts.cluster.invite(INVITED_HOURS))[0]

    async def revoke(self, node: str) -> None:
        await self._parts.cluster.revoke(bytes.fromhex(node))

    async def standing(self) -> dict[str, Any]:
        """How the whole stands, as this node sees it, and what it holds."""
        parts = self._parts
        picture = await parts.operations.picture()
        return {
            "node": parts.directory.node_id.hex(),
            "healthy": picture.healthy and parts.service.ready,
            "words": picture.words,
            "changing": picture.changing,
            "behind": picture.replicas_behind,
            "blobs": parts.blobs.statistics().blobs,
        }

    async def led(self) -> list[int]:
        replicas = self._parts.replicas
        return [partition for partition in replicas.partitions if replicas.leads(partition)]

    async def heads(self) -> dict[int, int]:
        """How far the partitions led here are."""
        return {partition: self._parts.replicas.applied_index(partition) for partition in await self.led()}

    async def reach(self, heads: dict[str, int]) -> None:
        """Return when all of it can be read here."""
        for partition, index in heads.items():
            await self._parts.replicas.reached(int(partition), index)

    async def filled(self) -> dict[str, int]:
        """How much has come so far."""
        filling, blobs = self._parts.filling.statistics(), self._parts.blobs.statistics()
        return {
            "ready": int(self._parts.service.ready),
            "states": filling.taken if filling else 0,
            "state_bytes": filling.taken_bytes if filling else 0,
            "blobs": blobs.blobs,
            "blob_bytes": blobs.bytes,
        }

    # --- people ----------------------------------------------------------------------------------------
    async def warm(self) -> int:
        """Have all readers' feeds cached; how many are."""
        parts = self._parts
        for member in self._manifest.members:
            for _ in range(2):  # a reader who comes again is kept
                with parts.service.read() as rows:
                    parts.feeds.page(rows, member.user, None, PAGE_POSTS, now_ms())
            await trio.sleep(0)
        return parts.feeds.statistics().cache.entries

    async def post(self, under_way: int, posts: int) -> dict[str, Any]:
        """Posts by those whose partitions are led here, until their messages are taken too."""
        replicas = self._parts.replicas
        authors = [one for one in self._manifest.members if replicas.leads(partition_of(one.user))]
        latencies: list[float] = []
        lags: list[float] = []
        failed = 0
        pushes = self._pushes()
        left = iter(range(posts if authors else 0))

        async def work() -> None:
            nonlocal failed
            for _ in left:
                began = time.perf_counter()
                try:
                    await self._post(authors[self._turn % len(authors)])
                except (NotLeader, Lost, Overloaded):
                    failed += 1
                    await trio.sleep(AGAIN_S)
                else:
                    latencies.append(time.perf_counter() - began)

        async with trio.open_nursery() as watching:
            watching.start_soon(watch_the_loop, lags)
            async with trio.open_nursery() as nursery:
                for _ in range(under_way):
                    nursery.start_soon(work)
            await replicas.at_rest()
            watching.cancel_scope.cancel()
        return {
            "latencies": latencies,
            "lags": lags,
            "failed": failed,
            "pushes": self._pushes() - pushes,
        }

    async def _post(self, author: Member) -> None:
        self._turn += 1
        command = CreatePost(author.user, "settled and durable", "Bilbao", (), (author.media,))
        execute = Execute(now_ms(), FEATURE_LEVEL, os.urandom(16), 0, os.urandom(16), b"", encode(command))
        applied = await self._parts.replicas.propose(partition_of(author.user), execute)
        if not isinstance(applied.outcome, Accepted):
            raise RuntimeError(f"{command}: {applied.outcome}")

    def _pushes(self) -> int:
        return self._parts.feeds.statistics().cache.pushes

    async def probe(self, partitions: list[int], seconds: float) -> dict[str, Any]:
        """A short write to each of these partitions again and again; the longest that one took of each."""
        pauses = dict.fromkeys(partitions, 0.0)
        counts = {"writes": 0, "refused": 0}
        ends = trio.current_time() + seconds

        async def work(partition: int, blob: bytes, delay: float) -> None:
            await trio.sleep(delay)
            while trio.current_time() < ends:
                began = time.perf_counter()
                with trio.fail_after(PROBE_S_MAX):
                    while not await self._wrote(partition, blob):
                        counts["refused"] += 1
                        await trio.sleep(AGAIN_S)
                pauses[partition] = max(pauses[partition], time.perf_counter() - began)
                counts["writes"] += 1
                await trio.sleep(PROBE_EVERY_S)

        blobs = names_in(partitions)
        async with trio.open_nursery() as nursery:
            for number, partition in enumerate(partitions):
                delay = PROBE_EVERY_S * number / len(partitions)
                nursery.start_soon(work, partition, blobs[partition], delay)
        return {"pauses": list(pauses.values()), **counts}

    async def _wrote(self, partition: int, blob: bytes) -> bool:
        try:
            await self._parts.service.do(partition, Reserve(blob, now_ms()), Reserved)
        except (Unavailable, Overloaded):
            return False
        return True

    # --- blobs -----------------------------------------------------------------------------------------
    async def give_blobs(self) -> None:
        """The blobs of the media that the people have: each is the few bytes that its hash was taken of."""
        limiter = trio.CapacityLimiter(PLACED_AT_ONCE)

        def place(member: Member) -> None:
            blobs = self._parts.blobs
            for number, digest in enumerate(blobs_of(member.username)):
                staged = blobs.stage(PIECE_BYTES)
                staged.write(text_of(member.username, number))
                blobs.place(staged, digest, 1)

        async with trio.open_nursery() as nursery:
            for member in self._manifest.members:
                nursery.start_soon(partial(trio.to_thread.run_sync, place, member, limiter=limiter))

    async def upload(self, count: int, size: int) -> None:
        """So many blobs of no content, as uploads place them."""
        intake = self._parts.intake
        for number in range(count):
            received = await intake.receive(_noise(size), size)
            media = PROVISIONAL | number
            await intake.place(received.staged, received.hash, received.size, "image/jpeg", 0, media)


async def _noise(size: int) -> AsyncIterator[bytes]:
    for at in range(0, size, PIECE_BYTES):
        yield os.urandom(min(PIECE_BYTES, size - at))


def names_in(partitions: list[int]) -> dict[int, bytes]:
    """A hash that belongs to each of these partitions."""
    return {partition: partition.to_bytes(2, "big") + bytes(30) for partition in partitions}


@contextmanager
def _directory(told: Node, begun: DataDirectory | None, settings: Settings) -> Iterator[DataDirectory]:
    found = begun or DataDirectory.open(Path(told.data), now=time.time(), shard_count=settings.storage.shards)
    with found as directory:
        yield directory


async def _run(told: Node) -> None:
    settings = load(
        flags=[*UNLIMITED, "http.port=0", "cluster.port=0", "media.workers=1", *told.flags], environment={}
    )
    set_up(form=settings.logs.format, level="error")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*GC_THRESHOLDS)
    manifest = msgspec.msgpack.decode(Path(told.manifest).read_bytes(), type=Manifest)
    begun = await joining.begin(Path(told.data), told.token, settings, time.time()) if told.token else None
    stop = trio.Event()
    with _directory(told, begun, settings) as directory:
        async with open_parts(directory, settings, stop) as parts, trio.open_nursery() as nursery:
            server = Server(make_api(parts), settings.http)

            async def run(task_status: trio.TaskStatus[Address]) -> None:
                await server.run(host="127.0.0.1", port=0, shutdown=stop, task_status=task_status)

            address = await nursery.start(run)
            say({"port": address.port, "node": directory.node_id.hex()})
            await obey(Running(parts, manifest))
            stop.set()


if __name__ == "__main__":
    trio.run(_run, msgspec.json.decode(sys.argv[1], type=Node))
