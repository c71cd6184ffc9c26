"""Raft cores with a disk each: the shell's duties at their smallest, for stories, rules and simulation.

A `Replica` has a core, a disk that holds what was synced, and writes under way. A crash forgets the core and
the writes that were not synced, or keeps the first records of them. The state machine is the list of entries.
"""

from collections import deque

from cluster.raft.core import Raft
from cluster.raft.effects import HardState, NeedEntries, NeedSnapshot, RaftSettings, Start
from cluster.raft.messages import Configuration, Install, decode_configuration, is_configuration


def node(number):
    return bytes([number]) * 16


def name(node_id):
    return node_id[0]


def voters(*numbers, learners=()):
    return Configuration(tuple(map(node, numbers)), tuple(map(node, learners)))


class Disk:
    """What is synced: hard state, entries, and the state as of some applied index."""

    def __init__(self, configuration):
        self.hard_state = HardState(0, b"", 0)
        self.entries = {}  # index: (term, bytes)
        self.base = (0, 0)  # entries up to it are compacted
        self.state = []  # applied entries, (term, bytes), from index 1
        self.first_configuration = configuration

    def write(self, record):
        kind, *rest = record
        if kind == "hard":
            self.hard_state = rest[0]
        elif kind == "truncate":
            for index in [index for index in self.entries if index >= rest[0]]:
                del self.entries[index]
        elif kind == "entry":
            index, term, data = rest
            self.entries[index] = (term, data)
        else:
            install, state = rest
            self.base = (install.last, install.last_term)
            self.first_configuration = install.configuration  # it may be none of an entry
            self.state = list(state)
            self.entries.clear()

    def configuration(self, index):
        for _, data in reversed(self.state[:index]):
            if is_configuration(data):
                return decode_configuration(data)
        return self.first_configuration

    def compact(self, index):
        self.base = (index, self.state[index - 1][0] if index else 0)
        for old in [old for old in self.entries if old <= index]:
            del self.entries[old]

    def start(self):
        base, base_term = self.base
        applied = len(self.state)
        last = base
        terms = []
        while last + 1 in self.entries:
            last += 1
            term = self.entries[last][0]
            if not terms or terms[-1][1] != term:
                terms.append((last, term))
        self.entries = {index: entry for index, entry in self.entries.items() if index <= last}
        if applied > last:  # a torn write cut entries that the state has; it goes on from the state
            raise AssertionError(f"state has {applied}, the log only {last}")
        recent = tuple(self.entries[index][1] for index in range(applied + 1, last + 1))
        return Start(
            configuration=self.configuration(applied),
            hard_state=self.hard_state,
            base=base,
            base_term=base_term,
            terms=tuple(terms),
            last=last,
            recent=recent,
            applied=applied,
        )


