"""The workshop: carries out the media jobs of this node's partitions.

A job is a row (`node/social/jobs.py`). The workshop claims it by a command, lets a worker process make the
variants, stores each as a blob, and reports by a command; so a job survives the death of a worker, of the
node, and of whoever waited for it. Its partitions are those that this node leads: it takes them up when it
takes charge of them, and lets go of what it does for one that it leads no longer. Which have jobs it learns
from the rows, and from the commits that write them; it sleeps until the next is due.

A claim whose worker was another node, or this one before its last start, costs no try: that node died, or
led no longer. It is released at once when this node takes charge and the other cannot be reached, else when
it runs out.
"""

import errno
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import trio

from cluster.commands import Refused
from cluster.copies.fetching import BlobUnavailable, Fetching, Links
from cluster.copies.placement import NotEnoughCopies
from cluster.raft.effects import Standing
from cluster.replicas import Overloaded, now_ms
from cluster.router import StorageFull, Unavailable
from node.logs import get_logger
from node.media.catalogue import had
from node.media.intake import Intake
from node.media.pool import Pool, PoolFull, WorkerDied
from node.media.recipes import RECIPES, ImageRefused, Processed
from node.service import EVERYBODY, Service
from node.social import jobs
from node.social.jobs import DueJob
from node.social.keys import JobDueKey, JobKey
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
CLAIMS_RELEASED_MAX: Final = 1000  # per partition that this node takes charge of; others run out
# What costs nothing: the job is looked at again. Not here or now, but not for its own sake.
POSTPONED: Final = (Overloaded, StorageFull, Unavailable, PoolFull, NotEnoughCopies, BlobUnavailable)
# What costs a try and nothing more. A worker that was taken over may name wrong hashes; one may not start at
# all (OSError), for want of memory or descriptors.
FAILED_TRIES: Final = (WorkerDied, BlobMissing, BlobDamaged, BlobMismatch, OSError)
_JOB, _JOB_DUE = JobKey.KIND, JobDueKey.KIND  # the third byte of such a key
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
    """One per node; `run` in the node's nursery. `worker` names this boot of the node in claims.

    `rows_changed` and `standing_changed` follow the replicas.
    """

    def __init__(
        self,
        service: Service,
        intake: Intake,
        blobs: Blobs,
        fetching: Fetching,
        pool: Pool,
        folder: Path,
        worker: str,
        slots: int,
        tries: Tries,
    ) -> None:
        self._tries = tries
        self._service = service
        self._replicas = service.router.replicas
        self._leads = self._replicas.leads
        self._homes: frozenset[int] = frozenset()  # the partitions that may have jobs, once it runs
        self._intake = intake
        self._blobs = blobs
        self._fetching = fetching
        self._pool = pool
        self._folder = folder  # on the file system of the blobs; emptied at the start
        self._worker = worker
        self._slots = trio.CapacityLimiter(slots)
        self._due: dict[int, int] = {}  # partition → when to look at it, ms
        self._running: dict[int, trio.CancelScope] = {}  # by medium
        self._led: set[int] = set()
        self._taken_up: set[int] = set()  # of these, those whose old claims are to be released
        self._connected: Callable[[bytes], bool] = _nobody_is  # can this other node be reached?
        self._woken = trio.Event()
        self._finished: dict[int, list[trio.Event]] = {}
        self._done = self._refused = self._failed = 0

    def attach(self, links: Links) -> None:
        """This node has peers, from now on."""
        self._connected = links.connected

    def wake(self, media: int) -> None:
        """A job for this medium was made or is due anew. The node that leads its partition hears it from the
        rows, but later: after the commit."""
        partition = partition_of(media)
        if partition in self._led:
            self._look_at(partition, 0)

    def _look_at(self, partition: int, due_ms: int) -> None:
        self._due[partition] = min(due_ms, self._due.get(partition, due_ms))
        self._woken.set()

    def standing_changed(self, partition: int, _: Standing) -> None:
        """This node took charge of a partition, or leads it no longer."""
        if partition not in self._homes or (partition in self._led) == self._leads(partition):
            return
        if self._leads(partition):
            self._led.add(partition)
            self._taken_up.add(partition)
            self._look_at(partition, 0)
            return
        self._led.discard(partition)
        self._taken_up.discard(partition)
        self._due.pop(partition, None)
        for media, scope in self._running.items():
            if partition_of(media) == partition:
                scope.cancel()

    def rows_changed(self, keys: Iterable[bytes]) -> None:
        """A commit wrote, or removed, these rows."""
        for key in keys:
            if key[2] == _JOB_DUE:
                due = JobDueKey.decode(key)
                if due.partition in self._led:
                    self._look_at(due.partition, due.due_ms)
            elif key[2] == _JOB and self._finished:
                self._job_changed(JobKey.decode(key).media)

    def _job_changed(self, media: int) -> None:
        """Where another node does the job, its rows are how one hears that an attempt has ended."""
        if media not in self._finished or media in self._running:
            return
        with self._service.read() as rows:
            job = JOBS.get(rows, JobKey(media))
        if job is None or (job.attempt and not job.worker):
            self._tell_finished(media)

    def _tell_finished(self, media: int) -> None:
        for event in self._finished.get(media, ()):
            event.set()

    @contextmanager
    def expected(self, media: int) -> Iterator[trio.Event]:
        """An event that is set when an attempt at this medium's job has ended. Ask before `wake`, and look
        then whether there is a job: it may have ended before."""
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
        """Until cancelled."""
        await trio.to_thread.run_sync(_empty, self._folder)
        self._homes = frozenset(partitions)
        for partition in self._homes:
            self.standing_changed(partition, self._replicas.standing(partition))
        async with trio.open_nursery() as nursery:
            while True:
                self._woken = trio.Event()
                looked_at = await self._looked_at()
                for stale in self._stale():
                    nursery.start_soon(self._give_back, stale)
                for due in self._take_due(looked_at):
                    scope = self._running[due.media] = trio.CancelScope()
                    nursery.start_soon(self._carry_out, due, scope)
                next_ms = min(self._due.values(), default=None)
                wait_s = math.inf if next_ms is None else max(0.05, (next_ms - now_ms()) / 1000)
                with trio.move_on_after(wait_s):
                    await self._woken.wait()

    def _stale(self) -> list[DueJob]:
        """Claims, of partitions just taken up, whose workers are gone. They cost no try."""
        taken_up, self._taken_up = self._taken_up, set()
        stale: list[DueJob] = []
        with self._service.read() as rows:
            for partition in taken_up:
                if jobs.next_due_ms(rows, partition) is not None:
                    until = now_ms() + CLAIM_MS * 2
                    claimed = jobs.jobs_due(rows, partition, until, CLAIMS_RELEASED_MAX)
                    stale += [due for due in claimed if self._is_gone(due.job.worker)]
        return stale

    def _is_gone(self, worker: str) -> bool:
        if not worker or worker == self._worker:
            return False
        node = _node_of(worker)
        return node == _node_of(self._worker) or not self._connected(node)

    async def _give_back(self, due: DueJob) -> None:
        """On a full disk a node starts, too: its jobs wait until they can be given back."""
        while partition_of(due.media) in self._led:
            try:
                await self._tell(due.media, jobs.ReleaseClaim(due.media, due.job.attempt))
                break
            except POSTPONED as wrong:
                log.warning("job_postponed", media=str(due.media), reason=str(wrong))
                await trio.sleep(POSTPONED_MS / 1000)
        self.wake(due.media)

    async def _looked_at(self) -> list[int]:
        """The partitions whose turn it is, once the rows show what woke us: under load a command is answered
        before its commit. Whoever wakes one from here on has it looked at again."""
        now = now_ms()
        turn = [partition for partition, at in self._due.items() if at <= now]
        for partition in turn:
            del self._due[partition]
        await self._replicas.visible(*turn)
        return [partition for partition in turn if partition in self._led]

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
    async def _carry_out(self, due: DueJob, scope: trio.CancelScope) -> None:
        media = due.media
        due_ms = 0
        try:
            with scope:
                async with self._slots:
                    await self._claim(due)
        except Refused as refusal:  # somebody else was faster, or the medium is gone
            log.debug("job_passed", media=str(media), code=refusal.code)
        except POSTPONED as wrong:
            log.warning("job_postponed", media=str(media), reason=str(wrong))
            due_ms = now_ms() + POSTPONED_MS
        finally:
            del self._running[media]
            if partition_of(media) in self._led:
                self._due[partition_of(media)] = due_ms
                self._woken.set()
            self._tell_finished(media)

    async def _claim(self, due: DueJob) -> None:
        media, job = due.media, due.job
        if job.worker and job.worker != self._worker:  # it ran out, but not for what the picture is
            await self._tell(media, jobs.ReleaseClaim(media, job.attempt))
        attempt = job.attempt + 1
        command = jobs.Claim(media, attempt, self._worker, now_ms() + CLAIM_MS, self._tries.most)
        claimed = await self._service.do(partition_of(media), command, jobs.Claimed | None)
        if claimed.result is not None:
            await self._attempt(media, attempt, claimed.result)

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
        lent = partial(trio.to_thread.run_sync, _lend, self._blobs, claimed.original, original)
        await had(self._fetching, claimed.original, lent)
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


def _node_of(worker: str) -> bytes:
    """The id in a worker's name; empty in a name that no node gives itself."""
    try:
        return bytes.fromhex(worker.rpartition("/")[0])
    except ValueError:
        return b""


def _nobody_is(_: bytes) -> bool:
    """A lone node knows no other that lives."""
    return False


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
