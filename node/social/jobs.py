"""Media jobs: rows in p(owner) that say which medium is to be made ready, whose turn it is, and what failed.

A worker claims an attempt until some time; `Done` and `Failed` name the attempt, and one that is not the
claimed one is refused, so two workers that think they have the same job do no harm. A medium has three tries
with exponential backoff, all by the commands' times; then its job becomes a dead letter until an admin
retries or drops it. A picture that is refused as such (its sender's fault) fails at once, and leaves none.

    waiting ──Claim──▶ claimed ──Done──▶ (gone, medium ready)
       ▲                │  │  └─Failed for good──▶ (gone, medium failed)
       ├──ReleaseClaim──┘  │
       ├──Failed, or the claim ran out, with tries left
       └──RetryFailed── dead letter ◀──the same with none left
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from cluster.commands import Refused
from cluster.partition import Apply
from node.social import media as media_rows
from node.social.keys import FailedJobKey, JobDueKey, JobKey
from node.social.media import FAILED, READY, STORED, replace
from node.social.publication import advance
from node.social.records import (
    FAILED_JOBS,
    JOBS,
    JOBS_DUE,
    VARIANTS,
    FailedJob,
    Job,
    Media,
    VariantPair,
)
from storage.rows import PRESENT, Reader

TRIES_MAX: Final = 3  # unless the command says otherwise
BACKOFF_MS: Final = 10_000  # before the second try; doubles with each; as the command says, too
REASON_MAX: Final = 500  # characters of a failure's reason; the rest is cut


class Claim(msgspec.Struct, array_like=True, frozen=True, tag=125):
    """Take the job's next attempt; answers `Claimed`, or None where a claim that ran out was the last try."""

    media: int
    attempt: int  # the job's attempt + 1
    worker: str
    until_ms: int
    tries_max: int = TRIES_MAX


class Claimed(msgspec.Struct, array_like=True, frozen=True):
    owner: int
    original: bytes
    size: int
    mime: str


class Done(msgspec.Struct, array_like=True, frozen=True, tag=126):
    """The variants are stored and referenced in the partitions of their hashes."""

    media: int
    attempt: int
    width: int  # pixels, upright
    height: int
    placeholder: str
    variants: tuple[VariantPair, ...]  # in the order of VARIANTS


class Failed(msgspec.Struct, array_like=True, frozen=True, tag=127):
    media: int
    attempt: int
    reason: str
    permanent: bool  # the picture itself is refused: no further try would help
    tries_max: int = TRIES_MAX
    backoff_ms: int = BACKOFF_MS


class ReleaseClaim(msgspec.Struct, array_like=True, frozen=True, tag=128):
    """The worker's node stops: the job is due again and the attempt costs no try."""

    media: int
    attempt: int


class RetryFailed(msgspec.Struct, array_like=True, frozen=True, tag=129):
    """By an admin: a dead letter gets three tries anew."""

    media: int


class DropFailed(msgspec.Struct, array_like=True, frozen=True, tag=130):
    """By an admin: the dead letter goes; the medium stays failed."""

    media: int


def make_job(apply: Apply, owner: int, media_id: int, attempt: int = 0) -> None:
    """Let the medium, which is stored, be made ready: at once."""
    _write(apply, media_id, None, Job(attempt, "", 0, apply.now, "", owner, attempt))


def _write(apply: Apply, media_id: int, before: Job | None, after: Job) -> None:
    if before is not None and before.due_ms != after.due_ms:
        JOBS_DUE.delete(apply, JobDueKey(apply.partition, before.due_ms, media_id))
    if before is None or before.due_ms != after.due_ms:
        JOBS_DUE.put(apply, JobDueKey(apply.partition, after.due_ms, media_id), PRESENT)
    JOBS.put(apply, JobKey(media_id), after)


def _remove(apply: Apply, media_id: int, job: Job) -> None:
    JOBS_DUE.delete(apply, JobDueKey(apply.partition, job.due_ms, media_id))
    JOBS.delete(apply, JobKey(media_id))


def claim(apply: Apply, command: Claim) -> Claimed | None:
    job = JOBS.get(apply, JobKey(command.media))
    if job is None:
        raise Refused("not_found", f"medium {command.media} has no job")
    if command.attempt != job.attempt + 1:
        raise Refused(
            "stale_attempt", f"medium {command.media}: attempt {command.attempt}, next is {job.attempt + 1}"
        )
    if job.due_ms > apply.now:
        raise Refused("conflict", f"medium {command.media}: not due for {job.due_ms - apply.now} ms")
    if job.worker and job.attempt - job.free >= command.tries_max:
        _bury(apply, command.media, job, f"worker {job.worker} was not heard of again")
        return None
    medium = _medium(apply, job, command.media)
    claimed = replace(
        job,
        attempt=command.attempt,
        worker=command.worker,
        until_ms=command.until_ms,
        due_ms=command.until_ms,
    )
    _write(apply, command.media, job, claimed)
    return Claimed(job.owner, medium.original, medium.size, medium.type)


