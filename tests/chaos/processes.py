"""Nodes of a cluster as processes of their own, started and joined by the commands that people type."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time

import httpx
import trio

from tests.chaos.proxy import Wires
from tests.crash.process import ROOT, NodeProcess

HELIOGRAPH = [sys.executable, "-m", "tests.crash.heliograph"]
ASK_S = 120.0  # for an answer of the admin listener: a digest of everything is among them
COMMAND_S = 60.0  # for one command: a hang becomes a failure
QUICK = (
    "accounts.access_token_s=86400",  # nobody signs in again because half an hour has passed
    "http.graceful_s=3",
    "feed.cache_bytes=8388608",
    "storage.map_bytes=8589934592",
)


class CommandFailed(Exception):
    """A command of the operator ended with another code than 0; its words are in the message."""


def heliograph(*words):
    """Run `heliograph WORDS`; what it printed. Blocking. Raises CommandFailed."""
    done = subprocess.run(
        [*HELIOGRAPH, *map(str, words)], capture_output=True, text=True, cwd=ROOT, timeout=COMMAND_S
    )
    if done.returncode:
        raise CommandFailed(f"heliograph {' '.join(map(str, words))}: {done.returncode}: {done.stderr}")
    return done.stdout


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Node:
    """One node, which may run, stand still or be gone. Its number never changes; a wiped one gets a new."""

    def __init__(self, number, data, port, wire_port):
        self.number, self.data = number, data
        self.port = port  # where it listens to peers
        self.wire_port = wire_port  # where the others dial
        self.process = None  # once it serves
        self.running = None  # from the moment it is there: a joiner speaks before it serves
        self.stopped = False  # by SIGSTOP

    @property
    def pid(self):
        return self.running.pid if self.running is not None and self.running.poll() is None else None

    @property
    def url(self):
        return self.process.url

    @property
    def up(self):
        """Whether it can be asked."""
        serves = self.process is not None and self.process.process is self.running
        return serves and self.pid is not None and not self.stopped

    def start(self, *words, flags=()):
        """Blocking. Raises NodeEnded."""
        self.stopped = False
        settings = (*QUICK, f"cluster.advertise=127.0.0.1:{self.wire_port}", *flags)
        words = ("--cluster", f"127.0.0.1:{self.port}", *words)
        self.process = NodeProcess(self.data, *settings, words=words, spawned=self._spawned)
        return self.process

    def _spawned(self, running):
        self.running = running

    def kill(self):
        if self.process is not None:
            if self.stopped:
                self.resume()
            self.process.kill()

    def freeze(self):
        self.process.process.send_signal(signal.SIGSTOP)
        self.stopped = True

    def resume(self):
        self.process.process.send_signal(signal.SIGCONT)
        self.stopped = False

    def ask(self, method, path, **request):
        """A question to its admin listener; the JSON of the answer. Blocking."""
        token = (self.data / "keys" / "admin.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        url = f"{self.process.admin_url}{path}"
        answer = httpx.request(method, url, headers=headers, trust_env=False, timeout=ASK_S, **request)
        assert answer.status_code < 300, f"{path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def command(self, *words):
        return heliograph(*words, "--data", self.data)

    def status(self):
        return self.ask("GET", "/v1/admin/cluster/status")


class Cluster:
    """Nodes with wires between them. All methods that start or ask block; call them in threads."""

    def __init__(self, folder, flags=()):
        self.folder = folder
        self.flags = flags
        self.nodes = {}
        self.wires = Wires(lambda: {number: node.pid for number, node in self.nodes.items()})
        self._listeners = []

    async def run(self, *, task_status=trio.TASK_STATUS_IGNORED):
        """Carry the bytes between the nodes until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def add(self, data=None):
        """A node with its wire, not started. `data` may be another place for its directory."""
        number = max(self.nodes, default=0) + 1
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        wire_port = listener.socket.getsockname()[1]
        node = Node(number, data or self.folder / f"node{number}", free_port(), wire_port)
        self.nodes[number] = node
        self._nursery.start_soon(self.wires.serve, listener, number, node.port)
        return node

    async def found(self):
        """The first node, with a cluster of its own."""
        node = await self.add()
        await self.start(node)
        await _in_thread(node.command, "cluster", "init")
        return node

    async def join(self, by, data=None):
        """One more node, invited by `by`."""
        token = (await self.commanded(by, "cluster", "invite")).strip()
        node = await self.add(data)
        await _in_thread(lambda: node.start("--join", token, flags=self.flags))
        return node

    async def commanded(self, node, *words, within_s=COMMAND_S):
        """What an operator is told who tries again: groups choose leaders, a node is being filled."""
        with trio.fail_after(within_s):
            while True:
                try:
                    return await _in_thread(node.command, *words)
                except CommandFailed:
                    await trio.sleep(0.5)

    async def start(self, node):
        await _in_thread(lambda: node.start(flags=self.flags))

    @property
    def up(self):
        return [node for node in self.nodes.values() if node.up]

    def pairs(self, *nodes):
        """All (from, to) between `nodes` and the rest."""
        inside = {node.number for node in nodes}
        rest = set(self.nodes) - inside
        return [pair for one in inside for other in rest for pair in ((one, other), (other, one))]

    async def healthy(self, within_s=60.0, voters=None):
        """Return when every group has its leader and all replicas are level, as each running node sees it."""
        deadline = time.monotonic() + within_s
        found = []
        while True:
            found = []
            for node in self.up:
                try:
                    found.append(await _in_thread(node.status))
                except (httpx.TransportError, AssertionError) as wrong:
                    found.append({"healthy": False, "words": [repr(wrong)]})
            if found and all(one["healthy"] for one in found):
                return found
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"the cluster is not well after {within_s} s: {json.dumps(found)[:6000]}"
                )
            await trio.sleep(0.2)

    def end(self):
        for node in self.nodes.values():
            node.kill()


async def _in_thread(work, *arguments):
    return await trio.to_thread.run_sync(work, *arguments)


def wipe(node):
    """The disk is gone, and all that was on it."""
    shutil.rmtree(node.data)
