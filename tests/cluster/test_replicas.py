"""Replicas of a lone node over real files: answers, visibility, load, and what follows the streams."""

import threading
import time

import msgspec
import pytest
import trio
import trio.testing

from cluster import commands, courier, journal_writer, replicas, shard_writer, streams
from cluster.commands import Declined, Deliver, Delivery, Digest, Execute
from cluster.keys import OUTBOX, REMEMBERED, TAKEN, TakenKey
from cluster.partition import Partition
from cluster.replicas import Overloaded, Replicas
from cluster.shard_writer import WriterSettings
from storage.ids import compose
from storage.keys import partition_range
from storage.rows import Overlay
from tests.cluster.lone import PARTITIONS, Node, running
from tests.cluster.toy import Bank, balance, decode, encode
from tests.world import World

LONG_S = 60.0
UNHURRIED = WriterSettings(commit_delay_s=LONG_S, commit_rows=10**9)


@pytest.fixture
def lazy(monkeypatch):
    """Under load nothing is committed before somebody asks for it."""
    monkeypatch.setattr(shard_writer, "LINGER_S", LONG_S)
    return UNHURRIED


def together(node, nursery, count, *body, partition=0):
    """Propose `count` commands at once; their results, as they come."""
    results = []

    async def one():
        results.append(await node.do(partition, *body))

    for _ in range(count):
        nursery.start_soon(one)
    return results


# --- one command -----------------------------------------------------------------------------------------
async def test_what_was_answered_can_be_read_at_once(tmp_path):
    async with running(Node(tmp_path / "n")) as node:
        for amount in (5, 6):
            expected = node.balances()[3] + amount
            assert await node.do(3, "add", amount) == expected
            assert node.balances()[3] == expected
        applied = await node.replicas.propose(3, node.command("give", 1, 99))
        assert isinstance(applied.outcome, Declined)
        assert applied.index == 4  # behind the no-op with which every leader begins
        assert node.replicas.applied_index(3) == node.replicas.committed_index(3) == 4
        assert node.replicas.applied_index(1) == 1


async def test_each_partition_lies_in_its_shard(tmp_path):
    async with running(Node(tmp_path / "n", shards=4)) as node:
        for partition in range(PARTITIONS):
            await node.do(partition, "add", 1)
        for number, shard in enumerate(node.shards):
            with shard.reading() as rows:
                held = [p for p in range(PARTITIONS) if next(rows.scan(*partition_range(p)), None)]
            assert held == [number, number + 4]


@pytest.mark.parametrize("count", [3, 6])
def test_shards_are_a_power_of_two(count):
    with pytest.raises(ValueError, match="power of two"):
        Replicas(None, [None] * count, {})


async def test_a_command_too_large_is_a_bug_of_the_caller(tmp_path):
    async with running(Node(tmp_path / "n")) as node:
        with pytest.raises(AssertionError, match="bytes"):
            await node.do(0, "say", "x" * commands.COMMAND_BYTES_MAX)
        await node.do(0, "add", 1)


# --- messages and work -----------------------------------------------------------------------------------
async def test_a_message_is_taken_and_then_seen(tmp_path):
    async with running(Node(tmp_path / "n")) as node:
        await node.do(0, "add", 50)
        applied = await node.replicas.propose(0, node.command("give", 1, 20))
        (message,) = applied.sent
        mark = (0, message.destination, message.delivery.sequence)
        await node.replicas.taken(mark)
        await node.replicas.visible(1)
        assert node.balances()[:2] == [30, 20]
        await node.replicas.taken(mark)  # long ago: at once
        await node.replicas.taken((7, 7, 7))  # never was
        await node.replicas.at_rest()
        with node.replicas.snapshot() as rows:
            assert list(OUTBOX.scan(rows, 0)) == []
        statistics = node.replicas.statistics()
        assert (statistics.messages_queued, statistics.proposals, statistics.work) == (0, 0, 0)


async def test_work_goes_on_by_itself(tmp_path):
    async with running(Node(tmp_path / "n")) as node:
        for partition in (0, 1, 2):
            await node.do(partition, "work", "work", 5 + partition)
            await node.do(partition, "work", "refuse", 1)
            await node.do(partition, "work", "work", 1)
        await node.replicas.at_rest()
        assert node.balances()[:3] == [6, 7, 8]
        assert node.replicas.dead_letters() == {0: 1, 1: 1, 2: 1}
        assert node.replicas.statistics().dead_letters == 3


