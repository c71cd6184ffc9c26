"""Of what a simulated node is built: the production types, unless a test plants a bug by replacing one."""

from collections.abc import Callable

import msgspec

from cluster.groups import ELECTION_TICKS, Groups
from cluster.partition import Partition, StateMachine
from cluster.raft.core import Raft
from cluster.raft.effects import RaftSettings
from cluster.raft.messages import Configuration
from cluster.simulation.belonging import Belonging
from cluster.simulation.errand import Errand
from cluster.simulation.node import Node, Proposal, Question
from cluster.simulation.service import Service
from cluster.simulation.shelf import Shelf
from cluster.snapshots.state_stream import state_pieces
from cluster.starts import Starts
from storage.rows import Reader

# Windows and messages are small, so that followers are served from the journal and by snapshots too.
SETTINGS = RaftSettings(
    election_ticks=ELECTION_TICKS,
    append_entries=16,
    append_bytes=4 << 10,
    inflight_messages=8,
    window_bytes=2 << 10,
    promote_lag=16,
)


def whole_state(rows: Reader, partition: int, founder: Configuration) -> list[bytes]:
    return list(state_pieces(rows, partition, founder))


def same_machine(_: Node, machine: StateMachine) -> StateMachine:
    return machine


class Build(msgspec.Struct, frozen=True):
    node: type[Node] = Node
    service: type[Service] = Service
    groups: type[Groups] = Groups
    raft: type[Raft] = Raft
    partition: type[Partition] = Partition
    shelf: type[Shelf] = Shelf
    proposal: type[Proposal] = Proposal
    question: type[Question] = Question
    state: Callable[[Reader, int, Configuration], list[bytes]] = whole_state
    belonging: type[Belonging] = Belonging
    starts: type[Starts] = Starts
    errand: type[Errand] = Errand
    machine: Callable[[Node, StateMachine], StateMachine] = same_machine
    settings: RaftSettings = SETTINGS


PRODUCTION = Build()
