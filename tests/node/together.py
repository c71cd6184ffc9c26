"""Several real nodes of one cluster, in the test's own process.

async with together(tmp_path, "abc") as (a, b, c):
    ada = await a.node.sign_up("ada")
"""

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import trio

from tests.node.nodes import Node, running

READY_S = 60.0


@dataclass
class Member:
    node: Node
    data: object

    def blobs(self):
        """The hashes of its files."""
        return {path.name.partition(".")[0] for path in (self.data / "blobs").glob("*/*/*")}

    def files_of(self, digest):
        return list((self.data / "blobs").glob(f"*/*/{digest}.*"))

    async def until(self, true):
        with trio.fail_after(READY_S):
            while not true():
                await trio.sleep(0.02)


async def ready(node):
    with trio.fail_after(READY_S):
        while (await node.http.get("/readyz")).status_code != 200:
            await trio.sleep(0.05)


async def invited(member):
    made = await member.node.admin.post("/v1/admin/cluster/invitations", json={})
    assert made.status_code == 201, made.text
    return made.json()["token"]


@asynccontextmanager
async def together(path, letters, *flags):
    """The first founds the cluster, the others join it; when they are ready."""
    async with AsyncExitStack() as nodes:
        members = []
        for letter in letters:
            token = await invited(members[0]) if members else None
            node = await nodes.enter_async_context(running(path / letter, *flags, token=token))
            if not members:
                founded = await node.admin.post("/v1/admin/cluster/init", json={})
                assert founded.status_code == 200, founded.text
            members.append(Member(node, path / letter))
        for member in members:
            await ready(member.node)
        yield members
