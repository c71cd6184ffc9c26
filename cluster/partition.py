"""A partition: a deterministic state machine with a mailbox (DESIGN §2), pure.

`Partition.apply` takes the entries of the log one by one and changes rows of an overlay; it knows no
clock, no disk and no other partition. What the application may touch while a command is applied is `Apply`:
rows, minted ids, messages to other partitions, the change stream, and work to be continued.
"""

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

import msgspec
from blake3 import blake3

from cluster import commands, mailbox, memory, streams
from cluster.commands import Accepted, Declined, Delivery, Message, Outcome, Refused
from cluster.keys import HEADS, HEADS_PARTITION, WORK, Head, HeadKey, WorkKey
from storage.ids import Minted, mint
from storage.keys import partition_range
from storage.rows import Overlay, Reader, Writer

ROWS_PER_APPLY_MAX: Final = 2000  # one apply delays all others of its shard: ~10 ms at this size
DELIVER_ROWS_MAX: Final = 1000  # a delivery takes no further message beyond; it leaves one as much again
OUTBOX_ROWS_MAX: Final = 100_000  # per partition; then commands that would send are refused


class Applied(msgspec.Struct):
    """What applying one entry did, for whoever waits for it."""

    partition: int
    index: int
    outcome: Outcome
    sent: list[Message]
    changes: list[streams.Published]
    taken: dict[int, int]  # inbox cursors by source, after a Deliver: the answer to the courier
    work: bool = False  # the partition has work to be continued
    id: bytes = b""  # of an Execute


class StateMachine(Protocol):
    """The application, as a partition sees it. All three raise `Refused` to roll back (a message or piece of
    work that does becomes a dead letter); anything else that they raise is a bug and stops the shard."""

    def execute(self, apply: "Apply", body: bytes) -> bytes: ...

    def receive(self, apply: "Apply", source: int, body: bytes) -> None: ...

    def proceed(self, apply: "Apply", work: bytes) -> bytes | None:
        """Do a bounded piece of the work; return what is left, or None."""
        ...


class Apply:
    """What a state machine may touch while it applies one command. Rows are those of its partition only."""

    def __init__(
        self, partition: int, head: Head, rows: Overlay, index: int, now: int, level: int, random: bytes
    ) -> None:
        self.partition = partition
        self.index = index  # of the log entry
        self.now = now  # the command's, ms Unix; never the clock
        self.level = level
        self.sent: list[Message] = []
        self.changes: list[streams.Published] = []
        self.get = rows.get
        self._head = head
        self._rows = rows
        self._random = random
        self._random_used = 0

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        return self._rows.get_many(keys)

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        return self._rows.scan(start, stop, reverse=reverse)

    def put(self, key: bytes, value: bytes) -> None:
        self._rows.put(key, value)

    def delete(self, key: bytes) -> None:
        self._rows.delete(key)

    def random(self, size: int) -> bytes:
        """Bits that every replica draws alike: stretched from those in the command."""
        start = self._random_used
        self._random_used += size
        return blake3(self._random).digest(length=self._random_used)[start:]

    def mint(self) -> int:
        """A new id: greater than every id minted in this partition before."""
        head = self._head
        value, last = mint(self.now, self.partition, Minted(head.minted_time, head.minted_sequence))
        head.minted_time, head.minted_sequence = last
        return value

    def send(self, destination: int, body: bytes) -> None:
        """Put a message for another partition (or this one) into the outbox: taken exactly once, in order."""
        self.sent.append(mailbox.send(self._rows, self._head, self.partition, destination, body))

    def publish(self, body: bytes) -> None:
        """Append to the partition's change stream."""
        self.changes.append(streams.append(self._rows, self._head, self.partition, self.now, body))

    def later(self, work: bytes) -> None:
        """Leave work that is too large for one apply: `proceed` gets it, piece by piece."""
        head = self._head
        WORK.put(self._rows, WorkKey(self.partition, head.work_next), work)
        head.work_next += 1
        head.work_rows += 1


