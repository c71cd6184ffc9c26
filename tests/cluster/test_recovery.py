"""Law 1 over real files: what was answered is there after any stop; who waits when a writer dies is told."""

import subprocess
import sys

import pytest
import trio
import trio.testing

from cluster import journal_writer, replicas, shard_writer
from cluster.commands import Delivery, Message
from cluster.keys import WORK, WorkKey
from cluster.mailbox import send
from cluster.partition import Partition
from cluster.replicas import Stopped, StorageFull
from cluster.shard_writer import WriterSettings
from storage.journal import JournalFailed, JournalFull
from storage.memory_journal import MemoryJournal
from storage.rows import Overlay
from tests.cluster.lone import PARTITIONS, Node, running
from tests.cluster.toy import BALANCES, BalanceKey, Bank, Bug, encode

LONG_S = 60.0
LAZY = WriterSettings(commit_delay_s=LONG_S, commit_rows=10**9)


@pytest.fixture
def lazy(monkeypatch):
    monkeypatch.setattr(shard_writer, "LINGER_S", LONG_S)


async def run_to_its_end(node):
    """Run until a writer dies; the one exception that came out."""
    with trio.fail_after(LONG_S):
        try:
            await node.replicas.run()
        except BaseExceptionGroup as group:
            while isinstance(group, BaseExceptionGroup):
                (group,) = group.exceptions
            return group
    raise AssertionError("it ran to its end and said nothing")


# --- stops -----------------------------------------------------------------------------------------------
async def test_a_clean_stop_leaves_nothing_to_replay_but_everything_there(tmp_path):
    for round_ in range(3):
        async with running(Node(tmp_path / "n")) as node:
            assert node.balances()[:2] == [round_ * 10, round_ * 10]
            for partition in (0, 1):
                await node.do(partition, "add", 10)
                assert node.replicas.applied_index(partition) == 2 * (round_ + 1)  # each start has its no-op
            await node.replicas.at_rest()


async def test_a_stop_right_after_the_start(tmp_path):
    for _ in range(30):  # the writers' threads have begun, or some of them, or none
        async with running(Node(tmp_path / "n")):
            pass


async def test_what_was_proposed_when_it_stops_is_still_answered(tmp_path):
    node = Node(tmp_path / "n")
    results = []

    async def propose():
        results.append(await node.do(0, "add", 1))

    async with trio.open_nursery() as nursery, running(node):
        for _ in range(100):
            nursery.start_soon(propose)
        await trio.lowlevel.checkpoint()
        assert results == []
    assert sorted(results) == list(range(1, 101))
    async with running(Node(tmp_path / "n")) as node:
        assert node.balances()[0] == 100


async def test_a_crash_before_the_commit_loses_nothing_that_was_answered(tmp_path, lazy):
    node = Node(tmp_path / "n", settings=LAZY)
    node.replicas.errands.go = lambda: None  # a delivery would be a quiet command, and commit
    answered = []

    async def one(number):
        partition = number % 4
        await node.do(partition, "tell", 7 - partition, "note", b"%d" % number)
        answered.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(one, number)
        await trio.testing.wait_all_tasks_blocked()
        async with running(node):
            while len(answered) < 300:
                await trio.sleep(0.001)
            assert not any(node.notes(partition) for partition in range(PARTITIONS))  # nothing is committed
            image = node.crash_image(tmp_path / "image")
    async with running(Node(image)) as again:
        assert again.replayed >= 300
        await again.replicas.at_rest()
        for partition in range(4):
            expected = [b"%d" % number for number in range(partition, 300, 4)]
            assert sorted(again.notes(7 - partition)) == sorted(expected)


async def test_a_crash_while_recovering_is_recovered(tmp_path, lazy):
    node = Node(tmp_path / "n", settings=LAZY)
    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(node.do, 0, "add", 1)
        await trio.testing.wait_all_tasks_blocked()
        async with running(node):
            while node.replicas.statistics().proposals:
                await trio.sleep(0.001)
            image = node.crash_image(tmp_path / "image")
    for _ in range(3):
        half_way = Node(image)
        half_way.close()  # recovered, and stopped before it ran
    async with running(Node(image)) as again:
        assert again.balances()[0] == 60


