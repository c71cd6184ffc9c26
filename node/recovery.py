"""`heliograph cluster recover`: going on with one node, and this application's state machines.

What it does and how is in `cluster.members.recovery`.
"""

from pathlib import Path

from cluster.keys import META_PARTITION
from cluster.members import recovery
from cluster.members.meta import MetaMachine
from cluster.members.recovery import Recovered, RecoveryPlan, Tell
from cluster.partition import StateMachine
from node.social.application import social_machine

plan = recovery.plan

__all__ = ["Recovered", "RecoveryPlan", "plan", "recover"]


def recover(data: Path, *, now: float, tell: Tell) -> Recovered:
    """Make the stopped node on `data` the only member of its cluster. `now` is Unix time in seconds; `tell`
    hears how far it is. Raises DirectoryInUse if a node runs on the data, and what a start raises for damaged
    data."""
    return recovery.recover(data, _machines, now=now, tell=tell)


def _machines(partition_count: int) -> dict[int, StateMachine]:
    machines: dict[int, StateMachine] = dict.fromkeys(range(partition_count), social_machine())
    machines[META_PARTITION] = MetaMachine()
    return machines
