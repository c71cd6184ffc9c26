"""Passwords: Argon2id in worker threads, so many at once and no more.

A hash takes 0.1 s of a processor and 64 MiB, so sign-ins are what an attacker would use to exhaust a small
machine: their number at once and the queue before them are bounded. Whoever asks for a name that does not
exist waits as long as for one that does.
"""

from collections.abc import Callable
from typing import Final, TypeVar

import trio
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from node.settings import Accounts

T = TypeVar("T")

PASSWORD_MIN: Final = 8
PASSWORD_MAX: Final = 1024
SALT_CHARACTERS: Final = 22  # base64 of 16 bytes
HASH_CHARACTERS: Final = 43  # of 32 bytes


class Busy(Exception):
    """More sign-ins wait for a hash than may."""


class Passwords:
    def __init__(self, settings: Accounts) -> None:
        self._hasher = PasswordHasher(
            settings.argon2_passes, settings.argon2_memory_kib, settings.argon2_lanes
        )
        # The hash of no password that anybody knows, at the same price.
        self._decoy = (
            f"$argon2id$v=19$m={settings.argon2_memory_kib},t={settings.argon2_passes}"
            f",p={settings.argon2_lanes}${'A' * SALT_CHARACTERS}${'A' * HASH_CHARACTERS}"
        )
        self._slots = trio.CapacityLimiter(settings.argon2_parallel_max)
        self._queue_max = settings.argon2_queue_max
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """The encoded Argon2id hash. Raises Busy."""
        return await self._run(self._hasher.hash, password)

    async def matches(self, encoded: str | None, password: str) -> bool:
        """Whether the password is the one behind `encoded`; None, for nobody, takes as long. Raises Busy."""
        fits = await self._run(self._verify, encoded or self._decoy, password)
        return fits and encoded is not None

    def _verify(self, encoded: str, password: str) -> bool:
        try:
            return self._hasher.verify(encoded, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, function: Callable[..., T], *arguments: str) -> T:
        if self._waiting >= self._queue_max:
            raise Busy(f"{self._waiting} sign-ins are waiting")
        self._waiting += 1
        try:
            return await trio.to_thread.run_sync(function, *arguments, limiter=self._slots)
        finally:
            self._waiting -= 1
