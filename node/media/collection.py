"""The collector: brings away what time has made superfluous, partition by partition.

Every round asks the rows first and proposes commands only where there is something to do, so an idle node
writes nothing. What may go is decided by the state machine when the command is applied, never here; a file
is unlinked only after its blob's `Collect`, and only if it is older than that. A node that ended between the
two has a file without a row: once after each start all files are looked at.
"""

from collections.abc import Iterable
from functools import partial
from itertools import islice
from typing import Final

import msgspec
import trio

from cluster.commands import Refused
from cluster.replicas import Overloaded, StorageFull, now_ms
from node.logs import get_logger
from node.service import Service
from node.social import accounts, blobs, uploads
from storage.blobs import Blobs
from storage.rows import Reader

log = get_logger("media")

ROUND_EVERY_S: Final = 60.0  # upload promises are short-lived; the rest is looked at as often for nothing
ROUNDS_PER_PARTITION_MAX: Final = 50  # commands in one round: the rest waits for the next
STAGING_KEPT_S: Final = 24 * 3600.0
FILES_AT_ONCE: Final = 500  # looked at for strays between two pauses
FILES_PAUSE_S: Final = 0.05  # nobody waits for them: a million take two minutes


class CollectorStatistics(msgspec.Struct, frozen=True):
    rounds: int
    collected: int  # blobs
    expired: int  # upload promises


class Collector:
    def __init__(self, service: Service, files: Blobs) -> None:
        self._service = service
        self._files = files
        self._paused = 0
        self._rounds = self._collected = self._expired = 0

    def pause(self) -> None:
        """Collect no blobs until `resume`: while a backup copies them (law 11)."""
        self._paused += 1

    def resume(self) -> None:
        self._paused -= 1

    def statistics(self) -> CollectorStatistics:
        return CollectorStatistics(self._rounds, self._collected, self._expired)

    async def run(self, partitions: Iterable[int]) -> None:
        """Until cancelled."""
        partitions = tuple(partitions)
        await self.collect_strays()
        while True:
            for partition in partitions:
                await self.round(partition)
                await trio.lowlevel.checkpoint()  # nothing due, nothing awaited: requests go first
            self._rounds += 1
            before = now_ms() / 1000 - STAGING_KEPT_S
            await trio.to_thread.run_sync(partial(self._files.sweep_staging, before=before))
            await trio.sleep(ROUND_EVERY_S)

    async def collect_strays(self) -> None:
        """Take away files that no row knows. A blob that came meanwhile has a row, and its `Collect` is
        refused."""
        files = self._files.iterate()
        while batch := await trio.to_thread.run_sync(lambda: list(islice(files, FILES_AT_ONCE))):
            with self._service.read() as rows:
                strays = [file.digest for file in batch if not blobs.is_known(rows, file.digest)]
            for digest in strays:
                log.warning("blob_without_a_row", blob=digest.hex())
                await self._carry_out(blobs.blob_partition(digest), blobs.Collect(digest))
            await trio.sleep(FILES_PAUSE_S)

    async def round(self, partition: int) -> None:
        """Everything that is due in one partition, bounded."""
        try:
            for _ in range(ROUNDS_PER_PARTITION_MAX):
                with self._service.read() as rows:
                    due = self._due(rows, partition)
                if not due:
                    break
                for command in due:
                    await self._carry_out(partition, command)
            else:
                log.info("collection_goes_on", partition=partition)
        except (Overloaded, StorageFull):
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
            if isinstance(command, blobs.Collect):
                if not self._paused:
                    await self._collect(partition, command)
                return
            await self._service.do(partition, command, object, grows=False)
            self._expired += isinstance(command, uploads.ExpireUploads)
        except Refused as refusal:  # it was taken up again since the rows were read
            log.debug("collection_refused", partition=partition, code=refusal.code)

    async def _collect(self, partition: int, command: blobs.Collect) -> None:
        done = await self._service.do(partition, command, blobs.Collected, grows=False)
        await trio.to_thread.run_sync(self._files.unlink, command.hash, done.result.below)
        self._collected += 1
