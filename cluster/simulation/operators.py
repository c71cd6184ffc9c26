"""Operators: they found the cluster, admit nodes, revoke them, and replace what was lost or copied.

Each errand is a command to the meta group through any living member, repeated until it is decided.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from cluster.attempts import State
from cluster.commands import Declined, Outcome
from cluster.keys import META_PARTITION
from cluster.members import meta, meta_rows
from cluster.partition import Applied
from cluster.simulation.kernel import EPOCH_MS, MS, SECOND

if TYPE_CHECKING:
    from cluster.simulation.node import Node
    from cluster.simulation.world import World

AGAIN_MS: Final = (100, 500)
INVITED_MS: Final = 24 * 3600 * 1000
COPY_LIVES_MS: Final = 2_500
DONE: Final = ("invitation_used", "unknown_node", "conflict")  # said of what was done before

Decided = Callable[[Outcome], None]


class Operators:
    def __init__(self, world: "World") -> None:
        self.world = world
        self.kernel = world.kernel
        self.busy = False  # with the one thing that they do at a time

    # --- commands to the meta group ------------------------------------------------------------------------
    def decide(self, command: meta.Command, decided: Decided) -> None:
        members = [node for node in self.world.nodes if node.alive and node.service.belonging.registered]
        if not members:
            self._again(command, decided)
            return
        node = self.kernel.random.choice(members)
        over = [False]

        def told(state: State, applied: Applied | None) -> None:
            if not over[0]:
                over[0] = True
                if applied is not None:
                    decided(applied.outcome)
                else:
                    self._again(command, decided)

        node.service.execute_meta(meta.encode(command), told)
        self.kernel.after(12 * SECOND, told, State.UNSETTLED, None)  # the node may have died

    def _again(self, command: meta.Command, decided: Decided) -> None:
        self.kernel.after(self.kernel.between(*AGAIN_MS) * MS, self.decide, command, decided)

    # --- joining -------------------------------------------------------------------------------------------
    def found(self, node: "Node") -> None:
        command = meta.Found(self.world.cluster_id, b"ca", b"key", node.id, f"n{node.number}:1", "")
        self.decide(command, self._founded)

    def _founded(self, outcome: Outcome) -> None:
        if (
            isinstance(outcome, Declined) and outcome.code == "unknown_node"
        ):  # its start is not registered yet
            self.kernel.after(100 * MS, self.found, self.world.nodes[0])
            return
        factor = self.world.options.factor
        if factor != meta_rows.REPLICATION_FACTOR_DEFAULT:
            self.decide(meta.SetSetting(meta_rows.REPLICATION_FACTOR, str(factor)), lambda _: None)
        for node in self.world.joining:
            self.kernel.after(self.kernel.between(0, 1_500) * MS, self.admit, node)

    def admit(self, node: "Node") -> None:
        """An invitation, the admission, then the node starts."""
        invitation, secret = self.kernel.draw_bytes(16), self.kernel.draw_bytes(32)
        expires = EPOCH_MS + self.kernel.now // MS + INVITED_MS
        invite = meta.Invite(invitation, secret, expires)
        admit = meta.Admit(invitation, secret, node.id, f"n{node.number}:1", "")
        self.decide(invite, lambda _: self.decide(admit, partial(self._admitted, node)))

    def _admitted(self, node: "Node", outcome: Outcome) -> None:
        if isinstance(outcome, Declined) and outcome.code not in DONE:
            self.kernel.after(200 * MS, self.admit, node)
            return
        world = self.world
        if node not in world.joining:
            return
        world.joining.remove(node)
        node.first_peers = tuple(other.id for other in world.nodes)
        world.add(node)
        world.history.joins += 1
        node.start()

    # --- going, and being replaced -------------------------------------------------------------------------
    def may_lose(self) -> bool:
        """Nothing that was lost before is still missing, and what a disk has, others have: no operator takes
        a second one before."""
        world = self.world
        members = tuple(sorted(node.id for node in world.nodes))
        if self.busy or world.joining or len(members) < 4 or not all(node.alive for node in world.nodes):
            return False
        for number in world.partitions:
            leaders = [node for node in world.nodes if node.service.leads(number)]
            if len(leaders) != 1:
                return False
            layout = world.layout(leaders[0].shelf(META_PARTITION).rows)
            now = leaders[0].configuration(number)
            if tuple(sorted(now.members)) != members or layout.members != members:
                return False
            if set(now.voters) != set(layout.of(number).voters):
                return False
            last = leaders[0].groups.raft(number).group.log.last
            followers = leaders[0].groups.statistics(number).followers
            if any(last - match > 8 for _, match, _ in followers.values()):
                return False
        return True

    def replace(self, node: "Node", *, kill: bool) -> None:
        """A node goes: its disk is lost, or it is revoked as it runs. Another comes under a new identity."""
        self.busy = True
        world = self.world
        if kill:
            world.history.lost_disks += 1
            world.kill(node)
        else:
            world.history.removals += 1
        world.lose(node)
        self.kernel.note(f"{node} is {'lost' if kill else 'removed'}")
        self.decide(meta.Revoke(node.id), lambda _: self._revoked(node))

    def _revoked(self, node: "Node") -> None:
        self.kernel.after(COPY_LIVES_MS * MS, self._end, node)  # if it does not hear that it is unwanted
        new = self.world.new_node()
        self.world.joining.append(new)
        self.kernel.after(self.kernel.between(0, 2_000) * MS, self.admit, new)
        self.busy = False

    def _end(self, node: "Node") -> None:
        if node.alive:
            node.expel("revoked")

    # --- restored copies -----------------------------------------------------------------------------------
    def copy(self, node: "Node") -> None:
        """The directory of a node is copied while it runs. After its next start the copy comes up, too."""
        self.busy = True
        disk = node.disk.copied()
        disk.crash(self.kernel.random)
        self.world.kill(node)
        self.kernel.after(self.kernel.between(50, 500) * MS, self._restart, node)
        self.kernel.after(SECOND, self._restore, node, disk, 0)

    def _restart(self, node: "Node") -> None:
        if not node.alive and node in self.world.nodes:
            node.start()

    def _restore(self, node: "Node", disk: "object", tries: int) -> None:
        """As soon as everybody knows of the original's new start: before, a link may still be made."""
        world = self.world
        seen = [
            member.boot
            for other in world.nodes
            for member in [meta_rows.member(other.disk.shards[META_PARTITION % 2], node.id)]
            if member is not None
        ]
        if tries > 20 or node not in world.nodes or world.is_ending:
            self.busy = False
        elif len(seen) < len(world.nodes) or min(seen) <= disk.boots:  # type: ignore[attr-defined]
            self.kernel.after(SECOND // 2, self._restore, node, disk, tries + 1)
        else:
            twin = world.copy_of(node, disk)
            twin.start()
            self.kernel.after(COPY_LIVES_MS * MS, self._end_copy, twin)

    def _end_copy(self, twin: "Node") -> None:
        self.busy = False
        if twin.alive:
            twin.kill()
