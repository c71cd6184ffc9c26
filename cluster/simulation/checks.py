"""What must hold at every moment of a history, whatever happens: the checkers that watch each step.

Figure 3 of the Raft paper over everything that any node wrote or applied: election safety, leader
completeness, log matching, state machine safety. Equal results of equal entries, and so equal state. Nothing
is applied that is not synced; nothing is answered that a majority has not synced; nothing synced is lost.
"""

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from cluster import commands
from cluster.commands import Deliver, Execute
from cluster.groups import Led
from cluster.keys import META_PARTITION
from cluster.partition import Applied
from cluster.raft.messages import Configuration, decode_configuration, is_configuration
from cluster.raft.roles import Role
from cluster.simulation.history import Violation
from storage.entries import Entry, HardState, Record, Truncation

if TYPE_CHECKING:
    from cluster.simulation.node import Node
    from cluster.simulation.world import World

COMPLETE_LOOKS: Final = 200  # how many of the newest committed entries a new leader's log is compared with


class _Kept:
    """What one disk has synced of one partition, as far as it was not released."""

    __slots__ = ("terms", "vote")

    def __init__(self) -> None:
        self.terms: dict[int, int] = {}  # of each entry, by index
        self.vote = (0, b"")

    def take(self, record: Record) -> None:
        if isinstance(record, Entry):
            self.terms[record.index] = record.term
        elif isinstance(record, Truncation):
            for index in [index for index in self.terms if index >= record.index]:
                del self.terms[index]
        else:
            self.vote = (record.term, record.vote)