async def test_many_transfers_conserve_the_sum(tmp_path):
    async with running(Node(tmp_path / "n")) as node:
        for partition in range(PARTITIONS):
            await node.do(partition, "add", 100)
        async with trio.open_nursery() as nursery:
            for number in range(300):
                body = ("give", (number * 5 + 1) % PARTITIONS, number % 7)
                nursery.start_soon(node.replicas.propose, number % PARTITIONS, node.command(*body))
        await node.replicas.at_rest()
        assert sum(node.balances()) == 100 * PARTITIONS
        statistics = node.replicas.statistics()
        assert statistics.messages_queued == 0
        assert statistics.journal_batches < statistics.journal_entries == statistics.applied - PARTITIONS


# --- under load ------------------------------------------------------------------------------------------
async def test_under_load_answers_come_before_the_commit_and_visible_waits(tmp_path, lazy):
    node = Node(tmp_path / "n", settings=lazy)
    async with trio.open_nursery() as proposers:
        results = together(node, proposers, 100, "add", 1)
        await trio.testing.wait_all_tasks_blocked()  # all wait in one queue, so they make one batch
        async with running(node):
            while len(results) < 100:
                await trio.sleep(0.001)
            assert node.balances()[0] == 0
            assert node.replicas.committed_index(0) <= 1
            assert node.journal.statistics().records == 100 + 2 * PARTITIONS  # durable all the same
            await node.replicas.visible(1, 3)  # of another shard: nothing to wait for
            assert node.balances()[0] == 0
            async with trio.open_nursery() as readers:
                for _ in range(50):
                    readers.start_soon(node.replicas.visible, 0, 2)
            assert node.balances()[0] == 100
            assert node.replicas.statistics().commits <= 3
            await node.replicas.visible(0)
    assert sorted(results) == list(range(1, 101))


@pytest.mark.parametrize("wait", ["reached", "taken"])
async def test_who_waits_for_an_entry_goes_on_after_those_who_follow_its_rows(tmp_path, wait):
    """The shard's thread has committed, and its word of that waits until this thread has time: whoever went
    on before it is heard would find caches as they were, and watches that have seen nothing yet."""
    heard = []
    async with running(Node(tmp_path / "n")) as node:
        replicas = node.replicas
        replicas.set_peers([b"p" * 16])  # who may have sent the message
        replicas.on_rows(heard.extend)
        message = Delivery(4, 0, 1, encode(("note", b"x")))
        replicas.submit(2, Deliver(0, 1, b"r" * 16, (message,)), None)
        ends = time.monotonic() + LONG_S
        while replicas._writers[0].committed[2] < 2 and time.monotonic() < ends:
            time.sleep(0.001)  # this thread hears nothing meanwhile
        assert replicas.committed_index(2) < 2
        await (replicas.reached(2, 2) if wait == "reached" else replicas.taken((4, 2, 1)))
        assert heard
        assert replicas.committed_index(2) == 2


async def test_the_next_quiet_command_commits_what_was_answered(tmp_path, lazy):
    node = Node(tmp_path / "n", settings=lazy)
    async with trio.open_nursery() as proposers:
        results = together(node, proposers, 60, "add", 1)
        await trio.testing.wait_all_tasks_blocked()
        async with running(node):
            while len(results) < 60:
                await trio.sleep(0.001)
            await node.do(0, "add", 1)
            assert node.balances()[0] == 61


@pytest.mark.parametrize("settings", [WriterSettings(commit_delay_s=0.02), WriterSettings(commit_rows=10)])
async def test_under_load_a_commit_comes_in_time_or_by_size(tmp_path, settings):
    node = Node(tmp_path / "n", settings=settings)
    async with trio.open_nursery() as proposers:
        together(node, proposers, 60, "mint", 1)
        together(node, proposers, 60, "tell", 0, "note", b"x")
        await trio.testing.wait_all_tasks_blocked()
        async with running(node):
            while node.replicas.committed_index(0) < 120:
                await trio.sleep(0.001)


