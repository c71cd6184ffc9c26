"""Outbox and inbox: which message is taken when, by table; dead letters."""

import pytest

from cluster import mailbox
from cluster.commands import MESSAGE_BYTES_MAX, Accepted, Declined, Delivery, Refused
from cluster.keys import DEAD_LETTERS, OUTBOX, TAKEN, DeadLetterKey, Head, OutboxKey, Taken, TakenKey
from storage.memory import MemoryRows
from storage.rows import Overlay

SOURCE, DESTINATION = 3, 9
SECOND = 1 << mailbox.INCARNATION_SHIFT  # where the sequences of the second incarnation begin
THIRD = 2 << mailbox.INCARNATION_SHIFT


@pytest.fixture
def rows():
    return Overlay(MemoryRows())


def test_each_message_names_the_one_before_it_to_the_same_destination(rows):
    head = Head()
    sent = [mailbox.send(rows, head, SOURCE, to, b"m") for to in (DESTINATION, 4, DESTINATION, 4, SOURCE)]
    assert [(m.destination, m.delivery.previous, m.delivery.sequence) for m in sent] == [
        (DESTINATION, 0, 1),
        (4, 0, 2),
        (DESTINATION, 1, 3),
        (4, 2, 4),
        (SOURCE, 0, 5),
    ]
    assert (head.sent, head.outbox_rows) == (5, 5)
    by_destination = sorted(sent, key=lambda m: (m.destination, m.delivery.sequence))
    assert list(mailbox.waiting(rows, SOURCE)) == by_destination
    assert list(mailbox.waiting(rows, DESTINATION)) == []


def test_a_pair_keeps_its_place_when_its_messages_are_trimmed(rows):
    head = Head()
    mailbox.send(rows, head, SOURCE, DESTINATION, b"1")
    mailbox.trim(rows, head, SOURCE, [(DESTINATION, 1)])
    assert mailbox.send(rows, head, SOURCE, DESTINATION, b"2").delivery.previous == 1


def test_trimming_twice_counts_once(rows):
    head = Head()
    for to in (DESTINATION, 4):
        mailbox.send(rows, head, SOURCE, to, b"m")
    mailbox.trim(rows, head, SOURCE, [(DESTINATION, 1), (DESTINATION, 1), (4, 1), (77, 2)])
    mailbox.trim(rows, head, SOURCE, [(DESTINATION, 1)])
    assert head.outbox_rows == 1
    assert OUTBOX.has(rows, OutboxKey(SOURCE, 4, 2))


def test_a_message_too_large_is_a_bug_of_the_machine(rows):
    head = Head()
    mailbox.send(rows, head, SOURCE, DESTINATION, b"x" * MESSAGE_BYTES_MAX)
    with pytest.raises(AssertionError, match="65537 bytes"):
        mailbox.send(rows, head, SOURCE, DESTINATION, b"x" * (MESSAGE_BYTES_MAX + 1))


@pytest.mark.parametrize(
    ("last", "previous", "sequence", "taken"),
    [
        # (what was taken last, the message's predecessor, its sequence) -> is it taken
        (None, 0, 1, True),  # the first of a pair
        (None, 0, 5, True),  # whose source sent elsewhere before
        (None, 1, 2, False),  # came before the first
        (5, 5, 6, True),
        (5, 5, 9, True),
        (5, 6, 7, False),  # too early
        (5, 0, 5, False),  # once more
        (5, 0, 1, False),  # an old one once more
        (5, 4, 5, False),
        # The source lost its end (after 3) and began anew.
        (3, 3, SECOND + 1, True),  # nothing that was lost had come here
        (5, 3, SECOND + 1, True),  # 4 and 5 had: they are what was lost
        (2, 3, SECOND + 1, False),  # 3 was kept, and comes first
        (None, 0, SECOND + 1, True),
        (None, 3, SECOND + 1, False),
        (5, SECOND + 1, SECOND + 2, False),  # too early, in the new incarnation
        (SECOND + 1, SECOND + 1, SECOND + 2, True),
        (SECOND + 1, 3, SECOND + 1, False),  # once more
        (SECOND + 1, 3, 4, False),  # a straggler from before the loss
        (SECOND + 1, 5, 6, False),
        (SECOND + 4, SECOND + 2, THIRD + 1, True),  # lost an end twice
        (SECOND + 4, 3, THIRD + 1, True),  # with nothing kept of the second incarnation
        (SECOND + 1, SECOND + 2, THIRD + 1, False),
    ],
)
def test_what_is_taken(rows, last, previous, sequence, taken):
    pair = TakenKey(DESTINATION, SOURCE)
    if last is not None:
        TAKEN.put(rows, pair, Taken(last))
    cursors = {}
    assert mailbox.take(rows, DESTINATION, Delivery(SOURCE, previous, sequence, b"m"), cursors) is taken
    now = sequence if taken else last or 0
    assert cursors == {SOURCE: now}
    assert (TAKEN.get(rows, pair) or Taken(0)).sequence == now


