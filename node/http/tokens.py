"""Access tokens and signed URLs: what lets a client prove later what the node granted it earlier.

Access tokens are JWTs (RFC 7519) signed with Ed25519 (RFC 8037) by the node's own key. They say who and which
session; whether the session still lives is asked of its row at every request. Keys rotate: the old public key
stays until the last token it signed has died. Every node takes every member's tokens: public keys are rows of
the meta group, and are gone with a member that is revoked. `now` is seconds since 1970, always a parameter.
"""

import hmac
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from pathlib import Path

import blake3
import jwt
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cluster.members.meta_rows import PublicKey
from storage.directory import write_durably

ALGORITHM = "EdDSA"
TOKEN_BYTES_MAX = 2048  # ours have about 350; a longer one is not ours and not worth decoding
CLOCK_SKEW_S = 60  # a token from the near future of another node's clock is taken
SIGNATURE_BYTES = 16  # of keyed BLAKE3: 2^128 guesses
SECRET_BYTES = 32
KEY_SUFFIX = ".json"
OTHERS_MAX = 1024  # other members' keys in memory: 8 of each of 64, and twice as many again
LOOKS_PER_S_MAX = 10  # at their rows for a key that nobody knows: such tokens cost a stranger nothing to make


class TokenError(Exception):
    """A token or signature that grants nothing; the text says why, for the problem's detail."""


class Expired(TokenError):
    """It was good once."""


class Claims(msgspec.Struct, frozen=True):
    """What a verified access token says."""

    user_id: int
    session_id: int
    issued_at: int  # seconds since 1970
    expires_at: int
    node_id: str


class KeyRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key file. A retired key keeps only its public half, so that it can check and no longer sign."""

    kid: str
    created_at: int  # seconds since 1970
    public: str  # base64url of the 32 bytes of RFC 8032
    private: str | None = None
    retired_at: int | None = None


class Others:
    """The public keys of the other members, as the meta group has them: looked at once a second at most while
    one of them is used, so that a revoked member's are gone a second later."""

    def __init__(self, rows: Callable[[], Mapping[str, PublicKey]]) -> None:
        self._rows = rows
        self._keys: dict[str, tuple[Ed25519PublicKey, str]] = {}
        self._seen: dict[str, PublicKey] = {}
        self._looked_at = 0
        self._looks = 0

    def look(self, now: int, most: int = 1) -> bool:
        """Look again, unless that was done `most` times in this second. Returns whether a key is gone."""
        if now == self._looked_at:
            if self._looks >= most:
                return False
        else:
            self._looked_at, self._looks = now, 0
        self._looks += 1
        rows = dict(list(self._rows().items())[:OTHERS_MAX])
        if rows == self._seen:
            return False
        gone = any(rows.get(kid) != row for kid, row in self._seen.items())
        self._seen = rows
        self._keys = {
            kid: (Ed25519PublicKey.from_public_bytes(row.public), row.node.hex()) for kid, row in rows.items()
        }
        return gone

    def find(self, kid: str, now: int) -> tuple[Ed25519PublicKey, str] | None:
        """The key and the node id of whose it is. One that was published a moment ago is found, too."""
        if kid not in self._keys:
            self.look(now, LOOKS_PER_S_MAX)
        return self._keys.get(kid)


