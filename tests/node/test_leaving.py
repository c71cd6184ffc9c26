"""A node that is told to end, or has no room, hands its leads over, so that nobody waits for an election."""

import trio

from cluster.raft.roles import Role
from cluster.replicas import Replicas
from node.conduct import LEAVE_WITHIN_S, Conduct
from tests.node.together import READY_S, together

GROUPS = 257


def led(replicas):
    return [n for n in replicas.partitions if replicas.standing(n).role is Role.LEADER]


async def until(member, true):
    """The picture of how many partitions each node leads, as this one hears it, once it is so."""
    with trio.fail_after(READY_S):
        while True:
            found = (await member.node.admin.get("/v1/admin/cluster/status")).json()
            leads = {one["node_id"]: one["leads"] for one in found["members"]}
            if true(leads):
                return leads
            await trio.sleep(0.1)


def are_spread(leads):
    return len(leads) == 3 and min(leads.values()) > GROUPS // 5 and sum(leads.values()) == GROUPS


async def test_a_node_leads_nothing_when_it_ends_or_has_no_room(tmp_path, monkeypatch):
    stuck, ended = set(), []
    leave = Conduct.leave

    async def watched(conduct):
        before, began = led(conduct._replicas), trio.current_time()
        await leave(conduct)
        ended.append((conduct._me.hex(), before, led(conduct._replicas), trio.current_time() - began))

    monkeypatch.setattr(Conduct, "leave", watched)
    monkeypatch.setattr(Replicas, "is_stuck", property(lambda replicas: replicas.me.hex() in stuck))
    async with together(tmp_path, "abc") as (a, b, c):
        leads = await until(a, are_spread)
        stuck.update(list(leads)[:1])
        await until(a, lambda leads: leads[min(stuck)] == 0 and sum(leads.values()) == GROUPS)
        stuck.clear()
        await until(a, are_spread)

        b.node.stop.set()
        with trio.fail_after(READY_S):
            while not ended:
                await trio.sleep(0.01)
        node, before, after, seconds = ended[0]
        assert len(before) > GROUPS // 5
        assert after == []
        assert seconds < LEAVE_WITHIN_S
        ada = await c.node.sign_up("ada")  # wherever ada's partition was led, somebody leads it
        assert ada.name == "ada"
        await until(a, lambda leads: leads.get(node, 0) == 0)