def test_a_new_incarnation_counts_above_all_that_was_sent(rows):
    head = Head()
    first = [mailbox.send(rows, head, SOURCE, DESTINATION, b"kept") for _ in range(3)]
    kept = (Head(**{name: getattr(head, name) for name in Head.__struct_fields__}), 3)
    lost = Delivery(SOURCE, kept[1], kept[1] + 1, b"lost")
    mailbox.begin_incarnation(head)
    again = mailbox.send(rows, head, SOURCE, DESTINATION, b"again")
    assert (again.delivery.previous, again.delivery.sequence) == (3, SECOND + 1)
    taken = [
        delivery.body
        for delivery in (*(m.delivery for m in first), lost, again.delivery, lost, first[0].delivery)
        if mailbox.take(rows, DESTINATION, delivery, {})
    ]
    assert taken == [b"kept"] * 3 + [b"lost", b"again"]
    mailbox.begin_incarnation(head)
    assert mailbox.send(rows, head, SOURCE, DESTINATION, b"third").delivery.sequence == THIRD + 1
    assert head.incarnation == 3


def test_cursors_are_of_one_pair(rows):
    cursors = {}
    for source in (1, 2):
        mailbox.take(rows, DESTINATION, Delivery(source, 0, source + 10, b""), cursors)
    mailbox.take(rows, SOURCE, Delivery(1, 0, 99, b""), {})
    assert cursors == {1: 11, 2: 12}
    assert TAKEN.get(rows, TakenKey(DESTINATION, 1)) == Taken(11)


def test_dead_letters_are_kept_in_order_until_dropped(rows):
    head = Head()
    for sequence in (1, 2):
        delivery = Delivery(SOURCE, sequence - 1, sequence, b"body")
        mailbox.bury(rows, head, DESTINATION, 1234, delivery, Refused("poor", "no money"))
    mailbox.bury_work(rows, head, DESTINATION, 1235, b"work", Refused("stuck", "why"))
    letters = [(key.number, letter) for key, letter in DEAD_LETTERS.scan(rows, DESTINATION)]
    assert [number for number, _ in letters] == [1, 2, 3]
    assert letters[1][1] == mailbox.dead_letter(rows, DESTINATION, 2)
    first = letters[0][1]
    assert (first.source, first.sequence, first.at_ms) == (SOURCE, 1, 1234)
    assert (first.code, first.detail, first.body) == ("poor", "no money", b"body")
    assert (letters[2][1].source, letters[2][1].sequence) == (DESTINATION, mailbox.WORK_SEQUENCE)
    assert head.dead_rows == 3
    assert mailbox.drop_dead_letter(rows, head, DESTINATION, 2) == Accepted(b"")
    outcome = mailbox.drop_dead_letter(rows, head, DESTINATION, 2)
    assert isinstance(outcome, Declined) and outcome.code == "not_found"
    assert head.dead_rows == 2
    assert not DEAD_LETTERS.has(rows, DeadLetterKey(DESTINATION, 2))
