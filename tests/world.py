"""A world of partitions in memory, driven by hand: commands in, messages delivered when the test says so."""

from collections import deque

from cluster import commands
from cluster.commands import Accepted, Declined, Deliver, Execute, Message, Refused
from cluster.partition import Applied, Partition, StateMachine
from storage.memory import MemoryRows
from storage.rows import Overlay

START_MS = 1_800_000_000_000  # a day in 2027


class World:
    """All partitions of a node over one MemoryRows. `rows` is what views read. The clock is `now`."""

    def __init__(self, machine: StateMachine, partitions: int = 256) -> None:
        self.rows = MemoryRows()
        self.now = START_MS
        self.log: list[tuple[int, bytes]] = []  # (partition, command) in order: for replays
        self._partitions = {number: Partition(number, machine) for number in range(partitions)}
        self._mail: deque[tuple[int, Message]] = deque()
        self._commands = 0
        self.changes: list[object] = []
        self.on_rows = lambda keys: None  # told of the keys of each commit
        self.on_changes = lambda changes: None

    def execute(self, partition: int, body: bytes, *, scope: int = 0, command_id: bytes = b"") -> bytes:
        """Apply a command; its result, or `Refused` raised. Messages wait for `settle`."""
        self._commands += 1
        identity = command_id or self._commands.to_bytes(16, "big")
        random = self._commands.to_bytes(16, "little")
        outcome = self.apply(partition, Execute(self.now, 1, random, scope, identity, b"", body)).outcome
        if isinstance(outcome, Declined):
            raise Refused(outcome.code, outcome.detail)
        assert isinstance(outcome, Accepted)
        return outcome.result

    def apply(self, partition: int, command: commands.Command) -> Applied:
        data = commands.encode(command)
        self.log.append((partition, data))
        return self.replay(partition, data)

    def replay(self, partition: int, data: bytes) -> Applied:
        replica = self._partitions[partition]
        overlay = Overlay(self.rows)
        applied = replica.apply(overlay, replica.head.applied + 1, 1, data)
        overlay.flush()
        self.rows.commit()
        for keys in overlay.written:
            self.on_rows(keys)
        self._mail.extend((partition, message) for message in applied.sent)
        self.changes.extend(applied.changes)
        self.on_changes(applied.changes)
        return applied

    def settle(self, most: int = 100_000) -> None:
        """Deliver every message, trim every outbox and finish every work row."""
        while most:
            most -= 1
            if self._mail:
                source, (destination, delivery) = self._mail.popleft()
                random = self._commands.to_bytes(16, "little")
                self.apply(destination, Deliver(self.now, 1, random, (delivery,)))
                self.apply(source, commands.Trim(((destination, delivery.sequence),)))
                continue
            busy = next((n for n, p in self._partitions.items() if p.head.work_rows), None)
            if busy is None:
                return
            self.apply(busy, commands.Continue(self.now, 1, self._commands.to_bytes(16, "little")))
        raise AssertionError("the world does not come to rest")

    def head(self, partition: int) -> object:
        return self._partitions[partition].head

    def digest(self, partition: int) -> bytes:
        return self._partitions[partition].digest(self.rows)

    def dead_letters(self) -> int:
        return sum(replica.head.dead_rows for replica in self._partitions.values())