@pytest.mark.crash
def test_a_killed_process_loses_nothing_that_was_answered(tmp_path):
    answered = []
    for _ in range(3):
        first = max(answered, default=-1) + 1000  # numbers that may be in flight are not used again
        program = [sys.executable, "-m", "tests.cluster.lone", str(tmp_path / "n"), str(first)]
        with subprocess.Popen(program, stdout=subprocess.PIPE) as process:
            for _ in range(1500):
                line = process.stdout.readline()
                assert line, "it ended by itself"
                answered.append(int(line))
            process.kill()
            answered.extend(int(line) for line in process.stdout if line.endswith(b"\n"))
        assert process.returncode == -9
    assert len(answered) >= 4500

    async def check():
        async with running(Node(tmp_path / "n")) as node:
            await node.replicas.at_rest()
            for partition in range(PARTITIONS):
                found = [int(note) for note in node.notes(partition)]
                assert len(found) == len(set(found)), "a message was taken twice"
                expected = {n for n in answered if (n + 1) % PARTITIONS == partition}
                assert expected <= set(found)

    trio.run(check)


async def test_mail_and_work_that_were_left_are_finished(tmp_path):
    node = Node(tmp_path / "n")
    transaction = node.shards[0].begin()
    rows = Overlay(transaction)
    partition = Partition(2, Bank())
    for amount in (1, 2, 3):
        send(rows, partition.head, 2, 5, encode(["pay", amount]))
        send(rows, partition.head, 2, 4, encode(["pay", amount]))
    WORK.put(rows, WorkKey(2, 1), encode(["work", 4]))
    partition.head.work_rows, partition.head.work_next = 1, 2
    BALANCES.put(rows, BalanceKey(2), 100)
    partition.store_head(rows)
    rows.flush()
    transaction.commit()
    node.close()
    async with running(Node(tmp_path / "n")) as node:
        await node.replicas.at_rest()
        assert node.balances() == [0, 0, 104, 0, 6, 6, 0, 0]


async def test_segments_that_all_shards_have_passed_are_released(tmp_path, monkeypatch):
    monkeypatch.setattr(replicas, "TEND_EVERY_S", 0.02)
    async with running(Node(tmp_path / "n", segment_bytes=16 << 10)) as node:
        for partition in range(PARTITIONS):
            await node.do(partition, "add", 1)
        for _ in range(40):
            async with trio.open_nursery() as nursery:
                for _ in range(40):
                    nursery.start_soon(node.do, 3, "say", "x" * 100)
        await node.replicas.at_rest()
        assert node.journal.statistics().written_bytes > 10 * (16 << 10)
        while node.journal.statistics().segments > 2:
            await trio.sleep(0.01)
    async with running(Node(tmp_path / "n", segment_bytes=16 << 10)) as node:
        assert node.balances() == [1] * PARTITIONS
        applied = await node.replicas.propose(3, node.command("add", 1))
        assert applied.index == 1 + 1 + 1600 + 1 + 1  # with the no-ops of two starts


# --- deaths ----------------------------------------------------------------------------------------------
async def test_a_bug_stops_the_node_loudly_and_nobody_hangs(tmp_path):
    node = Node(tmp_path / "n")
    told, answered = [], []

    async def one(partition, *body):
        try:
            answered.append(await node.do(partition, *body))
        except Stopped:
            told.append(body)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, 0, "add", 1)
        nursery.start_soon(one, 0, "bug")
        for _ in range(50):
            nursery.start_soon(one, 0, "add", 1)
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(await run_to_its_end(node), Bug)
    assert len(told) == 52 and answered == []
    for call in (node.do(1, "add", 1), node.replicas.freeze()):
        with pytest.raises(Stopped):
            await call
    assert node.balances() == [0] * PARTITIONS
    node.close()

    class Mended(Bank):
        def _bug(self, apply):
            return None

    async with running(Node(tmp_path / "n", machine=Mended())) as node:
        assert node.balances()[0] == 51  # they were durable, and nobody was told otherwise


async def test_a_bug_takes_nothing_back_that_was_answered(tmp_path, lazy):
    """What the aborted transaction held is in the journal."""
    node = Node(tmp_path / "n", settings=LAZY)
    answered = []

    async def one():
        answered.append(await node.do(0, "add", 1))

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(one)
        await trio.testing.wait_all_tasks_blocked()

        async def then_the_bug():
            while len(answered) < 60:
                await trio.sleep(0.001)
            with pytest.raises(Stopped):
                await node.do(0, "bug")

        nursery.start_soon(then_the_bug)
        assert isinstance(await run_to_its_end(node), Bug)
    node.close()

    class Mended(Bank):
        def _bug(self, apply):
            return None

    async with running(Node(tmp_path / "n", machine=Mended())) as node:
        assert node.balances()[0] == 60


