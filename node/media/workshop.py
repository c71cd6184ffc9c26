"""The workshop: carries out the media jobs of this node's partitions.

A job is a row (`node/social/jobs.py`). The workshop claims it by a command, lets a worker process make the
variants, stores each as a blob, and reports by a command; so a job survives the death of a worker, of the
node, and of whoever waited for it. Which partitions have jobs it learns by being woken, and at the start from
the rows; it sleeps until the next is due.
"""

import errno
import math
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import trio

from cluster.commands import Refused
from cluster.replicas import Overloaded, now_ms
from cluster.router import StorageFull
from node.logs import get_logger
from node.media.intake import Intake
from node.media.pool import Pool, PoolFull, WorkerDied
from node.media.recipes import RECIPES, ImageRefused, Processed
from node.service import EVERYBODY, Service
from node.social import jobs
from node.social.jobs import DueJob
from node.social.keys import JobKey
from node.social.records import JOBS, VariantPair
from storage.blobs import BlobDamaged, BlobMismatch, BlobMissing, Blobs
from storage.ids import partition_of
from storage.space import measure

log = get_logger("media")

CLAIM_MS: Final = 5 * 60 * 1000  # longer than any job may run; a claim that runs out costs a try
JOBS_LOOKED_AT_MAX: Final = 16  # per partition and look
RELEASE_WITHIN_S: Final = 2.0  # at the node's end, for giving claims back
LOOK_AGAIN_MS: Final = 1000  # at a partition whose due jobs all run already
POSTPONED_MS: Final = 1000  # until a job that could not begin is looked at again
JOB_BYTES: Final = 4 << 20  # with less free disk than this, a worker's death is taken for want of room
# What costs a try and nothing more. A worker that was taken over may name wrong hashes; one may not start at
# all (OSError), for want of memory or descriptors.
FAILED_TRIES: Final = (WorkerDied, BlobMissing, BlobDamaged, BlobMismatch, OSError)
MIME: Final = {"webp": "image/webp", "jpeg": "image/jpeg"}


class Tries(msgspec.Struct, frozen=True):
    """How often a job is tried, and how long after its first failure; then twice as long, and so on."""

    most: int = jobs.TRIES_MAX
    backoff_ms: int = jobs.BACKOFF_MS


class WorkshopStatistics(msgspec.Struct, frozen=True):
    running: int
    waiting: int  # partitions with a job that is due or will be
    done: int
    refused: int
    failed: int


