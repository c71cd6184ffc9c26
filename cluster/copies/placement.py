"""Placement: a blob that was stored here goes to the other members of its partition.

It is offered to all of them at once; each pulls it from here, makes it durable and answers. When a majority
of the voters has it, it may be referred to; the others go on in the background, and what does not reach them
they fetch themselves (`cluster.copies.repair`). On a lone node there is nobody to offer it to, and nothing
is waited for.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
import trio

from cluster.copies.copies import Copies, Wanted, name
from cluster.copies.fetching import Fetching, Links
from cluster.peers.errors import PeerRefused, PeerSilent, PeerUnreachable
from cluster.peers.messages import Done, OfferBlob
from cluster.raft.messages import Configuration
from storage.blobs import BlobMismatch, Blobs, BlobsFull, BlobTooLarge

PLACED_WITHIN_S: Final = (
    5.0  # a client's patience for a small blob; a node that died is out of the way by then
)
SLOW_BYTES_PER_S: Final = 1 << 20  # what a larger one is given time for
AGAIN_S: Final = 0.2  # a node that could not be reached is offered it again after this
OFFERS_MAX: Final = 16  # to one node at once: enough to share its syncs, few enough for its disk
OFFERS_WAITING_MAX: Final = 1024  # to one node; beyond, what is not needed for a majority is left to repair
PULLS_MAX: Final = 32  # from all nodes at once
FINAL: Final = frozenset({"storage_full", "unknown"})  # answers that a second offer would only repeat


class NotEnoughCopies(Exception):
    """Too few nodes have the blob durably: it may not be referred to. The client may try again."""


class PlacementStatistics(msgspec.Struct, frozen=True):
    offered: int  # copies that other nodes took
    left: int  # offers not made for want of room in the queue: repair brings them
    pulled: int  # blobs that other nodes offered
    under_way: int  # offers, waiting ones too


class _Attempt:
    """A blob and how far it is; `told` is set and replaced at each news."""

    def __init__(self, copies: Copies, offer: OfferBlob, deadline: float) -> None:
        self.copies = copies
        self.offer = offer
        self.deadline = deadline
        self.told = trio.Event()

    def tell(self) -> None:
        self.told.set()
        self.told = trio.Event()


class Placement:
    """One per node. `run` must be running for `place` on a node that has peers."""

    def __init__(
        self,
        me: bytes,
        blobs: Blobs,
        fetching: Fetching,
        home: Callable[[bytes], int],
        configuration: Callable[[int], Configuration],
        is_full: Callable[[], bool],
    ) -> None:
        self._me = me
        self._blobs = blobs
        self._fetching = fetching
        self._home = home  # the partition that decides about a blob
        self._configuration = configuration
        self._is_full = is_full
        self._links: Links | None = None
        self._nursery: trio.Nursery | None = None
        self._offers: dict[bytes, trio.CapacityLimiter] = {}  # by node
        self._pulls = trio.CapacityLimiter(PULLS_MAX)
        self._offered = self._left = self._pulled = self._under_way = 0

    def attach(self, links: Links) -> None:
        """This node has peers, from now on."""
        self._links = links
        links.serve(OfferBlob, self._taken)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def statistics(self) -> PlacementStatistics:
        return PlacementStatistics(self._offered, self._left, self._pulled, self._under_way)

    # --- giving ----------------------------------------------------------------------------------------
    async def place(self, digest: bytes, size: int, index: int) -> None:
        """Return when a majority of the voters has the blob, which is durable here under `index`.

        Raises NotEnoughCopies, with what was written where. Cancelled, there may come to be
        enough all the same.
        """
        if self._links is None:
            return
        copies = Copies(self._me, self._configuration(self._home(digest)))
        if not copies.others:
            return
        if self._nursery is None:
            raise NotEnoughCopies("the node stops")
        within_s = PLACED_WITHIN_S + size / SLOW_BYTES_PER_S
        attempt = _Attempt(copies, OfferBlob(digest, size, index), trio.current_time() + within_s)
        for node in copies.others:
            self._begin(attempt, node)
        with trio.move_on_at(attempt.deadline):
            while not copies.is_enough and not copies.is_hopeless:
                await attempt.told.wait()
        if not copies.is_enough:
            for node in copies.unheard:
                copies.failed(node, f"no answer in {within_s:.0f} s", final=False)
            raise NotEnoughCopies(f"blob {name(digest)}…: {copies.evidence()}")

    def _begin(self, attempt: _Attempt, node: bytes) -> None:
        limiter = self._offers.get(node)
        if limiter is None:
            limiter = self._offers[node] = trio.CapacityLimiter(OFFERS_MAX)
        if limiter.statistics().tasks_waiting >= OFFERS_WAITING_MAX:
            self._left += 1
            attempt.copies.failed(node, f"{OFFERS_WAITING_MAX} blobs wait for it already", final=True)
            return
        assert self._nursery is not None
        self._nursery.start_soon(self._offer, attempt, node, limiter)

    async def _offer(self, attempt: _Attempt, node: bytes, limiter: trio.CapacityLimiter) -> None:
        """Until the node has it, will not have it, or is not needed any more and cannot be reached."""
        copies = attempt.copies
        self._under_way += 1
        try:
            with trio.move_on_at(attempt.deadline):
                async with limiter:
                    while True:
                        await self._offer_once(attempt, node)
                        if copies.is_settled(node) or copies.is_enough:
                            break
                        await trio.sleep(AGAIN_S)
        finally:
            self._under_way -= 1

    async def _offer_once(self, attempt: _Attempt, node: bytes) -> None:
        assert self._links is not None
        copies, now = attempt.copies, trio.current_time()
        try:
            await self._links.call(node, attempt.offer, deadline_s=attempt.deadline - now)
        except PeerUnreachable as wrong:
            copies.failed(node, str(wrong), final=False)
        except PeerSilent:
            copies.failed(node, f"no answer in {trio.current_time() - now:.0f} s", final=False)
        except PeerRefused as wrong:
            copies.failed(node, str(wrong), final=wrong.code in FINAL)
        else:
            copies.done(node)
            self._offered += 1
        attempt.tell()

    # --- taking ----------------------------------------------------------------------------------------
    async def _taken(self, sender: bytes, offer: OfferBlob) -> Done:
        """Answers when the blob is durable here under the offer's index. Raises PeerRefused."""
        disk = self._fetching.disk
        raised = partial(self._blobs.raise_index, offer.hash, offer.index)
        try:
            if await trio.to_thread.run_sync(raised, limiter=disk):
                return Done()
            if self._is_full():
                raise PeerRefused("storage_full", "no room is left")
            async with self._pulls:
                await self._fetching.pull(sender, Wanted(offer.hash, offer.size, offer.index))
        except BlobsFull as wrong:
            raise PeerRefused("storage_full", str(wrong)) from None
        except (PeerUnreachable, PeerSilent, BlobMismatch, BlobTooLarge, OSError, ValueError) as wrong:
            raise PeerRefused("unavailable", f"it could not be fetched: {wrong}") from None
        self._pulled += 1
        return Done()
