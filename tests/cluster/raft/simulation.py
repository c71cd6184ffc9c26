"""Raft cores on a network that loses, delays, reorders, doubles and cuts, with disks that lose writes.

One seed is one history. Every replica is checked at every step against what must hold (the paper's Figure 3,
and linearizable reads); `Violation` says what did not. `History` counts what happened, so that a test can
refuse histories in which too little did.
"""

import heapq
from dataclasses import dataclass, field
from random import Random

from cluster.raft.core import Raft
from cluster.raft.effects import (
    AddLearner,
    ChangeRefused,
    Demote,
    NotLeader,
    Overfull,
    Promote,
    RaftSettings,
    Remove,
)
from cluster.raft.messages import Append, decode, encode
from cluster.raft.roles import Role
from tests.cluster.raft.cores import Replica, name, node, voters

SETTINGS = RaftSettings(
    election_ticks=5,
    quiet_ticks=6,
    append_entries=4,
    append_bytes=200,
    inflight_messages=3,
    window_bytes=150,
    promote_lag=3,
)


# How often something happens, and what: one climate finds what another leaves hidden.
_MIXED = (
    *("crash", "crash", "crash", "cut", "cut", "cut", "heal", "weather", "change", "change", "transfer"),
    *("rivals", "rivals", "calm"),
)
CLIMATES = (
    (0.05, _MIXED),
    (0.2, _MIXED),
    (0.1, _MIXED),
    (0.2, ("crash", "crash", "cut", "cut", "heal", "rivals", "jump")),
    (0.15, ("crash", "jump", "jump", "jump", "heal", "weather", "weather", "cut")),
    (0.12, ("crash", "cut", "cut", "heal", "change", "change", "change", "weather", "rivals")),
)

ANNOUNCED = 0.05  # of ticks at which a leader says how far all is committed


class Violation(Exception):
    """What must always hold did not."""


@dataclass
class History:
    commits: int = 0
    leaders: int = 0
    crashes: int = 0
    changes: int = 0
    transfers: int = 0
    reads: int = 0
    snapshots: int = 0
    installs: int = 0
    supplies: int = 0
    quiet: int = 0
    refused: int = 0
    lost: int = 0
    kinds: set = field(default_factory=set)

    def add(self, other):
        for key, value in vars(other).items():
            if key == "kinds":
                self.kinds |= value
            else:
                setattr(self, key, getattr(self, key) + value)


