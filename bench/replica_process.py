"""One node of a benchmarked cluster in a process of its own: replicas, links and router, without a network of
people on top. Its partitions keep bare rows.

Orders come as JSON, a line each, and each is answered by a line. It ends with its input.
"""

import gc
import os
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
import trio

from bench.ordered import obey, say, watch_the_loop
from cluster.commands import FEATURE_LEVEL, Execute
from cluster.groups import TICK_MS
from cluster.partition import Apply, StateMachine
from cluster.peers.certificates import Credentials
from cluster.peers.links import Links, introduction
from cluster.raft.effects import AddLearner, ChangeRefused, Lost, NotLeader, Promote
from cluster.replicas import Overloaded, Replicas, now_ms
from cluster.router import Router
from node.app import GC_THRESHOLDS, SWITCH_INTERVAL_S
from storage.journal import Journal
from storage.keys import U16, U64, Key
from storage.records import Codec
from storage.rows import Table
from storage.shard import Shard

SHARDS: Final = 2
ROWS: Final = 3
ROW_BYTES: Final = 48
SLOTS: Final = 100  # of each partition: rows are written again and again
BODY_BYTES: Final = 130  # 200 with what every command carries


class Node(msgspec.Struct, frozen=True):
    """What the process is told about itself."""

    folder: str
    number: int
    partitions: int
    cluster: bytes
    authority: bytes  # PEM

    @property
    def me(self) -> bytes:
        return identity(self.number)


def identity(number: int) -> bytes:
    return bytes([number + 1]) * 16


class BareKey(Key, kind=0x7E):
    partition: U16
    slot: U64
    row: U64


BARE: Final = Table(BareKey, Codec(bytes))


class Bare:
    """A state machine whose commands write `ROWS` rows."""

    def execute(self, apply: Apply, body: bytes) -> bytes:
        slot = int.from_bytes(body[:4], "big") % SLOTS
        for row in range(ROWS):
            BARE.put(apply, BareKey(apply.partition, slot, row), body[row : row + ROW_BYTES])
        return b""

    def receive(self, apply: Apply, source: int, body: bytes) -> None:
        raise AssertionError("nobody sends messages here")

    def proceed(self, apply: Apply, work: bytes) -> bytes | None:
        raise AssertionError("nobody leaves work here")


class Running:
    """The node while it runs; each public coroutine is an order."""

    def __init__(self, told: Node, replicas: Replicas, links: Links) -> None:
        self._told = told
        self._replicas = replicas
        self._links = links

    async def members(self, addresses: dict[str, str]) -> None:
        members = {bytes.fromhex(node): address for node, address in addresses.items()}
        self._replicas.set_peers(members)
        self._links.connect_to(members)

    async def grow(self, nodes: int) -> None:
        """Make all nodes voters, and spread the leaders."""
        async with trio.open_nursery() as nursery:
            for partition in self._replicas.partitions:
                nursery.start_soon(self._grow, partition, nodes)

    async def _grow(self, partition: int, nodes: int) -> None:
        for number in range(1, nodes):
            for change in (AddLearner(identity(number)), Promote(identity(number))):
                while True:
                    try:
                        await self._replicas.change(partition, change)
                        break
                    except (ChangeRefused, Overloaded):
                        await trio.sleep(TICK_MS / 1000)
        target = identity(partition % nodes)
        while target != self._told.me and self._replicas.leads(partition):
            with suppress(ChangeRefused, NotLeader):
                await self._replicas.transfer(partition, target)
            await trio.sleep(TICK_MS / 1000)

    async def led(self) -> list[int]:
        return [partition for partition in self._replicas.partitions if self._replicas.leads(partition)]

    async def load(self, under_way: int, seconds: float) -> dict[str, Any]:
        """Commands to the partitions led here; latencies in seconds, and how late the event loop came."""
        led = await self.led()
        latencies: list[float] = []
        lags: list[float] = []
        failed = 0
        cpu = time.process_time()
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch_the_loop, lags)

                async def one(number: int) -> None:
                    nonlocal failed
                    while True:
                        number += under_way
                        began = time.perf_counter()
                        try:
                            await self._replicas.propose(led[number % len(led)], _command(number))
                        except (NotLeader, Lost, Overloaded):
                            failed += 1
                            await trio.sleep(0.01)
                            continue
                        latencies.append(time.perf_counter() - began)

                for number in range(under_way):
                    nursery.start_soon(one, number)
        return {
            "latencies": latencies,
            "lags": lags,
            "failed": failed,
            "cpu": time.process_time() - cpu,
            "batches": self._replicas.statistics().journal_batches,
        }


def _command(number: int) -> Execute:
    body = (number * 2_654_435_761 % (1 << 32)).to_bytes(4, "big") + os.urandom(BODY_BYTES - 4)
    return Execute(now_ms(), FEATURE_LEVEL, os.urandom(16), 0, os.urandom(16), b"", body)


async def _run(told: Node) -> None:
    folder = Path(told.folder)
    machines: dict[int, StateMachine] = dict.fromkeys(range(told.partitions), Bare())
    shards = [Shard(folder / f"shard-{number}") for number in range(SHARDS)]
    with closing(Journal.open(folder / "journal")) as journal:
        replicas = Replicas(journal, shards, machines, me=told.me, founder=told.number == 0)
        replicas.recover()
        credentials = Credentials(
            told.cluster, told.me, told.authority, folder / "node.pem", folder / "node.key"
        )
        links = Links(
            introduction(told.cluster, told.me, 1, told.me[:8], FEATURE_LEVEL), credentials, lambda _: None
        )
        links.on_raft = replicas.frame
        links.on_connected = replicas.connected
        replicas.send_frame = links.send_raft
        router = Router(replicas, lambda: False)
        router.join(links)
        replicas.carry = router.deliver
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            await nursery.start(replicas.run)
            await nursery.start(links.run, listeners)
            say({"address": f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"})
            await obey(Running(told, replicas, links))
            nursery.cancel_scope.cancel()
    for shard in shards:
        shard.close()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*GC_THRESHOLDS)
    trio.run(_run, msgspec.json.decode(sys.argv[1], type=Node))
