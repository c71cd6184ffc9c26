"""A partition applies its log: results, what a refusal takes back, bounds, messages, work."""

import pytest

from cluster import commands, mailbox, partition
from cluster.commands import (
    Accepted,
    Continue,
    Declined,
    Deliver,
    Delivery,
    Digest,
    DropDeadLetter,
    Execute,
    ForgetChanges,
    Refused,
    RetryDeadLetter,
    Trim,
)
from cluster.keys import DEAD_LETTERS, STREAMS, WORK, Head
from cluster.partition import OUTBOX_ROWS_MAX, ROWS_PER_APPLY_MAX, Partition
from storage.ids import compose, partition_of
from storage.memory import MemoryRows
from storage.rows import Overlay
from tests.cluster.toy import Bank, Bug, balance, decode, encode, notes
from tests.world import World

HOME = 2
ADA = compose(7, HOME, 1)


@pytest.fixture
def world():
    return World(Bank(), partitions=4)


def do(world, *body, **options):
    return decode(world.execute(HOME, encode(body), **options))


def state(world):
    """All rows and heads, but not how many entries were applied."""
    heads = []
    for number in range(4):
        head = world.head(number)
        heads.append({n: getattr(head, n) for n in Head.__struct_fields__ if n not in ("applied", "term")})
    return dict(world.rows.scan(b"", b"\xff" * 3)), heads


def deliver(world, *bodies, source=9, previous=0):
    """Messages from outside, each the next after the one before."""
    messages = []
    for sequence, body in enumerate(bodies, previous + 1):
        messages.append(Delivery(source, sequence - 1, sequence, encode(body)))
    return world.apply(HOME, Deliver(world.now, 1, b"r" * 16, tuple(messages)))


# --- execute ---------------------------------------------------------------------------------------------
def test_a_result_is_computed_while_the_command_is_applied(world):
    assert [do(world, "add", 5), do(world, "add", 6)] == [5, 11]
    with pytest.raises(Refused, match="insufficient"):
        do(world, "give", 1, 12)
    assert do(world, "give", 1, 11) == 0
    world.settle()
    assert balance(world.rows, 1) == 11


def test_a_refusal_takes_everything_back(world):
    do(world, "add", 1)
    do(world, "say", "kept")
    do(world, "work", "work", 1)
    do(world, "tell", 1, "note", b"kept")
    before = state(world)
    applied = world.apply(HOME, Execute(world.now, 1, b"r" * 16, 0, b"i" * 16, b"", encode(["refuse"])))
    assert applied.outcome == Declined("refused", "after all that")
    assert (applied.sent, applied.changes, applied.taken) == ([], [], {})
    assert state(world) == before
    assert world.head(HOME).applied == 5


def test_a_refusal_gives_minted_ids_back(world):
    other = World(Bank(), partitions=4)
    do(other, "mint", 2)
    do(world, "mint", 2)
    with pytest.raises(Refused):
        do(world, "refuse")
    assert do(world, "mint", 2) == do(other, "mint", 2)


def test_a_refused_command_that_is_remembered_writes_only_that(world):
    world.execute(HOME, encode(["add", 1]), scope=ADA)
    _, heads = state(world)
    with pytest.raises(Refused):
        world.execute(HOME, encode(["refuse"]), scope=ADA)
    assert state(world)[1] == heads
    assert balance(world.rows, HOME) == 1
    assert notes(world.rows, HOME) == []


def test_minted_ids_grow_and_carry_their_partition(world):
    minted = do(world, "mint", 3)
    world.now -= 5000
    minted += do(world, "mint", 3)
    assert sorted(set(minted)) == minted
    assert {partition_of(identifier) for identifier in minted} == {HOME}


def test_random_bits_are_the_commands(world):
    one, other, long = do(world, "random", 8, 8, 100)
    assert one != other and long[:8] not in (one, other)
    assert len(long) == 100
    assert [one, other, long] != do(world, "random", 8, 8, 100)
    again = World(Bank(), partitions=4)
    assert decode(again.execute(HOME, encode(["random", 8, 8, 100]))) == [one, other, long]


def test_anything_but_a_refusal_gets_out(world):
    with pytest.raises(Bug):
        do(world, "bug")
    with pytest.raises(Bug):
        deliver(world, ["bug"])
    with pytest.raises(AttributeError):
        do(world, "unheard_of")


