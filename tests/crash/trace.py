"""Runs a program under the recorder and reads what it did to one directory, in order.

The program finds a file name in `CRASH_MARKERS`; each line that it appends there becomes a marker in the
trace, at its place between the file operations: what was acknowledged by then.
"""

import os
import shutil
import struct
import subprocess
import sys
import tempfile
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
LMDB_LOCK_FILE = "lock.mdb"  # made anew by whoever opens first; no part of what must survive
_HEADER = struct.Struct("=IIQQQIIII")
GCC = shutil.which("gcc")


class Op(IntEnum):
    CREATE = 1
    WRITE = 2
    RESIZE = 3
    ALLOCATE = 4
    RENAME = 5
    UNLINK = 6
    MKDIR = 7
    RMDIR = 8
    LINK = 9
    SYNC = 10
    SYNC_ALL = 11
    MARK = 12
    UNTRACEABLE = 13


class Event(NamedTuple):
    op: Op
    durable: bool  # a write through a descriptor opened with O_SYNC or O_DSYNC
    inode: int
    offset: int
    size: int
    first: str  # paths, relative to the directory
    second: str
    data: bytes


class Untraceable(Exception):
    """The program changed files in a way that the recorder cannot follow."""


class Trace:
    """What a program did, and what the directory held before. `close` removes both."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._scratch = Path(tempfile.mkdtemp(prefix="trace-"))
        self.log = self._scratch / "log"
        self.markers = self._scratch / "markers"
        self.start = self._scratch / "start"  # a copy of the directory as it was
        shutil.copytree(directory, self.start, ignore=shutil.ignore_patterns(LMDB_LOCK_FILE))
        self.start_inodes = {  # of the original files: those that the log names
            path.relative_to(directory).as_posix(): path.stat().st_ino
            for path in (directory, *directory.rglob("*"))
            if path.name != LMDB_LOCK_FILE
        }

    def events(self):
        """All events in order. Raises Untraceable."""
        prefix = len(os.fspath(self.directory)) + 1
        with open(self.log, "rb") as log:
            while len(head := log.read(_HEADER.size)) == _HEADER.size:  # less: killed while it logged
                op, durable, inode, offset, size, first, second, data, _ = _HEADER.unpack(head)
                body = log.read(first + second + data)
                if len(body) < first + second + data:
                    return
                if op == Op.UNTRACEABLE:
                    raise Untraceable(f"the program used {body.decode()}")
                yield Event(
                    Op(op),
                    bool(durable),
                    inode,
                    offset,
                    size,
                    body[prefix:first].decode(),
                    body[first + prefix : first + second].decode(),
                    body[first + second :],
                )

    def close(self):
        shutil.rmtree(self._scratch)


class Traced:
    """A program running under the recorder. Leave the `with` only when it has ended, or it is killed."""

    def __init__(self, argv, directory, *, env=None, **popen):
        self.trace = Trace(Path(directory).resolve(strict=True))
        environment = {
            **os.environ,
            **(env or {}),
            "LD_PRELOAD": os.fspath(recorder()),
            "TRACE_DIRECTORY": os.fspath(self.trace.directory),
            "TRACE_FILE": os.fspath(self.trace.log),
            "TRACE_MARKERS": os.fspath(self.trace.markers),
            "TRACE_EXCLUDE": LMDB_LOCK_FILE,
            "CRASH_MARKERS": os.fspath(self.trace.markers),
        }
        self.process = subprocess.Popen(argv, env=environment, cwd=ROOT, **popen)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def run_traced(argv, directory, *, env=None, timeout=120):
    """Run `argv` to its end, which must be a good one, with its changes to `directory` recorded."""
    with Traced(argv, directory, env=env) as traced:
        code = traced.process.wait(timeout)
    if code:
        traced.trace.close()
        raise subprocess.CalledProcessError(code, argv)
    return traced.trace


def run_python(program, directory, *arguments, timeout=120):
    """Run Python source under the recorder; `sys.argv[1]` is the directory."""
    argv = [sys.executable, "-c", program, os.fspath(directory), *map(str, arguments)]
    return run_traced(argv, directory, timeout=timeout)


@cache
def recorder():
    """The compiled recorder; lives as long as this process."""
    target = Path(_built.name) / "recorder.so"
    source = Path(__file__).with_name("recorder.c")
    subprocess.run([GCC, "-shared", "-fPIC", "-O2", "-o", target, source, "-lpthread"], check=True)
    return target


_built = tempfile.TemporaryDirectory(prefix="recorder-")
