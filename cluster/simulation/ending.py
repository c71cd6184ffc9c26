"""The end of a history: all has healed, everything comes to rest, and what is there is looked at."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from cluster.keys import META_PARTITION, SENT, TAKEN, TakenKey
from cluster.simulation.disk import SHARDS
from cluster.simulation.history import Violation
from cluster.simulation.kernel import SECOND

if TYPE_CHECKING:
    from cluster.simulation.node import Node
    from cluster.simulation.world import World


class Ending:
    def __init__(self, world: "World") -> None:
        self._world = world

    def settle(self) -> None:
        """Raises Violation."""
        kernel = self._world.kernel
        seconds = self._world.options.settle_seconds
        end = kernel.now + seconds * SECOND
        amiss = ["nothing was looked at"]
        while amiss and kernel.now < end:
            kernel.run_until(kernel.now + SECOND // 2)
            amiss = list(self.amiss())
        if amiss:
            raise Violation("liveness", f"{seconds} s after all was healed: {'; '.join(amiss[:5])}")
        self._check_equal()
        rows = Everything(self._world.nodes[kernel.between(0, len(self._world.nodes) - 1)])
        self._check_mailboxes(rows)
        for checker, detail in self._world.traffic.wrong(rows, self._world.options.partitions):
            raise Violation(checker, detail)

    # --- at rest -------------------------------------------------------------------------------------------
    def amiss(self) -> Iterator[str]:
        """What is not at rest yet."""
        world = self._world
        busy = sum(not session.idle for session in world.sessions)
        if busy:
            yield f"{busy} clients wait"
        if world.joining:
            yield f"{world.joining} have not joined"
        for node in world.nodes:
            if not node.alive or not node.service.belonging.registered:
                yield f"{node} is not registered"
            elif not node.service.duties.at_rest:
                yield f"{node} has errands"
        if all(node.alive for node in world.nodes):
            for number in world.partitions:
                yield from self._amiss_in(number)

    def _amiss_in(self, number: int) -> Iterator[str]:
        world = self._world
        leaders = [node for node in world.nodes if node.service.leads(number)]
        if len(leaders) != 1:
            yield f"partition {number} has {len(leaders)} leaders in charge"
            return
        last = leaders[0].groups.raft(number).group.log.last
        for node in world.nodes:
            if node.shelf(number).committed[number] != last:
                at = node.shelf(number).committed[number]
                yield f"{node} has applied {at} of {last} in partition {number}"
        if leaders[0].partition(number).head.outbox_rows:
            yield f"partition {number} has messages under way"
        layout = world.layout(leaders[0].shelf(META_PARTITION).rows)
        if number not in layout.placements:
            yield f"the leader of partition {number} knows of no members"
            return
        members, now = sorted(node.id for node in world.nodes), leaders[0].configuration(number)
        if sorted(now.members) != members or set(now.voters) != set(layout.of(number).voters):
            names = [[world.name(id_) for id_ in part] for part in (now.voters, now.learners)]
            yield f"partition {number} has the members {names}"

    # --- what is there -------------------------------------------------------------------------------------
    def _check_equal(self) -> None:
        for number in self._world.partitions:
            replicas = [(node.partition(number), node.shelf(number).rows) for node in self._world.nodes]
            if len({replica.digest(rows) for replica, rows in replicas}) > 1:
                raise Violation("equal digests", f"the replicas of partition {number} differ")

    def _check_mailboxes(self, rows: "Everything") -> None:
        """All that was sent was taken, once; nothing was refused."""
        for number in self._world.partitions:
            for key, sent in SENT.scan(rows, number):
                taken = TAKEN.get(rows, TakenKey(key.destination, number))
                if taken is None or taken.sequence != sent.sequence:
                    way = f"{number} to {key.destination}"
                    raise Violation("exactly once", f"{way}: sent {sent.sequence}, taken {taken}")
            dead = self._world.nodes[0].partition(number).head.dead_rows
            if dead:
                raise Violation("exactly once", f"partition {number} has {dead} dead letters")


class Everything:
    """The rows of all shards of a node, as committed."""

    def __init__(self, node: "Node") -> None:
        self._shards = node.disk.shards

    def get(self, key: bytes) -> bytes | None:
        return self._shards[int.from_bytes(key[:2], "big") % SHARDS].get(key)

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        found = {key: self.get(key) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        return self._shards[int.from_bytes(start[:2], "big") % SHARDS].scan(start, stop, reverse=reverse)
