"""A node as it is run, in a process of its own, with two routes more: what it would cost to answer nothing.

`/bench/constant` answers the same bytes every time, behind the node's own server, access tokens, limits and
metrics; its ratio to the feed is what the feed itself costs.
"""

import gc
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import trio
from quart import Response

from bench.bench_data import Member, node_id_of
from bench.processes import Serving, announce, serving, until_input_ends
from node.app import GC_THRESHOLDS, SWITCH_INTERVAL_S, open_parts
from node.http.api import make_api
from node.http.openapi import Routes
from node.http.server import Address, Server
from node.http.tokens import Keyring
from node.logs import set_up
from node.settings import load
from storage.directory import DataDirectory

# Limits count as ever, and never refuse: what is measured is the node, not its patience.
UNLIMITED: Final = tuple(
    f"limits.{name}_count=1000000000" for name in ("reads", "writes", "uploads", "sign_in", "sign_up")
)
TOKEN_KEYS: Final = "keys/tokens"  # in the data directory
TOKEN_S: Final = 86_400  # no token may run out in the middle


class Lone(msgspec.Struct, frozen=True):
    data: str
    flags: list[str]
    constant: str = ""  # body of /bench/constant


@contextmanager
def running(
    data: Path, core: int | None = None, flags: Sequence[str] = (), constant: str = ""
) -> Iterator[Serving]:
    """A node on `data`, pinned to a core or not; ready when this yields."""
    given = [*UNLIMITED, f"accounts.access_token_s={TOKEN_S}", "http.port=0", "logs.level=warning", *flags]
    with serving("bench.lone_node", Lone(str(data), given, constant), core) as found:
        yield found


def tokens(data: Path, members: Sequence[Member]) -> list[str]:
    """Access tokens as the node on `data` issues them, for sessions that its users have."""
    now = int(time.time())
    keyring = Keyring(data / TOKEN_KEYS, node_id=node_id_of(data), token_s=TOKEN_S, cache_entries=1, now=now)
    return [keyring.issue(member.user, member.session, now) for member in members]


def _constant(body: bytes) -> Routes:
    routes = Routes("bench")

    @routes.add("GET", "/bench/constant", "The same bytes every time", limit="reads")
    async def constant() -> Response:
        return Response(body, content_type="application/json")

    return routes


async def _serve(lone: Lone) -> None:
    settings = load(flags=lone.flags, environment={})
    set_up(form=settings.logs.format, level=settings.logs.level)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*GC_THRESHOLDS)
    stop = trio.Event()
    with DataDirectory.open(
        Path(lone.data), now=time.time(), shard_count=settings.storage.shards
    ) as directory:
        async with open_parts(directory, settings, stop) as parts, trio.open_nursery() as nursery:
            app = make_api(parts)
            app.register_blueprint(_constant(lone.constant.encode()).blueprint)
            server = Server(app, settings.http)

            async def run(task_status: trio.TaskStatus[Address]) -> None:
                await server.run(host="127.0.0.1", port=0, shutdown=stop, task_status=task_status)

            address = await nursery.start(run)
            announce(address.port)
            await until_input_ends()
            stop.set()


if __name__ == "__main__":
    trio.run(_serve, msgspec.json.decode(sys.argv[1], type=Lone))