# --- retries ---------------------------------------------------------------------------------------------
def test_a_retry_takes_effect_once(world):
    for _ in range(3):
        assert do(world, "add", 5, scope=ADA, command_id=b"a" * 16) == 5
    assert do(world, "add", 5, scope=ADA, command_id=b"b" * 16) == 10
    assert do(world, "add", 5, scope=ADA + 1, command_id=b"a" * 16) == 15
    assert do(world, "add", 5, command_id=b"a" * 16) == 20  # no scope, no memory
    assert do(world, "add", 5, command_id=b"a" * 16) == 25


def test_a_retry_of_what_was_refused_is_refused_alike(world):
    with pytest.raises(Refused, match="insufficient"):
        do(world, "give", 1, 5, scope=ADA, command_id=b"a" * 16)
    do(world, "add", 5)
    with pytest.raises(Refused, match="insufficient"):
        do(world, "give", 1, 5, scope=ADA, command_id=b"a" * 16)
    assert do(world, "give", 1, 5, scope=ADA, command_id=b"b" * 16) == 0


def test_a_retry_sends_nothing_again(world):
    body = encode(["tell", 1, "note", b"once"])
    sent = []
    for _ in range(2):
        command = Execute(world.now, 1, b"r" * 16, ADA, b"a" * 16, b"", body)
        sent.append(len(world.apply(HOME, command).sent))
    world.settle()
    assert sent == [1, 0]
    assert notes(world.rows, 1) == [b"once"]


def test_the_same_id_for_another_request(world):
    for fingerprint, outcome in ((b"f", Accepted), (b"g", Declined), (b"f", Accepted)):
        command = Execute(world.now, 1, b"r" * 16, ADA, b"a" * 16, fingerprint, encode(["add", 1]))
        assert isinstance(world.apply(HOME, command).outcome, outcome)
    assert balance(world.rows, HOME) == 1


# --- bounds ----------------------------------------------------------------------------------------------
def test_rows_per_apply_are_bounded(world):
    do(world, "rows", ROWS_PER_APPLY_MAX)
    with pytest.raises(AssertionError, match="2001 rows"):
        do(world, "rows", ROWS_PER_APPLY_MAX + 1)


def test_a_single_message_has_the_same_bound(world):
    with pytest.raises(AssertionError, match="rows"):
        deliver(world, ["rows", ROWS_PER_APPLY_MAX])  # and its cursor's row


def test_a_batch_of_large_messages_is_taken_in_part(world):
    bodies = [["rows", 400]] * 7
    assert deliver(world, *bodies).taken == {9: 3}
    assert deliver(world, *bodies).taken == {9: 6}  # the whole batch again: three are behind the cursor
    assert deliver(world, *bodies[6:], previous=6).taken == {9: 7}


def test_a_full_outbox_refuses_what_would_send(world, monkeypatch):
    monkeypatch.setattr(partition, "OUTBOX_ROWS_MAX", 3)
    assert OUTBOX_ROWS_MAX > 3
    for _ in range(3):
        do(world, "tell", 1, "note", b"m")
    before = state(world)
    with pytest.raises(Refused, match="unavailable"):
        do(world, "tell", 1, "note", b"one too many", scope=ADA, command_id=b"a" * 16)
    assert state(world) == before
    assert do(world, "add", 1) == 1
    world.apply(HOME, Trim(((1, 1),)))
    do(world, "tell", 1, "note", b"one too many", scope=ADA, command_id=b"a" * 16)


def test_entries_are_applied_in_order(world):
    replica = Partition(HOME, Bank())
    entry = commands.encode(Digest())
    for wrong in (0, 2, 99):
        with pytest.raises(AssertionError, match=f"entry {wrong} after 0"):
            replica.apply(Overlay(MemoryRows()), wrong, 1, entry)
    replica.apply(Overlay(MemoryRows()), 1, 3, entry)
    assert (replica.head.applied, replica.head.term) == (1, 3)


# --- messages --------------------------------------------------------------------------------------------
def test_a_refused_message_is_buried_and_the_others_are_taken(world):
    applied = deliver(world, ["pay", 1], ["unless_rich"], ["pay", 2])
    assert applied.taken == {9: 3}
    assert (applied.sent, applied.changes, applied.work) == ([], [], False)
    assert balance(world.rows, HOME) == 3
    assert notes(world.rows, HOME) == []
    (letter,) = [letter for _, letter in DEAD_LETTERS.scan(world.rows, HOME)]
    assert (letter.source, letter.sequence, letter.code) == (9, 2, "poor")
    assert letter.at_ms == world.now
    assert decode(letter.body) == ["unless_rich"]
    assert world.head(HOME).dead_rows == 1


