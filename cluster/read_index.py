"""Reading what is newest: how far must this replica have applied to see all that was answered before?

A leader says so after a majority confirmed that it leads (§6.4 of Ongaro's dissertation). To another node one
question is under way at a time, about all the partitions for which somebody waits. Who comes after it was
sent waits for the next: only what was answered before a question is sent is sure to be in its answer.
"""

from typing import Final

import trio

from cluster.forwarding import Forwarding
from cluster.peers.errors import PeerRefused, PeerSilent, PeerUnreachable
from cluster.peers.messages import Index, ReadIndex
from cluster.raft.effects import NotLeader
from cluster.replicas import Overloaded, Replicas

READ_INDEX_WITHIN_S: Final = 0.25  # then what is here must do: a reader does not wait for an election
SERVED_WITHIN_S: Final = 0.2  # of one question: what is confirmed by then is not held up by what is not


class _Question:
    def __init__(self) -> None:
        self.partitions: set[int] = set()
        self.indexes: dict[int, int] = {}
        self.answered = trio.Event()


class Indexes:
    """Of one node. Methods belong to the trio thread."""

    def __init__(self, replicas: Replicas, forwarding: Forwarding) -> None:
        self.questions = 0  # sent to other nodes
        self._replicas = replicas
        self._forwarding = forwarding
        self._asked: dict[bytes, _Question] = {}  # by leader: the one that is under way
        self._next: dict[bytes, _Question] = {}  # … and the one that will be

    async def confirmed(self, partition: int) -> int | None:
        """The index, or None where nobody is there to confirm it. Not bounded in time."""
        while (standing := self._forwarding.leader(partition)) is not None:
            here = standing.leader == self._replicas.me
            asked = self._here(partition) if here else self._there(standing.leader or b"", partition)
            if index := await asked:
                return index
            await self._forwarding.changed(partition)
        return None

    async def _here(self, partition: int) -> int:
        try:
            return await self._replicas.read_index(partition)
        except (NotLeader, Overloaded):
            return 0

    async def _there(self, leader: bytes, partition: int) -> int:
        question = self._next.get(leader)
        if question is not None:
            question.partitions.add(partition)
            await question.answered.wait()
        else:
            question = self._next[leader] = _Question()
            question.partitions.add(partition)
            with trio.CancelScope(shield=True):  # others wait for it too; bounded, as each question is
                await self._ask(leader, question)
        return question.indexes.get(partition, 0)

    async def _ask(self, leader: bytes, question: _Question) -> None:
        before = self._asked.get(leader)
        if before is not None:
            await before.answered.wait()
        del self._next[leader]
        self._asked[leader] = question
        self.questions += 1
        partitions = tuple(question.partitions)
        links = self._forwarding.links
        try:
            if links is not None:
                said = await links.call(leader, ReadIndex(partitions), deadline_s=READ_INDEX_WITHIN_S)
                question.indexes.update(zip(partitions, said.indexes, strict=False))
        except (PeerUnreachable, PeerSilent, PeerRefused):
            pass  # nobody confirms anything: who waits looks again who leads, or does without
        finally:
            del self._asked[leader]
            question.answered.set()

    async def serve(self, sender: bytes, request: ReadIndex) -> Index:
        indexes = dict.fromkeys(request.partitions, 0)

        async def one(partition: int) -> None:
            indexes[partition] = await self._here(partition)

        with trio.move_on_after(SERVED_WITHIN_S):
            async with trio.open_nursery() as nursery:
                for partition in indexes.keys() & set(self._replicas.partitions):
                    nursery.start_soon(one, partition)
        return Index(tuple(indexes[partition] for partition in request.partitions))
