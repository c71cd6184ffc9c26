"""Two nodes whose links run over a network in memory."""

from contextlib import asynccontextmanager

import trio

from cluster.peers.messages import Index
from tests.cluster.peers.cables import Network
from tests.cluster.peers.cluster import A, B, make_node


@asynccontextmanager
async def wired(directory, *, connect=True):
    """a, which dials b over a network in memory."""
    async with trio.open_nursery() as nursery:
        network = Network(nursery)
        a = make_node(directory, A, transport=network.connect)
        b = make_node(directory, B, transport=network.connect)
        network.nodes = {"a": a, "b": b}
        await nursery.start(a.links.run)
        await nursery.start(b.links.run)
        if connect:
            a.links.connect_to({B: "b"})
            await a.connected(B)
        yield network, a, b
        nursery.cancel_scope.cancel()


async def answers(sender, request):
    return Index(request.partitions)
