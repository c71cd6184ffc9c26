"""A node as a process of its own, started by the command that people type, to be killed or cut off."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
STARTED_WITHIN_S = 60.0  # a bound for what takes a second: a hang becomes a failure
EASY = (  # no limits in the way; hashes of passwords cost next to nothing
    "storage.reserve_bytes=0",
    "storage.segment_bytes=4194304",
    "media.workers=1",
    "accounts.argon2_memory_kib=64",
    "accounts.argon2_passes=1",
    "accounts.argon2_lanes=1",
    *(f"limits.{name}_count=1000000" for name in ("sign_up", "sign_in", "writes", "uploads", "reads")),
)


class NodeEnded(Exception):
    """The process ended before it served; its words are in the message."""


class NodeProcess:
    """A running node. `started_s` is how long it took until it served, process and all."""

    def __init__(self, data, *flags, env=None, log=None, argv=None, words=(), spawned=None):
        self.data = data
        self.log = log or data.with_name(data.name + ".log")
        begun = time.monotonic()
        sets = [word for flag in (*EASY, *flags) for word in ("--set", flag)]
        argv = argv or [sys.executable, "-m", "tests.crash.heliograph"]
        address = ["--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        with open(self.log, "ab") as log_file:
            self._read_from = log_file.tell()
            self.process = subprocess.Popen(
                [*argv, "node", "run", "--data", os.fspath(data), *address, *sets, *words],
                stderr=log_file,
                stdout=log_file,
                cwd=ROOT,
                env={**os.environ, **(env or {})},
            )
        if spawned is not None:
            spawned(self.process)
        try:
            serving = self._wait_until_serving(begun + STARTED_WITHIN_S)
        except BaseException:
            self.kill()
            raise
        self.started_s = time.monotonic() - begun
        self.url, self.admin_url = serving["http"], serving["admin"]

    def words(self):
        """What this process has said so far."""
        with open(self.log, "rb") as log:
            log.seek(self._read_from)
            return log.read().decode("utf-8", "replace")

    def said(self, event):
        """The fields of the first log line with this event, or None."""
        for line in self.words().splitlines():
            with suppress(ValueError):
                fields = json.loads(line)
                if isinstance(fields, dict) and fields.get("event") == event:
                    return fields
        return None

    def _wait_until_serving(self, deadline):
        while time.monotonic() < deadline:
            if (serving := self.said("serving")) is not None:
                return serving
            if self.process.poll() is not None:
                raise NodeEnded(f"exit {self.process.returncode}: {self.words()[-2000:]}")
            time.sleep(0.01)
        raise NodeEnded(f"not serving: {self.words()[-2000:]}")

    def status(self):
        token = (self.data / "keys" / "admin.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.get(f"{self.admin_url}/v1/admin/status", headers=headers, trust_env=False, timeout=20)
        answer.raise_for_status()
        return answer.json()

    def metric(self, name):
        """A value of /metrics, by its whole name with labels."""
        token = (self.data / "keys" / "admin.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        text = httpx.get(f"{self.admin_url}/metrics", headers=headers, trust_env=False, timeout=20).text
        return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + " "))

    def settle(self, within_s=60.0):
        """Return the status when nothing is under way: no command, message, work or media job."""
        deadline = time.monotonic() + within_s
        while True:
            found = self.status()
            names = ("commands_under_way", "messages_under_way", "partitions_working", "media_jobs_running")
            if not any(found[name] for name in (*names, "media_jobs_waiting")):
                return found
            assert time.monotonic() < deadline, f"not settled: {found}"
            time.sleep(0.02)

    def kill(self):
        """Signal 9; returns when the process is gone."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def stop(self, within_s=30.0):
        """The end in order; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