class Workshop:
    """One per node; `run` in the node's nursery. `worker` names this boot of the node in claims."""

    def __init__(
        self,
        service: Service,
        intake: Intake,
        blobs: Blobs,
        pool: Pool,
        folder: Path,
        worker: str,
        slots: int,
        tries: Tries,
    ) -> None:
        self._tries = tries
        self._service = service
        self._intake = intake
        self._blobs = blobs
        self._pool = pool
        self._folder = folder  # on the file system of the blobs; emptied at the start
        self._worker = worker
        self._slots = trio.CapacityLimiter(slots)
        self._due: dict[int, int] = {}  # partition → when to look at it, ms
        self._running: set[int] = set()
        self._woken = trio.Event()
        self._finished: dict[int, list[trio.Event]] = {}
        self._done = self._refused = self._failed = 0

    def wake(self, media: int) -> None:
        """A job for this medium was made or is due anew."""
        self._due[partition_of(media)] = 0
        self._woken.set()

    @contextmanager
    def expected(self, media: int) -> Iterator[trio.Event]:
        """An event that is set when an attempt at this medium's job has ended, here. Ask before `wake`, and
        look then whether there is a job: it may have ended before."""
        event = trio.Event()
        waiters = self._finished.setdefault(media, [])
        waiters.append(event)
        try:
            yield event
        finally:
            waiters.remove(event)
            if not waiters and self._finished.get(media) is waiters:
                del self._finished[media]

    def statistics(self) -> WorkshopStatistics:
        return WorkshopStatistics(len(self._running), len(self._due), self._done, self._refused, self._failed)

    # --- the loop --------------------------------------------------------------------------------------
    async def run(self, partitions: Iterable[int]) -> None:
        """Until cancelled. Claims of this node's earlier boots are given back first: they cost no try."""
        await trio.to_thread.run_sync(_empty, self._folder)
        await self._release_stale(tuple(partitions))
        async with trio.open_nursery() as nursery:
            while True:
                self._woken = trio.Event()
                for due in self._take_due(await self._looked_at()):
                    self._running.add(due.media)
                    nursery.start_soon(self._carry_out, due)
                next_ms = min(self._due.values(), default=None)
                wait_s = math.inf if next_ms is None else max(0.05, (next_ms - now_ms()) / 1000)
                with trio.move_on_after(wait_s):
                    await self._woken.wait()

    async def _release_stale(self, partitions: tuple[int, ...]) -> None:
        node = self._worker.rpartition("/")[0]
        stale: list[DueJob] = []
        with self._service.read() as rows:
            for partition in partitions:
                next_ms = jobs.next_due_ms(rows, partition)
                if next_ms is not None:
                    self._due[partition] = next_ms
                    claimed = jobs.jobs_due(rows, partition, now_ms() + CLAIM_MS * 2, 1000)
                    stale += [due for due in claimed if due.job.worker.rpartition("/")[0] == node]
        for due in stale:
            if due.job.worker != self._worker:
                await self._give_back(due)
                self.wake(due.media)

    async def _give_back(self, due: DueJob) -> None:
        """On a full disk a node starts, too: its jobs wait until they can be given back."""
        while True:
            try:
                await self._tell(due.media, jobs.ReleaseClaim(due.media, due.job.attempt))
                return
            except (Overloaded, StorageFull) as wrong:
                log.warning("job_postponed", media=str(due.media), reason=str(wrong))
                await trio.sleep(POSTPONED_MS / 1000)

    async def _looked_at(self) -> list[int]:
        """The partitions whose turn it is, once the rows show what woke us: under load a command is answered
        before its commit. Whoever wakes one from here on has it looked at again."""
        now = now_ms()
        turn = [partition for partition, at in self._due.items() if at <= now]
        for partition in turn:
            del self._due[partition]
        await self._service.router.visible(*turn)
        return turn

    def _take_due(self, partitions: list[int]) -> list[DueJob]:
        """Jobs to begin now; partitions without any are not looked at until they are woken or due."""
        now = now_ms()
        found: list[DueJob] = []
        with self._service.read() as rows:
            for partition in partitions:
                due = jobs.jobs_due(rows, partition, now, JOBS_LOOKED_AT_MAX)
                found += [job for job in due if job.media not in self._running]
                next_ms = jobs.next_due_ms(rows, partition)
                if next_ms is not None:
                    # What is due but running ends with a `wake`; look again no sooner than in a second.
                    again = max(next_ms, now + LOOK_AGAIN_MS)
                    self._due[partition] = min(again, self._due.get(partition, again))
        return found

    # --- one job ---------------------------------------------------------------------------------------
    async def _carry_out(self, due: DueJob) -> None:
        media, attempt = due.media, due.job.attempt + 1
        due_ms = 0
        try:
            async with self._slots:
                command = jobs.Claim(media, attempt, self._worker, now_ms() + CLAIM_MS, self._tries.most)
                claimed = await self._service.do(partition_of(media), command, jobs.Claimed | None)
                if claimed.result is not None:
                    await self._attempt(media, attempt, claimed.result)
        except Refused as refusal:  # somebody else was faster, or the medium is gone
            log.debug("job_passed", media=str(media), code=refusal.code)
        except (Overloaded, StorageFull, PoolFull) as wrong:
            log.warning("job_postponed", media=str(media), reason=str(wrong))
            due_ms = now_ms() + POSTPONED_MS
        finally:
            self._running.discard(media)
            self.wake(media)
            self._due[partition_of(media)] = due_ms
            for event in self._finished.get(media, ()):
                event.set()

    async def _attempt(self, media: int, attempt: int, claimed: jobs.Claimed) -> None:
        folder = self._folder / f"{media}-{attempt}"
        reported = False
        try:
            report: jobs.Done | jobs.Failed
            try:
                processed = await self._process(claimed, folder)
                variants = await self._store(media, claimed.owner, processed)
                report = jobs.Done(
                    media, attempt, processed.width, processed.height, processed.placeholder, variants
                )
                self._done += 1
            except ImageRefused as refusal:
                report = jobs.Failed(media, attempt, refusal.reason, permanent=True)
                self._refused += 1
            except FAILED_TRIES as wrong:
                if _free_bytes(self._folder) < JOB_BYTES:  # a worker without room dies: no fault of its own
                    raise StorageFull(f"no room for the variants: {wrong}") from wrong
                log.warning("job_failed", media=str(media), attempt=attempt, reason=str(wrong))
                report = jobs.Failed(
                    media, attempt, str(wrong), False, self._tries.most, self._tries.backoff_ms
                )
                self._failed += 1
            await self._tell(media, report)
            reported = True
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + RELEASE_WITHIN_S):
                if not reported:  # the node stops or is full: no fault of the picture
                    await self._tell(media, jobs.ReleaseClaim(media, attempt))
                await trio.to_thread.run_sync(_remove, folder)

    async def _tell(self, media: int, command: msgspec.Struct) -> None:
        try:
            # What it publishes can be fetched by the time that anybody is told of it.
            await self._service.do(partition_of(media), command, grows=False, told=EVERYBODY)
        except Refused as refusal:  # a stale attempt: the job went on without us
            log.info("job_report_refused", media=str(media), code=refusal.code, detail=refusal.detail)

    async def _process(self, claimed: jobs.Claimed, folder: Path) -> Processed:
        original = folder / "original"
        await trio.to_thread.run_sync(_lend, self._blobs, claimed.original, original)
        return await self._pool.process(original, folder / "variants")

    async def _store(self, media: int, owner: int, processed: Processed) -> tuple[VariantPair, ...]:
        try:
            async with trio.open_nursery() as nursery:
                for file in processed.variants:
                    nursery.start_soon(
                        self._intake.place, file.path, file.digest, file.size, MIME[file.format], owner, media
                    )
        except BaseExceptionGroup as group:
            raise _first(group) from group
        by_name = {(file.name, file.format): file for file in processed.variants}
        pairs = []
        for recipe in RECIPES:
            webp, jpeg = by_name[recipe.name, "webp"], by_name[recipe.name, "jpeg"]
            pairs.append(VariantPair(webp.digest, jpeg.digest, webp.width, webp.height))
        return tuple(pairs)

    def attempt_of(self, media: int) -> int | None:
        """The newest attempt at a medium's job, for operators; None without a job."""
        with self._service.read() as rows:
            job = JOBS.get(rows, JobKey(media))
        return job.attempt if job else None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What tells most of several failures at once: the first that is no mere cancellation."""
    rest = group.split(trio.Cancelled)[1]
    if rest is None:
        return group
    first: BaseException = rest
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


def _lend(blobs: Blobs, digest: bytes, target: Path) -> None:
    """Raises StorageFull, BlobMissing, BlobDamaged."""
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        blobs.link(digest, target)
    except OSError as wrong:
        if wrong.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(str(wrong)) from wrong
        raise


def _free_bytes(folder: Path) -> int:
    return measure(folder).free_bytes


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
