"""How a simulated node belongs to its cluster: whom it listens to, its registration, its groups' members.

What `node.cluster` and `node.conduct` do with tasks and links. Members are those of the meta group's rows as
they lie here; a leader brings each of its groups to the layout, one step at a time
(`cluster.members.reconcile`).
"""

from functools import partial
from typing import TYPE_CHECKING, Final

from cluster.attempts import State
from cluster.commands import FEATURE_LEVEL, Declined
from cluster.keys import META_PARTITION
from cluster.members import meta, meta_rows
from cluster.members.layout import Layout
from cluster.members.membership import ClockTurned, Event, Membership
from cluster.members.membership import State as Heard
from cluster.members.reconcile import Step, Transfer, next_step
from cluster.partition import Applied
from cluster.peers.messages import decode_frame
from cluster.raft.effects import ChangeRefused, NotLeader, Overfull
from cluster.simulation.kernel import MS

if TYPE_CHECKING:
    from cluster.simulation.node import Node

REGISTER_AGAIN_MS: Final = 500
LOOK_MS: Final = 1_000  # at groups that need nothing
STEP_MS: Final = 120  # while there is something to do
TRANSFER_AGAIN_MS: Final = 3_000
WATCH_MS: Final = 250


class Belonging:
    """Of one life of a node."""

    def __init__(self, node: "Node", first_peers: tuple[bytes, ...]) -> None:
        self.registered = False
        self._node = node
        self._first_peers = first_peers  # whom a joiner was told at its admission
        self._rows = node.shelf(META_PARTITION).rows
        self._looked_at = -1  # index of the meta group's state that was looked at
        self._admitted: dict[bytes, tuple[int, bytes, bool]] = {}  # node: boot, start, whether it is let in
        self._met: dict[bytes, int] = {}  # let in though the rows do not know them yet: node, boot
        self._membership = Membership(node.id)
        self._handed: dict[int, int] = {}  # partition: when its lead was given away, ms
        self._wakes = 0

    def start(self) -> None:
        node = self._node
        self.look()
        node.after(node.kernel.between(1, 50) * MS, self._register)
        node.after(node.kernel.between(0, WATCH_MS) * MS, self._watch)
        self._next_round(LOOK_MS)

    # --- whom it listens to --------------------------------------------------------------------------------
    def look(self) -> None:
        """After a commit of the meta group: who are the members now?"""
        node = self._node
        index = node.shelf(META_PARTITION).committed[META_PARTITION]
        if index == self._looked_at:
            return
        self._looked_at = index
        self._admitted.clear()
        self._set_peers()
        is_known = meta_rows.cluster(self._rows) is not None
        if is_known and node.id in meta_rows.revoked(self._rows):
            node.expel("revoked")

    def _set_peers(self) -> None:
        members, gone = meta_rows.members(self._rows), meta_rows.revoked(self._rows)
        peers = {peer for peer, member in members.items() if member.address}
        if meta_rows.cluster(self._rows) is None:
            peers = set(self._first_peers)
        peers |= {peer for peer in self._met if peer not in gone and peer not in members}
        self._node.groups.peers(sorted(peers))

    def admits(self, sender: "Node") -> bool:
        """What a link's hello decides. Whom the rows do not know was admitted, and they have not heard of it
        yet: it may lead the meta group by now, and who else would tell?"""
        known = self._admitted.get(sender.id)
        if known is None or known[:2] != (sender.boot, sender.start_id):
            cluster = self._node.world.cluster_id
            refused = meta_rows.refuses(self._rows, sender.id, sender.boot, sender.start_id, cluster)
            if refused is not None and refused.code == "unknown_node":
                refused = None
                self._met[sender.id] = sender.boot
                self._set_peers()
            known = (sender.boot, sender.start_id, refused is None)
            self._admitted[sender.id] = known
            if refused is not None:
                self._node.world.refused(self._node, sender, refused)
        return known[2]

    def heard(self, sender: bytes, frame: bytes) -> None:
        membership, now = self._membership, self._now()
        if membership.wants_clock(sender, now):
            sent = decode_frame(frame).sent_ms
            self._turned(membership.observe(sender, sent, self._node.clock_ms(), now))
        else:
            self._turned(membership.heard(sender, now))

    def link_broke(self, peer: bytes) -> None:
        self._turned(self._membership.connected(peer, False, self._now()))

    def _watch(self) -> None:
        self._node.after(WATCH_MS * MS, self._watch)
        self._turned(self._membership.tick(self._now()))

    def _turned(self, events: list[Event]) -> None:
        if any(isinstance(one, ClockTurned) or Heard.SILENT in (one.before, one.after) for one in events):
            self.hurry()

    def _now(self) -> int:
        return self._node.kernel.now // MS

    # --- registration --------------------------------------------------------------------------------------
    def _register(self) -> None:
        node = self._node
        boot = meta.Boot(node.id, node.boot, FEATURE_LEVEL, node.start_id, f"n{node.number}:1")
        node.service.execute_meta(meta.encode(boot), self._told)

    def _told(self, state: State, applied: Applied | None) -> None:
        if state is not State.ANSWERED or applied is None:
            self._node.after(REGISTER_AGAIN_MS * MS, self._register)
        elif isinstance(applied.outcome, Declined):
            self._node.expel(applied.outcome.code)
        else:
            self.registered = True

    # --- the members of its groups -------------------------------------------------------------------------
    def hurry(self) -> None:
        """Leads have changed."""
        self._next_round(STEP_MS)

    def _next_round(self, delay_ms: int) -> None:
        self._wakes += 1
        self._node.after(delay_ms * MS, self._round, self._wakes)

    def _round(self, wake: int) -> None:
        if wake != self._wakes:
            return
        node = self._node
        stepped = 0
        layout = node.world.layout(self._rows)
        members = tuple(meta_rows.members(self._rows))
        self._membership.keep(members, self._now())
        for number in node.world.partitions:
            led = number in layout.placements and node.service.leads(number)
            if led and not self.is_settled(number, layout, members):
                stepped += self._step(number, layout, members)
        self._next_round(STEP_MS if stepped else LOOK_MS)

    def is_settled(self, number: int, layout: Layout, members: tuple[bytes, ...]) -> bool:
        configuration = self._node.configuration(number)
        if self._membership.hands_over or set(configuration.members) != set(members):
            return False
        if len(members) == 2:
            return len(configuration.voters) == 1
        wanted = layout.of(number).voters
        return set(configuration.voters) == set(wanted) and self._node.id == wanted[0]

    def _step(self, number: int, layout: Layout, members: tuple[bytes, ...]) -> bool:
        node = self._node
        step = next_step(
            node.configuration(number),
            layout.of(number).voters,
            members,
            node.groups.statistics(number),
            node.id,
            self._membership.alive(),
            self._membership.unfit(),
        )
        if step is None or not self._is_due(number, step):
            return False
        node.put(partial(self._take, number, step))
        return True

    def _is_due(self, number: int, step: Step) -> bool:
        """A lead that is on its way is not given again: each time holds the writes of its partition up."""
        if isinstance(step, Transfer):
            if self._now() - self._handed.get(number, -TRANSFER_AGAIN_MS) < TRANSFER_AGAIN_MS:
                return False
            self._handed[number] = self._now()
        return True

    def _take(self, number: int, step: Step) -> None:
        """In the journal's thread."""
        node, history = self._node, self._node.world.history
        try:
            if isinstance(step, Transfer):
                node.groups.transfer(number, step.target)
                history.transfers += 1
            else:
                node.groups.change(number, step)
                history.changes += 1
                who = node.world.name(step.node)
                node.kernel.note(f"{node} changes {number}: {type(step).__name__} {who}")
        except (NotLeader, ChangeRefused, Overfull):
            pass
