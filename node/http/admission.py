"""Admission: who asks, whether they may ask so often, and what of the past their reads must see.

Done before each handler from the route's own description, so no handler can forget it. Rights to particular
things are not decided here but in the state machine, at the home of the thing.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from blake3 import blake3
from quart import g, request

from cluster.commands import Refused
from cluster.copies.placement import NotEnoughCopies
from cluster.replicas import Overloaded, Stopped, now_ms
from cluster.router import StorageFull, Unavailable
from node.http.application import PressedRequest
from node.http.limits import address_key
from node.http.openapi import Route
from node.http.problems import Problem, refusal
from node.http.tokens import Claims, TokenError
from node.media.intake import TooLarge
from node.parts import Parts, now_s
from node.passwords import Busy
from node.service import Done, Retry
from node.social.keys import UserKey
from node.social.people import NOBODY, Signed, check_session
from node.social.records import USERS
from storage.ids import partition_of
from storage.rows import Reader

TOKEN_HEADER: Final = "Heliograph-Token"
STALE_HEADER: Final = "Heliograph-Stale"
FILLING_RETRY_AFTER_S: Final = "5"
MAJORITY_RETRY_AFTER_S: Final = "2"  # an election takes one
OPERATIONS: Final = "operations"  # the tag of routes that say how the node is, whatever that is
COUNTED_BY_HANDLERS: Final = ("sign_up", "sign_in")  # which know the name
IDEMPOTENCY_KEY_MAX: Final = 255  # characters

OfCookie = Callable[[Route], Awaitable[Claims | None]]  # raises Problem


class Admission:
    """One per public listener. `running` holds the idempotency keys of requests that are under way."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._running: set[bytes] = set()
        self.of_cookie: OfCookie | None = None  # who asks without a bearer token

    async def admit(self, route: Route) -> None:
        """Set `g.signed`, count against the limits, wait for the client's token. Raises Problem."""
        parts = self._parts
        if not parts.service.ready and route.tag != OPERATIONS:
            raise filling()
        peer = request.remote_addr or ""
        g.address = address_key(parts.proxies.client(peer, head(b"x-forwarded-for") or ""))
        g.signed = None
        if route.asks_who:
            try:
                claims = await self._claims(route)
            except Problem:
                self._count(route)  # against the address, or guessing tokens would cost nothing
                raise
            # Before anything is waited for: a wait makes a shard commit, and has a price for everybody.
            self._look(route, self._keys(claims.user_id if claims else None))
            try:
                g.signed = await self._who(claims)
            except Problem:
                self._count(route)
                raise
        self._count(route)

    async def _who(self, claims: Claims | None) -> Signed | None:
        """Whose session it is, once what the client's token names can be read. Raises Problem."""
        service = self._parts.service
        token = head(b"heliograph-token")
        own = () if claims is None else (partition_of(claims.user_id),)
        if token is not None or own:
            try:
                if not await service.caught_up(token, own):
                    tell_stale()
            except ValueError as wrong:
                raise Problem("invalid_token", str(wrong)) from None
        if claims is None:
            return None
        with service.read() as rows:
            signed = check_session(rows, claims.user_id, claims.session_id, now_ms())
            if signed is None and is_suspended(rows, claims.user_id):
                raise Problem("suspended")
        if signed is None:
            raise Problem("unauthenticated", "this session has ended: sign in again")
        return signed

    async def _claims(self, route: Route) -> Claims | None:
        header = head(b"authorization") or ""
        if not header:
            claims = await self.of_cookie(route) if self.of_cookie else None
            if claims is not None:
                return claims
            if route.signed_in:
                raise Problem("unauthenticated", "send `Authorization: Bearer` with an access token")
            return None
        scheme, _, credentials = header.partition(" ")
        if scheme.lower() != "bearer":
            raise Problem("unauthenticated", "the only scheme taken here is Bearer")
        try:
            return self._parts.keyring.verify(credentials.strip(), now_s())
        except TokenError as wrong:
            raise Problem("unauthenticated", str(wrong)) from None

    def _count(self, route: Route) -> None:
        if limit := _limit_of(route):
            keys = self._keys(g.signed.user if g.signed else None)
            verdict = self._parts.limits.take(limit, keys, now_s())
            answer_headers().update(verdict.headers())

    def _look(self, route: Route, keys: list[str]) -> None:
        if limit := _limit_of(route):
            self._parts.limits.look(limit, keys, now_s())

    def _keys(self, user: int | None) -> list[str]:
        return [g.address] if user is None else [f"user:{user}"]

    # --- idempotency -----------------------------------------------------------------------------------
    @asynccontextmanager
    async def once(self, scope: int | str, body: bytes = b"") -> AsyncIterator[Retry | None]:
        """Within it runs what the request does; a `Retry` if it carries an `Idempotency-Key`.

        Keys are apart by route (method and path) and `scope`: a user, or the name that signs up. Raises
        Problem malformed_request, and request_in_progress while the same key is running here.
        """
        key = request.headers.get("Idempotency-Key")
        if key is None:
            yield None
            return
        if not 0 < len(key) <= IDEMPOTENCY_KEY_MAX or not all("!" <= letter <= "~" for letter in key):
            raise Problem(
                "malformed_request", f"Idempotency-Key: 1 to {IDEMPOTENCY_KEY_MAX} visible ASCII characters"
            )
        place = "\0".join((request.method, request.path, str(scope), key))
        base = blake3(place.encode(), key=self._parts.retry_key).digest()
        if base in self._running:
            raise Problem("request_in_progress", "wait for the answer of the first, then ask again")
        self._running.add(base)
        try:
            yield Retry(base, blake3(body, key=base).digest(length=16))
        finally:
            self._running.discard(base)


