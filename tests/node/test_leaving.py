"""A node that is told to end hands its leads over first, so that nobody waits for an election."""

import trio

from cluster.raft_roles import Role
from node.conduct import LEAVE_WITHIN_S, Conduct
from tests.node.together import READY_S, together

GROUPS = 257


def led(replicas):
    return [n for n in replicas.partitions if replicas.standing(n).role is Role.LEADER]


async def heard(member):
    """How many partitions each node leads, as this one has heard."""
    found = (await member.node.admin.get("/v1/admin/cluster/status")).json()
    return {one["node_id"]: one["leads"] for one in found["members"]}


async def test_a_node_that_ends_leads_nothing_any_more(tmp_path, monkeypatch):
    ended = []
    leave = Conduct.leave

    async def watched(conduct):
        before, began = led(conduct._replicas), trio.current_time()
        await leave(conduct)
        ended.append((conduct._me.hex(), before, led(conduct._replicas), trio.current_time() - began))

    monkeypatch.setattr(Conduct, "leave", watched)
    async with together(tmp_path, "abc") as (a, b, c):
        with trio.fail_after(READY_S):
            while True:
                leads = (await heard(a)).values()
                if min(leads) > GROUPS // 5 and sum(leads) == GROUPS:
                    break
                await trio.sleep(0.1)
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
        assert (await heard(a)).get(node, 0) == 0