class World:
    def __init__(self, seed, size, *, core_type=Raft, settings=SETTINGS, spares=2):
        self.random = Random(seed)
        self.size = size
        self.history = History()
        self.now = 0
        self.sequence = 0
        self.flying = []  # heap of (time, sequence, sender, to, bytes, state)
        self.cuts = set()  # (sender, to) that hear nothing
        self.loss = self.delay = 0
        self.stragglers = 0.03
        self.stumble_at = 0
        self.turmoil, self.faults = CLIMATES[seed % len(CLIMATES)]
        self.patience = 5  # timeouts are drawn from so many values; few make rivals
        self.disk_speed = {node(number): 0.6 for number in range(1, size + spares + 1)}
        self.clock_speed = {node(number): 0.5 for number in range(1, size + spares + 1)}
        self.leader_of = {}  # term: node
        self.committed = [None]  # by index: (term, bytes); what anybody applied
        self.committed_in = [
            0
        ]  # by index: the term of who applied it first; it was committed in it or before
        self.acknowledged = 0  # greatest index applied by who proposed it
        self.proposed = {}  # (index, term): proposer
        self.reads = {}  # token: greatest acknowledged index when it was asked
        self.numbers = range(1, size + spares + 1)
        first = voters(*range(1, size + 1))
        self.replicas = {}
        for number in self.numbers:
            configuration = first if number <= size else voters()
            self.replicas[node(number)] = Replica(
                node(number),
                configuration,
                self.draw,
                self.send,
                self.observe,
                settings,
                core_type,
            )

    def draw(self, limit):
        return self.random.randrange(min(limit, self.patience))

    # --- network ---
    def send(self, sender, to, message, state):
        self.history.kinds.add(type(message))
        if (sender, to) in self.cuts or self.random.random() < self.loss:
            self.history.lost += 1
            if state is not None and self.replicas[sender].core is not None:
                self.replicas[sender].core.snapshot_failed(to)
            return
        copies = 2 if self.random.random() < self.loss / 2 else 1
        for _ in range(copies):
            self.sequence += 1
            at = self.now + 1 + (self.random.randrange(self.delay + 1) if self.delay else 0)
            if self.random.random() < self.stragglers:
                at += self.random.randrange(60)
            heapq.heappush(self.flying, (at, self.sequence, sender, to, encode(message), state))

    def deliver(self):
        while self.flying and self.flying[0][0] <= self.now:
            _, _, sender, to, data, state = heapq.heappop(self.flying)
            replica = self.replicas[to]
            message = decode(data)
            arrives = replica.core is not None and (sender, to) not in self.cuts
            if arrives:
                replica.step(sender, message, state)
            source = self.replicas[sender]
            if state is not None and source.core is not None:
                if arrives:
                    source.core.snapshot_sent(to, message.last)
                else:
                    source.core.snapshot_failed(to)
                source.drive()

    # --- what must hold ---
    def observe(self, replica, kind, value):
        getattr(self, "on_" + kind.replace(" ", "_"))(replica, value)

    def on_standing(self, replica, standing):
        if standing.role is not Role.LEADER:
            return
        self.history.leaders += 1
        self.check_complete(replica, standing.term)
        if replica.disk.hard_state.term == standing.term:
            self.check_alone(replica, standing.term)

    def check_alone(self, replica, term):
        """A sole voter leads before its term is on disk, but nobody hears of it until then."""
        known = self.leader_of.setdefault(term, replica.me)
        if known != replica.me:
            both = f"{name(known)} and {name(replica.me)}"
            raise Violation(f"election safety: {both} lead in term {term}")

    def check_complete(self, replica, term):
        """A leader has all that was committed in earlier terms; in later ones it leads no more."""
        log = replica.core.group.log
        for index in range(log.base + 1, len(self.committed)):
            if self.committed_in[index] < term and log.term_at(index) != self.committed[index][0]:
                raise Violation(f"leader completeness: {name(replica.me)} lacks committed entry {index}")

    def on_apply(self, replica, entry):
        index, term, data = entry
        if index < len(self.committed):
            if self.committed[index] != (term, data):
                raise Violation(f"state machine safety: {name(replica.me)} applies another entry {index}")
        else:
            assert index == len(self.committed)
            self.committed.append((term, data))
            self.committed_in.append(replica.core.term)
            self.history.commits += 1
        if replica.disk.entries.get(index, (term, data)) != (term, data):
            raise Violation(f"{name(replica.me)} applies entry {index}, which is not what it synced")
        if index > replica.disk.base[0] and index not in replica.disk.entries:
            raise Violation(f"{name(replica.me)} applies entry {index} before it synced it")
        if self.proposed.get((index, term)) == replica.me:
            self.acknowledged = max(self.acknowledged, index)

    def on_install(self, replica, message):
        self.history.installs += 1

    def on_read(self, replica, read):
        self.history.reads += 1
        needed = self.reads.pop(read.token)
        if read.index < needed:
            raise Violation(f"linearizable reads: {name(replica.me)} reads at {read.index}, not at {needed}")

    def on_read_lost(self, replica, token):
        self.reads.pop(token)

    def on_supply(self, replica, need):
        self.history.supplies += 1

    def on_snapshot(self, replica, need):
        self.history.snapshots += 1

    def check_logs(self):
        """Log matching: where two logs have the same term at an index, they are equal up to it. And the
        members are those of the last configuration in the log, committed or not (dissertation §4.1)."""
        living = [replica for replica in self.replicas.values() if replica.core is not None]
        for replica in living:
            if replica.core.configuration != replica.configuration():
                raise Violation(f"{name(replica.me)}: its members are not those of its log")
        for at, one in enumerate(living):
            for other in living[at + 1 :]:
                common = sorted(one.log.keys() & other.log.keys(), reverse=True)
                same = False
                for index in common:
                    if one.log[index][0] == other.log[index][0]:
                        same = True
                    if same and one.log[index] != other.log[index]:
                        pair = f"{name(one.me)} and {name(other.me)}"
                        raise Violation(f"log matching: {pair} differ at {index}")

    # --- what happens ---
    def leaders(self):
        return [r for r in self.replicas.values() if r.core is not None and r.core.leadership is not None]

    def run(self, steps):
        """Raises Violation, or AssertionError where a core noticed it first."""
        random = self.random
        for _ in range(steps):
            self.now += 1
            self.deliver()
            for replica in self.replicas.values():
                self.live(replica)
            self.traffic()
            if random.random() < self.turmoil:
                self.fault()
            if self.now == self.stumble_at:
                self.stumble()
            if self.now % 16 == 0:
                self.check_logs()
        self.check_logs()
        return self.history

    def live(self, replica):
        random = self.random
        if replica.core is None:
            if random.random() < 0.15:
                replica.start()
            return
        if replica.writes and random.random() < self.disk_speed[replica.me]:
            replica.sync(random.randint(1, len(replica.writes)))
            if replica.core.leadership is not None and replica.disk.hard_state.term == replica.core.term:
                self.check_alone(replica, replica.core.term)
        if random.random() < self.clock_speed[replica.me]:  # every clock runs as it likes
            was = replica.core.quiet
            replica.core.tick()
            if self.random.random() < ANNOUNCED:
                replica.core.announce()
            replica.drive()
            self.history.quiet += replica.core.quiet and not was
        if replica.core.quiet:
            self.node_signs(replica)
        if random.random() < 0.03:
            replica.commit_state()
            replica.compact(random.choice((0, 3, 20)))

    def node_signs(self, replica):
        """The heartbeats between nodes, which stand for quiet groups."""
        leader = replica.core.leader
        if self.random.random() < 0.9:
            return
        if leader == replica.me:
            for other in self.replicas.values():
                if other.core is not None and (other.me, replica.me) not in self.cuts:
                    replica.core.node_heartbeat(other.me, 0)
            replica.drive()
            return
        other = self.replicas[leader]
        if other.core is None or (leader, replica.me) in self.cuts:
            replica.core.node_silent(leader)
        else:
            replica.core.node_heartbeat(leader, other.core.term if other.core.leadership else 0)
        replica.drive()

    def traffic(self):
        random = self.random
        for leader in self.leaders():
            try:
                if random.random() < 0.25:
                    count = random.choice((1, 1, 2, 9))
                    data = [b"c%d" % random.getrandbits(80) for _ in range(count)]
                    first = leader.core.propose(data)
                    for index in range(first, first + count):
                        self.proposed[index, leader.core.term] = leader.me
                if random.random() < 0.2:
                    token = self.sequence = self.sequence + 1
                    leader.core.read(token)
                    self.reads[token] = self.acknowledged
            except (Overfull, NotLeader):
                self.history.refused += 1
            leader.drive()

    def fault(self):
        getattr(self, self.random.choice(self.faults))()

    def crash(self):
        victims = [replica for replica in self.replicas.values() if replica.core is not None]
        luck = self.random.random()
        if luck < 0.3:
            victims = [v for v in victims if v.me in self.leader_of.values() and v.writes] or victims
        elif luck < 0.6:  # whoever has a vote that is not on disk
            victims = [
                v for v in victims if any(r[0] == "hard" for _, records, _ in v.writes for r in records)
            ] or victims
        for replica in self.random.sample(victims, min(len(victims), self.random.choice((1, 1, 2)))):
            unsynced = sum(len(records) for _, records, _ in replica.writes)
            replica.crash(keep=self.random.randint(0, unsynced) if self.random.random() < 0.4 else 0)
            self.history.crashes += 1
            if self.random.random() < 0.4:
                replica.start()

    def rivals(self):
        """Several lose patience at once."""
        living = [replica for replica in self.replicas.values() if replica.core is not None]
        for replica in self.random.sample(living, min(len(living), self.random.choice((1, 2, 3)))):
            replica.core.campaign()
            replica.drive()

    def jump(self):
        """Clocks jump: nobody protects a leader any more, and several would be one."""
        living = [replica for replica in self.replicas.values() if replica.core is not None]
        for replica in self.random.sample(living, self.random.randint(0, len(living))):
            for _ in range(SETTINGS.election_ticks):
                replica.core.tick()
            if self.random.random() < 0.6:
                replica.core.campaign()
            replica.drive()
        if self.random.random() < 0.7:
            self.stumble_at = self.now + self.random.randint(2, 8)

    def stumble(self):
        """While votes are under way, one node falls and is up again at once."""
        replica = self.random.choice(list(self.replicas.values()))
        if replica.core is not None:
            replica.crash()
            self.history.crashes += 1
            replica.start()

    def cut(self):
        if self.random.random() < 0.5:  # a leader away from the others
            lonely = self.random.choice(self.leaders() or list(self.replicas.values())).me
            self.cuts |= {(lonely, other) for other in self.replicas}
            self.cuts |= {(other, lonely) for other in self.replicas}
        elif self.random.random() < 0.5:
            side = {one for one in self.replicas if self.random.random() < 0.5}
            self.cuts |= {(a, b) for a in self.replicas for b in self.replicas if (a in side) != (b in side)}
        elif self.random.random() < 0.5:
            self.cuts.add(tuple(self.random.sample(list(self.replicas), 2)))
        else:  # a leader keeps one follower
            leader = self.random.choice(self.leaders() or list(self.replicas.values())).me
            side = {leader, self.random.choice(list(self.replicas))}
            self.cuts |= {(a, b) for a in self.replicas for b in self.replicas if (a in side) != (b in side)}

    def heal(self):
        self.cuts.clear()

    def weather(self):
        self.loss = self.random.choice((0.0, 0.02, 0.1, 0.3))
        self.delay = self.random.choice((0, 1, 4, 15))
        self.stragglers = self.random.choice((0.0, 0.03, 0.2))
        self.patience = self.random.choice((1, 2, 5))
        for replica in self.disk_speed:
            self.disk_speed[replica] = self.random.choice((0.04, 0.2, 0.6, 0.9))
            self.clock_speed[replica] = self.random.choice((0.02, 0.5, 0.5, 0.9))

    def calm(self):
        self.heal()
        self.loss = self.delay = self.stragglers = 0
        self.patience = 5

    def change(self):
        for leader in self.leaders():
            now = leader.core.configuration
            target = node(self.random.choice(self.numbers))
            if target in now.learners:
                wish = self.random.choice((Promote, Promote, Promote, Remove))(target)
            elif target in now.voters:
                wish = self.random.choice((Remove, Demote))(target)
            else:
                wish = AddLearner(target)
            try:
                leader.core.change(wish)
                self.history.changes += 1
            except (ChangeRefused, Overfull, NotLeader):
                pass
            leader.drive()

    def transfer(self):
        for leader in self.leaders():
            try:
                leader.core.transfer(self.random.choice(leader.core.configuration.voters))
                self.history.transfers += 1
            except (ChangeRefused, NotLeader):
                pass
            leader.drive()

    # --- the end: everything heals ---
    def settle(self, steps=400):
        """After faults end, a leader is found and all members come to have the same. Raises Violation."""
        self.calm()
        for _ in range(steps):
            self.now += 1
            self.deliver()
            for replica in self.replicas.values():
                if replica.core is None:
                    replica.start()
                replica.sync(len(replica.writes))
                replica.core.tick()
                replica.drive()
                if replica.core.quiet:
                    self.node_signs(replica)
            if self.now % 20 == 0 and self.settled() is None:
                return
        raise Violation(f"after all is healed, {self.settled()}")

    def settled(self):
        """What is still amiss."""
        leaders = self.leaders()
        if not leaders:
            return "no leader is found"
        leader = max(leaders, key=lambda one: one.core.term)
        for member in leader.core.configuration.members:
            replica = self.replicas[member]
            if len(replica.state) < leader.core.group.log.last:
                return (
                    f"{name(member)} has applied {len(replica.state)} of {leader.core.group.log.last} entries"
                )
        return None


def run(seed, *, core_type=Raft, steps=700):
    """One history; the seed decides on everything."""
    world = World(seed, (3, 3, 5, 3, 3, 7, 3)[seed % 7], core_type=core_type)
    world.run(steps)
    world.settle()
    return world.history


MESSAGE_KINDS = set(Append.__mro__[1].__subclasses__())
