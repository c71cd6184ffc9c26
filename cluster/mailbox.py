"""Outbox and inbox: what partitions tell each other, exactly once and in order per pair; pure.

The outbox is state: a row per message, each naming the sequence sent to that destination before it. The
destination takes a message only if that is the last it took, and answers with its cursor otherwise, so
loss, repetition and disorder on the way change nothing.
"""

from collections.abc import Iterable, Iterator

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
    return Message(destination, Delivery(source, head.incarnation, previous, head.sent, body))


def waiting(rows: Reader, head: Head, source: int) -> Iterator[Message]:
    """Every message of the outbox, by destination and sequence: what a courier starts from."""
    for key, row in OUTBOX.scan(rows, source):
        delivery = Delivery(source, head.incarnation, row.previous, key.sequence, row.body)
        yield Message(key.destination, delivery)


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

    A message of a higher incarnation follows a recovery with loss: its source counts anew from there.
    """
    pair = TakenKey(destination, delivery.source)
    taken = TAKEN.get(rows, pair) or Taken(delivery.incarnation, 0)
    if delivery.incarnation > taken.incarnation:
        taken = Taken(delivery.incarnation, delivery.previous)
    if delivery.incarnation < taken.incarnation or delivery.previous != taken.sequence:
        cursors[delivery.source] = taken.sequence
        return False
    cursors[delivery.source] = delivery.sequence
    TAKEN.put(rows, pair, Taken(taken.incarnation, delivery.sequence))
    return True


def bury(rows: Writer, head: Head, destination: int, now: int, delivery: Delivery, refusal: Refused) -> None:
    """Keep a message that was refused as a dead letter, to be listed, retried or dropped by an admin."""
    letter = DeadLetter(delivery.source, delivery.sequence, now, refusal.code, refusal.detail, delivery.body)
    DEAD_LETTERS.put(rows, DeadLetterKey(destination, head.dead_next), letter)
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
