"""What a proposed entry costs in the cores: 256 groups of three on three nodes, no disk and no network.

    python -m tests.cluster.raft.bench_core

Prints µs of Python for an entry on the leader's node alone, and on all three nodes together, for batches of
64 that fall on 1, 8 and 64 groups.
"""

from random import Random
from time import process_time

from cluster.raft.core import Raft
from cluster.raft.effects import Start
from tests.cluster.raft.cores import node, voters

GROUPS, BATCH, ROUNDS = 256, 64, 300
COMMAND = b"\x98" + bytes(199)


class Cluster:
    def __init__(self):
        start = Start(configuration=voters(1, 2, 3))
        draw = Random(1).randrange
        self.nodes = {node(n): [Raft(g, node(n), start, draw) for g in range(GROUPS)] for n in (1, 2, 3)}
        self.spent = dict.fromkeys(self.nodes, 0.0)
        for group in range(GROUPS):
            self.nodes[node(1)][group].campaign()
            self.settle({group})

    def settle(self, groups):
        """Drive these groups until nothing moves; count each node's time."""
        mail = {me: [] for me in self.nodes}
        moving = {me: set(groups) for me in self.nodes}
        while any(moving.values()):
            for me, cores in self.nodes.items():
                inbox, mail[me] = mail[me], []
                touched, moving[me] = moving[me] | {message.group for _, message in inbox}, set()
                began = process_time()
                for sender, message in inbox:
                    cores[message.group].step(sender, message)
                out = []
                for group in touched:
                    core = cores[group]
                    if (ready := core.ready()) is None:
                        continue
                    out += ready.messages
                    if ready.committed:
                        last = ready.committed[-1]
                        core.applied(last.first + len(last.entries) - 1)
                    if ready.hard_state or ready.appends:
                        core.synced(ready.number)
                        out += ready.after_sync
                        moving[me].add(group)
                self.spent[me] += process_time() - began
                for to, message in out:
                    mail[to].append((me, message))
                    moving[to].add(message.group)

    def measure(self, spread):
        self.spent = dict.fromkeys(self.nodes, 0.0)
        leaders = self.nodes[node(1)]
        for number in range(ROUNDS):
            groups = [(number * spread + offset) % GROUPS for offset in range(spread)]
            began = process_time()
            for group in groups:
                for _ in range(BATCH // spread):
                    leaders[group].propose([COMMAND])
            self.spent[node(1)] += process_time() - began
            self.settle(set(groups))
        entries = ROUNDS * BATCH
        return self.spent[node(1)] / entries * 1e6, sum(self.spent.values()) / entries * 1e6


if __name__ == "__main__":
    cluster = Cluster()
    for spread in (1, 8, 64):
        leader, all_three = cluster.measure(spread)
        print(
            f"{BATCH} entries over {spread:2} groups, each: leader {leader:5.2f} µs, all {all_three:5.2f} µs"
        )
