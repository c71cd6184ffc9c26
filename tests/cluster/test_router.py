"""Any node takes any command and answers any read: three real nodes over loopback, whose wires are cut."""

from contextlib import asynccontextmanager

import pytest
import trio

from cluster.commands import Declined, Deliver, Delivery, DropDeadLetter, Refused
from cluster.forwarding import NOT_LEADER, OVERLOADED, STORAGE_FULL, UNKNOWN
from cluster.peers.errors import PeerRefused
from cluster.peers.messages import CloseLane, Index, Propose, ReadIndex
from cluster.raft.roles import Role
from cluster.read_index import READ_INDEX_WITHIN_S
from cluster.replicas import Overloaded, StorageFull
from cluster.router import Unavailable
from cluster.shard_writer import Pause
from storage.ids import SEQUENCE_BITS
from tests.cluster.clusters import PARTITIONS, add, formed
from tests.cluster.toy import decode, encode

P = 5  # where most happens
SCOPE = P << SEQUENCE_BITS | 1  # a user who lives there


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine may need longer for an answer than a reader waits for it."""
    monkeypatch.setattr("cluster.router.READ_INDEX_WITHIN_S", 10.0)
    monkeypatch.setattr("cluster.read_index.READ_INDEX_WITHIN_S", 10.0)
    monkeypatch.setattr("cluster.read_index.SERVED_WITHIN_S", 9.0)


@asynccontextmanager
async def three(path):
    async with formed(path, 3) as cluster:
        yield cluster, cluster.leader(P), *[node for node in cluster.nodes if not node.replicas.leads(P)]


async def test_a_command_takes_effect_once_whichever_node_is_asked(tmp_path):
    async with formed(tmp_path, 3) as cluster:
        indexes = {}
        for number in range(30):
            node, partition = cluster.nodes[number % 3], number % PARTITIONS
            done = await node.router.execute(partition, add(2**number))
            assert done.partition == partition and done.index > indexes.get(partition, 0)
            indexes[partition] = done.index
        await cluster.level()
        for node in cluster.nodes:
            assert sum(node.balances()) == 2**30 - 1


async def test_a_result_and_a_refusal_come_back_from_the_leader(tmp_path):
    async with three(tmp_path) as (_, leader, follower, _other):
        for node in (leader, follower):
            assert decode((await node.router.execute(P, add(0))).result) == 0
            with pytest.raises(Refused, match="insufficient: less than 5"):
                await node.router.execute(P, encode(["give", 1, 5]))


async def test_messages_of_a_command_that_was_forwarded_are_waited_for(tmp_path):
    async with three(tmp_path) as (_, _leader, follower, _other):
        await follower.router.execute(P, add(100))
        for destination in range(PARTITIONS):
            done = await follower.router.execute(P, encode(["give", destination, 1]))
            assert done.marks and done.marks[0][:2] == (P, destination)
            assert await follower.router.taken(done) == ()
            assert follower.balance(destination) >= 1


async def test_a_retry_at_another_node_gets_the_first_result(tmp_path):
    async with three(tmp_path) as (cluster, *_):
        results = [
            decode((await node.router.execute(P, add(3), scope=SCOPE, command_id=b"i" * 16)).result)
            for node in cluster.nodes
        ]
        assert results == [3, 3, 3]


async def test_one_reads_what_one_wrote_through_a_follower(tmp_path):
    async with three(tmp_path) as (_, _leader, follower, _other):
        for number in range(1, 20):
            await follower.router.execute(P, add())
            await follower.router.visible(P)
            assert follower.router.readable(P)
            assert follower.balance(P) == number


async def test_what_another_node_was_answered_is_read_everywhere_at_once(tmp_path):
    async with three(tmp_path) as (_, leader, follower, other):
        for number in range(1, 20):
            await (follower, leader)[number % 2].router.execute(P, add())
            for node in (leader, follower, other):
                assert await node.router.newest(P)
                assert node.balance(P) == number
        assert follower.router.statistics().stale == 0


async def test_an_index_and_a_message_are_waited_for(tmp_path):
    async with three(tmp_path) as (_, leader, follower, _other):
        done = await leader.router.execute(P, add(7))
        with trio.fail_after(5):
            await follower.router.reached((P, done.index))
        assert follower.balance(P) == 7
        sent = await leader.router.execute(P, encode(["give", 2, 7]))
        with trio.fail_after(5):
            await follower.router.reached(sent.marks[0])
            await follower.router.reached((4000, 10**9))  # no partition of ours: not waited for
        assert follower.balance(2) == 7
        with trio.move_on_after(0.1) as patience:
            await follower.router.reached((P, sent.index + 1000))
        assert patience.cancelled_caught


async def test_many_readers_share_a_question_but_never_one_that_was_sent_before(tmp_path):
    async with three(tmp_path) as (_, leader, follower, _other):
        await follower.router.newest(P)
        asked = follower.router.statistics().questions
        led = [one for one in range(PARTITIONS) if leader.replicas.leads(one)]
        seen = []

        async def read(partition):
            assert await follower.router.newest(partition)
            seen.append(partition)

        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(read, led[number % len(led)])
        assert len(seen) == 60
        assert 2 <= follower.router.statistics().questions - asked <= 4  # the first's, then all the others'


async def test_a_question_that_is_under_way_answers_nobody_who_came_later(tmp_path):
    async with three(tmp_path) as (_, leader, follower, _other):
        asked = []

        async def held(sender, request):
            """The index of before, told only when much has happened since."""
            asked.append(request)
            index = leader.replicas.committed_index(P)
            if len(asked) == 1:
                await go_on.wait()
            return Index((index,) * len(request.partitions))

        go_on = trio.Event()
        leader.links.serve(ReadIndex, held)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.router.newest, P)
            while not asked:
                await trio.sleep(0.001)
            await leader.router.execute(P, add(9))
            nursery.start_soon(_set, go_on)
            assert await follower.router.newest(P)
            assert follower.balance(P) == 9
        assert len(asked) == 2


async def test_who_waits_for_what_came_true_meanwhile_is_not_hurt_by_who_saw_it_first(tmp_path):
    async with three(tmp_path) as (_, leader, follower, _other):
        asked, go_on = trio.Event(), trio.Event()

        async def held(sender, request):
            asked.set()
            await go_on.wait()
            return Index(tuple(leader.replicas.committed_index(one) for one in request.partitions))

        leader.links.serve(ReadIndex, held)
        with trio.fail_after(30):
            while not asked.is_set():  # until an answer is here before what it is about
                go_on = trio.Event()
                await follower.router.execute(P, add())
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(follower.router.visible, P)
                    await trio.sleep(0)
                    while not follower.router.readable(P):
                        await trio.sleep(0.001)
                    go_on.set()
        assert follower.balance(P) == leader.balance(P)


async def _set(event):
    event.set()


async def test_a_leader_that_stops_costs_its_callers_a_pause_and_nothing_else(tmp_path):
    async with three(tmp_path) as (cluster, leader, follower, other):
        done = 0
        pauses = []
        writing = True

        async def write(node):
            nonlocal done
            while writing:
                began = trio.current_time()
                await node.router.execute(P, add())
                pauses.append(trio.current_time() - began)
                done += 1

        async with trio.open_nursery() as nursery:
            for node in (follower, other):
                for _ in range(5):
                    nursery.start_soon(write, node)
            await cluster.until(lambda: done > 50)
            await cluster.stop(leader)
            before = done
            await cluster.until(lambda: done > before + 50)
            writing = False
        await cluster.level()
        assert {node.balance(P) for node in cluster.living} == {done}
        assert max(pauses) < 8


async def test_a_lead_that_is_handed_over_under_load_is_noticed_by_nobody(tmp_path):
    async with three(tmp_path) as (cluster, leader, follower, other):
        done = 0
        writing = True

        async def write(node):
            nonlocal done
            while writing:
                await node.router.execute(P, add())
                done += 1

        async with trio.open_nursery() as nursery:
            for node in cluster.nodes:
                for _ in range(3):
                    nursery.start_soon(write, node)
            for heir in (follower, other, leader):
                before = done
                await cluster.hand_over(P, heir)
                await cluster.until(lambda before=before: done > before + 20)
            writing = False
        await cluster.level()
        assert {node.balance(P) for node in cluster.nodes} == {done}


async def test_a_leader_that_hangs_is_not_waited_for(tmp_path):
    """Its wires are frozen: nothing breaks, nothing is answered. What it had taken it took for nothing."""
    async with three(tmp_path) as (cluster, leader, follower, other):
        await follower.router.execute(P, add(5))
        for node in (follower, other):
            cluster.network.freeze(leader, node)
        began = trio.current_time()
        await follower.router.execute(P, add(1))
        assert trio.current_time() - began < 6
        for node in (follower, other):
            cluster.network.thaw(leader, node)
        await cluster.agreed(P)
        await cluster.level()
        assert {node.balance(P) for node in cluster.nodes} == {6}


async def called(cluster, node, leader):
    """Return when the node has asked the leader something that is not answered."""
    await cluster.until(lambda: node.links._peers[leader.me]._calls)


async def test_a_request_that_was_lost_with_its_link_is_made_again_though_the_leader_stays(tmp_path):
    async with three(tmp_path) as (cluster, leader, follower, _other):
        await follower.router.execute(P, add(5))
        term = leader.replicas.standing(P).term
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            cluster.network.freeze(leader, follower)
            for amount in (1, 10, 100):
                nursery.start_soon(follower.router.execute, P, add(amount))
            await called(cluster, follower, leader)
            await cluster.network.cut(leader, follower)
            cluster.network.thaw(leader, follower)
            cluster.network.join(leader, follower)
        assert trio.current_time() - began < 5
        await cluster.level()
        assert {node.balance(P) for node in cluster.nodes} == {116}
        if leader.replicas.standing(P).term == term:
            assert follower.router.statistics().repeated >= 1


async def test_an_answer_that_was_lost_with_its_link_is_found_in_what_is_applied(tmp_path):
    """However late it is applied at the node that asked: not before, it is said to be lost."""
    async with three(tmp_path) as (cluster, leader, follower, _other):
        taken, closed = trio.Event(), trio.Event()
        pauses = [Pause(lambda: None) for _ in follower.replicas._writers]

        async def close(sender, request):
            said = await leader.router._forwarding.close_lane(sender, request)
            closed.set()
            return said

        async def mute(sender, request):
            await leader.router._forwarding.serve(sender, request)
            taken.set()
            await trio.sleep_forever()

        leader.links.serve(Propose, mute)
        leader.links.serve(CloseLane, close)
        for writer, pause in zip(follower.replicas._writers, pauses, strict=True):
            writer.pause(pause)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.router.execute, P, add(7))
            await taken.wait()
            leader.links.serve(Propose, leader.router._forwarding.serve)
            await cluster.network.cut(leader, follower)
            cluster.network.join(leader, follower)
            await closed.wait()
            await cluster.until(lambda: not follower.links._peers[leader.me]._calls)
            await leader.router.execute(P, add(0))  # what would be asked again would come before or after it
            for pause in pauses:
                pause.abandoned = True
                pause.resume.set()
        await cluster.level()
        assert {node.balance(P) for node in cluster.nodes} == {7}


async def test_of_a_closed_lane_nothing_more_is_taken(tmp_path):
    async with three(tmp_path) as (_, leader, follower, other):
        term = leader.replicas.standing(P).term
        command = encode(["DropDeadLetter", 1])
        before = await follower.links.call(leader.me, Propose(P, term, command, lane=9), deadline_s=5)
        said = await follower.links.call(leader.me, CloseLane(P, term, 9), deadline_s=5)
        assert said.indexes[0] > before.index
        with pytest.raises(PeerRefused, match="lost: the lane is closed"):
            await follower.links.call(leader.me, Propose(P, term, command, lane=9), deadline_s=5)
        for lane, node in ((10, follower), (9, other)):  # another lane, and another node's
            await node.links.call(leader.me, Propose(P, term, command, lane=lane), deadline_s=5)
        for asked, question in ((leader, CloseLane(P, term + 1, 8)), (other, CloseLane(P, term, 8))):
            with pytest.raises(PeerRefused, match=NOT_LEADER):
                await follower.links.call(asked.me, question, deadline_s=5)


async def test_a_command_that_a_deposed_leader_took_is_proposed_again(tmp_path):
    async with three(tmp_path) as (cluster, leader, follower, other):
        await leader.router.execute(P, add(5))
        for node in (follower, other):
            cluster.network.freeze(leader, node)
        answers = []

        async def late():
            answers.append(await leader.router.execute(P, add(1)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(late)  # it still believes that it leads
            await cluster.until(lambda: follower.replicas.standing(P).leader not in (None, leader.me))
            await follower.router.execute(P, add(10))
            for node in (follower, other):
                cluster.network.thaw(leader, node)
        await cluster.level()
        assert {node.balance(P) for node in cluster.nodes} == {16} and len(answers) == 1
        assert leader.router.statistics().repeated >= 1


async def test_without_a_majority_writes_are_refused_and_reads_go_on_stale(tmp_path):
    async with three(tmp_path) as (cluster, leader, follower, other):
        await leader.router.execute(P, add(5))
        await cluster.level()
        await cluster.stop(leader)
        await cluster.stop(other)
        await cluster.until(lambda: follower.replicas.standing(P).leader is None)
        began = trio.current_time()
        assert not await follower.router.newest(P)
        assert trio.current_time() - began < 2 * READ_INDEX_WITHIN_S
        assert follower.balance(P) == 5 and follower.router.statistics().stale == 1
        with pytest.raises(Unavailable, match="it had no effect") as refused:
            await follower.router.execute(P, add(1))
        assert refused.value.settled
        began = trio.current_time()
        with pytest.raises(Unavailable):
            await follower.router.execute(P, add(1))
        assert trio.current_time() - began < 0.5  # known for long: nobody waits again


async def test_a_leader_without_followers_says_that_it_does_not_know(tmp_path):
    async with three(tmp_path) as (cluster, leader, follower, other):
        await cluster.network.cut(leader, follower)
        await cluster.network.cut(leader, other)
        with pytest.raises(Unavailable, match="not known whether") as refused:
            await leader.router.execute(P, add(1))
        assert not refused.value.settled
        assert leader.replicas.standing(P).role is not Role.LEADER


async def test_a_follower_without_room_passes_on_what_the_leader_may_take(tmp_path):
    async with three(tmp_path) as (_, leader, follower, _other):
        follower.full = True
        await follower.router.execute(P, add(1))
        with pytest.raises(StorageFull):
            follower.router.require_room()  # what would be stored here is refused here
        follower.full, leader.full = False, True
        for node in (leader, follower):
            with pytest.raises(StorageFull, match="no room left"):
                await node.router.execute(P, add(1))
            await node.router.execute(P, add(1), grows=False)


async def test_what_is_overloaded_says_so_from_afar(tmp_path, monkeypatch):
    async with three(tmp_path) as (_, _leader, follower, _other):
        monkeypatch.setattr("cluster.replicas.PROPOSALS_MAX", 0)
        with pytest.raises(Overloaded, match="under way"):
            await follower.router.execute(P, add(1))


async def test_a_member_asks_for_what_it_may(tmp_path):
    async with three(tmp_path) as (_, leader, follower, other):
        term = leader.replicas.standing(P).term

        async def refused(node, request):
            with pytest.raises(PeerRefused) as error:
                await follower.links.call(node.me, request, deadline_s=5)
            return error.value

        good = Propose(P, term, encode(["Trim", []]))
        assert (await refused(leader, good)).code == UNKNOWN  # a leader's own
        for bad in (b"", b"\xc1", encode(["Execute", 1])):
            assert (await refused(leader, Propose(P, term, bad))).code == UNKNOWN
        assert (await refused(leader, Propose(77, term, bad))).code == UNKNOWN
        command = encode(["DropDeadLetter", 1])
        elsewhere = await refused(other, Propose(P, 0, command))
        assert (elsewhere.code, elsewhere.leader) == (NOT_LEADER, leader.me)
        assert (await refused(leader, Propose(P, term + 1, command))).code == NOT_LEADER
        said = await follower.links.call(leader.me, Propose(P, term, command), deadline_s=5)
        assert said.index > 0
        answer = await follower.links.call(other.me, ReadIndex((P, 77)), deadline_s=5)
        assert answer.indexes == (0, 0)
        assert {OVERLOADED, STORAGE_FULL}.isdisjoint({NOT_LEADER, UNKNOWN})


async def test_orders_and_deliveries_find_the_leader(tmp_path):
    async with three(tmp_path) as (_, leader, follower, _other):
        outcome = await follower.router.order(P, DropDeadLetter(99))
        assert isinstance(outcome, Declined) and outcome.code == "not_found"
        message = Deliver(0, 1, b"r" * 16, (Delivery(7000, 0, 1, encode(["pay", 4])),))
        for node in (follower, leader, follower):  # however often it comes
            assert await node.router.deliver(P, message) == {7000: 1}
        assert await follower.router.newest(P) and follower.balance(P) == 4
