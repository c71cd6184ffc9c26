"""The pool of worker processes: the node's end of image processing.

The node never decodes an image. It hands paths to a worker process (`worker.py`) and waits, with a deadline;
whatever a hostile image does to the worker, the node sees an answer or a WorkerDied. Workers are started when
there is work, so an idle node has none, and replaced when they die.

Workers are started from the thread that runs the event loop: the kernel ends them when the *thread* that
started them ends, and trio's own process support starts them from a short-lived one.
"""

import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import trio

from node.media.recipes import ImageRefused, Processed, variant_paths
from node.media.worker import (
    EXIT_MEMORY,
    FRAME_BYTES_MAX,
    LENGTH_BYTES,
    Answer,
    Done,
    Job,
    Limits,
    answer_from,
    frame,
)

PACKAGES = Path(__file__).resolve().parents[2]  # where the worker finds the very packages that this node runs
STDERR_TAIL_BYTES = 2_000
GRACE_S = 2.0  # for a worker to end by itself once its input is closed; idle ones end at once
DIGEST_BYTES = 32
SYSTEM_LANGUAGE = "C.UTF-8"


class PoolSettings(msgspec.Struct, frozen=True):
    """How much image processing may take. The defaults let every image within the published limits
    through."""

    workers: int = max(1, len(os.sched_getaffinity(0)) - 1)
    queue_max: int = 64  # callers that wait for a worker; more are turned away
    deadline_s: float = 60.0  # wall clock per job: far above the CPU limit, since workers yield to the node
    cpu_s: int = 10  # per job; 50 megapixels take up to 2.2 s
    memory_bytes: int = 1536 * 1024**2  # address space; lossless WebP of 50 megapixels takes most: 931 MB
    file_bytes: int = 16 * 1024**2  # per variant
    open_files: int = 32
    nice: int = 10
    idle_s: float = 15.0  # an idle worker is stopped after this
    jobs_per_worker: int = 200  # then it is replaced: what leaks in a codec stays bounded


class PoolStatistics(msgspec.Struct, frozen=True):
    """What the pool is doing now (`busy`, `idle`, `waiting`, `worker_pids`) and did since it was opened.

    `cpu_s` counts answered jobs only; `passed_over` counts processed originals of which something was
    unreadable.
    """

    busy: int
    idle: int
    waiting: int
    worker_pids: tuple[int, ...]
    started: int
    processed: int
    refused: int
    died: int
    cancelled: int
    passed_over: int
    cpu_s: float


