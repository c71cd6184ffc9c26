"""A memo bounded in bytes: what was decoded or rendered from rows, to be found again while those are equal.

Two generations stand for least recently used: what is asked for moves to the young one; when that holds half
of the bytes it becomes the old one, and the old one is forgotten. No clock, no list to keep in order.
"""

from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    @property
    def size(self) -> int:
        """Bytes of memory, roughly, with its key."""
        ...


V = TypeVar("V", bound=Sized)


class Memo(Generic[V]):
    """Values by key. One task owns it."""

    __slots__ = ("_bytes", "_half", "_old", "_young")

    def __init__(self, bytes_max: int) -> None:
        self._half = bytes_max // 2
        self._young: dict[bytes, V] = {}
        self._old: dict[bytes, V] = {}
        self._bytes = 0  # of the young generation

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    @property
    def bytes_max(self) -> int:
        return 2 * self._half

    def get(self, key: bytes) -> V | None:
        value = self._young.get(key)
        if value is None:
            value = self._old.pop(key, None)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: bytes, value: V) -> None:
        before = self._young.get(key)
        if before is not None:
            self._bytes -= before.size
        self._young[key] = value
        self._bytes += value.size
        if self._bytes > self._half:
            self._old, self._young, self._bytes = self._young, {}, 0
