"""The process in which images are decoded: `python -m node.media.worker LIMITS`.

What decodes hostile bytes must be able to die alone. This process is started afresh (not forked: the node has
LMDB open), takes its own limits before it imports a codec, reads jobs from its standard input and answers on
its standard output, and ends with its parent. It works in one thread, one job at a time; `pool.py` is the
other end.

A frame is a length of four bytes, big-endian, and as many bytes of msgpack. Anything but ImageRefused ends
the process: the pool reads its exit status and the last line of its standard error.
"""

import ctypes
import math
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from node.media.recipes import ImageRefused, Processed

FRAME_BYTES_MAX = 64 * 1024  # an answer takes about one kilobyte
LENGTH_BYTES = 4
EXIT_MEMORY = 3  # exit status: the job needed more memory than the limit
OOM_SCORE = b"1000"  # if the machine runs out of memory, the kernel takes a worker and never the node
PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_NO_NEW_PRIVS = 38


class Limits(msgspec.Struct, frozen=True):
    """What a worker may use: address space in bytes, CPU seconds per job, open files, bytes per file it
    writes."""

    parent_pid: int
    memory_bytes: int
    cpu_s: int
    open_files: int
    file_bytes: int
    nice: int


class Job(msgspec.Struct, frozen=True):
    """Make the variants of the original at `source` in the directory `into`."""

    source: Path
    into: Path


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The variants are there. `cpu_s`: CPU seconds this job took."""

    processed: Processed
    cpu_s: float


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The original is at fault; `reason` is that of ImageRefused."""

    reason: str
    cpu_s: float


Answer = Done | Refused


def _path_to_wire(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} has no form on the wire")


def _path_from_wire(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"{kind.__name__} has no form on the wire")


_encoder = msgspec.msgpack.Encoder(enc_hook=_path_to_wire)
_job_decoder = msgspec.msgpack.Decoder(Job, dec_hook=_path_from_wire)
_answer_decoder: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer, dec_hook=_path_from_wire)


def frame(message: Job | Answer) -> bytes:
    """The message with its length before it. Raises ValueError above FRAME_BYTES_MAX."""
    body = _encoder.encode(message)
    if len(body) > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {len(body)} bytes; at most {FRAME_BYTES_MAX}")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def answer_from(body: bytes) -> Answer:
    """The answer in a frame's body. Raises msgspec.DecodeError (ValidationError is one) on anything else."""
    return _answer_decoder.decode(body)


def confine(limits: Limits) -> None:
    """Give this process its limits, for good. Raises OSError where the system will not have them."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # What an image might make of this process can start no program that has more rights than it.
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    if os.getppid() != limits.parent_pid:  # it died before the line above
        raise SystemExit(0)
    for what, most in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    os.nice(limits.nice)
    Path("/proc/self/oom_score_adj").write_bytes(OOM_SCORE)


def renew_cpu(cpu_s: int) -> None:
    """Allow `cpu_s` more seconds of CPU from now; SIGXCPU then ends the process. The clock counts whole
    seconds."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(_cpu_used()) + cpu_s, hard))


def work(jobs: int, answers: int, cpu_s: int) -> int:
    """Answer the jobs from the descriptor `jobs` until it ends; the exit status."""
    trim = ctypes.CDLL(None).malloc_trim
    while body := _read_frame(jobs):
        renew_cpu(cpu_s)
        before = _cpu_used()
        job = _job_decoder.decode(body)
        # Here and not above: an idle worker that has not had a job is small, and the node imports this module
        # too.
        from node.media.variants import make_variants

        answer: Answer
        try:
            processed = make_variants(job.source, job.into)
        except ImageRefused as refusal:
            answer = Refused(refusal.reason, _cpu_used() - before)
        except MemoryError:
            return EXIT_MEMORY
        else:
            answer = Done(processed, _cpu_used() - before)
        _write_all(answers, frame(answer))
        trim(0)  # gives the pixels' memory back to the system while the worker waits
    return 0


def main(arguments: list[str]) -> int:
    """Run as a worker; `arguments` is one: the Limits as JSON. Returns the exit status."""
    limits = msgspec.json.decode(arguments[0], type=Limits)
    confine(limits)
    # The answers get a descriptor of their own: a codec that prints must not be able to speak for the worker.
    answers = os.dup(1)
    os.dup2(2, 1)
    return work(0, answers, limits.cpu_s)


def _cpu_used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _read_frame(source: int) -> bytes:
    """The next frame's body, empty when the other end has closed. Raises ValueError when the frame is too
    long."""
    head = _read_exactly(source, LENGTH_BYTES)
    size = int.from_bytes(head, "big")
    if size > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {size} bytes; at most {FRAME_BYTES_MAX}")
    return _read_exactly(source, size) if head else b""


def _read_exactly(source: int, size: int) -> bytes:
    """`size` bytes, or none if the other end closed first."""
    parts = bytearray()
    while len(parts) < size:
        part = os.read(source, size - len(parts))
        if not part:
            return b""
        parts += part
    return bytes(parts)


def _write_all(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
