"""Cursors: where a list goes on, sealed so that a client can neither read, alter nor lend it.

AES-GCM-SIV (RFC 8452) over the position, with reader and list as associated data. It needs no fresh nonce:
the nonce is constant, which with this mode costs only that equal cursors look equal, and that is even wanted
(the same page asked twice gives the same cursor). Random nonces would spend 12 more bytes in every page's URL
for nothing.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from node.http.problems import Problem

NONCE = bytes(12)
CURSOR_CHARACTERS_MAX = 512  # a position is a few ids; more was not made by us
AGE_S_MAX = 30 * 86400  # after a month the list under a cursor has little to do with what its holder saw
DAY_S = 86400

T = TypeVar("T")


class Cursors:
    """Seals positions with the node's secret (32 bytes)."""

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESGCMSIV(secret)
        self._encode = msgspec.msgpack.Encoder().encode

    def seal(self, position: Any, *, reader: int, name: str, now: int) -> str:
        """The cursor for `position` (what msgpack can hold) in the list `name` as `reader` (0: nobody) sees
        it.

        `name` names the list wholly, its owner too: `followers/123`. `now` is in seconds since 1970.
        """
        # By days, so that a page asked twice on one day has one cursor.
        plain = (now // DAY_S).to_bytes(3, "big") + self._encode(position)
        return (
            urlsafe_b64encode(self._cipher.encrypt(NONCE, plain, _bound(reader, name))).rstrip(b"=").decode()
        )

    def open(self, cursor: str, kind: type[T], *, reader: int, name: str, now: int) -> T:
        """The position in a cursor, as `kind`. Raises Problem invalid_cursor for garbage, foreign and stale
        ones, which look all the same: what a cursor was made for is not told."""
        if len(cursor) > CURSOR_CHARACTERS_MAX:
            raise _invalid()
        try:
            sealed = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
            plain = self._cipher.decrypt(NONCE, sealed, _bound(reader, name))
            position = msgspec.msgpack.decode(plain[3:], type=kind)
        except (ValueError, InvalidTag, msgspec.DecodeError):
            raise _invalid() from None
        if (now // DAY_S - int.from_bytes(plain[:3], "big")) * DAY_S > AGE_S_MAX:
            raise _invalid()
        return position


def _bound(reader: int, name: str) -> bytes:
    return b"%d/%s" % (reader, name.encode())


def _invalid() -> Problem:
    return Problem(
        "invalid_cursor", "pass the next_cursor of the page before, unchanged and as the same reader"
    )
