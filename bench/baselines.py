"""What is measured beside: Redis, PostgreSQL and nginx, each started on loopback in a folder of its own.

All as they come in Debian, with durability as the node has it: Redis with its append-only file synced every
second (it is the cache of the pair), PostgreSQL with fsync on. Each is stopped by its process id.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

START_S: Final = 20.0
STOP_S: Final = 15.0
POSTGRES_USER: Final = "postgres"  # it refuses root; the user that Debian's package makes, else nobody
NGINX_WORKER_CONNECTIONS: Final = 1024


class Missing(Exception):
    """A program is not installed; what would be compared with it is left out, and says so."""


def _program(name: str) -> str | None:
    """Where a server's program is; Debian keeps PostgreSQL's in a folder of its version."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if name in ("postgres", "initdb"):
        versions = sorted(
            Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4])
        )
        return str(versions[-1]) if versions else found
    return found


def missing_programs() -> list[str]:
    """Names of those that are not installed."""
    found = [name for name in ("redis-server", "nginx") if _program(name) is None]
    return found + ([] if _program("initdb") and _psycopg() else ["postgresql (with psycopg)"])


def _psycopg() -> bool:
    import importlib.util

    return importlib.util.find_spec("psycopg") is not None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Server(msgspec.Struct, frozen=True):
    pid: int
    port: int
    folder: Path

    def processes(self) -> tuple[int, ...]:
        return (self.pid, *_children(self.pid))

    def move(self, core: int) -> None:
        """Pin the server, with the processes it has forked, to a core."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):  # PostgreSQL's workers come and go
                os.sched_setaffinity(pid, {core})


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def redis(folder: Path, core: int | None = None) -> Iterator[Server]:
    """Raises Missing."""
    program = _program("redis-server")
    if program is None:
        raise Missing("redis-server is not installed")
    _empty(folder)
    port = free_port()
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "everysec", "--daemonize", "no"]
    with _running(command, folder, port, core) as process:
        yield Server(process.pid, port, folder)


@contextlib.contextmanager
def postgres(folder: Path, core: int | None = None) -> Iterator[Server]:
    """A new cluster with one superuser `bench`, trusted on loopback. Raises Missing."""
    initdb, program = _program("initdb"), _program("postgres")
    if initdb is None or program is None:
        raise Missing("postgresql is not installed")
    if not _psycopg():
        raise Missing("psycopg is not installed: pip install '.[bench]'")
    _empty(folder)
    user = _unprivileged(folder)
    port = free_port()
    subprocess.run(
        [initdb, "-D", str(folder), "-U", "bench", "-A", "trust", "-E", "UTF8", "--locale=C"],
        check=True,
        stdout=subprocess.DEVNULL,
        user=user,
        cwd="/",
    )
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "shared_buffers": "512MB",
        "effective_cache_size": "2GB",
        "max_wal_size": "4GB",
        "fsync": "on",
        "synchronous_commit": "on",
        "jit": "off",  # it only slows short queries
        "random_page_cost": "1.1",
    }
    command = [program, "-D", str(folder)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    with _running(command, folder, port, core, user=user, stop=signal.SIGINT) as process:
        yield Server(process.pid, port, folder)


def _empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _unprivileged(folder: Path) -> str | None:
    """The user that PostgreSQL runs as, who owns the folder; None where this process is not root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = POSTGRES_USER if POSTGRES_USER in names else "nobody"
    shutil.chown(folder, user)
    folder.chmod(0o700)
    return user


@contextlib.contextmanager
def nginx(folder: Path, files: Path, core: int | None = None) -> Iterator[Server]:
    """One process that serves `files` with sendfile and keep-alive, as a CDN's edge would. Raises Missing."""
    program = _program("nginx")
    if program is None:
        raise Missing("nginx is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    places = "\n".join(
        f"  {name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = f"""
{user}
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections {NGINX_WORKER_CONNECTIONS}; }}
http {{
{places}
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 10000000;
  open_file_cache max=1000;
  types {{ image/webp webp; image/jpeg jpg; }}
  server {{ listen 127.0.0.1:{port}; root {files}; etag on; }}
}}
"""
    path = folder / "nginx.conf"
    path.write_text(configuration)
    command = [program, "-p", str(folder), "-c", str(path), "-e", str(folder / "error.log")]
    with _running(command, folder, port, core) as process:
        yield Server(process.pid, port, folder)


@contextlib.contextmanager
def _running(
    command: Sequence[str],
    folder: Path,
    port: int,
    core: int | None,
    *,
    user: str | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    log = folder.with_name(folder.name + ".log")
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, user=user, cwd="/"
        )
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        wait_for_port(port, process)
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when the server takes connections. Raises RuntimeError where it ended or takes too long."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} does not listen on port {port} after {START_S} s")
