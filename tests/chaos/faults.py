"""What happens to the cluster: each fault comes, lasts a while, and is over; then the cluster must get well.

A fault leaves a majority of the voters alive, but for `cut_in_two` and `kill_all`, in which writes stop for a
while and nothing may be lost.
"""

import os
import subprocess
from dataclasses import dataclass

import trio

from tests.chaos.processes import wipe

WELL_S = 60.0  # for every group to have its leader and all replicas to be level again
LASTS_S = (2.0, 6.0)


@dataclass
class Felt:
    """What the people felt of a fault, from its begin until the cluster was well again."""

    name: str
    lasted_s: float
    write_s: float  # the longest that one deed took
    read_s: float
    deeds: int
    trail: tuple  # of the write that took longest: what it was told on the way


class Faults:
    def __init__(self, cluster, crowd, rng):
        self.cluster, self.crowd, self.rng = cluster, crowd, rng
        self.felt = []

    async def bring(self, name):
        """One fault, until the cluster is well again and has worked a moment."""
        book = self.crowd.book
        began = trio.current_time()
        await getattr(self, name)()
        self.cluster.wires.heal()
        await self.cluster.healthy(WELL_S)
        # A deed that began under the fault counts to it, however late it is answered.
        await trio.sleep(0.5)
        ended = trio.current_time()
        deeds = sum(span.kind == "write" and began <= span.ended <= ended for span in book.spans)
        write, read = book.worst("write", began, ended), book.worst("read", began, ended)
        self.felt.append(
            Felt(name, ended - began, write.ended - write.began, read.ended - read.began, deeds, write.trail)
        )
        return self.felt[-1]

    async def _lasts(self):
        await trio.sleep(self.rng.uniform(*LASTS_S))

    def _one(self):
        return self.rng.choice(self.cluster.up)

    async def _in_thread(self, work, *arguments):
        return await trio.to_thread.run_sync(work, *arguments)

    # --- processes -------------------------------------------------------------------------------------
    async def kill_and_restart(self):
        """kill -9, at any moment."""
        node = self._one()
        await self._in_thread(node.kill)
        await self._lasts()
        await self.cluster.start(node)

    async def kill_all(self):
        """The power fails for all at once."""
        nodes = self.cluster.up
        for node in nodes:
            await self._in_thread(node.kill)
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(self.cluster.start, node)

    async def stop_and_continue(self):
        """SIGSTOP: a node that stands still and then goes on as if no time had passed."""
        node = self._one()
        node.freeze()
        await self._lasts()
        node.resume()

    async def rolling_restart(self):
        """Each in turn, ended in order; the cluster is well between two."""
        for node in self.cluster.up:
            code = await self._in_thread(node.process.stop)
            assert code == 0, f"node {node.number} ended with {code}: {node.process.words()[-2000:]}"
            await self.cluster.start(node)
            await self.cluster.healthy(WELL_S)

    # --- wires -----------------------------------------------------------------------------------------
    async def cut_off_one(self):
        """Its links are closed and refused."""
        node = self._one()
        self.cluster.wires.cut(*self.cluster.pairs(node))
        await self._lasts()

    async def hold_one(self):
        """All packets from and to it are lost, and no connection breaks."""
        node = self._one()
        self.cluster.wires.hold(*self.cluster.pairs(node))
        await self._lasts()

    async def one_way(self):
        """It hears the others and is not heard."""
        node = self._one()
        self.cluster.wires.hold(*(pair for pair in self.cluster.pairs(node) if pair[0] == node.number))
        await self._lasts()

    async def cut_one_link(self):
        """Two nodes do not reach each other, and all others reach both."""
        one, other = self.rng.sample(self.cluster.up, 2)
        self.cluster.wires.cut((one.number, other.number))
        await self._lasts()

    async def slow_wires(self):
        """Every piece takes 80 ms more."""
        nodes = self.cluster.up
        pairs = [(a.number, b.number) for a in nodes for b in nodes if a is not b]
        self.cluster.wires.delay(0.08, *pairs)
        await self._lasts()

    async def cut_in_two(self):
        """No part has a majority of all groups: writes stop until the wire is healed."""
        nodes = list(self.cluster.up)
        self.rng.shuffle(nodes)
        half = nodes[: len(nodes) // 2]
        self.cluster.wires.cut(*self.cluster.pairs(*half))
        await self._lasts()

    # --- members and disks -----------------------------------------------------------------------------
    async def wiped_disk(self):
        """A node loses its disk: it is revoked, and comes back empty under a new identity."""
        node = self._one()
        name = await self._in_thread(lambda: node.status()["node_id"])
        await self._in_thread(node.kill)
        await self._in_thread(wipe, node)
        other = self._one()
        await self.cluster.commanded(other, "cluster", "revoke", name)
        token = (await self.cluster.commanded(other, "cluster", "invite")).strip()
        flags = self.cluster.flags
        await self._in_thread(lambda: node.start("--join", token, flags=flags))

    async def growth(self):
        """One more node, under load."""
        await self.cluster.join(self._one())

    async def full_disk(self):
        """The file system of one node is filled by somebody else, and emptied again."""
        node = next(node for node in self.cluster.up if is_small(node.data))
        filler = node.data.parent / "filler"
        await self._in_thread(_fill, filler)
        await self._lasts()
        filler.unlink()


def is_small(path):
    """Whether the directory lies on a file system of its own, made for the purpose."""
    return os.path.ismount(path.parent)


def _fill(path):
    with open(path, "wb") as file:
        block = bytes(1 << 20)
        while True:
            try:
                os.write(file.fileno(), block)
            except OSError:
                return


def mount_small(path, mib):
    """A tmpfs of so many MiB at `path`; False where this user may not mount."""
    path.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "heliograph-chaos", str(path)]
    return subprocess.run(command, capture_output=True).returncode == 0


def unmount(path):
    subprocess.run(["umount", "-l", str(path)], capture_output=True)


def told(book, felt):
    """What the people felt, as a table."""
    lines = [f"\n  {'fault':20} {'lasted':>8} {'deeds':>6} {'worst write':>12} {'worst read':>11}"]
    lines += [
        f"  {one.name:20} {one.lasted_s:7.1f}s {one.deeds:6} {one.write_s:11.2f}s {one.read_s:10.2f}s"
        for one in felt
    ]
    answers = book.answers
    lines.append(
        f"  {book.availability:.2%} of {sum(answers.values())} requests to running nodes were answered "
        f"({answers['refused']} refused, {answers['none']} without an answer), {book.stale} stale; "
        f"{len(book.posts)} posts, {len(book.comments)} comments acknowledged"
    )
    lines += [f"    {times} times: {reason}" for reason, times in book.reasons.most_common(6)]
    return "\n".join(lines)
