"""The session of a browser: a cookie that no script can read, turned into what a bearer token says.

The cookie holds the same access and refresh tokens that the API gives to other clients, and this is the one
place that reads it. When the access token has died the pair is replaced on the way, so that a page that was
left open goes on; requests that come at the same time get the same new pair.

A cookie is sent by the browser and not by the app, so it alone proves nothing about who wants a write (CSRF).
A write counts only with a token that this session's pages carry and no other site can read, and only from a
page of the same origin. The token is the session's number under the node's key, masked anew for each page, so
that a compressed page that also holds a stranger's words gives none of it away (BREACH).
"""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from os import urandom
from typing import Final
from urllib.parse import urlsplit

import trio
from quart import g, request

from node.http.accounts import RefreshToken, Sessions
from node.http.admission import answer_headers, head
from node.http.openapi import Route
from node.http.problems import Problem
from node.http.tokens import Claims, Signer, TokenError
from node.parts import Parts, now_s

CSRF_HEADER: Final = "Heliograph-CSRF"
SESSION: Final = "heliograph-session"
VISIT: Final = "heliograph-visit"  # of who is not signed in, for the forms of signing in and up
SEPARATOR: Final = "~"  # in no base64
SAFE_METHODS: Final = ("GET", "HEAD")
CSRF: Final = "csrf"  # the purpose of the signature under a token
MASK_BYTES: Final = 16
# A phone may lose the answer that carried its new tokens and come back much later with the ones before; a
# stolen cookie that was used in the meantime still ends the session.
REUSE_S: Final = 24 * 3600.0
REMEMBERED_S: Final = 60  # for how long requests with the old pair get the new one
REMEMBERED_MAX: Final = 10_000  # pairs
WEB: Final = "web"  # the tag of routes whose pages and forms see to their own tokens


class Cookies:
    """The session cookies of one public listener."""

    def __init__(self, parts: Parts, sessions: Sessions) -> None:
        http = parts.settings.http
        self._parts = parts
        self._sessions = sessions
        self._secure = bool(http.tls_cert) or http.public_url.startswith("https://")
        prefix = "__Host-" if self._secure else ""  # then no other host and no plain HTTP can have set it
        self._session, self._visit = prefix + SESSION, prefix + VISIT
        self._own_host = urlsplit(http.public_url).netloc.lower()
        # Old refresh token → when it was replaced, and by what. A pair that is being replaced has a lock.
        self._replaced: dict[str, tuple[int, str]] = {}
        self._replacing: dict[str, trio.Lock] = {}

    # --- who asks --------------------------------------------------------------------------------------
    async def claims(self, route: Route) -> Claims | None:
        """What the session cookie says; None without one. A dead one of a page is dropped. Raises Problem."""
        value = request.cookies.get(self._session)
        if value is None:
            return None
        access, _, refresh = value.partition(SEPARATOR)
        try:
            claims = self._parts.keyring.verify(access, now_s())
        except TokenError:
            claims = await self._renewed(refresh)
        if request.method not in SAFE_METHODS and route.tag != WEB:
            self.check(f"session:{claims.session_id}", head(CSRF_HEADER.lower().encode()) or "")
        return claims

    async def _renewed(self, refresh: str) -> Claims:
        """The claims of a new pair, which goes out with the answer. Raises Problem."""
        token = RefreshToken.parse(refresh, self._parts.signer)
        self._parts.limits.take("writes", [g.address], now_s())  # as for a refresh by the API
        lock = self._replacing.setdefault(refresh, trio.Lock())
        try:
            async with lock:
                at, value = self._replaced.get(refresh, (0, ""))
                if at + REMEMBERED_S < now_s():
                    value = self._value(await self._sessions.refresh(token, REUSE_S))
                    self._remember(refresh, value)
        finally:
            if not lock.statistics().tasks_waiting:
                self._replacing.pop(refresh, None)
        answer_headers()["Set-Cookie"] = self._cookie(self._session, value, self._lives_s())
        return self._parts.keyring.verify(value.partition(SEPARATOR)[0], now_s())

    def _remember(self, refresh: str, value: str) -> None:
        self._replaced[refresh] = (now_s(), value)
        while len(self._replaced) > REMEMBERED_MAX:
            del self._replaced[next(iter(self._replaced))]

    # --- what answers carry ----------------------------------------------------------------------------
    def signed_in(self, token: RefreshToken) -> str:
        """The `Set-Cookie` of a new session."""
        return self._cookie(self._session, self._value(token), self._lives_s())

    def signed_out(self) -> str:
        return self._cookie(self._session, "", 0)

    def visit(self) -> tuple[str, str | None]:
        """Whose visit this is before anybody signs in, and the `Set-Cookie` where it is the first."""
        known = request.cookies.get(self._visit, "")
        if known:
            return f"visit:{known}", None
        fresh = _text(urandom(MASK_BYTES))
        return f"visit:{fresh}", self._cookie(self._visit, fresh, None)

    def _value(self, token: RefreshToken) -> str:
        pair = self._sessions.tokens(token)
        return pair.access_token + SEPARATOR + pair.refresh_token

    def _lives_s(self) -> int:
        return int(self._parts.settings.accounts.refresh_token_s)

    def _cookie(self, name: str, value: str, lives_s: int | None) -> str:
        words = [f"{name}={value}", "Path=/", "HttpOnly", "SameSite=Lax"]
        if lives_s is not None:
            words.append(f"Max-Age={lives_s}")
        if self._secure:
            words.append("Secure")
        return "; ".join(words)

    # --- who wants it ----------------------------------------------------------------------------------
    def token(self, subject: str) -> str:
        """A CSRF token for the pages of `subject`, a session or a visit."""
        return masked(self._parts.signer, subject, urandom)

    def check(self, subject: str, token: str) -> None:
        """Raises Problem forbidden for a write that no page of ours for `subject` asked for."""
        if not (self._from_here() and unmasked(self._parts.signer, subject, token)):
            detail = f"a cookie needs the {CSRF_HEADER} of one of this session's pages; load the page again"
            raise Problem("forbidden", detail)

    def _from_here(self) -> bool:
        """Whether the browser says that a page of ours asks. Those that say nothing have only the token."""
        if (head(b"sec-fetch-site") or "same-origin") not in ("same-origin", "none"):
            return False
        origin = head(b"origin")
        if origin is None:
            return True
        host = urlsplit(origin).netloc.lower()
        return host != "" and host in (request.host.lower(), self._own_host)


def masked(signer: Signer, subject: str, random: Callable[[int], bytes]) -> str:
    mask = random(MASK_BYTES)
    return _text(mask + _mixed(mask, _mark(signer, subject)))


def unmasked(signer: Signer, subject: str, token: str) -> bool:
    """Whether `masked` made this token for this subject."""
    try:
        data = urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
    except ValueError:
        return False
    mask, mixed = data[:MASK_BYTES], data[MASK_BYTES:]
    return len(mixed) == MASK_BYTES and hmac.compare_digest(_mixed(mask, mixed), _mark(signer, subject))


def _mark(signer: Signer, subject: str) -> bytes:
    return urlsafe_b64decode(signer.sign(CSRF, (subject,), 0) + "==")


def _mixed(mask: bytes, data: bytes) -> bytes:
    return bytes(one ^ other for one, other in zip(mask, data, strict=True))


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