class Replica:
    """`send(to, message)`, `observe(replica, kind, value)` are the world's."""

    def __init__(self, me, configuration, random, send, observe, settings, core_type=Raft, group=7):
        self.me = me
        self.disk = Disk(configuration)
        self.random = random
        self.send = send
        self.observe = observe
        self.settings = settings
        self.core_type = core_type
        self.group = group
        self.core = None
        self.start()

    def start(self):
        begin = self.disk.start()
        self.core = self.core_type(self.group, self.me, begin, self.random, self.settings)
        self.state = list(self.disk.state)
        self.first_configuration = self.disk.first_configuration
        self.log = dict(self.disk.entries)  # as the core sees it, synced or not
        self.writes = deque()  # (number, records, after_sync)
        self.incoming = {}  # states that travel beside an Install, by (index, term)
        self.drive()

    def crash(self, keep=0):
        """Of the records that were not synced the first `keep` are found after all."""
        records = [record for _, batch, _ in self.writes for record in batch]
        for record in records[:keep]:
            if record[0] == "install":
                break
            self.disk.write(record)
        self.core = None
        self.writes.clear()

    def step(self, sender, message, state=None):
        if isinstance(message, Install):
            self.incoming[message.last, message.last_term] = state
        self.core.step(sender, message)
        self.drive()

    def drive(self):
        while (ready := self.core.ready()) is not None:
            self.take(ready)

    def take(self, ready):
        if ready.standing is not None:
            self.observe(self, "standing", ready.standing)
        records = []
        if ready.hard_state is not None:
            records.append(("hard", ready.hard_state))
        if ready.truncate:
            records.append(("truncate", ready.truncate))
            self.log = {index: entry for index, entry in self.log.items() if index < ready.truncate}
        for run in ready.appends:
            for index, data in enumerate(run.entries, run.first):
                records.append(("entry", index, run.term, data))
                self.log[index] = (run.term, data)
        if ready.install is not None:
            state = self.incoming[ready.install.last, ready.install.last_term]
            records.append(("install", ready.install, state))
            self.state = list(state)
            self.log.clear()
            self.first_configuration = ready.install.configuration
            self.observe(self, "install", ready.install)
        for to, message in ready.messages:
            self.send(self.me, to, message, None)
        if records:
            self.writes.append((ready.number, records, ready.after_sync))
        elif ready.after_sync:
            assert self.writes, "nothing is under way that these messages could wait for"
            assert self.writes[-1][0] == ready.number
            self.writes[-1][2].extend(ready.after_sync)
        for run in ready.committed:
            for index, data in enumerate(run.entries, run.first):
                assert index == len(self.state) + 1, (index, len(self.state))
                self.state.append((run.term, data))
                self.observe(self, "apply", (index, run.term, data))
            self.core.applied(len(self.state))
        for read in ready.reads:
            self.observe(self, "read", read)
        for token in ready.reads_lost:
            self.observe(self, "read lost", token)
        for need in ready.needs:
            self.meet(need)

    def meet(self, need):
        match need:
            case NeedEntries():
                entries, size = [], 0
                for index in range(need.first, need.last + 1):
                    data = self.disk.entries.get(index, (0, None))[1]
                    if data is None or (entries and size + len(data) > need.bytes_max):
                        break
                    entries.append(data)
                    size += len(data)
                self.observe(self, "supply", need)
                self.core.supply(need, entries)
            case NeedSnapshot():
                index = len(self.state)
                term = self.state[index - 1][0]
                configuration = self.configuration(applied=True)
                message = Install(self.group, need.term, index, term, configuration)
                self.observe(self, "snapshot", need)
                self.send(self.me, need.node, message, list(self.state))

    def configuration(self, *, applied=False):
        """The members by the log, or by as much of it as is applied."""
        for index in sorted(self.log, reverse=True):
            if index > len(self.state) and not applied and is_configuration(self.log[index][1]):
                return decode_configuration(self.log[index][1])
        for _, data in reversed(self.state):
            if is_configuration(data):
                return decode_configuration(data)
        return self.first_configuration

    def sync(self, count=1):
        """The oldest `count` writes reach the disk, together."""
        number, leaving = 0, []
        for _ in range(min(count, len(self.writes))):
            number, records, after = self.writes.popleft()
            for record in records:
                self.disk.write(record)
            leaving += after
        if number:
            for to, message in leaving:
                self.send(self.me, to, message, None)
            self.core.synced(number)
            self.drive()

    def commit_state(self):
        """The state as applied becomes durable (its own store commits)."""
        if not any(record[0] == "install" for _, records, _ in self.writes for record in records):
            self.disk.state = list(self.state)

    def compact(self, keep):
        """Let go of entries that the durable state has, but for the last `keep`."""
        index = len(self.disk.state) - keep
        if index > self.disk.base[0]:
            self.disk.compact(index)
            self.core.compacted(index)
            self.log = {at: entry for at, entry in self.log.items() if at > index}


SETTINGS = RaftSettings()
