"""Where sign-ins are kept between commands: one file, one sign-in per node, for nobody else to read.

A sign-in belongs to the URL it was made at and is never sent to another. Refresh tokens rotate, so a fresh
pair is written and synced before anything uses it: a command killed in between leaves a file that works. A
lock keeps two commands from refreshing at once.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from cli.output import DENIED, Failure
from storage.directory import write_durably

FILE: Final = "sign-ins.json"
LOCK: Final = "lock"
DEFAULT_URL: Final = "http://127.0.0.1:8000"


class SignIn(msgspec.Struct, frozen=True):
    """Who one is at a node."""

    username: str
    user_id: str
    access_token: str
    refresh_token: str
    expires_at: float  # of the access token, seconds since 1970


class SignIns(msgspec.Struct, frozen=True):
    """The whole file. `url` is the node signed in to last: where commands go if nobody says otherwise."""

    url: str = ""
    by_url: dict[str, SignIn] = {}


class Home:
    """The folder with the sign-ins."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE

    def load(self) -> SignIns:
        """What is kept; nothing at first. Raises Failure for a file that cannot be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=SignIns)
        except FileNotFoundError:
            return SignIns()
        except PermissionError:
            raise Failure(f"{self._path} belongs to somebody else", DENIED) from None
        except (OSError, msgspec.DecodeError) as wrong:
            raise Failure(f"{self._path}: {wrong}; remove it and sign in again") from None

    def keep(self, url: str, sign_in: SignIn, *, current: bool = False) -> None:
        """Keep `sign_in` for the node at `url`, with mode 0600 and synced; `current` makes that the node for
        commands that name none. Raises Failure."""
        kept = self.load()
        self._write(SignIns(url if current else kept.url, {**kept.by_url, url: sign_in}))

    def forget(self, url: str) -> None:
        """Drop the sign-in at `url`. The next command without a URL goes there all the same."""
        kept = self.load()
        self._write(SignIns(kept.url, {at: one for at, one in kept.by_url.items() if at != url}))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While inside, no other command changes the file. Raises Failure."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as wrong:
            raise Failure(f"no sign-in can be kept: {wrong}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, kept: SignIns) -> None:
        try:
            write_durably(self._path, msgspec.json.format(msgspec.json.encode(kept), indent=2) + b"\n")
        except OSError as wrong:
            raise Failure(f"no sign-in can be kept: {wrong}") from None


def find_home() -> Home:
    """`HELIOGRAPH_HOME`, or `heliograph` in the user's configuration (XDG Base Directory Specification)."""
    named = os.environ.get("HELIOGRAPH_HOME")
    if named:
        return Home(Path(named))
    configuration = os.environ.get("XDG_CONFIG_HOME", "")
    # The specification has relative paths ignored.
    base = Path(configuration) if configuration.startswith("/") else Path.home() / ".config"
    return Home(base / "heliograph")


def find_url(named: str | None, home: Home) -> str:
    """The node a command is for: `--url`, `HELIOGRAPH_URL`, the one signed in to last, the default."""
    url = named or os.environ.get("HELIOGRAPH_URL") or home.load().url or DEFAULT_URL
    if "://" not in url:
        url = f"http://{url}"
    return url.rstrip("/")
