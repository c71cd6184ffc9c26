"""Speaking to a node: how a running one is found, and how its answers become results or failures."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from cli.output import DENIED, FAILED, NOT_FOUND, UNREACHABLE, USAGE, Failure

DATA: Final = "heliograph-data"  # where a node keeps its data if nobody says otherwise
ANSWER_S: Final = 60.0  # seconds for an answer: a password's hash may wait in a queue
CODES: Final = {401: DENIED, 403: DENIED, 404: NOT_FOUND}  # HTTP status → exit code; any other is FAILED

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Target(msgspec.Struct, frozen=True):
    """Which node a command is for."""

    data: Path
    admin: str | None
    token_file: Path | None


def data_option(command: F) -> F:
    """`--data DIR`, as the parameter `data`."""
    return click.option(
        "--data",
        type=click.Path(path_type=Path),
        default=lambda: os.environ.get("HELIOGRAPH_DATA", DATA),
        show_default=f"$HELIOGRAPH_DATA or ./{DATA}",
        help="The node's data directory.",
    )(command)


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--data`, `--admin` and `--token-file`, as one parameter `target`."""

    def with_target(data: Path, admin_url: str | None, token_file: Path | None, **arguments: Any) -> Any:
        return command(target=Target(data, admin_url, token_file), **arguments)

    with_target.__name__ = command.__name__
    with_target.__doc__ = command.__doc__
    with_target.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    options = [
        data_option,
        click.option(
            "--admin",
            "admin_url",
            metavar="URL",
            help="The node's admin listener, if it is not found by --data.",
        ),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path),
            help="Its admin token, if not in the data directory.",
        ),
    ]
    decorated: Callable[..., Any] = with_target
    for option in options:
        decorated = option(decorated)
    return decorated


class AdminClient:
    """One node's admin listener. Every call raises Failure with the exit code that fits."""

    def __init__(self, url: str, token: str) -> None:
        import httpx

        self._httpx = httpx
        self._url = url
        headers = {"Authorization": f"Bearer {token}"}
        # No proxy of the environment: the admin listener is this machine's or named by hand.
        self._client = httpx.Client(base_url=url, headers=headers, timeout=ANSWER_S, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, kind: type[T], **query: Any) -> T:
        return self._ask("GET", path, kind, params={k: v for k, v in query.items() if v is not None})

    def post(self, path: str, kind: type[T], body: Any = None) -> T:
        content = msgspec.json.encode({} if body is None else body)
        return self._ask("POST", path, kind, content=content, headers={"Content-Type": "application/json"})

    def lines(self, path: str, body: Any, kind: Any) -> Iterator[Any]:
        """The answer's lines as they come, each decoded as `kind`."""
        content = msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"}
        with (
            self._reaching(),
            self._client.stream("POST", path, content=content, headers=headers, timeout=None) as answer,
        ):
            if answer.status_code >= 300:
                answer.read()
                raise failure(answer.status_code, answer.content)
            for line in answer.iter_lines():
                yield msgspec.json.decode(line, type=kind)

    def _ask(self, method: str, path: str, kind: type[T], **request: Any) -> T:
        with self._reaching():
            answer = self._client.request(method, path, **request)
        if answer.status_code >= 300:
            raise failure(answer.status_code, answer.content)
        return msgspec.json.decode(answer.content or b"null", type=kind)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except self._httpx.InvalidURL as wrong:
            raise Failure(f"--admin {self._url}: {wrong}", USAGE) from wrong
        except self._httpx.TransportError as wrong:
            raise Failure(f"no answer from {self._url}: {wrong}; does the node run?", UNREACHABLE) from wrong


@contextmanager
def admin(target: Target) -> Iterator[AdminClient]:
    """The admin listener of the node that `target` names."""
    keys = target.data / "keys"
    token_file = target.token_file or keys / "admin.token"
    where = target.admin
    try:
        if where is None:
            where = msgspec.json.decode((keys / "addresses.json").read_bytes(), type=dict[str, str])["admin"]
        token = token_file.read_text("ascii").strip()
    except FileNotFoundError as missing:
        raise Failure(
            f"there is no {missing.filename}: no node has run on {target.data}. "
            "Name its directory with --data or HELIOGRAPH_DATA, or give --admin and --token-file",
            UNREACHABLE,
        ) from None
    except PermissionError as wrong:
        raise Failure(
            f"{wrong.filename} is not for you to read: run this as the node's user", DENIED
        ) from None
    except (OSError, ValueError, KeyError) as wrong:
        raise Failure(f"the node's address or token cannot be read: {wrong}") from wrong
    client = AdminClient(where, token)
    try:
        yield client
    finally:
        client.close()


def failure(status: int, content: bytes) -> Failure:
    """What an answer other than success means: its problem document's words and the exit code."""
    try:
        problem = msgspec.json.decode(content, type=dict[str, Any])
        words = f"{problem['detail']} ({problem['code']})"
    except (msgspec.DecodeError, KeyError):
        words = f"HTTP status {status}"
    return Failure(words, CODES.get(status, FAILED))
