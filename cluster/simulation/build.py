"""Of what a simulated node is built: the production types, unless a test plants a bug by replacing one."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from cluster.groups import ELECTION_TICKS, Groups
from cluster.partition import Partition
from cluster.raft import Raft
from cluster.raft_effects import RaftSettings
from cluster.simulation.node import Node, Proposal, Question
from cluster.simulation.service import Service
from cluster.simulation.shelf import Shelf, replace_state

# Windows and messages are small, so that followers are served from the journal and by snapshots too.
SETTINGS = RaftSettings(
    election_ticks=ELECTION_TICKS,
    append_entries=16,
    append_bytes=4 << 10,
    inflight_messages=8,
    window_bytes=2 << 10,
    promote_lag=16,
)


class Build(msgspec.Struct, frozen=True):
    node: type[Node] = Node
    service: type[Service] = Service
    groups: type[Groups] = Groups
    raft: type[Raft] = Raft
    partition: type[Partition] = Partition
    shelf: type[Shelf] = Shelf
    proposal: type[Proposal] = Proposal
    question: type[Question] = Question
    pieces: Callable[..., Iterable[None]] = replace_state
    machine: Callable[[Node, Any], Any] = lambda _, machine: machine
    settings: RaftSettings = SETTINGS


PRODUCTION = Build()
