"""The collector: brings away what time has made superfluous, partition by partition.

Every round asks the rows first and proposes commands only where there is something to do, so an idle node
writes nothing; and only where this node leads, for one who asks is enough. What may go is decided by the
state machine when the command is applied, never here.

Files go on every node by what its own rows say (`node.media.catalogue`): soon after a commit that touched a
blob's place among the idle ones, which each `Collect` does; and all of them are looked at after the start,
when rows came by snapshot, and now and then: for what was collected while this node was away or busy.
Nothing is proposed for them. A backup that copies blobs holds up both (law 11): on its own node, for other
nodes' files are not its own.
"""

from collections.abc import Iterable
from functools import partial
from itertools import islice
from typing import Final

import msgspec
import trio

from cluster.commands import Refused
from cluster.replicas import Overloaded, now_ms
from cluster.router import StorageFull, Unavailable
from node.logs import get_logger
from node.media.catalogue import Catalogue
from node.service import Service
from node.social import accounts, blobs, uploads
from node.social.keys import IdleBlobKey
from storage.blobs import Blobs
from storage.rows import Reader

log = get_logger("media")

ROUND_EVERY_S: Final = 60.0  # upload promises are short-lived; the rest is looked at as often for nothing
ROUNDS_PER_PARTITION_MAX: Final = 50  # commands in one round: the rest waits for the next
STAGING_KEPT_S: Final = 24 * 3600.0
LOOK_EVERY_S: Final = 6 * 3600.0  # at all files
FILES_AT_ONCE: Final = 500  # looked at between two pauses
FILES_PAUSE_S: Final = 0.05  # nobody waits for them: a million take two minutes
TOUCHED_MAX: Final = 100_000  # blobs remembered to be looked at: 10 MB; beyond, all files are
_IDLE: Final = IdleBlobKey.KIND  # the third byte of such a key; its last ones are the hash
_HASH_BYTES: Final = blobs.HASH_BYTES


class CollectorStatistics(msgspec.Struct, frozen=True):
    rounds: int
    collected: int  # files removed here
    expired: int  # upload promises


class Collector:
    """`run` in the node's nursery; `rows_changed` follows the replicas' commits."""

    def __init__(self, service: Service, files: Blobs, catalogue: Catalogue) -> None:
        self._service = service
        self._files = files
        self._catalogue = catalogue
        self._leads = service.router.replicas.leads
        self._touched: set[bytes] = set()
        self._look_at = 0.0  # when all files are looked at next
        self._paused = 0
        self._rounds = self._collected = self._expired = 0

    def pause(self) -> None:
        """Remove no blobs until `resume`: while a backup copies them (law 11)."""
        self._paused += 1

    def resume(self) -> None:
        self._paused -= 1

    def statistics(self) -> CollectorStatistics:
        return CollectorStatistics(self._rounds, self._collected, self._expired)

    def rows_changed(self, keys: Iterable[bytes]) -> None:
        """A commit wrote, or removed, these rows: which blobs became idle, were taken up, or went."""
        self._touched.update([key[-_HASH_BYTES:] for key in keys if key[2] == _IDLE])
        if len(self._touched) > TOUCHED_MAX:
            self._touched.clear()
            self.look_soon()

    def look_soon(self) -> None:
        """Rows have come that no commit told of."""
        self._look_at = 0.0

    async def run(self, partitions: Iterable[int]) -> None:
        """Until cancelled."""
        partitions = tuple(partitions)
        while True:
            if trio.current_time() >= self._look_at:
                self._look_at = trio.current_time() + LOOK_EVERY_S
                await self.look_at_files()
            for partition in partitions:
                await self.round(partition)
                await trio.lowlevel.checkpoint()  # nothing due, nothing awaited: requests go first
            await self.remove_collected()
            self._rounds += 1
            before = now_ms() / 1000 - STAGING_KEPT_S
            await trio.to_thread.run_sync(partial(self._files.sweep_staging, before=before))
            await trio.sleep(ROUND_EVERY_S)

    # --- files -----------------------------------------------------------------------------------------
    async def look_at_files(self) -> None:
        """Remove those that no row knows."""
        files = self._files.iterate()
        while batch := await trio.to_thread.run_sync(lambda: list(islice(files, FILES_AT_ONCE))):
            for digest in await self._remove([file.digest for file in batch]):
                log.warning("blob_without_a_row", blob=digest.hex())
            await trio.sleep(FILES_PAUSE_S)

    async def remove_collected(self) -> None:
        """Remove those that a commit has told of."""
        touched, self._touched = list(self._touched), set()
        for start in range(0, len(touched), FILES_AT_ONCE):
            await self._remove(touched[start : start + FILES_AT_ONCE])

    async def _remove(self, digests: Iterable[bytes]) -> list[bytes]:
        """Of these, the files that their nodes' rows let go; their hashes. The others are asked for again if
        it cannot be told now."""
        collected, open_ = self._catalogue.collected(digests)
        self._touched.update(open_)
        removed: list[bytes] = []
        for one in collected:
            if self._paused:
                self._touched.add(one.digest)
            elif await trio.to_thread.run_sync(self._files.unlink, one.digest, one.below):
                self._collected += 1
                removed.append(one.digest)
        return removed

    # --- rows ------------------------------------------------------------------------------------------
    async def round(self, partition: int) -> None:
        """Everything that is due in one partition, bounded, if this node leads it."""
        try:
            for _ in range(ROUNDS_PER_PARTITION_MAX):
                if not self._leads(partition):
                    break
                with self._service.read() as rows:
                    due = self._due(rows, partition)
                if not due:
                    break
                for command in due:
                    await self._carry_out(partition, command)
            else:
                log.info("collection_goes_on", partition=partition)
        except (Overloaded, StorageFull, Unavailable):
            log.info("collection_postponed", partition=partition)

    def _due(self, rows: Reader, partition: int) -> list[msgspec.Struct]:
        now = now_ms()
        due: list[msgspec.Struct] = []
        expiry = uploads.next_expiry_ms(rows, partition)
        if expiry is not None and expiry <= now:
            due.append(uploads.ExpireUploads())
        if accounts.names_rested(rows, partition, now):
            due.append(accounts.SweepNames())
        reservations = blobs.expired_reservations(rows, partition, now)
        if reservations:
            due.append(blobs.ExpireReservations(tuple(reservations)))
        unconfirmed = blobs.unconfirmed_since(rows, partition)
        if unconfirmed is not None and unconfirmed <= now - blobs.SWEEP_AFTER_MS:
            due.append(blobs.SweepReferences())
        if not self._paused:
            due += [blobs.Collect(blob) for blob in blobs.collectable(rows, partition, now)]
        return due

    async def _carry_out(self, partition: int, command: msgspec.Struct) -> None:
        try:
            if isinstance(command, blobs.Collect) and self._paused:
                return
            await self._service.do(partition, command, object, grows=False)
            self._expired += isinstance(command, uploads.ExpireUploads)
        except Refused as refusal:  # it was taken up again since the rows were read
            log.debug("collection_refused", partition=partition, code=refusal.code)
