"""Admission: who asks, whether they may ask so often, and what of the past their reads must see.

Done before each handler from the route's own description, so no handler can forget it. Rights to particular
things are not decided here but in the state machine, at the home of the thing.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from blake3 import blake3
from quart import g, request

from cluster.commands import Refused
from cluster.replicas import Overloaded, now_ms
from cluster.router import StorageFull
from node.http.application import PressedRequest
from node.http.limits import address_key
from node.http.openapi import Route
from node.http.problems import Problem, refusal
from node.http.tokens import TokenError
from node.media.intake import TooLarge
from node.parts import Parts, now_s
from node.passwords import Busy
from node.service import Done, Retry
from node.social.people import NOBODY, Signed, check_session
from storage.ids import partition_of

TOKEN_HEADER: Final = "Heliograph-Token"
IDEMPOTENCY_KEY_MAX: Final = 255  # characters
RETRY_AFTER_S: Final = "1"  # what is refused for load may come again then


class Admission:
    """One per public listener. `running` holds the idempotency keys of requests that are under way."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._running: set[bytes] = set()

    async def admit(self, route: Route) -> None:
        """Set `g.signed`, count against the limits, wait for the client's token. Raises Problem."""
        parts = self._parts
        peer = request.remote_addr or ""
        g.address = address_key(parts.proxies.client(peer, request.headers.get("X-Forwarded-For", "")))
        claims = self._claims(route)
        token = request.headers.get(TOKEN_HEADER, "")
        own = () if claims is None else (partition_of(claims.user_id),)
        if token or own:
            try:
                await parts.service.caught_up(token, own)
            except ValueError as wrong:
                raise Problem("invalid_token", str(wrong)) from None
        g.signed = None
        if claims is not None:
            with parts.service.read() as rows:
                g.signed = check_session(rows, claims.user_id, claims.session_id, now_ms())
            if g.signed is None:
                raise Problem("unauthenticated", "this session has ended: sign in again")
        self._count(route)

    def _claims(self, route: Route) -> Any:
        header = request.headers.get("Authorization", "")
        if not header:
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
        limit = route.limit or ("reads" if request.method in ("GET", "HEAD") else "writes")
        if limit == "none" or limit in (
            "sign_up",
            "sign_in",
        ):  # counted by their handlers, which know the name
            return
        keys = [f"user:{g.signed.user}"] if g.signed else [g.address]
        verdict = self._parts.limits.take(limit, keys, now_s())
        answer_headers().update(verdict.headers())

    # --- idempotency -----------------------------------------------------------------------------------
    @asynccontextmanager
    async def once(self, route: str, scope: str, body: bytes) -> AsyncIterator[Retry | None]:
        """Within it runs what the request does; a `Retry` if it carries an `Idempotency-Key`.

        Raises Problem request_in_progress while the same key is running here.
        """
        key = request.headers.get("Idempotency-Key")
        if key is None:
            yield None
            return
        if not 0 < len(key) <= IDEMPOTENCY_KEY_MAX or not key.isprintable():
            raise Problem(
                "malformed_request", f"Idempotency-Key: 1 to {IDEMPOTENCY_KEY_MAX} visible characters"
            )
        base = blake3("\0".join((route, scope, key)).encode(), key=self._parts.retry_key).digest()
        if base in self._running:
            raise Problem("request_in_progress", "wait for the answer of the first, then ask again")
        self._running.add(base)
        try:
            yield Retry(base, blake3(body).digest(length=16))
        finally:
            self._running.discard(base)


def answer_headers() -> dict[str, str]:
    """Headers that go out with this request's answer, whichever it becomes."""
    return cast(PressedRequest, request).answer_headers


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


def problem_of(error: Exception) -> Problem | None:
    """The answer to what the layers below raise; None for what is nobody's fault but ours."""
    match error:
        case Refused():
            return refusal(error.code, error.detail)
        case StorageFull():
            return Problem("storage_full", str(error))
        case TooLarge():
            return Problem("too_large", str(error))
        case Overloaded() | Busy():
            return Problem("unavailable", str(error), headers={"Retry-After": RETRY_AFTER_S})
    return None