class WorkerDied(Exception):
    """The worker gave no valid answer: a failed try. `reason` says what became of it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class PoolFull(Exception):
    """`queue_max` callers wait already. Nothing was tried; come again later."""


class _Worker:
    """One worker process and the pipes to it. Used by one task at a time."""

    def __init__(self, settings: PoolSettings) -> None:
        limits = Limits(
            parent_pid=os.getpid(),
            memory_bytes=settings.memory_bytes,
            cpu_s=settings.cpu_s,
            open_files=settings.open_files,
            file_bytes=settings.file_bytes,
            nice=settings.nice,
        )
        self.settings = settings
        self.jobs = 0
        self.idle_since = 0.0
        self.errors = os.memfd_create("media-worker-errors")  # bounded by the worker's own limit on file size
        try:
            self.process = _start(limits, self.errors)
        except OSError:
            os.close(self.errors)
            raise
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("a worker was started without pipes")
        self.pidfd = os.pidfd_open(self.process.pid)
        self.jobs_out = trio.lowlevel.FdStream(os.dup(self.process.stdin.fileno()))
        self.answers_in = trio.lowlevel.FdStream(os.dup(self.process.stdout.fileno()))
        self.process.stdin.close()
        self.process.stdout.close()

    async def ask(self, job: Job) -> Answer:
        """The worker's answer. Raises WorkerDied when it ends, talks garbage or misses the deadline."""
        self.jobs += 1
        with trio.move_on_after(self.settings.deadline_s):
            try:
                await self.jobs_out.send_all(frame(job))
                size = int.from_bytes(await self._receive(LENGTH_BYTES), "big")
                if not 0 < size <= FRAME_BYTES_MAX:
                    raise WorkerDied(f"answered with a frame of {size} bytes, not 1 to {FRAME_BYTES_MAX}")
                return answer_from(await self._receive(size))
            except (trio.BrokenResourceError, EOFError):
                with trio.move_on_after(GRACE_S):
                    await trio.lowlevel.wait_readable(self.pidfd)
                raise WorkerDied(self._cause_of_death()) from None
            except msgspec.DecodeError as error:
                raise WorkerDied(f"answered with what is no answer: {error}") from error
        raise WorkerDied(f"no answer within {self.settings.deadline_s:g} s")

    async def _receive(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = await self.answers_in.receive_some(size - len(parts))
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)

    def _cause_of_death(self) -> str:
        status = self.process.poll()
        if status is None:
            return "closed its output without an answer"
        if status == -signal.SIGXCPU:
            return f"used more than {self.settings.cpu_s} s of CPU"
        if status == EXIT_MEMORY:
            return f"needed more than {self.settings.memory_bytes // 2**20} MiB of memory"
        if status < 0:
            return f"killed by signal {-status} ({signal.strsignal(-status)})"
        start = max(0, os.fstat(self.errors).st_size - STDERR_TAIL_BYTES)
        lines = os.pread(self.errors, STDERR_TAIL_BYTES, start).decode(errors="replace").strip().splitlines()
        return f"exited with status {status}: {lines[-1] if lines else 'said nothing'}"

    def alive(self) -> bool:
        return self.process.poll() is None

    async def stop(self) -> None:
        """Let the idle worker end by itself; kill it if it does not within GRACE_S."""
        try:
            await self.jobs_out.aclose()
            with trio.move_on_after(GRACE_S):
                await trio.lowlevel.wait_readable(self.pidfd)
        finally:
            await self.kill()

    async def kill(self) -> None:
        """End the process, if it has not ended, and collect it. Cannot be cancelled: what the process wrote
        is cleared away once it is gone."""
        with trio.CancelScope(shield=True):
            if self.alive():
                self.process.kill()
                await trio.lowlevel.wait_readable(self.pidfd)
            self.process.wait()
            await self.jobs_out.aclose()
            await self.answers_in.aclose()
        os.close(self.pidfd)
        os.close(self.errors)


class Pool:
    """Made by `open_pool`. `process` may be called by any number of tasks of the same event loop."""

    def __init__(self, settings: PoolSettings, nursery: trio.Nursery) -> None:
        self._settings = settings
        self._nursery = nursery
        self._slots = trio.Semaphore(settings.workers)
        self._idle: deque[_Worker] = deque()  # longest idle first
        self._busy: set[_Worker] = set()
        self._rested = trio.Event()
        self._open = True
        self._waiting = self._started = self._processed = self._refused = 0
        self._died = self._cancelled = self._passed_over = 0
        self._cpu_s = 0.0

    async def process(self, source: Path, into: Path) -> Processed:
        """Make all variants of the original at `source` in the directory `into`, which is made if it is
        missing.

        `into` belongs to this call: after any failure, cancellation among them, no variant is left in it, and
        it is gone if it was made here. Raises ImageRefused (the bytes are at fault), WorkerDied (a failed
        try), PoolFull (not tried).
        """
        source, into = source.absolute(), into.absolute()
        async with self._slot():
            worker = self._take()
            made = False
            answer: Answer | None = None
            try:
                made = _make_directory(into)
                answer = await worker.ask(Job(source, into))
                if isinstance(answer, Done):
                    _check_files(answer.processed, into)
                    return self._count_done(answer)
                self._refused += 1
                self._cpu_s += answer.cpu_s
                raise ImageRefused(answer.reason)
            except WorkerDied:
                self._died += 1
                answer = None  # a wrong answer counts as none
                raise
            except trio.Cancelled:
                self._cancelled += 1
                raise
            finally:
                await self._put_back(worker, answer is not None)
                if not isinstance(answer, Done):
                    _clear(into, made)

    def statistics(self) -> PoolStatistics:
        """A snapshot of the pool."""
        return PoolStatistics(
            busy=len(self._busy),
            idle=len(self._idle),
            waiting=self._waiting,
            worker_pids=tuple(worker.process.pid for worker in (*self._busy, *self._idle)),
            started=self._started,
            processed=self._processed,
            refused=self._refused,
            died=self._died,
            cancelled=self._cancelled,
            passed_over=self._passed_over,
            cpu_s=self._cpu_s,
        )

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """The right to one worker; waits in a bounded queue."""
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            if self._waiting >= self._settings.queue_max:
                raise PoolFull(f"{self._waiting} images wait for a worker already") from None
            self._waiting += 1
            try:
                await self._slots.acquire()
            finally:
                self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()

    def _take(self) -> _Worker:
        """The worker that rested least, or a new one."""
        if not self._open:
            raise RuntimeError("the pool is closed")
        while self._idle:
            worker = self._idle.pop()
            if worker.alive():
                break
            self._nursery.start_soon(worker.kill)
        else:
            worker = _Worker(self._settings)
            self._started += 1
        self._busy.add(worker)
        return worker

    async def _put_back(self, worker: _Worker, usable: bool) -> None:
        self._busy.discard(worker)
        if not usable or not self._open:
            await worker.kill()
        elif worker.jobs >= self._settings.jobs_per_worker:
            self._nursery.start_soon(worker.stop)
        else:
            worker.idle_since = trio.current_time()
            self._idle.append(worker)
            self._rested.set()

    def _count_done(self, answer: Done) -> Processed:
        self._processed += 1
        self._cpu_s += answer.cpu_s
        self._passed_over += bool(answer.processed.passed_over)
        return answer.processed

    async def _retire_idle(self) -> None:
        """Stop each worker `idle_s` after its last job. Sleeps without end while none is idle."""
        while True:
            await self._rested.wait()
            self._rested = trio.Event()
            while self._idle:
                await trio.sleep_until(self._idle[0].idle_since + self._settings.idle_s)
                while self._idle and self._idle[0].idle_since + self._settings.idle_s <= trio.current_time():
                    await self._idle.popleft().stop()

    async def _close(self) -> None:
        self._open = False
        for worker in self._busy:  # of callers outside; they see a WorkerDied and clear up
            worker.process.kill()
        while self._idle:
            await self._idle.popleft().kill()


