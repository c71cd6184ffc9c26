"""What a partition remembers of its commands, so that a retry takes effect once; pure.

Per user (the command's scope) the newest 1,000 of the last 24 hours, by the commands' own times. Evicted a
few at a time as new ones come, so no apply is long.
"""

from typing import Final

import msgspec

from cluster.commands import Declined, Execute, Outcome
from cluster.keys import (
    REMEMBERED,
    REMEMBERED_ORDER,
    REMEMBERED_SCOPES,
    Remembered,
    RememberedKey,
    RememberedOrder,
    RememberedOrderKey,
    RememberedScope,
    RememberedScopeKey,
)
from storage.rows import Reader, Writer

KEEP_MS: Final = 24 * 3600 * 1000
PER_SCOPE_MAX: Final = 1000
EVICTED_AT_ONCE_MAX: Final = 4  # more than one, so that a full memory shrinks

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Outcome).decode


def recall(rows: Reader, command: Execute) -> Outcome | None:
    """The outcome of the same command applied before, or None.

    The same id with another fingerprint is another request under a used key, which is refused.
    """
    known = REMEMBERED.get(rows, RememberedKey(command.scope, command.id))
    if known is None or known.at_ms < command.now - KEEP_MS:
        return None
    if known.fingerprint != command.fingerprint:
        return Declined("idempotency_key_reused", "this Idempotency-Key came with another body before")
    outcome: Outcome = _decode(known.outcome)
    return outcome


def remember(rows: Writer, command: Execute, outcome: Outcome) -> None:
    if isinstance(outcome, Declined) and outcome.code == "unavailable":
        return  # said of the moment, not of the command
    scope_key = RememberedScopeKey(command.scope)
    scope = REMEMBERED_SCOPES.get(rows, scope_key) or RememberedScope(1, command.now, 1)
    scope = _evict(rows, command, scope)
    key = RememberedKey(command.scope, command.id)
    REMEMBERED.put(rows, key, Remembered(command.now, command.fingerprint, _encode(outcome)))
    order = RememberedOrderKey(command.scope, scope.next)
    REMEMBERED_ORDER.put(rows, order, RememberedOrder(command.id, command.now))
    REMEMBERED_SCOPES.put(rows, scope_key, RememberedScope(scope.oldest, scope.oldest_ms, scope.next + 1))


def _evict(rows: Writer, command: Execute, scope: RememberedScope) -> RememberedScope:
    oldest, oldest_ms = scope.oldest, scope.oldest_ms
    for _ in range(EVICTED_AT_ONCE_MAX):
        full = scope.next - oldest >= PER_SCOPE_MAX
        if oldest >= scope.next or not (full or oldest_ms < command.now - KEEP_MS):
            break
        order_key = RememberedOrderKey(command.scope, oldest)
        order = REMEMBERED_ORDER.get(rows, order_key)
        if order is not None:
            key = RememberedKey(command.scope, order.id)
            known = REMEMBERED.get(rows, key)
            # An id may have come again after a day: the newer row has its own place in the order.
            if known is not None and known.at_ms == order.at_ms:
                REMEMBERED.delete(rows, key)
            REMEMBERED_ORDER.delete(rows, order_key)
        oldest += 1
        following = REMEMBERED_ORDER.get(rows, RememberedOrderKey(command.scope, oldest))
        oldest_ms = following.at_ms if following else command.now
    return RememberedScope(oldest, oldest_ms, scope.next)


def forget_scope(rows: Writer, scope: int, most: int) -> bool:
    """Drop up to `most` remembered commands of a scope that is gone; True when nothing is left."""
    for key, order in _first(rows, scope, most):
        REMEMBERED.delete(rows, RememberedKey(scope, order.id))
        REMEMBERED_ORDER.delete(rows, key)
    if next(REMEMBERED_ORDER.scan(rows, scope), None) is not None:
        return False
    REMEMBERED_SCOPES.delete(rows, RememberedScopeKey(scope))
    return True


def _first(rows: Reader, scope: int, most: int) -> list[tuple[RememberedOrderKey, RememberedOrder]]:
    scan = REMEMBERED_ORDER.scan(rows, scope)
    return [row for _, row in zip(range(most), scan, strict=False)]
