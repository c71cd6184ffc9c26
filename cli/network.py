"""The client's side of the API: one node's public listener, spoken to as the one who is signed in there.

A request whose answer was lost is sent once more: POSTs carry an `Idempotency-Key`, so that nothing happens
twice. Marks that a write answered with (`Heliograph-Token`) go out with what follows, so that a command sees
what it did, whichever node answers. Answers are read leniently: a newer node may say more.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar, cast
from uuid import uuid4

import click
import msgspec

from cli.client import failure
from cli.output import DENIED, NOT_FOUND, UNREACHABLE, USAGE, Failure, called
from cli.session import Home, SignIn, find_home, find_url

ANSWER_S: Final = 60.0  # seconds without a byte: a password's hash may wait in a queue
EXPIRY_MARGIN_S: Final = 30.0  # an access token that ends so soon is refreshed before it is used
ID_DIGITS_MAX: Final = 20
MARKS: Final = "Heliograph-Token"

P = ParamSpec("P")
T = TypeVar("T")


class User(msgspec.Struct, frozen=True):
    id: str
    username: str
    display_name: str = ""


class Medium(msgspec.Struct, frozen=True):
    id: str
    alt: str = ""


class Post(msgspec.Struct, frozen=True):
    """What the commands need of the API's post."""

    id: str
    user: User
    caption: str
    location: str
    media: tuple[Medium, ...]
    photo_url: str | None
    upload_status: str
    failure: str | None
    like_count: int
    comment_count: int
    liked_by_me: bool
    published_at: str | None


class Tokens(msgspec.Struct, frozen=True):
    """What sign-up, sign-in and refresh answer; a refresh tells no user."""

    access_token: str
    refresh_token: str
    expires_in: float  # seconds
    user: User | None = None