@contextlib.asynccontextmanager
async def open_pool(settings: PoolSettings) -> AsyncIterator[Pool]:
    """A pool for the time of the block; its workers end with it.

    Like any nursery, it wraps what is raised out of the block in an exception group.
    """
    async with trio.open_nursery() as nursery:
        pool = Pool(settings, nursery)
        nursery.start_soon(pool._retire_idle)
        try:
            yield pool
        finally:
            await pool._close()
            nursery.cancel_scope.cancel()


def _start(limits: Limits, errors: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-s", "-P", "-m", "node.media.worker", msgspec.json.encode(limits).decode()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        bufsize=0,
        cwd="/",
        env=_environment(),
        close_fds=True,
        start_new_session=True,  # an interrupt from the terminal is for the node, which then drains
    )


def _environment() -> dict[str, str]:
    """Nothing of the node's own: settings and secrets may stand in its environment."""
    return {
        "PYTHONPATH": str(PACKAGES),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LANG": SYSTEM_LANGUAGE,
        "MALLOC_ARENA_MAX": "1",  # one thread; further arenas only reserve address space
    }


def _make_directory(into: Path) -> bool:
    """Whether it was made here. Raises OSError."""
    try:
        into.mkdir()
    except FileExistsError:
        return False
    return True


def _check_files(processed: Processed, into: Path) -> None:
    """A worker that was taken over by an image must not be able to name other files. Raises WorkerDied."""
    paths = tuple(variant.path for variant in processed.variants)
    if paths != variant_paths(into):
        raise WorkerDied("answered with other files than were asked for")
    for variant in processed.variants:
        try:
            found = variant.path.lstat()
        except OSError as error:
            raise WorkerDied(f"answered with a file that is not there: {error}") from error
        whole = stat.S_ISREG(found.st_mode) and found.st_size == variant.size
        if not whole or len(variant.digest) != DIGEST_BYTES:
            raise WorkerDied(f"{variant.path.name}: {found.st_size} bytes, {variant.size} answered")


def _clear(into: Path, made: bool) -> None:
    for path in variant_paths(into):
        path.unlink(missing_ok=True)
    if made:
        with contextlib.suppress(OSError):  # not empty: what else is in it is not ours
            into.rmdir()
