"""Outbox and inbox: what partitions tell each other, exactly once and in order per pair; pure.

The outbox is state: a row per message, each naming the sequence sent to that destination before it. The
destination takes a message only if that is the last it took, and answers with its cursor otherwise, so
loss, repetition and disorder on the way change nothing.

A source that was recovered with loss begins a new incarnation: its sequences go on far above any that it can
have sent before, so a destination can tell the first of them from one that came too early.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from cluster.commands import MESSAGE_BYTES_MAX, Accepted, Declined, Delivery, Message, Outcome, Refused
from cluster.keys import (
    DEAD_LETTERS,
    OUTBOX,
    SENT,
    TAKEN,
    DeadLetter,
    DeadLetterKey,
    Head,
    OutboxKey,
    OutboxRow,
    Sent,
    SentKey,
    Taken,
    TakenKey,
)
from storage.rows import Reader, Writer

INCARNATION_SHIFT: Final = 40  # a sequence's bits above count the incarnations before it: 2^40 messages each
WORK_SEQUENCE: Final = 0  # in a dead letter: not a message (theirs begin at 1) but a piece of work


# --- the source's side ---------------------------------------------------------------------------------
def send(rows: Writer, head: Head, source: int, destination: int, body: bytes) -> Message:
    if len(body) > MESSAGE_BYTES_MAX:
        raise AssertionError(f"a message of {len(body)} bytes: at most {MESSAGE_BYTES_MAX}")
    pair = SentKey(source, destination)
    last = SENT.get(rows, pair)
    previous = last.sequence if last else 0
    head.sent += 1
    head.outbox_rows += 1
    OUTBOX.put(rows, OutboxKey(source, destination, head.sent), OutboxRow(previous, body))
    SENT.put(rows, pair, Sent(head.sent))
    return Message(destination, Delivery(source, previous, head.sent, body))


def begin_incarnation(head: Head) -> None:
    """After a recovery with loss: what is sent from now on cannot be taken for what was sent and lost."""
    head.sent = head.incarnation << INCARNATION_SHIFT
    head.incarnation += 1


def waiting(rows: Reader, source: int) -> Iterator[Message]:
    """Every message of the outbox, by destination and sequence: what a courier starts from."""
    for key, row in OUTBOX.scan(rows, source):
        yield Message(key.destination, Delivery(source, row.previous, key.sequence, row.body))


def trim(rows: Writer, head: Head, source: int, sequences: Iterable[tuple[int, int]]) -> None:
    """Forget messages that were taken: (destination, sequence) each. Named one by one by the courier that
    saw them taken, so no scan is needed; a name that is gone already is passed over."""
    for destination, sequence in sequences:
        key = OutboxKey(source, destination, sequence)
        if OUTBOX.has(rows, key):
            OUTBOX.delete(rows, key)
            head.outbox_rows -= 1


# --- the destination's side ----------------------------------------------------------------------------
def take(rows: Writer, destination: int, delivery: Delivery, cursors: dict[int, int]) -> bool:
    """Move the cursor if the message is the next one; note in `cursors` where the source's stands now.

    The first message of a new incarnation may name a predecessor that lies behind the cursor: then what was
    taken since is what the source has lost.
    """
    pair = TakenKey(destination, delivery.source)
    taken = TAKEN.get(rows, pair)
    last = taken.sequence if taken else 0
    renewed = delivery.sequence >> INCARNATION_SHIFT > last >> INCARNATION_SHIFT
    if delivery.previous == last or (renewed and delivery.previous < last):
        cursors[delivery.source] = delivery.sequence
        TAKEN.put(rows, pair, Taken(delivery.sequence))
        return True
    cursors[delivery.source] = last
    return False


def bury(rows: Writer, head: Head, destination: int, now: int, delivery: Delivery, refusal: Refused) -> None:
    """Keep a message that was refused as a dead letter, to be listed, retried or dropped by an admin."""
    letter = DeadLetter(delivery.source, delivery.sequence, now, refusal.code, refusal.detail, delivery.body)
    DEAD_LETTERS.put(rows, DeadLetterKey(destination, head.dead_next), letter)
    head.dead_next += 1
    head.dead_rows += 1


def bury_work(rows: Writer, head: Head, partition: int, now: int, work: bytes, refusal: Refused) -> None:
    """Keep a piece of work that was refused beside the messages that were; a retry makes it work again."""
    letter = DeadLetter(partition, WORK_SEQUENCE, now, refusal.code, refusal.detail, work)
    DEAD_LETTERS.put(rows, DeadLetterKey(partition, head.dead_next), letter)
    head.dead_next += 1
    head.dead_rows += 1


def dead_letter(rows: Reader, partition: int, number: int) -> DeadLetter | None:
    return DEAD_LETTERS.get(rows, DeadLetterKey(partition, number))


def drop_dead_letter(rows: Writer, head: Head, partition: int, number: int) -> Outcome:
    key = DeadLetterKey(partition, number)
    if not DEAD_LETTERS.has(rows, key):
        return Declined("not_found", f"partition {partition} has no dead letter {number}")
    DEAD_LETTERS.delete(rows, key)
    head.dead_rows -= 1
    return Accepted(b"")
