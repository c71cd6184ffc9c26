"""Invitations: the one-time token with which a new node joins, as one line of text; pure.

    heliograph-join-1.<base64url, without padding, of the fields and four bytes of check>

The fields are the msgpack array `[authority, addresses, invitation, secret, expires]`: the SHA-256 of the
CA's certificate, by which the joiner knows the cluster before it says anything; where to find it; the id and
the secret of the invitation; and until when it is good, in ms since 1970. The check is the beginning of the
SHA-256 of the fields, so that a token that was mistyped is told from one that is refused. The cluster keeps
no secret, only its hash.
"""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Final

import msgspec

PREFIX: Final = "heliograph-join-"
VERSION: Final = 1
INVITATION_BYTES: Final = 16
SECRET_BYTES: Final = 32
AUTHORITY_BYTES: Final = 32
CHECK_BYTES: Final = 4  # one mistyped token in four thousand million passes, and is then refused
ADDRESSES_MAX: Final = 16
ADDRESS_CHARS_MAX: Final = 262  # a DNS name, a colon and a port
TEXT_CHARS_MAX: Final = 8 << 10


class BadInvitation(Exception):
    """This text is no invitation: said to whoever typed it, and without a word of what it held."""


class Invitation(msgspec.Struct, array_like=True, frozen=True):
    authority: bytes  # fingerprint of the CA's certificate
    addresses: tuple[str, ...]  # host:port of peer listeners, the inviting node's first
    invitation: bytes
    secret: bytes
    expires: int  # ms since 1970

    def __repr__(self) -> str:  # a token in a log would be a key in a log
        return f"Invitation({self.invitation.hex()}, addresses={self.addresses}, expires={self.expires})"


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Invitation).decode


def write(invitation: Invitation) -> str:
    """The token. Raises ValueError for fields out of bounds: a mistake of ours."""
    if (wrong := _wrong(invitation)) is not None:
        raise ValueError(wrong)
    fields = _encode(invitation)
    text = urlsafe_b64encode(fields + _check(fields)).rstrip(b"=").decode()
    return f"{PREFIX}{VERSION}.{text}"


def read(text: str) -> Invitation:
    """Raises BadInvitation. Whether it has expired is for who knows the time."""
    text = "".join(text.split())  # a terminal breaks long lines
    if not text.startswith(PREFIX) or len(text) > TEXT_CHARS_MAX:
        raise BadInvitation(f"an invitation begins with {PREFIX}{VERSION}.")
    version, _, coded = text.removeprefix(PREFIX).partition(".")
    if version != str(VERSION):
        if version.isascii() and version.isdigit() and int(version) > VERSION:
            raise BadInvitation(f"this invitation has version {version}; this node reads version {VERSION}")
        raise BadInvitation(f"an invitation begins with {PREFIX}{VERSION}.")
    fields, check = _decoded(coded)
    if not hmac.compare_digest(_check(fields), check):
        raise BadInvitation("the invitation is mistyped or not whole: its check does not fit")
    try:
        invitation: Invitation = _decode(fields)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadInvitation("the invitation is damaged") from None
    if (wrong := _wrong(invitation)) is not None:
        raise BadInvitation(f"the invitation is damaged: {wrong}")
    return invitation


def secret_hash(secret: bytes) -> bytes:
    """What the cluster keeps. The secret has 256 random bits: guessing needs no slowing down."""
    return sha256(secret).digest()


def is_secret(secret: bytes, kept: bytes) -> bool:
    """Is this the secret whose hash was kept? Takes as long for any other."""
    return hmac.compare_digest(secret_hash(secret), kept)


def is_authority(invitation: Invitation, fingerprint: bytes) -> bool:
    return hmac.compare_digest(invitation.authority, fingerprint)


def _decoded(coded: str) -> tuple[bytes, bytes]:
    mistyped = BadInvitation("the invitation is mistyped: a character in it is none of base64url")
    if not coded.isascii() or not coded.replace("-", "a").replace("_", "a").isalnum():
        raise mistyped
    try:
        data = urlsafe_b64decode(coded + "=" * (-len(coded) % 4))
    except ValueError:
        raise BadInvitation("the invitation is mistyped or not whole: its length cannot be") from None
    return data[:-CHECK_BYTES], data[-CHECK_BYTES:]


def _check(fields: bytes) -> bytes:
    return sha256(fields).digest()[:CHECK_BYTES]


def _wrong(invitation: Invitation) -> str | None:
    if len(invitation.authority) != AUTHORITY_BYTES:
        return f"a fingerprint has {AUTHORITY_BYTES} bytes"
    if len(invitation.invitation) != INVITATION_BYTES or len(invitation.secret) != SECRET_BYTES:
        return f"its id has {INVITATION_BYTES} bytes and its secret {SECRET_BYTES}"
    if not 1 <= len(invitation.addresses) <= ADDRESSES_MAX:
        return f"it has 1 to {ADDRESSES_MAX} addresses"
    if any(not 0 < len(address) <= ADDRESS_CHARS_MAX for address in invitation.addresses):
        return f"an address has at most {ADDRESS_CHARS_MAX} characters"
    return "it expires before 1970" if invitation.expires < 0 else None
