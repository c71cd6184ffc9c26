"""Is a history of operations on one object one that a single copy could have given? (Herlihy and Wing 1990)

The search is that of Wing and Gong (1993) with Lowe's memory of what was tried (2017): take, among the
operations that nobody else's end precedes, one that the state allows, and go on; on a dead end go back.
An operation that was never answered may take effect at any time after it was begun, or never.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, NamedTuple

NEVER: Final = 1 << 62


class Operation(NamedTuple):
    begun: int
    ended: int  # NEVER: it was not answered
    what: tuple[Any, ...]  # for the model: the call
    result: Any  # … and what it answered; of no meaning where it was not


ILLEGAL: Final = object()
Model = Callable[[Any, Operation], Any]  # the state after the operation, or ILLEGAL


def is_linearizable(operations: Sequence[Operation], initial: Hashable, model: Model) -> bool:
    """States must be hashable. Takes time that grows with how much overlaps, not with the length."""
    pending = sorted(operations)
    done: frozenset[int] = frozenset()
    stack: list[tuple[frozenset[int], Hashable]] = [(done, initial)]
    seen: set[tuple[frozenset[int], Hashable]] = set()
    answered = frozenset(at for at, operation in enumerate(pending) if operation.ended != NEVER)
    while stack:
        done, state = stack.pop()
        if answered <= done:
            return True
        if (done, state) in seen:
            continue
        seen.add((done, state))
        first_end = min(pending[at].ended for at in answered - done)
        for at, operation in enumerate(pending):
            if operation.begun > first_end:
                break
            if at not in done:
                after = model(state, operation)
                if after is not ILLEGAL:
                    stack.append((done | {at}, after))
    return False