class Network:
    """One node's public listener. Every call raises Failure with the exit code that fits."""

    def __init__(self, url: str, home: Home) -> None:
        import httpx

        self.url = url
        self._home = home
        self._httpx = httpx
        self._marks = ""
        with self._reaching():
            # What is on this machine is reached directly, whatever proxy the environment names.
            self._client = httpx.Client(base_url=url, timeout=ANSWER_S, trust_env=not is_loopback(url))

    def __enter__(self) -> "Network":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def call(self, method: str, path: str, kind: type[T], **request: Any) -> T:
        """Ask as the one who is signed in here; the answer as `kind` (None where it has no body)."""
        sign_in = self._fresh()
        headers = {"Idempotency-Key": str(uuid4())} if method == "POST" else {}
        for last in (False, True):
            headers["Authorization"] = f"Bearer {sign_in.access_token}"
            answer = self._send(method, path, headers=headers, **request)
            if answer.status_code != 401 or last:
                break
            sign_in = self._refresh(sign_in)  # the clocks disagree, or the keys changed
        return _decoded(answer, kind)

    def call_unsigned(self, method: str, path: str, kind: type[T], **request: Any) -> T:
        """Ask as nobody: for sign-in, and for URLs that carry their own right."""
        return _decoded(self._send(method, path, **request), kind)

    def user_named(self, name: str) -> User:
        from urllib.parse import quote

        bare = name.removeprefix("@")
        try:
            return self.call("GET", f"/v1/users/by-name/{quote(bare, safe='')}", User)
        except Failure as wrong:
            if wrong.message.endswith("(not_found)"):  # in words that a node has for every address
                raise Failure(f"there is nobody named {bare} (not_found)", NOT_FOUND) from None
            raise

    def link(self, post: str) -> str:
        """Where a post is found."""
        return f"{self.url}/v1/posts/{post}"

    def absolute(self, url: str) -> str:
        """A URL of an answer, which may be relative to this node's root."""
        return str(self._client.base_url.join(url))

    # --- signing in ------------------------------------------------------------------------------------
    def sign_in(self, path: str, body: dict[str, str]) -> SignIn:
        """Sign in or up, and keep what comes of it."""
        with self._home.locked():
            tokens = self.call_unsigned("POST", path, Tokens, json=body)
            assert tokens.user is not None
            return self._keep(tokens, tokens.user.username, tokens.user.id, current=True)

    def sign_out(self) -> None:
        """End the session at the node, and forget it here."""
        sign_in = self._kept()
        headers = {"Authorization": f"Bearer {sign_in.access_token}"}
        answer = self._send("DELETE", "/v1/sessions", headers=headers)
        if answer.status_code == 401:  # run out, or ended already: only a fresh token can tell
            headers = {"Authorization": f"Bearer {self._refresh(sign_in).access_token}"}
            answer = self._send("DELETE", "/v1/sessions", headers=headers)
        _decoded(answer, type(None))
        with self._home.locked():
            self._home.forget(self.url)

    def _fresh(self) -> SignIn:
        sign_in = self._kept()
        if sign_in.expires_at - time.time() > EXPIRY_MARGIN_S:
            return sign_in
        return self._refresh(sign_in)

    def _kept(self) -> SignIn:
        sign_in = self._home.load().by_url.get(self.url)
        if sign_in is None:
            raise Failure(f"nobody is signed in at {self.url}: {called()} login --url {self.url}", DENIED)
        return sign_in

    def _refresh(self, stale: SignIn) -> SignIn:
        with self._home.locked():
            kept = self._kept()
            if kept.access_token != stale.access_token:
                return kept  # another command was quicker
            body = {"refresh_token": kept.refresh_token}
            answer = self._send("POST", "/v1/sessions/refresh", json=body)
            if answer.status_code == 401:
                self._home.forget(self.url)
                why = failure(answer.status_code, answer.content).message
                raise Failure(
                    f"the sign-in at {self.url} has ended: {why}. Again: {called()} login --url {self.url}",
                    DENIED,
                )
            tokens = _decoded(answer, Tokens)
            return self._keep(tokens, kept.username, kept.user_id)

    def _keep(self, tokens: Tokens, username: str, user_id: str, *, current: bool = False) -> SignIn:
        expires_at = time.time() + tokens.expires_in
        sign_in = SignIn(username, user_id, tokens.access_token, tokens.refresh_token, expires_at)
        self._home.keep(self.url, sign_in, current=current)
        return sign_in

    # --- the wire --------------------------------------------------------------------------------------
    def _send(self, method: str, path: str, **request: Any) -> Any:
        """The answer, whatever its status. Raises Failure where none comes."""
        if self._marks:
            request["headers"] = {**request.get("headers", {}), MARKS: self._marks}
        with self._reaching():
            try:
                answer = self._client.request(method, path, **request)
            except (
                self._httpx.ReadError,
                self._httpx.WriteError,
                self._httpx.RemoteProtocolError,
            ):
                answer = self._client.request(method, path, **request)
        self._marks = answer.headers.get(MARKS, self._marks)
        return answer

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (self._httpx.InvalidURL, self._httpx.UnsupportedProtocol) as wrong:
            raise Failure(f"{self.url!r} is no URL of a node: {wrong}", USAGE) from None
        except self._httpx.TimeoutException:
            raise Failure(f"{self.url} took longer than {ANSWER_S:.0f} s to answer", UNREACHABLE) from None
        except self._httpx.TransportError as wrong:
            words = f"no answer from {self.url}: {wrong}. Does the node run, and is --url right?"
            raise Failure(words, UNREACHABLE) from None


def network_command(command: Callable[..., T]) -> Callable[..., T]:
    """`--url`, and the parameter `network`: the node that is meant."""

    @wraps(command)
    def connected(url: str | None, **arguments: Any) -> T:
        home = find_home()
        with Network(find_url(url, home), home) as network:
            return command(network=network, **arguments)

    option = click.option(
        "--url",
        metavar="URL",
        help="The node's public listener; else HELIOGRAPH_URL, else where one signed in last, "
        "else http://127.0.0.1:8000.",
    )
    return cast(Callable[..., T], option(connected))


def post_id(written: str) -> str:
    """The id in what a person gives for a post: the id, or its link. Raises click.UsageError."""
    number = written.rstrip("/").rpartition("/")[2]
    if not number.isascii() or not number.isdigit() or len(number) > ID_DIGITS_MAX:
        raise click.UsageError(f"{written!r} is no post: give its id or its link")
    return number


def _decoded(answer: Any, kind: type[T]) -> T:
    if not answer.is_success:
        raise failure(answer.status_code, answer.content)
    try:
        return msgspec.json.decode(answer.content or b"null", type=kind)
    except msgspec.DecodeError as wrong:
        raise Failure(f"{answer.url} does not answer like a Heliograph node: {wrong}") from None


def is_loopback(url: str) -> bool:
    from urllib.parse import urlsplit

    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