async def test_a_cancelled_proposer_does_no_harm(tmp_path):
    node = Node(tmp_path / "n")
    async with trio.open_nursery() as nursery:
        results = together(node, nursery, 5, "add", 1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert results == []
    async with running(node):
        with trio.move_on_after(0) as scope:
            await node.do(0, "add", 1)
        assert scope.cancelled_caught
        assert await node.do(0, "add", 1) == 7  # those whose proposer left took effect
        await node.replicas.at_rest()
        assert node.replicas.statistics().proposals == 0


async def test_a_cancelled_wait_leaves_nothing_behind(tmp_path, lazy):
    node = Node(tmp_path / "n", settings=lazy)
    async with trio.open_nursery() as proposers:
        results = together(node, proposers, 60, "add", 1)
        await trio.testing.wait_all_tasks_blocked()
        async with running(node):
            while len(results) < 60:
                await trio.sleep(0.001)
            for wait in (node.replicas.at_rest, lambda: node.replicas.visible(0)):
                with trio.move_on_after(0):
                    await wait()
            await node.replicas.visible(0)
            await node.replicas.at_rest()
            assert node.balances()[0] == 60


async def test_more_than_the_bound_is_refused_not_queued(tmp_path, monkeypatch):
    monkeypatch.setattr(replicas, "PROPOSALS_MAX", 10)
    node = Node(tmp_path / "n")
    async with trio.open_nursery() as nursery:
        results = together(node, nursery, 10, "add", 1)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Overloaded, match="10 commands"):
            await node.do(0, "add", 1)
        async with running(node):
            while len(results) < 10:
                await trio.sleep(0.001)
            assert await node.do(0, "add", 1) == 11


async def test_commands_are_refused_while_too_many_messages_wait(tmp_path, monkeypatch):
    async with running(Node(tmp_path / "n")) as node:
        monkeypatch.setattr(courier, "QUEUED_MAX", 0)
        with pytest.raises(Overloaded, match="messages"):
            await node.do(0, "add", 1)
        monkeypatch.undo()
        assert await node.do(0, "add", 1) == 1


class Held(Bank):
    """Applies nothing before it may."""

    def __init__(self):
        self.may = threading.Event()

    def execute(self, apply, body):
        assert self.may.wait(LONG_S)
        return super().execute(apply, body)


async def test_what_a_shard_has_not_applied_does_not_pile_up(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_writer, "BACKLOG_BYTES_MAX", 500)
    held = Held()
    async with running(Node(tmp_path / "n", machine=held)) as node:
        writer, shard = node.replicas._journal_writer, node.replicas._writers[0]
        async with trio.open_nursery() as nursery:
            while shard.backlog_bytes <= journal_writer.BACKLOG_BYTES_MAX:
                together(node, nursery, 1, "add", 1)
                await trio.sleep(0.001)
            taken = writer.entries
            results = together(node, nursery, 50, "add", 1)
            await trio.sleep(5 * journal_writer.BACKLOG_LOOK_S)
            assert writer.entries <= taken + 2  # those for which it waited when the bound was passed
            held.may.set()
        assert len(results) == 50
        assert shard.backlog_bytes == 0


async def test_frames_that_wait_have_a_bound_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_writer, "FRAMES_WAITING_BYTES_MAX", 1000)
    node = Node(tmp_path / "n")
    for size in (2000, 1, 2000):  # one alone may be as large as it is
        node.replicas.frame(b"p" * 16, bytes(size))
    assert node.replicas.statistics().frames_dropped == 2
    async with running(node):
        await node.do(0, "add", 1)
        node.replicas.frame(b"p" * 16, bytes(999))
        node.replicas.frame(b"p" * 16, b"")
        assert node.replicas.statistics().frames_dropped == 2


# --- streams ---------------------------------------------------------------------------------------------
async def test_followers_hear_what_can_be_read_in_its_order(tmp_path):
    node = Node(tmp_path / "n", settings=WriterSettings(commit_delay_s=0.005))
    heard = []

    def listener(changes):
        for change in changes:
            heard.append((change.partition, change.offset, change.body))
            with node.replicas.snapshot() as rows:
                assert next(streams.follow(rows, change.partition, change.offset)) == change

    node.replicas.on_changes(listener)
    async with running(node):
        async with trio.open_nursery() as nursery:
            for partition in (0, 1):
                together(node, nursery, 150, "say", "x", partition=partition)
        await node.replicas.at_rest()
    for partition in (0, 1):
        assert [offset for p, offset, _ in heard if p == partition] == list(range(1, 151))


async def test_old_changes_are_forgotten_until_none_is_left(tmp_path):
    async with running(Node(tmp_path / "n")) as node:
        async with trio.open_nursery() as nursery:
            for number in range(1200):
                command = node.command("say", "old", now=1_500_000_000_000 + number)
                nursery.start_soon(node.replicas.propose, 5, command)
        await node.do(5, "say", "new")
        await node.replicas.at_rest()
        node.replicas.errands.forget_old()
        await node.replicas.at_rest()
        with node.replicas.snapshot() as rows:
            assert [p.offset for p in streams.follow(rows, 5, 1)] == [1201]


