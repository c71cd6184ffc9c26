"""The next step of a group from the members it has to the members that the layout wants; pure.

The leader of each group asks, carries the step out, waits until it is committed, and asks again. Steps are
Raft's single changes (dissertation §4.1), so any two majorities that follow each other meet; what is decided
here is their order:

- Nodes come as learners and vote only when they are level, so that a vote counts when it is needed.
- What is exchanged comes before what it replaces goes: three voters become four and three again, never two.
- Nobody is promoted into an even number of voters (which needs one vote more and survives no death more)
  unless the step that makes it odd again can follow at once.
- A voter that is still a member goes only when the wanted ones are in place, or the number is even; one that
  left the cluster goes as soon as what remains has a majority alive.
- No step is made after which the living would be no majority. Dead voters go before living ones.
- Who is not to stay hands the lead over first; otherwise it goes to the preferred leader when that is level.
- Of two members, one votes, and which one is not changed without need: the exchange would give nothing.

`alive` are the nodes that are heard, this one among them: opinions, which is why they only ever hold a step
back. Acting on a wrong one delays, and the worst that a wrong `alive` does is a group that waits for a node.
"""

from collections.abc import Collection, Sequence
from typing import Final

import msgspec

from cluster.raft.effects import DEFAULTS, AddLearner, Demote, Promote, RaftStatistics, Remove
from cluster.raft.messages import Configuration
from cluster.raft.progress import Flow

LEVEL_LAG: Final = DEFAULTS.promote_lag  # entries that a level follower may lack: they are on their way


class Transfer(msgspec.Struct, frozen=True, tag=True):
    """Hand the lead over."""

    target: bytes


Step = AddLearner | Promote | Demote | Remove | Transfer


def next_step(
    configuration: Configuration,
    wanted: Sequence[bytes],
    members: Collection[bytes],
    group: RaftStatistics,
    me: bytes,
    alive: Collection[bytes],
    unfit: Collection[bytes] = (),
) -> Step | None:
    """What the leader `me` does next; None: nothing, or nothing yet.

    `configuration` is the group's, committed. `wanted` are the voters of the layout, the preferred leader
    first; `members` all nodes of the cluster. `group` is this leader's, for how far its followers are. Nodes
    in `unfit` are not to lead, whatever the layout says: their clocks are off (law 4).
    """
    return _Group(configuration, wanted, members, group, me, alive, unfit).step()


def hand_over(
    configuration: Configuration,
    wanted: Sequence[bytes],
    members: Collection[bytes],
    group: RaftStatistics,
    me: bytes,
    alive: Collection[bytes],
    unfit: Collection[bytes],
) -> Transfer | None:
    """How the leader `me`, which is among the unfit, gives its lead away; None: nobody can take it."""
    return _Group(configuration, wanted, members, group, me, alive, unfit).hand_over()


def is_needed(configuration: Configuration, node: bytes, alive: Collection[bytes]) -> bool:
    """Whether the group would stand still if this node were shut out at once: it votes, and the others that
    are alive are no majority."""
    voters = configuration.voters
    others = sum(voter in alive for voter in voters if voter != node)
    return node in voters and others <= len(voters) // 2


class _Group:
    def __init__(
        self,
        configuration: Configuration,
        wanted: Sequence[bytes],
        members: Collection[bytes],
        group: RaftStatistics,
        me: bytes,
        alive: Collection[bytes],
        unfit: Collection[bytes],
    ) -> None:
        self._voters, self._learners = configuration.voters, configuration.learners
        self._members = members
        self._group = group
        self._me = me
        self._alive = alive
        self._unfit = unfit
        self._wanted = self._settled(wanted)

    def step(self) -> Step | None:
        if self._me not in self._voters or not self._lives(self._voters):
            return None
        return self._learning() or self._voting() or self._leading()

    def _settled(self, wanted: Sequence[bytes]) -> Sequence[bytes]:
        """Of two members, a voter stays that is one."""
        if len(self._members) == 2 and len(wanted) == 1 and wanted[0] not in self._voters:
            kept = [node for node in self._voters if node in self._members]
            return [self._me] if self._me in kept else kept[:1] or wanted
        return wanted

    # --- what is known -----------------------------------------------------------------------------------
    def _lives(self, voters: Collection[bytes]) -> bool:
        return sum(node in self._alive for node in voters) > len(voters) // 2

    def _level(self, node: bytes) -> bool:
        """Alive, and has nearly all there is."""
        if node == self._me:
            return True
        flow, match, _ = self._group.followers.get(node, (Flow.PROBE.value, 0, 0))
        return node in self._alive and flow == Flow.REPLICATE.value and self._group.last - match <= LEVEL_LAG

    def _goes_before(self, node: bytes) -> tuple[bool, bool, bool, bytes]:
        """The order in which voters that are not wanted go; this node is the last."""
        return (node == self._me, node in self._alive, node in self._members, node)

    # --- who belongs to it -------------------------------------------------------------------------------
    def _learning(self) -> Step | None:
        gone = [node for node in self._learners if node not in self._members]
        if gone:
            return Remove(gone[0])
        here = (*self._voters, *self._learners)
        order = (*self._wanted, *sorted(node for node in self._members if node not in self._wanted))
        new = [node for node in order if node not in here and node in self._alive]
        return AddLearner(new[0]) if new else None

    def _voting(self) -> Step | None:
        voters, wanted = self._voters, self._wanted
        ready = [node for node in wanted if node in self._learners and self._level(node)]
        surplus = sorted((node for node in voters if node not in wanted), key=self._goes_before)
        left = [node for node in surplus if node not in self._members]
        if len(voters) % 2:
            swaps = bool(surplus) and len(voters) + 1 > len(wanted)
            if ready and (swaps or len(ready) > 1):
                return Promote(ready[0])
            goes = surplus if all(node in voters for node in wanted) else left
            return self._drop(goes[0]) if goes else None
        if len(voters) > len(wanted) and (step := self._drop(surplus[0])):
            return step
        if ready:
            return Promote(ready[0])
        return self._drop(left[0]) if left else None

    def _drop(self, node: bytes) -> Step | None:
        if not self._lives([voter for voter in self._voters if voter != node]):
            return None
        if node == self._me:
            return self.hand_over()
        return Demote(node) if node in self._members else Remove(node)

    # --- who leads it ------------------------------------------------------------------------------------
    def _leading(self) -> Step | None:
        if self._me not in self._wanted or self._me in self._unfit:
            return self.hand_over()
        preferred = self._wanted[0]
        if preferred == self._me or preferred in self._unfit or preferred not in self._voters:
            return None
        receives = any(
            flow == Flow.SNAPSHOT.value and node in self._alive
            for node, (flow, _, _) in self._group.followers.items()
        )
        if receives:  # the stream would break off with the lead, and begin anew
            return None
        return Transfer(preferred) if self._level(preferred) else None

    def hand_over(self) -> Transfer | None:
        """To the first wanted voter that can; to another only from a node that must not lead, lest two that
        are not wanted hand the lead to and fro."""
        targets = [node for node in self._wanted if node in self._voters]
        if self._me not in self._members or self._me in self._unfit:
            targets += [node for node in self._voters if node in self._members and node not in targets]
        for node in targets:
            if node != self._me and node not in self._unfit and self._level(node):
                return Transfer(node)
        return None
