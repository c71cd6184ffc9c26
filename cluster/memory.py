"""What a partition remembers of its commands, so that a retry takes effect once; pure.

Per user (the command's scope) the newest 1,000 of the last 24 hours, by the commands' own times. Evicted a
few at a time as new ones come, so no apply is long; what nobody adds to is forgotten by `ForgetRemembered`.
"""

from typing import Final

import msgspec

from cluster.commands import Declined, Execute, Outcome
from cluster.keys import (
    REMEMBERED,
    REMEMBERED_DUE,
    REMEMBERED_ORDER,
    REMEMBERED_SCOPES,
    Remembered,
    RememberedDueKey,
    RememberedKey,
    RememberedOrder,
    RememberedOrderKey,
    RememberedScope,
    RememberedScopeKey,
)
from storage.ids import partition_of
from storage.rows import PRESENT, Reader, Writer

KEEP_MS: Final = 24 * 3600 * 1000
PER_SCOPE_MAX: Final = 1000
EVICTED_AT_ONCE_MAX: Final = 4  # more than one, so that a full memory shrinks
FORGOTTEN_AT_ONCE_MAX: Final = 200  # rows of four tables each, at worst; below ROWS_PER_APPLY_MAX

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
    known = REMEMBERED_SCOPES.get(rows, RememberedScopeKey(command.scope))
    scope = known or RememberedScope(1, command.now, 1)
    for _ in range(EVICTED_AT_ONCE_MAX):
        full = scope.next - scope.oldest >= PER_SCOPE_MAX
        if not full and not _is_old(scope, command.now):
            break
        scope = _evict(rows, command.scope, scope, command.now)
    key = RememberedKey(command.scope, command.id)
    REMEMBERED.put(rows, key, Remembered(command.now, command.fingerprint, _encode(outcome)))
    order = RememberedOrderKey(command.scope, scope.next)
    REMEMBERED_ORDER.put(rows, order, RememberedOrder(command.id, command.now))
    _put(rows, command.scope, known, RememberedScope(scope.oldest, scope.oldest_ms, scope.next + 1))


def _is_old(scope: RememberedScope, now: int) -> bool:
    return scope.oldest < scope.next and scope.oldest_ms < now - KEEP_MS


def _evict(rows: Writer, number: int, scope: RememberedScope, now: int) -> RememberedScope:
    """Forget the scope's oldest; its row is left to the caller."""
    order_key = RememberedOrderKey(number, scope.oldest)
    order = REMEMBERED_ORDER.get(rows, order_key)
    if order is not None:
        key = RememberedKey(number, order.id)
        known = REMEMBERED.get(rows, key)
        # An id may have come again after a day: the newer row has its own place in the order.
        if known is not None and known.at_ms == order.at_ms:
            REMEMBERED.delete(rows, key)
        REMEMBERED_ORDER.delete(rows, order_key)
    following = REMEMBERED_ORDER.get(rows, RememberedOrderKey(number, scope.oldest + 1))
    return RememberedScope(scope.oldest + 1, following.at_ms if following else now, scope.next)


def _put(rows: Writer, number: int, before: RememberedScope | None, after: RememberedScope | None) -> None:
    """Write the scope's row and its place among all scopes; None: nothing is remembered in it."""
    home, key = partition_of(number), RememberedScopeKey(number)
    if before is not None and (after is None or after.oldest_ms != before.oldest_ms):
        REMEMBERED_DUE.delete(rows, RememberedDueKey(home, before.oldest_ms, number))
    if after is None:
        REMEMBERED_SCOPES.delete(rows, key)
        return
    if before is None or after.oldest_ms != before.oldest_ms:
        REMEMBERED_DUE.put(rows, RememberedDueKey(home, after.oldest_ms, number), PRESENT)
    REMEMBERED_SCOPES.put(rows, key, after)


def is_forgettable(rows: Reader, partition: int, now: int) -> bool:
    """Whether `forget_old` has something to do; one read."""
    first = next(REMEMBERED_DUE.scan(rows, partition), None)
    return first is not None and first[0].oldest_ms < now - KEEP_MS


def forget_old(rows: Writer, partition: int, now: int) -> None:
    """Forget what is older than a day, up to FORGOTTEN_AT_ONCE_MAX, in whichever scopes."""
    room = FORGOTTEN_AT_ONCE_MAX
    while room and is_forgettable(rows, partition, now):
        due, _ = next(REMEMBERED_DUE.scan(rows, partition))
        before = scope = REMEMBERED_SCOPES.get(rows, RememberedScopeKey(due.scope))
        if before is None or scope is None or before.oldest_ms != due.oldest_ms:
            raise AssertionError(f"scope {due.scope} has a place among all that its row does not know")
        while room and _is_old(scope, now):
            scope = _evict(rows, due.scope, scope, now)
            room -= 1
        _put(rows, due.scope, before, scope if scope.oldest < scope.next else None)


def forget_scope(rows: Writer, scope: int, most: int) -> bool:
    """Drop up to `most` remembered commands of a scope that is gone; True when nothing is left."""
    for key, order in _first(rows, scope, most):
        REMEMBERED.delete(rows, RememberedKey(scope, order.id))
        REMEMBERED_ORDER.delete(rows, key)
    if next(REMEMBERED_ORDER.scan(rows, scope), None) is not None:
        return False
    _put(rows, scope, REMEMBERED_SCOPES.get(rows, RememberedScopeKey(scope)), None)
    return True


def _first(rows: Reader, scope: int, most: int) -> list[tuple[RememberedOrderKey, RememberedOrder]]:
    scan = REMEMBERED_ORDER.scan(rows, scope)
    return [row for _, row in zip(range(most), scan, strict=False)]
