"""Law 3: however the way between partitions loses, repeats and disorders, each message counts once, in order.

Hypothesis drives three accounts, the courier that carries between them, and a network that keeps every batch
it ever saw and may bring any part of it, in any order, at any time.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster import mailbox
from cluster.commands import Deliver, Execute, Trim
from cluster.courier import Courier
from cluster.keys import OUTBOX, TAKEN, TakenKey
from tests.cluster.toy import Bank, balance, decode, encode, notes
from tests.world import World

PARTITIONS = 3
MONEY = 100  # of each account at the start
ACCOUNTS = st.integers(0, PARTITIONS - 1)


class LossyWay(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.world = World(Bank(), partitions=PARTITIONS)
        self.courier = Courier()
        self.under_way = {}  # destination -> the batch that the courier waits for
        self.seen = []  # every (destination, batch) that was ever handed out
        self.told = {}  # (source, destination) -> notes sent
        self.tick = 0

    def execute(self, partition, *body):
        self.tick += 1
        command = Execute(self.world.now, 1, b"r" * 16, 0, self.tick.to_bytes(16, "big"), b"", encode(body))
        applied = self.world.apply(partition, command)
        self.courier.sent(applied.sent)

    def deliver(self, destination, messages):
        applied = self.world.apply(destination, Deliver(self.world.now, 1, b"r" * 16, tuple(messages)))
        self.courier.sent(applied.sent)
        return applied.taken

    @initialize()
    def everyone_is_given_money(self):
        for partition in range(PARTITIONS):
            self.execute(partition, "add", MONEY)

    @rule(source=ACCOUNTS, destination=ACCOUNTS, amount=st.integers(1, MONEY))
    def give(self, source, destination, amount):
        self.execute(source, "give", destination, amount)  # refused if there is not so much

    @rule(source=ACCOUNTS, destination=ACCOUNTS)
    def tell(self, source, destination):
        sent = self.told.setdefault((source, destination), [])
        sent.append(b"%d>%d:%d" % (source, destination, len(sent)))
        self.execute(source, "tell", destination, "note", sent[-1])

    @rule(partition=ACCOUNTS)
    def refuse(self, partition):
        self.execute(partition, "refuse")

    @rule()
    def hand_out(self):
        batch = self.courier.next_batch()
        if batch is not None:
            assert batch[0] not in self.under_way
            self.under_way[batch[0]] = batch[1]
            self.seen.append(batch)

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def something_arrives_and_its_answer_is_lost(self, data):
        destination, batch = data.draw(st.sampled_from(self.seen))
        self.deliver(destination, data.draw(st.lists(st.sampled_from(batch), max_size=5)))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def a_part_arrives_and_is_answered(self, data):
        destination, batch = data.draw(st.sampled_from(sorted(self.under_way.items())))
        kept = data.draw(st.lists(st.booleans(), min_size=len(batch), max_size=len(batch)))
        del self.under_way[destination]
        part = [delivery for delivery, keep in zip(batch, kept, strict=True) if keep]
        self.courier.delivered(destination, self.deliver(destination, part))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def no_answer(self, data):
        destination = data.draw(st.sampled_from(sorted(self.under_way)))
        del self.under_way[destination]
        self.courier.failed(destination)

    @rule(lost=st.booleans())
    def trim(self, lost):
        for source, cuts in self.courier.trims():
            if not lost:
                self.world.apply(source, Trim(cuts))

    @rule()
    def restart(self):
        self.courier = Courier()
        self.under_way = {}
        for partition in range(PARTITIONS):
            self.courier.sent(mailbox.waiting(self.world.rows, partition))

    @invariant()
    def no_money_is_made_or_lost(self):
        rows = self.world.rows
        total = sum(balance(rows, partition) for partition in range(PARTITIONS))
        for partition in range(PARTITIONS):
            for key, row in OUTBOX.scan(rows, partition):
                taken = TAKEN.get(rows, TakenKey(key.destination, partition))
                word, amount = decode(row.body)
                if word == "pay" and key.sequence > (taken.sequence if taken else 0):
                    total += amount
        assert total == PARTITIONS * MONEY * (self.tick >= PARTITIONS)

    @invariant()
    def notes_come_in_order_and_once(self):
        for destination in range(PARTITIONS):
            for source in range(PARTITIONS):
                came = [n for n in notes(self.world.rows, destination) if n.startswith(b"%d>" % source)]
                assert came == self.told.get((source, destination), [])[: len(came)]

    @invariant()
    def outboxes_are_counted(self):
        for partition in range(PARTITIONS):
            waiting = len(list(mailbox.waiting(self.world.rows, partition)))
            assert self.world.head(partition).outbox_rows == waiting

    def teardown(self):
        """In the end, on a way that works, everything arrives."""
        self.restart()
        while not self.courier.at_rest:
            while (batch := self.courier.next_batch()) is not None:
                self.courier.delivered(batch[0], self.deliver(*batch))
            self.trim(lost=False)
        self.no_money_is_made_or_lost()
        assert all(self.world.head(partition).outbox_rows == 0 for partition in range(PARTITIONS))
        for (source, destination), sent in self.told.items():
            came = [n for n in notes(self.world.rows, destination) if n.startswith(b"%d>" % source)]
            assert came == sent


TestLossyWay = LossyWay.TestCase
TestLossyWay.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