class Partition:
    """One replica of a partition: its head and the rules by which entries change its rows."""

    def __init__(self, number: int, machine: StateMachine, head: Head | None = None) -> None:
        self.number = number
        self.head = head or Head()
        self.digested: tuple[int, bytes] | None = None  # index and result of the last Digest
        self._machine = machine

    @classmethod
    def load(cls, number: int, machine: StateMachine, rows: Reader) -> "Partition":
        return cls(number, machine, HEADS.get(rows, HeadKey(HEADS_PARTITION, number)))

    def reloaded(self, rows: Reader) -> "Partition":
        """The same partition as its rows say now: a snapshot has replaced them."""
        return Partition.load(self.number, self._machine, rows)

    def store_head(self, rows: Writer) -> None:
        HEADS.put(rows, HeadKey(HEADS_PARTITION, self.number), self.head)

    def apply(self, rows: Overlay, index: int, term: int, data: bytes) -> Applied:
        """Apply the next entry. The caller stores the head in the same transaction.

        Raises whatever the machine raises that is not `Refused`: the shard must stop then.
        """
        if index != self.head.applied + 1:
            raise AssertionError(f"partition {self.number}: entry {index} after {self.head.applied}")
        rows.savepoint()
        applied = self._dispatch(rows, index, commands.decode(data))
        if rows.changed > ROWS_PER_APPLY_MAX:
            raise AssertionError(f"partition {self.number}: entry {index} changed {rows.changed} rows")
        self.head.applied = index
        self.head.term = term
        applied.work = self.head.work_rows > 0
        return applied

    def pass_by(self, index: int, term: int) -> None:
        """An entry of Raft's own (a no-op, or the members of the group) changes nothing but the head.
        The caller stores it."""
        if index != self.head.applied + 1:
            raise AssertionError(f"partition {self.number}: entry {index} after {self.head.applied}")
        self.head.applied = index
        self.head.term = term

    # --- one method a command --------------------------------------------------------------------------
    def _dispatch(self, rows: Overlay, index: int, command: commands.Command) -> Applied:
        match command:
            case commands.Execute():
                return self._execute(rows, index, command)
            case commands.Deliver():
                return self._deliver(rows, index, command)
            case commands.Trim():
                mailbox.trim(rows, self.head, self.number, command.cuts)
            case commands.Continue():
                return self._continue(rows, index, command)
            case commands.ForgetChanges():
                streams.forget(rows, self.head, self.number, command.below)
            case commands.ForgetRemembered():
                memory.forget_old(rows, self.number, command.now)
            case commands.Digest():
                self.digested = index, self.digest(rows)
                return self._applied(index, Accepted(self.digested[1]))
            case commands.RetryDeadLetter():
                return self._retry(rows, index, command)
            case commands.DropDeadLetter():
                outcome = mailbox.drop_dead_letter(rows, self.head, self.number, command.number)
                return self._applied(index, outcome)
        return self._applied(index, Accepted(b""))

    def _applied(self, index: int, outcome: Outcome, apply: Apply | None = None) -> Applied:
        if apply is None:
            return Applied(self.number, index, outcome, [], [], {})
        return Applied(self.number, index, outcome, apply.sent, apply.changes, {})

    def _execute(self, rows: Overlay, index: int, command: commands.Execute) -> Applied:
        if command.scope:
            known = memory.recall(rows, command)
            if known is not None:
                return self._executed(index, known, command)
        apply = Apply(self.number, self.head, rows, index, command.now, command.level, command.random)
        before = msgspec.structs.astuple(self.head)
        outcome: Outcome
        try:
            outcome = Accepted(self._machine.execute(apply, command.body))
            if apply.sent and self.head.outbox_rows > OUTBOX_ROWS_MAX:
                raise Refused(
                    "unavailable", f"partition {self.number}: {OUTBOX_ROWS_MAX} messages wait already"
                )
        except Refused as refusal:
            self._roll_back(rows, before)
            apply = Apply(self.number, self.head, rows, index, command.now, command.level, command.random)
            outcome = Declined(refusal.code, refusal.detail)
        if command.scope:
            memory.remember(rows, command, outcome)
        return self._executed(index, outcome, command, apply)

    def _executed(
        self, index: int, outcome: Outcome, command: commands.Execute, apply: Apply | None = None
    ) -> Applied:
        applied = self._applied(index, outcome, apply)
        applied.id = command.id
        return applied

    def _roll_back(self, rows: Overlay, before: tuple[int, ...]) -> None:
        rows.rollback()
        for name, value in zip(Head.__struct_fields__, before, strict=True):
            setattr(self.head, name, value)

    def _deliver(self, rows: Overlay, index: int, command: commands.Deliver) -> Applied:
        total = Applied(self.number, index, Accepted(b""), [], [], {})
        changed = 0
        for number, delivery in enumerate(command.messages):
            if changed + rows.changed > DELIVER_ROWS_MAX:
                break  # the cursors in the answer say so, and the courier brings the rest again
            if mailbox.take(rows, self.number, delivery, total.taken):
                changed += rows.changed
                rows.savepoint()
                random = command.random + number.to_bytes(2, "big")
                apply = Apply(self.number, self.head, rows, index, command.now, command.level, random)
                self._receive(rows, apply, delivery)
                total.sent.extend(apply.sent)
                total.changes.extend(apply.changes)
        changed += rows.changed
        if changed > ROWS_PER_APPLY_MAX:
            raise AssertionError(f"partition {self.number}: entry {index} changed {changed} rows")
        return total

    def _receive(self, rows: Overlay, apply: Apply, delivery: Delivery) -> None:
        """Applying a message never fails: a refusal becomes a dead letter and the cursor moves on."""
        before = msgspec.structs.astuple(self.head)
        try:
            self._machine.receive(apply, delivery.source, delivery.body)
        except Refused as refusal:
            self._roll_back(rows, before)
            apply.sent.clear()
            apply.changes.clear()
            mailbox.bury(rows, self.head, self.number, apply.now, delivery, refusal)

    def _continue(self, rows: Overlay, index: int, command: commands.Continue) -> Applied:
        first = next(WORK.scan(rows, self.number), None)
        if first is None:
            return self._applied(index, Accepted(b""))
        key, work = first
        apply = Apply(self.number, self.head, rows, index, command.now, command.level, command.random)
        before = msgspec.structs.astuple(self.head)
        try:
            rest = self._machine.proceed(apply, work)
        except Refused as refusal:
            # Left in its place it would be tried for ever, and hold up all work behind it.
            self._roll_back(rows, before)
            apply = Apply(self.number, self.head, rows, index, command.now, command.level, command.random)
            mailbox.bury_work(rows, self.head, self.number, command.now, work, refusal)
            rest = None
        if rest is None:
            WORK.delete(rows, key)
            self.head.work_rows -= 1
        else:
            WORK.put(rows, key, rest)
        return self._applied(index, Accepted(b""), apply)

    def _retry(self, rows: Overlay, index: int, command: commands.RetryDeadLetter) -> Applied:
        letter = mailbox.dead_letter(rows, self.number, command.number)
        if letter is None:
            detail = f"partition {self.number} has no dead letter {command.number}"
            return self._applied(index, Declined("not_found", detail))
        apply = Apply(self.number, self.head, rows, index, command.now, command.level, command.random)
        before = msgspec.structs.astuple(self.head)
        try:
            if letter.sequence == mailbox.WORK_SEQUENCE:
                apply.later(letter.body)
            else:
                self._machine.receive(apply, letter.source, letter.body)
        except Refused as refusal:
            self._roll_back(rows, before)
            return self._applied(index, Declined(refusal.code, refusal.detail))
        mailbox.drop_dead_letter(rows, self.head, self.number, command.number)
        return self._applied(index, Accepted(b""), apply)

    def digest(self, rows: Reader) -> bytes:
        """BLAKE3 over the partition's rows, mailboxes and head: equal on every replica at equal index."""
        state = blake3(msgspec.msgpack.encode(self.head))
        for key, value in rows.scan(*partition_range(self.number)):
            state.update(len(key).to_bytes(2, "big") + key + len(value).to_bytes(4, "big"))
            state.update(value)
        return state.digest()