def hand_on(node):
    """Do what the journal's thread would: write what is proposed, and hand it to the shards."""
    journal = node.replicas._journal_writer
    journal._lead_alone()
    journal._turn()


@pytest.mark.parametrize("name", ["propose", "visible", "taken", "at_rest", "freeze"])
async def test_every_kind_of_waiting_ends_when_a_writer_dies(tmp_path, name):
    node = Node(tmp_path / "n")
    message = Message(2, Delivery(0, 0, 1, encode(["bug"])))
    waits = {
        "propose": lambda: node.do(2, "add", 1),
        "visible": lambda: node.replicas.visible(0),
        "taken": lambda: node.replicas.taken((0, 2, 1)),
        "at_rest": node.replicas.at_rest,
        "freeze": node.replicas.freeze,  # shard 1 is paused, and shard 0 dies before it is
    }

    async def expect_stopped(call):
        with pytest.raises(Stopped):
            await call()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_stopped, lambda: node.do(0, "bug"))
        await trio.testing.wait_all_tasks_blocked()
        hand_on(node)
        node.replicas.courier.sent([message])  # never taken: its destination is dead
        node.replicas._sight.unread[0] = 1  # as if something had been answered before its commit
        nursery.start_soon(expect_stopped, waits[name])
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(await run_to_its_end(node), Bug)
    with pytest.raises(Stopped):
        await waits[name]()
    node.close()


async def test_a_journal_that_fails_stops_the_node(tmp_path):
    node = Node(tmp_path / "n")
    async with trio.open_nursery() as nursery:

        async def propose():
            assert await node.do(0, "add", 1) == 1
            node.journal._close_files()
            with pytest.raises(Stopped):
                await node.do(0, "add", 1)

        nursery.start_soon(propose)
        assert isinstance(await run_to_its_end(node), JournalFailed)
    for shard in node.shards:
        shard.close()
    async with running(Node(tmp_path / "n")) as node:
        assert node.balances()[0] == 1


# --- no room ---------------------------------------------------------------------------------------------
class TightJournal(MemoryJournal):
    """A journal on a disk that has room for so many writes more; one for the start."""

    room = 1

    def make_room(self, records, size):
        if not self.room:
            raise JournalFull("no room for a segment")

    def write(self, records):
        self.make_room(len(records), 0)
        self.room -= 1
        return super().write(records)


@pytest.fixture
def tight(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_writer, "FULL_RETRY_S", 0.005)
    return Node(tmp_path / "n", journal=TightJournal())


async def test_without_room_commands_are_refused_and_change_nothing(tight):
    async with running(tight) as node:
        with pytest.raises(StorageFull):
            await node.do(0, "add", 1)
        await node.replicas.at_rest()
        assert node.balances()[0] == 0
        node.journal.room = 10**9
        applied = await node.replicas.propose(0, node.command("add", 1))
        assert applied.index == 2  # behind the no-op: the log has no gap
        assert node.balances()[0] == 1


async def test_what_waits_for_the_last_answer_hears_of_a_refusal(tight):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_full, tight)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(tight.replicas.at_rest)
        await trio.testing.wait_all_tasks_blocked()
        async with running(tight):
            await tight.replicas.at_rest()


async def expect_full(node):
    with pytest.raises(StorageFull):
        await node.do(0, "add", 1)


async def test_messages_wait_for_room(tight, tmp_path):
    async with running(tight) as node:
        node.journal.room = 2
        await node.do(0, "add", 5)
        await node.do(0, "give", 1, 5)
        while not node.replicas._journal_writer.full:
            await trio.sleep(0.001)
        assert node.balances()[:2] == [0, 0]
        node.journal.room = 10**9
        await node.replicas.at_rest()
        assert node.balances()[:2] == [0, 5]
        node.journal.room = 1
        await node.do(1, "give", 2, 5)
    async with running(Node(tmp_path / "n", journal=MemoryJournal())) as again:  # stopped while it waited
        await again.replicas.at_rest()
        assert again.balances()[:3] == [0, 0, 5]
