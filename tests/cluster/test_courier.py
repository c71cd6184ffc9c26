"""The courier by itself: order per pair, one batch per destination, and what becomes of each answer."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.commands import MESSAGE_BYTES_MAX, MESSAGES_PER_DELIVER_MAX, Delivery, Message
from cluster.courier import DELIVER_BYTES_MAX, QUEUED_MAX, TRIMS_PER_COMMAND_MAX, Courier


def message(source, destination, sequence, body=b""):
    return Message(destination, Delivery(source, sequence - 1, sequence, body))


def sequences(batch):
    destination, deliveries = batch
    return destination, [(delivery.source, delivery.sequence) for delivery in deliveries]


def trims(courier):
    return {source: list(cuts) for source, cuts in courier.trims()}


def test_nothing_to_carry():
    courier = Courier()
    assert courier.next_batch() is None
    assert courier.at_rest and not courier.full
    assert list(courier.trims()) == []


def test_one_batch_a_destination_at_a_time():
    courier = Courier()
    courier.sent([message(1, 5, 1), message(2, 6, 1), message(1, 5, 2)])
    assert sequences(courier.next_batch()) == (5, [(1, 1), (1, 2)])
    assert sequences(courier.next_batch()) == (6, [(2, 1)])
    courier.sent([message(1, 5, 3)])
    assert courier.next_batch() is None
    courier.delivered(5, {1: 2})
    assert sequences(courier.next_batch()) == (5, [(1, 3)])
    assert courier.next_batch() is None
    assert trims(courier) == {1: [(5, 1), (5, 2)]}
    assert courier.queued == 2 and not courier.at_rest


def test_what_was_not_taken_goes_again_before_what_came_later():
    courier = Courier()
    courier.sent([message(1, 5, n) for n in (1, 2, 3)] + [message(2, 5, 1)])
    courier.next_batch()
    courier.sent([message(1, 5, 4)])
    courier.delivered(5, {1: 1})  # and nothing of source 2
    assert courier.repeated == 3
    assert sequences(courier.next_batch()) == (5, [(1, 2), (1, 3), (2, 1), (1, 4)])
    courier.delivered(5, {1: 4, 2: 1})
    assert trims(courier) == {1: [(5, 1), (5, 2), (5, 3), (5, 4)], 2: [(5, 1)]}
    assert trims(courier) == {}
    assert courier.at_rest and courier.next_batch() is None


def test_a_batch_without_an_answer_is_handed_out_again():
    courier = Courier()
    courier.sent([message(1, 5, n) for n in (1, 2)])
    first = courier.next_batch()
    courier.sent([message(1, 5, 3)])
    courier.failed(5)
    again = courier.next_batch()
    assert again[1][:2] == first[1] and sequences(again) == (5, [(1, 1), (1, 2), (1, 3)])
    assert courier.next_batch() is None


def test_an_answer_may_know_of_more_than_the_batch():
    courier = Courier()
    courier.sent([message(1, 5, 1)])
    courier.next_batch()
    courier.delivered(5, {1: 9})  # taken before a restart, and others after it
    assert trims(courier) == {1: [(5, 1)]}
    assert courier.at_rest


def test_batches_are_bounded_in_number_and_bytes():
    courier = Courier()
    courier.sent([message(1, 5, n) for n in range(1, 2 * MESSAGES_PER_DELIVER_MAX)])
    assert len(courier.next_batch()[1]) == MESSAGES_PER_DELIVER_MAX
    courier.sent([message(1, 6, n, b"x" * MESSAGE_BYTES_MAX) for n in range(1, 30)])
    size = sum(len(delivery.body) for delivery in courier.next_batch()[1])
    assert DELIVER_BYTES_MAX <= size < DELIVER_BYTES_MAX + MESSAGE_BYTES_MAX


def test_what_was_not_trimmed_is_handed_out_again():
    courier = Courier()
    courier.sent([message(1, 5, 1)])
    courier.next_batch()
    courier.delivered(5, {1: 1})
    ((source, cuts),) = courier.trims()
    assert courier.at_rest
    courier.untrimmed(source, cuts)
    assert not courier.at_rest
    assert trims(courier) == {1: [(5, 1)]}


def test_trims_are_bounded():
    courier = Courier()
    count = TRIMS_PER_COMMAND_MAX * 2 + 1
    courier.sent([message(1, 5, n) for n in range(1, count + 1)])
    while (batch := courier.next_batch()) is not None:
        courier.delivered(5, {1: batch[1][-1].sequence})
    cuts = [len(cut) for source, cut in courier.trims() if source == 1]
    assert max(cuts) <= TRIMS_PER_COMMAND_MAX and sum(cuts) == count


def test_full_at_its_bound():
    courier = Courier()
    courier.sent(message(1, 5, n) for n in range(1, QUEUED_MAX))
    assert not courier.full
    courier.sent([message(1, 5, QUEUED_MAX)])
    assert courier.full
    courier.next_batch()
    courier.delivered(5, {1: 1})
    assert not courier.full


def test_who_waits_is_woken_once_when_the_message_is_taken():
    courier, woken = Courier(), []
    courier.sent([message(1, 5, 1), message(1, 5, 2)])
    wakes = [lambda n=n: woken.append(n) for n in range(3)]
    assert courier.when_taken((1, 5, 1), wakes[0])
    assert courier.when_taken((1, 5, 1), wakes[1])
    assert courier.when_taken((1, 5, 2), wakes[2])
    assert not courier.when_taken((1, 5, 3), wakes[0])  # not under way
    courier.forget_waiter((1, 5, 1), wakes[1])
    courier.next_batch()
    courier.delivered(5, {1: 1})
    assert woken == [0]
    courier.forget_waiter((1, 5, 1), wakes[0])  # late, and harmless
    assert not courier.when_taken((1, 5, 1), wakes[0])
    courier.forget_waiter((1, 5, 2), wakes[2])
    courier.next_batch()
    courier.delivered(5, {1: 2})
    assert woken == [0]


@given(st.data())
def test_every_message_arrives_in_order_whatever_the_answers(data):
    courier = Courier()
    sent = {(source, destination): 0 for source in (1, 2) for destination in (5, 6)}
    taken = dict.fromkeys(sent, 0)
    under_way = {}
    for _ in range(data.draw(st.integers(1, 40))):
        event = data.draw(st.sampled_from(["send", "take batch", "answer", "fail"]))
        if event == "send":
            pair = data.draw(st.sampled_from(sorted(sent)))
            sent[pair] += 1
            courier.sent([message(*pair, sent[pair])])
        elif event == "take batch":
            batch = courier.next_batch()
            if batch is not None:
                assert batch[0] not in under_way and batch[1]
                under_way[batch[0]] = batch[1]
        elif under_way:
            destination = data.draw(st.sampled_from(sorted(under_way)))
            batch = under_way.pop(destination)
            if event == "fail":
                courier.failed(destination)
                continue
            courier.delivered(destination, take_some(data, destination, batch, taken))
    while under_way or (batch := courier.next_batch()) is not None:
        if under_way:
            batch = under_way.popitem()
        courier.delivered(batch[0], take_some(None, *batch, taken))
    assert taken == sent
    assert sum(len(cuts) for _, cuts in courier.trims()) == sum(sent.values())
    assert courier.at_rest


def take_some(data, destination, batch, taken):
    """The destination takes all, or the first few; each only in order."""
    most = len(batch) if data is None else data.draw(st.integers(0, len(batch)))
    cursors = {}
    for delivery in batch[:most]:
        pair = (delivery.source, destination)
        assert delivery.sequence <= taken[pair] + 1, "a message overtook another of its pair"
        taken[pair] = max(taken[pair], delivery.sequence)
        cursors[delivery.source] = taken[pair]
    return cursors