class Checks:
    def __init__(self, world: "World") -> None:
        self._world = world
        self.applied_by_all: dict[int, list[tuple[int, bytes, Applied | None]]] = defaultdict(list)
        self._committed_in: dict[int, list[int]] = defaultdict(list)
        self._leaders: dict[tuple[int, int], bytes] = {}
        self._cursors: dict[tuple[int, int], int] = {}  # destination, source
        self._executed: dict[tuple[int, bytes], Applied] = {}
        self._entries: dict[tuple[int, int, int], bytes] = {}
        self._kept: dict[int, dict[int, _Kept]] = defaultdict(lambda: defaultdict(_Kept))  # by node's number
        self._members: dict[int, list[tuple[int, Configuration]]] = defaultdict(list)

    # --- the state machine ---------------------------------------------------------------------------------
    def applied(
        self, node: "Node", partition: int, index: int, term: int, entry: bytes, applied: Applied | None
    ) -> None:
        if node.is_copy:
            return
        known = self.applied_by_all[partition]
        kept = self._kept[node.number][partition].terms.get(index)
        if kept != term:
            what = "has not synced" if kept is None else f"has with term {kept}"
            raise Violation("synced before applied", f"{node} applies {partition}:{index}, which it {what}")
        if index > len(known):
            if index != len(known) + 1:
                raise Violation("log order", f"{node} applies {partition}:{index} after {len(known)}")
            known.append((term, entry, applied))
            self._committed_in[partition].append(node.groups.raft(partition).term)
            self._count(partition, index, entry, applied)
            return
        first = known[index - 1]
        if first[0] != term or first[1] != entry:
            raise Violation("state machine safety", f"{node} applies another entry {partition}:{index}")
        if first[2] != applied:
            detail = f"{node} has {applied} at {partition}:{index}, others {first[2]}"
            raise Violation("equal results", detail)

    def _count(self, partition: int, index: int, entry: bytes, applied: Applied | None) -> None:
        history = self._world.history
        history.commits += 1
        if applied is None:
            if is_configuration(entry):
                self._members[partition].append((index, decode_configuration(entry)))
            return
        history.messages += len(applied.sent)
        command = commands.decode(entry)
        if isinstance(command, Execute):
            self._once(partition, index, command, applied)
        elif isinstance(command, Deliver):
            self._taken(partition, command, applied)

    def _taken(self, partition: int, command: Deliver, applied: Applied) -> None:
        """A cursor moves to the next message of its source and to no other."""
        for source, taken in applied.taken.items():
            last = cursor = self._cursors.get((partition, source), 0)
            for delivery in command.messages:
                if delivery.source == source and delivery.previous == cursor and cursor != taken:
                    cursor = delivery.sequence
            if cursor != taken:
                detail = f"{partition} took {taken} from {source} after {last}: {command.messages}"
                raise Violation("exactly once", detail)
            self._cursors[partition, source] = taken

    def _once(self, partition: int, index: int, command: Execute, applied: Applied) -> None:
        """A command takes effect once: again it is remembered, or is of the kind that may come twice."""
        if partition == META_PARTITION:
            return  # its commands say what is to be, and may be said twice
        first = self._executed.setdefault((partition, command.id), applied)
        if first is applied:
            return
        again = f"{partition}:{index} is a command that took effect at {first.index} already"
        if not command.scope or applied.sent or applied.outcome != first.outcome:
            raise Violation("exactly once", again)

    # --- elections -----------------------------------------------------------------------------------------
    def led(self, node: "Node", led: Led) -> None:
        """After what came with it was synced: nobody heard of a sole voter's lead before."""
        partition, standing = led.partition, led.standing
        if standing.role is not Role.LEADER or node.is_copy:
            return
        known = self._leaders.setdefault((partition, standing.term), node.id)
        if known != node.id:
            both = f"{node} and {self._world.name(known)}"
            raise Violation("election safety", f"{both} lead group {partition} in term {standing.term}")
        self._world.history.leaders += 1
        self._world.kernel.note(f"{node} leads {partition} in term {standing.term}")
        log = node.groups.raft(partition).group.log
        committed = self.applied_by_all[partition]
        for index in range(max(log.base, len(committed) - COMPLETE_LOOKS) + 1, len(committed) + 1):
            earlier = self._committed_in[partition][index - 1] < standing.term
            if earlier and log.term_at(index) != committed[index - 1][0]:
                raise Violation("leader completeness", f"{node} leads {partition} without entry {index}")

    # --- the journal ---------------------------------------------------------------------------------------
    def synced(self, node: "Node", records: list[Record]) -> None:
        if node.is_copy:
            return
        kept = self._kept[node.number]
        for record in records:
            mine = kept[record.partition]
            if isinstance(record, HardState):
                self._voted(node, mine, record)
            elif isinstance(record, Entry):
                self._match(node, record)
            mine.take(record)

    def _voted(self, node: "Node", kept: _Kept, state: HardState) -> None:
        term, vote = kept.vote
        if state.term < term or (state.term == term and vote and state.vote != vote):
            where = f"group {state.partition}, term {state.term}"
            raise Violation("votes", f"{node}, {where}: it was in term {term} and had voted already")

    def _match(self, node: "Node", entry: Entry) -> None:
        key = (entry.partition, entry.index, entry.term)
        if self._entries.setdefault(key, entry.command) != entry.command:
            raise Violation("log matching", f"{node} has another entry {key}")

    def recovered(self, node: "Node", records: list[Record]) -> None:
        """What was synced is there again; of what was not, some may be."""
        found: dict[int, _Kept] = defaultdict(_Kept)
        for record in records:
            found[record.partition].take(record)
        for partition, kept in self._kept[node.number].items():
            state = self._world.applied_on_disk(node, partition)
            for index, term in kept.terms.items():
                if index > state and index not in found[partition].terms:
                    raise Violation("journal", f"{node} had synced {partition}:{index} of term {term}")
            if found[partition].vote < (kept.vote[0], b""):
                raise Violation("journal", f"{node} forgot term {kept.vote[0]} of group {partition}")
        self._kept[node.number] = found

    # --- who is listened to --------------------------------------------------------------------------------
    def heard(self, node: "Node", sender: "Node") -> None:
        """Copies come up when all nodes know that the original has started since."""
        if sender.is_copy:
            raise Violation("law 5", f"{node} listens to {sender}, a copy of another's disk")

    # --- what clients are told -----------------------------------------------------------------------------
    def answered(self, partition: int, index: int) -> None:
        """A client hears of what an entry did: a majority of voters has it on disk."""
        term = self.applied_by_all[partition][index - 1][0]
        nodes = self._world.nodes + self._world.lost
        durable = {node.id for node in nodes if self._has(node, partition, index, term)}
        tried = []
        for members in self._configurations(partition, index):
            if len(durable & set(members.voters)) >= members.quorum:
                return
            tried.append([self._world.name(voter) for voter in members.voters])
        on = sorted(self._world.name(id_) for id_ in durable)
        raise Violation("durable before answered", f"{partition}:{index} is synced on {on}, voters {tried}")

    def _has(self, node: "Node", partition: int, index: int, term: int) -> bool:
        kept = self._kept[node.number][partition].terms.get(index)
        return kept == term or index <= self._world.applied_on_disk(node, partition)

    def _configurations(self, partition: int, index: int) -> list[Configuration]:
        """The members when it was committed: by the log before it, or by any change since."""
        known = [(0, self._world.founders), *self._members[partition]]
        before = [members for at, members in known if at <= index]
        after = [members for at, members in known if at > index]
        proposed = [
            members
            for node in self._world.nodes
            if node.alive
            for members in [node.groups.configuration(partition)]
            if members.voters
        ]
        return [before[-1], *after, *proposed]