class Keyring:
    """The node's signing key, the public keys of those before it, and what they have verified lately.

    One task owns it. The folder holds one file per key, readable by the node alone. `others` gives the public
    keys of all members by their kid.
    """

    def __init__(
        self,
        folder: Path,
        *,
        node_id: str,
        token_s: float,
        cache_entries: int,
        now: int,
        others: Callable[[], Mapping[str, PublicKey]] = dict,
    ) -> None:
        """Load the keys in `folder`; make the first if there is none. Raises OSError, msgspec.DecodeError."""
        self._folder = folder
        self._others = Others(others)
        self._node_id = node_id
        self._token_s = int(token_s)
        self._cache_entries = cache_entries
        self._verified: dict[str, Claims] = {}
        self._records: dict[str, KeyRecord] = {}
        self._public: dict[str, Ed25519PublicKey] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(folder.glob("*" + KEY_SUFFIX)):
            self._remember(msgspec.json.decode(path.read_bytes(), type=KeyRecord))
        if all(record.private is None for record in self._records.values()):
            self._add(now)
        self._choose()

    def issue(self, user_id: int, session_id: int, now: int) -> str:
        """A token for that user's session, good for token_s from `now`."""
        claims = {
            "iss": self._node_id,
            "sub": str(user_id),
            "sid": str(session_id),
            "iat": now,
            "exp": now + self._token_s,
        }
        return jwt.encode(claims, self._private, algorithm=ALGORITHM, headers={"kid": self._kid})

    def verify(self, token: str, now: int) -> Claims:
        """The claims of a token of this cluster. Raises Expired, TokenError.

        Checking a signature costs 81 µs, so what was verified is remembered until it is pushed out; the
        memory is asked by the whole token, so an altered one is never found there.
        """
        claims = self._verified.get(token)
        if claims is not None and claims.node_id != self._node_id and self._others.look(now):
            self._forget_others()
            claims = None
        if claims is None:
            claims = self._check(token, now)
            while len(self._verified) >= self._cache_entries:
                del self._verified[next(iter(self._verified))]
            self._verified[token] = claims
        if claims.expires_at <= now:
            self._verified.pop(token, None)
            raise Expired(f"the access token expired {now - claims.expires_at} s ago; refresh it")
        if claims.issued_at > now + CLOCK_SKEW_S:
            raise TokenError("the access token is from the future; compare the clocks")
        return claims

    def rotate(self, now: int) -> str:
        """Sign with a new key from now on; the kid. Old tokens live out their time."""
        fresh = self._add(now)
        for record in list(self._records.values()):
            if record.private is not None and record.kid != fresh:
                retired = msgspec.structs.replace(record, private=None, retired_at=now)
                self._records[record.kid] = retired
                self._write(retired)
        self._choose()
        self.forget_dead(now)
        return fresh

    def forget_dead(self, now: int) -> None:
        """Drop the public keys whose last token has died."""
        for record in list(self._records.values()):
            if record.retired_at is not None and record.retired_at + self._token_s + CLOCK_SKEW_S < now:
                del self._records[record.kid], self._public[record.kid]
                (self._folder / (record.kid + KEY_SUFFIX)).unlink(missing_ok=True)

    def public_keys(self) -> tuple[tuple[str, bytes, int], ...]:
        """Every key whose tokens may still live: (kid, 32 bytes, when its last token dies in ms; 0 for the
        one that signs)."""
        return tuple(
            (
                record.kid,
                _to_bytes(record.public),
                0 if record.retired_at is None else (record.retired_at + self._token_s) * 1000,
            )
            for record in self._records.values()
        )

    def _forget_others(self) -> None:
        """Whoever signed them may be no member any more."""
        own = self._node_id
        self._verified = {token: claims for token, claims in self._verified.items() if claims.node_id == own}

    def _find(self, kid: object, now: int) -> tuple[Ed25519PublicKey, str]:
        """The key and the node id of whose it is. Raises TokenError."""
        if isinstance(kid, str):
            own = self._public.get(kid)
            found = (own, self._node_id) if own is not None else self._others.find(kid, now)
            if found is not None:
                return found
        raise TokenError("the access token was signed with a key this node does not know")

    def _check(self, token: str, now: int) -> Claims:
        if len(token) > TOKEN_BYTES_MAX:
            raise TokenError("the access token is too long to be ours")
        try:
            key, issuer = self._find(jwt.get_unverified_header(token).get("kid"), now)
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                issuer=issuer,
                # Times are compared by the caller, with its own clock.
                options={
                    "require": ["iss", "sub", "sid", "iat", "exp"],
                    "verify_exp": False,
                    "verify_iat": False,
                },
            )
            return Claims(
                int(claims["sub"]), int(claims["sid"]), int(claims["iat"]), int(claims["exp"]), claims["iss"]
            )
        except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError) as error:
            raise TokenError(f"the access token is not valid: {error}") from None

    def _add(self, now: int) -> str:
        private = Ed25519PrivateKey.generate()
        raw = serialization.Encoding.Raw
        public = private.public_key().public_bytes(raw, serialization.PublicFormat.Raw)
        secret = private.private_bytes(raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())
        kid = blake3.blake3(public).hexdigest()[:16]
        record = KeyRecord(kid, now, _to_text(public), private=_to_text(secret))
        self._write(record)
        self._remember(record)
        return kid

    def _remember(self, record: KeyRecord) -> None:
        self._records[record.kid] = record
        self._public[record.kid] = Ed25519PublicKey.from_public_bytes(_to_bytes(record.public))

    def _choose(self) -> None:
        """Sign with the newest key that can; there may be two after a crash in the middle of a rotation."""
        able = [record for record in self._records.values() if record.private is not None]
        newest = max(able, key=lambda record: (record.created_at, record.kid))
        assert newest.private is not None
        self._kid = newest.kid
        self._private = Ed25519PrivateKey.from_private_bytes(_to_bytes(newest.private))

    def _write(self, record: KeyRecord) -> None:
        write_durably(self._folder / (record.kid + KEY_SUFFIX), msgspec.json.encode(record))


class Signer:
    """Signs URLs with a secret: keyed BLAKE3 over purpose, fields and expiry, so none can stand for
    another."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a signing secret has {SECRET_BYTES} bytes, not {len(secret)}")
        self._secret = secret

    def sign(self, purpose: str, fields: tuple[str, ...], expires: int) -> str:
        """The signature, 22 characters that a URL may carry. `expires` is in seconds since 1970."""
        # Each part is preceded by its length, so that moving a character between fields changes the message.
        parts = [part.encode() for part in (purpose, *fields, str(expires))]
        message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return _to_text(blake3.blake3(message, key=self._secret).digest(SIGNATURE_BYTES))

    def verify(self, purpose: str, fields: tuple[str, ...], expires: int, signature: str, now: int) -> None:
        """Raises TokenError for a forged signature, Expired for a true one that is over; in that order, so
        that only who holds a true one learns that it expired."""
        expected = self.sign(purpose, fields, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
            raise TokenError("the signature does not fit this URL")
        if expires <= now:
            raise Expired(f"the URL expired {now - expires} s ago")


def key_set_of(keys: Mapping[str, bytes]) -> dict[str, list[dict[str, str]]]:
    """Public keys (kid → 32 bytes) as a JWK set (RFC 7517, RFC 8037), for /.well-known/jwks.json."""
    fixed = {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": ALGORITHM}
    return {"keys": [{**fixed, "kid": kid, "x": _to_text(public)} for kid, public in keys.items()]}


def load_secret(path: Path) -> bytes:
    """The 32-byte secret in `path`, made at the first call, readable by the node alone. Raises OSError,
    ValueError."""
    try:
        secret = path.read_bytes()
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret = os.urandom(SECRET_BYTES)
        write_durably(path, secret)
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"{path} has {len(secret)} bytes instead of {SECRET_BYTES}: it is damaged")
    return secret


def derive(secret: bytes, purpose: str) -> bytes:
    """A 32-byte secret for one purpose from the node's one secret (BLAKE3's key derivation)."""
    return blake3.blake3(secret, derive_key_context="heliograph " + purpose).digest()


def _to_text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _to_bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
