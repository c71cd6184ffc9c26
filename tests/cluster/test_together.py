"""Several nodes: what one acknowledged all have, whoever dies; by the engine's threads and real files."""

import pytest
import trio

from cluster.commands import Execute
from cluster.raft.effects import Lost, NotLeader
from cluster.replicas import now_ms
from tests.cluster.lone import PARTITIONS
from tests.cluster.toy import balance, encode
from tests.cluster.trio_of_nodes import identity, together


def balances(replicas):
    with replicas.snapshot() as rows:
        return [balance(rows, partition) for partition in range(PARTITIONS)]


async def test_three_nodes_have_what_one_was_told(tmp_path):
    async with together(tmp_path) as world:
        for partition in range(PARTITIONS):
            assert await world.do(partition, "add", partition) == partition
        await world.level()
        assert {tuple(balances(one)) for one in world.replicas.values()} == {tuple(range(PARTITIONS))}


async def test_messages_go_on_where_the_destination_is_led_elsewhere(tmp_path):
    async with together(tmp_path) as world:
        await world.replicas[0].transfer(1, identity(1))
        while not world.replicas[1].leads(1):
            await trio.sleep(0.005)

        async def carry(destination, command):
            leader = await world.leader(destination)
            return (await leader.propose(destination, command)).taken

        for replicas in world.replicas.values():
            replicas.carry = carry
        await world.do(0, "add", 50)
        for _ in range(10):
            await world.do(0, "give", 1, 2)
        await (await world.leader(0)).at_rest()
        await world.level()
        assert {tuple(balances(one)[:2]) for one in world.replicas.values()} == {(30, 20)}


@pytest.mark.parametrize("number", [0, 1])
async def test_a_node_that_dies_and_comes_back_has_all_that_came_meanwhile(tmp_path, number):
    async with together(tmp_path) as world:
        for partition in range(PARTITIONS):
            await world.do(partition, "add", 1)
        world.stop(number)
        for partition in range(PARTITIONS):
            assert await world.do(partition, "add", 10) == 11
        await world.start(number)
        await world.level()
        assert balances(world.replicas[number]) == [11] * PARTITIONS


async def test_without_a_majority_nothing_is_taken_and_reads_go_on(tmp_path):
    async with together(tmp_path) as world:
        await world.do(3, "add", 7)
        await world.level()
        world.stop(0)
        world.stop(1)
        left = world.replicas[2]
        while left.standing(3).leader is not None:
            await trio.sleep(0.01)
        with pytest.raises(NotLeader):
            await left.propose(3, world.nodes[2].command("add", 1))
        with pytest.raises(NotLeader):
            await left.read_index(3)
        assert balances(left)[3] == 7


async def test_a_watch_tells_what_another_leader_applied(tmp_path):
    async with together(tmp_path) as world:
        leader = await world.leader(2)
        other = next(one for one in world.replicas.values() if one is not leader)
        command = Execute(now_ms(), 1, bytes(16), 0, b"i" * 16, b"", encode(["add", 4]))
        with other.watch(2, command.id, other.standing(2).term) as watch:
            applied = await leader.propose(2, command)
            seen = await watch.outcome()
        assert (seen.index, seen.outcome) == (applied.index, applied.outcome)


async def test_a_watch_tells_that_a_term_ended_without_the_command(tmp_path):
    async with together(tmp_path) as world:
        leader = await world.leader(2)
        other = next(one for one in world.replicas.values() if one is not leader)
        with other.watch(2, b"n" * 16, other.standing(2).term) as watch:
            world.stop(leader.me[0] - 1)
            with pytest.raises(Lost):
                await watch.outcome()


async def test_what_a_cut_off_leader_took_is_lost_or_kept_but_never_both(tmp_path):
    async with together(tmp_path) as world:
        leader = await world.leader(4)
        number = leader.me[0] - 1
        world.cut = {(number, other) for other in range(3)} | {(other, number) for other in range(3)}
        fate = []

        async def ask():
            try:
                fate.append(await leader.propose(4, world.nodes[number].command("add", 1)))
            except Lost as lost:
                fate.append(lost)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while not any(one.leads(4) for one in world.replicas.values() if one is not leader):
                await trio.sleep(0.01)
            world.cut = set()
        assert isinstance(fate[0], Lost)
        assert await world.do(4, "add", 10) == 10


async def test_a_read_index_covers_what_was_answered_before(tmp_path):
    async with together(tmp_path) as world:
        leader = await world.leader(5)
        other = next(one for one in world.replicas.values() if one is not leader)
        for amount in range(1, 20):
            total = await world.do(5, "add", 1)
            await other.reached(5, await leader.read_index(5))
            assert balances(other)[5] == total == amount


async def test_a_cut_off_leader_that_knows_of_no_peers_confirms_no_read(tmp_path):
    """Whether others could have been elected is for the members of the group to say: those of the cluster
    are other rows, which may have come or gone before."""
    async with together(tmp_path) as world:
        leader = await world.leader(4)
        number = leader.me[0] - 1
        world.cut = {(number, other) for other in range(3)} | {(other, number) for other in range(3)}
        leader.set_peers(())
        with pytest.raises(NotLeader):
            await leader.read_index(4)
