"""A few cores whose messages move only when they are told to: for rules and stories.

Timeouts are drawn without chance: node 1 is the most impatient. Disks sync at once, unless they are held.
"""

from cluster.raft.core import Raft
from cluster.raft.effects import RaftSettings
from tests.cluster.raft.cores import Replica, name, node, voters

SETTINGS = RaftSettings(quiet_ticks=0)
PASSES_MAX = 200


class Hamlet:
    core_type = Raft

    def __init__(self, *numbers, learners=(), blank=(), settings=SETTINGS):
        self.flying = []  # (sender, to, message, state)
        self.seen = []  # every message that was sent, with sender and receiver
        self.events = []
        self.cuts = set()
        self.held = set()
        self.replicas = {}
        for number in (*numbers, *learners, *blank):
            members = voters() if number in blank else voters(*numbers, learners=learners)
            self.replicas[number] = Replica(
                node(number), members, lambda limit, n=number: (n - 1) % limit,
                self.send, self.observe, settings, self.core_type,
            )  # fmt: skip

    def core(self, number):
        return self.replicas[number].core

    def send(self, sender, to, message, state):
        self.seen.append((name(sender), name(to), message))
        if (name(sender), name(to)) not in self.cuts:
            self.flying.append((sender, to, message, state))

    def observe(self, replica, kind, value):
        self.events.append((name(replica.me), kind, value))

    def sync(self):
        for number, replica in self.replicas.items():
            while replica.writes and number not in self.held:
                replica.sync()

    def settle(self):
        """Deliver and sync until nothing moves."""
        for _ in range(PASSES_MAX):
            self.sync()
            if not self.flying:
                return
            flying, self.flying = self.flying, []
            for sender, to, message, state in flying:
                replica = self.replicas.get(name(to))
                if replica is None or replica.core is None or (name(sender), name(to)) in self.cuts:
                    continue
                replica.step(sender, message, state)
                if state is not None:
                    self.replicas[name(sender)].core.snapshot_sent(to, message.last)
                    self.replicas[name(sender)].drive()
        raise AssertionError(f"after {PASSES_MAX} passes messages still move: {self.flying}")

    def tick(self, count=1, *numbers):
        for _ in range(count):
            for number in numbers or self.replicas:
                if self.core(number) is not None:
                    self.core(number).tick()
                    self.replicas[number].drive()
            self.settle()

    def do(self, number, call, *arguments):
        """Call the core and carry out what follows. What the core raises is raised here."""
        try:
            return getattr(self.core(number), call)(*arguments)
        finally:
            self.replicas[number].drive()

    def elect(self, number):
        self.do(number, "campaign")
        self.settle()
        assert self.core(number).leadership is not None
        return self.core(number)

    def propose(self, number, *entries):
        first = self.do(number, "propose", list(entries))
        self.settle()
        return first

    def step(self, number, sender, message):
        """Give one message to a core; returns what it sends, synced or not."""
        before = len(self.seen)
        self.replicas[number].step(node(sender), message)
        return [sent for _, _, sent in self.seen[before:]]

    def isolate(self, number):
        for other in self.replicas:
            self.cuts |= {(number, other), (other, number)}

    def cut(self, one, other):
        self.cuts |= {(one, other), (other, one)}

    def heal(self):
        self.cuts.clear()

    def crash(self, number):
        self.replicas[number].crash()

    def start(self, number):
        self.replicas[number].start()

    def entries(self, number):
        """The log as (term, bytes), from index 1 or from behind the base."""
        log = self.replicas[number].log
        return [log[index] for index in sorted(log)]
