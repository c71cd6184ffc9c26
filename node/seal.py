"""Sealing a secret with a passphrase, for backups: scrypt (RFC 7914) and ChaCha20-Poly1305 (RFC 8439).

Pure but for the random salt and nonce, which are made here and stored beside the sealed bytes.
"""

import os
from base64 import b64decode, b64encode
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

PASSPHRASE_MIN: Final = 8  # characters; scrypt makes guessing dear, not impossible
SCRYPT_N: Final = 1 << 15  # 32 MiB with r = 8: a node has that to spare
SCRYPT_R: Final = 8
SCRYPT_P: Final = 3
SCRYPT_WORK_MAX: Final = 1 << 25  # n · r · p that is accepted from a file: 30 times ours
KEY_BYTES: Final = 32
_PURPOSE: Final = b"heliograph backup: the cluster's secret"


class WrongPassphrase(Exception):
    """The passphrase is not the one, or the sealed bytes were changed: the two look alike."""


class Sealed(msgspec.Struct, frozen=True):
    kdf: str  # "scrypt"
    n: int
    r: int
    p: int
    salt: str  # base64
    nonce: str
    box: str


def seal(secret: bytes, passphrase: str) -> Sealed:
    """Raises ValueError for a passphrase that is too short. Takes 0.3 s and 32 MiB."""
    if len(passphrase) < PASSPHRASE_MIN:
        raise ValueError(f"a passphrase has at least {PASSPHRASE_MIN} characters")
    salt, nonce = os.urandom(16), os.urandom(12)
    key = _key(passphrase, salt, SCRYPT_N, SCRYPT_R, SCRYPT_P)
    box = ChaCha20Poly1305(key).encrypt(nonce, secret, _PURPOSE)
    return Sealed(
        "scrypt", SCRYPT_N, SCRYPT_R, SCRYPT_P, *(b64encode(raw).decode() for raw in (salt, nonce, box))
    )


def unseal(sealed: Sealed, passphrase: str) -> bytes:
    """Raises WrongPassphrase, and ValueError for what was never sealed here."""
    if sealed.kdf != "scrypt" or not 0 < sealed.n * sealed.r * sealed.p <= SCRYPT_WORK_MAX:
        raise ValueError(
            f"sealed with {sealed.kdf}, n={sealed.n}, r={sealed.r}, p={sealed.p}: not one of ours"
        )
    salt, nonce, box = (b64decode(text, validate=True) for text in (sealed.salt, sealed.nonce, sealed.box))
    key = _key(passphrase, salt, sealed.n, sealed.r, sealed.p)
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, box, _PURPOSE)
    except InvalidTag:
        raise WrongPassphrase("the passphrase does not open this backup's secret") from None


def _key(passphrase: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return Scrypt(salt=salt, length=KEY_BYTES, n=n, r=r, p=p).derive(passphrase.encode())