def done(apply: Apply, command: Done) -> None:
    job = _claimed(apply, command.media, command.attempt)
    if len(command.variants) != len(VARIANTS):
        raise Refused("invalid_field", f"variants: {len(command.variants)}, want {', '.join(VARIANTS)}")
    medium = _medium(apply, job, command.media)
    ready = replace(
        medium,
        state=READY,
        width=command.width,
        height=command.height,
        placeholder=command.placeholder,
        variants=command.variants,
        failure="",
    )
    _remove(apply, command.media, job)
    advance(apply, job.owner, command.media, medium, ready)


def failed(apply: Apply, command: Failed) -> None:
    job = _claimed(apply, command.media, command.attempt)
    reason = command.reason[:REASON_MAX]
    if command.permanent:
        _remove(apply, command.media, job)
        _fail_medium(apply, command.media, job, reason)
        return
    tries = job.attempt - job.free
    if tries >= command.tries_max:
        _bury(apply, command.media, job, reason)
        return
    due = apply.now + (command.backoff_ms << (tries - 1))
    waiting = replace(job, worker="", until_ms=0, due_ms=due, reason=reason)
    _write(apply, command.media, job, waiting)


def release_claim(apply: Apply, command: ReleaseClaim) -> None:
    job = _claimed(apply, command.media, command.attempt)
    waiting = replace(job, worker="", until_ms=0, due_ms=apply.now, free=job.free + 1)
    _write(apply, command.media, job, waiting)


def retry_failed(apply: Apply, command: RetryFailed) -> None:
    letter = _take_letter(apply, command.media)
    medium = media_rows.get(apply, letter.owner, command.media)
    if medium is None:
        raise AssertionError(f"medium {command.media} of a dead letter has no row")
    make_job(apply, letter.owner, command.media, letter.attempts)
    advance(apply, letter.owner, command.media, medium, replace(medium, state=STORED, failure=""))


def drop_failed(apply: Apply, command: DropFailed) -> None:
    _take_letter(apply, command.media)


def _take_letter(apply: Apply, media_id: int) -> FailedJob:
    key = FailedJobKey(apply.partition, media_id)
    letter = FAILED_JOBS.get(apply, key)
    if letter is None:
        raise Refused("not_found", f"no failed job of medium {media_id}")
    FAILED_JOBS.delete(apply, key)
    return letter


def _claimed(apply: Apply, media_id: int, attempt: int) -> Job:
    job = JOBS.get(apply, JobKey(media_id))
    if job is None:
        raise Refused("not_found", f"medium {media_id} has no job")
    if attempt != job.attempt or not job.worker:
        raise Refused("stale_attempt", f"medium {media_id}: attempt {attempt} is not the claimed one")
    return job


def _medium(apply: Apply, job: Job, media_id: int) -> Media:
    medium = media_rows.get(apply, job.owner, media_id)
    if medium is None:
        raise AssertionError(f"medium {media_id} of a job has no row")
    return medium


def _bury(apply: Apply, media_id: int, job: Job, reason: str) -> None:
    _remove(apply, media_id, job)
    letter = FailedJob(job.owner, job.attempt, reason, apply.now)
    FAILED_JOBS.put(apply, FailedJobKey(apply.partition, media_id), letter)
    _fail_medium(apply, media_id, job, reason)


def _fail_medium(apply: Apply, media_id: int, job: Job, reason: str) -> None:
    medium = _medium(apply, job, media_id)
    advance(apply, job.owner, media_id, medium, replace(medium, state=FAILED, failure=reason))


# --- reads ---------------------------------------------------------------------------------------------
class DueJob(NamedTuple):
    media: int
    job: Job


def jobs_due(rows: Reader, partition: int, now: int, most: int) -> list[DueJob]:
    """Jobs that `Claim` would take now: whose turn it is, or whose claim has run out; oldest first."""
    keys: list[JobKey] = []
    for key, _ in JOBS_DUE.scan(rows, partition):
        if key.due_ms > now or len(keys) == most:
            break
        keys.append(JobKey(key.media))
    found = JOBS.get_many(rows, keys)
    return [DueJob(key.media, found[key]) for key in keys]


def next_due_ms(rows: Reader, partition: int) -> int | None:
    """When the partition's next job is due; None without one."""
    for key, _ in JOBS_DUE.scan(rows, partition):
        return key.due_ms
    return None


def failed_job(rows: Reader, partition: int, media_id: int) -> FailedJob | None:
    return FAILED_JOBS.get(rows, FailedJobKey(partition, media_id))


def failed_jobs(rows: Reader, partition: int, beyond: int, most: int) -> list[tuple[int, FailedJob]]:
    """Dead letters of a partition by medium's id, after the id `beyond` (0: from the first)."""
    after = FailedJobKey(partition, beyond) if beyond else None
    scan = FAILED_JOBS.scan(rows, partition, beyond=after)
    return [(key.media, letter) for _, (key, letter) in zip(range(most), scan, strict=False)]


_Functions = dict[type, Callable[..., Any]]
COMMANDS: Final[_Functions] = {
    Claim: claim,
    Done: done,
    Failed: failed,
    ReleaseClaim: release_claim,
    RetryFailed: retry_failed,
    DropFailed: drop_failed,
}