async def test_what_is_remembered_of_old_commands_is_forgotten_until_none_is_left(tmp_path):
    scope = compose(5, 5, 1)
    async with running(Node(tmp_path / "n")) as node:
        async with trio.open_nursery() as nursery:
            for number in range(500):
                command = node.command("say", "old", now=1_500_000_000_000 + number)
                command = msgspec.structs.replace(command, scope=scope, id=number.to_bytes(16, "big"))
                nursery.start_soon(node.replicas.propose, 5, command)
        await node.replicas.at_rest()
        with node.replicas.snapshot() as rows:
            assert len(list(REMEMBERED.scan(rows, scope))) == 500
        node.replicas.errands.forget_old()
        await node.replicas.at_rest()
        with node.replicas.snapshot() as rows:
            assert not list(REMEMBERED.scan(rows, scope))


# --- the cut ---------------------------------------------------------------------------------------------
def frozen_sum(frozen):
    """Balances, and what is in outboxes and was not taken where it goes, in one cut over all shards."""
    rows = FrozenRows(frozen)
    total = 0
    for partition in range(PARTITIONS):
        total += balance(rows, partition)
        for key, row in OUTBOX.scan(rows, partition):
            taken = TAKEN.get(rows, TakenKey(key.destination, partition))
            if key.sequence > (taken.sequence if taken else 0):
                total += decode(row.body)[1]
    return total


class FrozenRows:
    """A Reader over what was frozen."""

    def __init__(self, frozen):
        self._frozen = frozen

    def scan(self, start, stop, *, reverse=False):
        return self._frozen[start[1] % len(self._frozen)].scan(start, stop)

    def get(self, key):
        return next((value for _, value in self.scan(key, key + b"\0")), None)


async def test_a_freeze_is_one_cut_while_money_moves(tmp_path):
    async with running(Node(tmp_path / "n")) as node:
        for partition in range(PARTITIONS):
            await node.do(partition, "add", 1000)

        async def move(start):
            number = start
            while True:
                body = ("give", (number * 3 + 1) % PARTITIONS, 1 + number % 9)
                await node.replicas.propose(number % PARTITIONS, node.command(*body))
                number += 1

        async with trio.open_nursery() as nursery:
            for start in range(80):  # many enough that there is always a batch behind the pause
                nursery.start_soon(move, start)
            commits = 0
            for _ in range(8):
                await trio.sleep(0.02)
                frozen = await node.replicas.freeze()
                assert len(frozen) == 2
                assert frozen_sum(frozen) == 1000 * PARTITIONS
                for shard in frozen:
                    shard.close()
                assert node.replicas.statistics().commits > commits  # the writers go on
                commits = node.replicas.statistics().commits
            nursery.cancel_scope.cancel()
        await node.replicas.at_rest()
        assert sum(node.balances()) == 1000 * PARTITIONS


async def test_two_freezes_at_once(tmp_path):
    async with running(Node(tmp_path / "n")) as node:
        await node.do(0, "add", 5)
        cuts = []

        async def freeze():
            cuts.append(await node.replicas.freeze())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(freeze)
            nursery.start_soon(freeze)
        assert [balance(FrozenRows(cut), 0) for cut in cuts] == [5, 5]
        for shard in (shard for cut in cuts for shard in cut):
            shard.close()


async def test_a_cancelled_freeze_lets_the_writers_go_on(tmp_path):
    async with running(Node(tmp_path / "n")) as node:
        for _ in range(20):
            with trio.move_on_after(0):
                await node.replicas.freeze()
        assert await node.do(0, "add", 1) == 1
        for _ in range(30):  # no reader was left that would keep pages from being used again
            await node.do(0, "rows", 1500)
        assert node.shards[0].statistics().used_bytes < 4 << 20


# --- logged digests --------------------------------------------------------------------------------------
async def test_a_digest_over_files_equals_one_in_memory(tmp_path):
    world = World(Bank(), partitions=PARTITIONS)
    async with running(Node(tmp_path / "n")) as node:
        world._partitions[0].pass_by(1, node.replicas.standing(0).term)
        bodies = [("add", 9), ("mint", 3), ("say", "x"), ("rows", 5), ("refuse",), ("work", "work", 2)]
        for number, body in enumerate(bodies[:-1]):
            identity = bytes([number] * 16)
            command = Execute(world.now + number, 1, bytes(16), 1 << 40, identity, b"", encode(body))
            applied = await node.replicas.propose(0, command)
            assert applied == world.apply(0, command)
        outcome = (await node.replicas.propose(0, Digest())).outcome
        assert outcome == world.apply(0, Digest()).outcome
        await node.replicas.at_rest()
        with node.shards[0].reading() as rows:
            assert Partition.load(0, Bank(), rows).digest(Overlay(rows)) == world.digest(0)