def _limit_of(route: Route) -> str | None:
    """The limit that is asked here; None where there is none, or the handler asks it."""
    limit = route.limit or ("reads" if request.method in ("GET", "HEAD") else "writes")
    return None if limit in ("none", *COUNTED_BY_HANDLERS) else limit


def head(name: bytes) -> str | None:
    """The request's header of this name (lower case), its lines joined as one list (RFC 9110 §5.3). Werkzeug
    raises and catches for an absent one, which costs more than this scan."""
    lines = [value for key, value in request.scope["headers"] if key == name]
    return b", ".join(lines).decode("latin-1") if lines else None


def answer_headers() -> dict[str, str]:
    """Headers that go out with this request's answer, whichever it becomes."""
    return cast(PressedRequest, request).answer_headers


def is_suspended(rows: Reader, user: int) -> bool:
    account = USERS.get(rows, UserKey(user))
    return account is not None and account.state == "suspended"


def viewer() -> int:
    """Who asks: a user's id, or NOBODY."""
    signed: Signed | None = g.signed
    return signed.user if signed else NOBODY


def signed() -> Signed:
    """Who asks, on routes that only signed-in users may call."""
    who: Signed = g.signed
    return who


def tell(done: Done[Any]) -> None:
    """Put the write's marks into the answer, for reads that must see it."""
    answer_headers()[TOKEN_HEADER] = done.token


def tell_stale() -> None:
    """What this answer shows may be older than what was answered elsewhere: no leader said that it is not."""
    if request.method in ("GET", "HEAD"):
        answer_headers()[STALE_HEADER] = "true"


def filling() -> Problem:
    """Why a node that has just joined answers nothing of substance yet."""
    return Problem(
        "unavailable",
        "this node has joined a moment ago and is still being given its data; ask another one",
        {"Retry-After": FILLING_RETRY_AFTER_S},
    )


def _without_majority(error: Unavailable) -> Problem:
    wait = {"Retry-After": MAJORITY_RETRY_AFTER_S}
    if error.settled:
        detail = "too few nodes can be reached to write here now; nothing was changed, so try again"
        return Problem("unavailable", detail, wait)
    detail = (
        "too few nodes answered in time, so this may have taken effect, or may do so yet: look before you "
        "ask again, or ask with the same Idempotency-Key"
    )
    return Problem("outcome_unknown", detail, wait)


def problem_of(error: Exception) -> Problem | None:
    """The answer to what the layers below raise; None for what is nobody's fault but ours."""
    match error:
        case Refused():
            return refusal(error.code, error.detail)
        case StorageFull():
            return Problem("storage_full", str(error))
        case TooLarge():
            return Problem("too_large", str(error))
        case Overloaded() | Busy() | NotEnoughCopies():
            return Problem("unavailable", str(error))
        case Stopped():
            return Problem("unavailable", "this node is stopping")
        case Unavailable():
            return _without_majority(error)
    return None