def test_a_taken_message_is_not_taken_again(world):
    for _ in range(3):
        assert deliver(world, ["pay", 1], ["pay", 2]).taken == {9: 2}
    assert balance(world.rows, HOME) == 3
    assert deliver(world, ["pay", 100], previous=5).taken == {9: 2}
    assert balance(world.rows, HOME) == 3


def test_dead_letters_are_retried_and_dropped(world):
    deliver(world, ["unless_rich"], ["unless_rich"])
    retry = RetryDeadLetter(world.now, 1, b"r" * 16, 1)
    before = state(world)
    assert world.apply(HOME, retry).outcome.code == "poor"
    assert state(world) == before
    do(world, "add", 1000)
    applied = world.apply(HOME, retry)
    assert applied.outcome == Accepted(b"")
    assert (len(applied.sent), len(applied.changes), applied.work) == (1, 1, True)
    assert balance(world.rows, HOME) == 1007
    for command in (retry, DropDeadLetter(1), DropDeadLetter(77)):
        assert world.apply(HOME, command).outcome.code == "not_found"
    assert world.apply(HOME, DropDeadLetter(2)).outcome == Accepted(b"")
    assert world.dead_letters() == 0
    assert list(DEAD_LETTERS.scan(world.rows, HOME)) == []


def test_a_message_to_oneself(world):
    do(world, "add", 5)
    do(world, "give", HOME, 5)
    assert balance(world.rows, HOME) == 0
    world.settle()
    assert balance(world.rows, HOME) == 5


# --- work ------------------------------------------------------------------------------------------------
def proceed(world):
    return world.apply(HOME, Continue(world.now, 1, b"r" * 16))


def test_work_is_continued_in_pieces_the_oldest_first(world):
    do(world, "work", "work", 3)
    do(world, "work", "work", 1)
    assert [proceed(world).work for _ in range(4)] == [True, True, True, False]
    assert balance(world.rows, HOME) == 4
    assert list(WORK.scan(world.rows, HOME)) == []
    assert proceed(world).work is False
    assert balance(world.rows, HOME) == 4


def test_commands_go_between_the_pieces(world):
    do(world, "work", "work", 2)
    proceed(world)
    assert do(world, "add", 100) == 101
    proceed(world)
    assert balance(world.rows, HOME) == 102


def test_work_that_is_refused_does_not_hold_up_what_is_behind_it(world):
    do(world, "work", "refuse", 1)
    do(world, "work", "work", 1)
    applied = proceed(world)
    assert (applied.sent, applied.changes, applied.work) == ([], [], True)
    assert balance(world.rows, HOME) == 0
    assert notes(world.rows, HOME) == []
    assert proceed(world).work is False
    assert balance(world.rows, HOME) == 1
    (letter,) = [letter for _, letter in DEAD_LETTERS.scan(world.rows, HOME)]
    assert (letter.source, letter.sequence, letter.code) == (HOME, mailbox.WORK_SEQUENCE, "stuck")
    assert world.apply(HOME, RetryDeadLetter(world.now, 1, b"r" * 16, 1)).work is True
    assert world.dead_letters() == 0
    proceed(world)
    assert world.dead_letters() == 1


# --- the rest --------------------------------------------------------------------------------------------
def test_changes_are_published_and_forgotten(world):
    for text in "abc":
        do(world, "say", text)
    assert [published.body for published in world.changes] == [b"a", b"b", b"c"]
    world.apply(HOME, ForgetChanges(3))
    assert [key.offset for key, _ in STREAMS.scan(world.rows, HOME)] == [3]


def test_a_digest_is_of_the_state_before_it(world):
    do(world, "add", 1)
    expected = world.digest(HOME)
    assert world.apply(HOME, Digest()).outcome == Accepted(expected)
    assert world.digest(HOME) != expected  # the log is longer
    assert world.digest(HOME) != world.digest(1)


@pytest.mark.parametrize(
    "change",
    [("add", 1), ("mint", 1), ("say", "x"), ("tell", 1, "note", b""), ("work", "work", 1)],
)
def test_a_digest_sees_each_part_of_the_state(change):
    digests = set()
    for body in (("random", 1), change):
        world = World(Bank(), partitions=4)
        world.execute(HOME, encode(body))
        digests.add(world.digest(HOME))
    assert len(digests) == 2


def test_a_head_is_stored_and_loaded(world):
    do(world, "mint", 2)
    do(world, "tell", 1, "note", b"m")
    rows = Overlay(MemoryRows())
    world._partitions[HOME].store_head(rows)
    assert Partition.load(HOME, Bank(), rows).head == world.head(HOME)
    assert Partition.load(HOME + 1, Bank(), rows).head == Head()
