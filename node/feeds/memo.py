"""A memo bounded in bytes: what was decoded or rendered from rows, to be found again while those are equal.

It is a dictionary, so that a hit costs no call. Two generations stand for least recently used: what is asked
for moves to the young one, which is the dictionary itself; when that holds half of the bytes it becomes the
old one, and what was old is forgotten. No clock, no list to keep in order.
"""

from typing import TypeVar

V = TypeVar("V")


class Memo(dict[bytes, V]):
    """`memo[key]` or `memo.find(key)` looks in both generations, and moves what it finds into the young one.

    KeyError for what neither holds. One task owns it.
    """

    def __init__(self, bytes_max: int) -> None:
        super().__init__()
        self._half = bytes_max // 2
        self._bytes = 0  # of the young generation
        self._old: dict[bytes, V] = {}
        self._old_bytes = 0

    @property
    def held(self) -> int:
        return self._bytes + self._old_bytes

    def __missing__(self, key: bytes) -> V:
        value = self._old[key]
        size = self._old_bytes // len(self._old)  # the average will do: their sum is what is bounded
        del self._old[key]
        self._old_bytes -= size
        self.keep(key, value, size)
        return value

    def find(self, key: bytes) -> V | None:
        try:
            return self[key]
        except KeyError:
            return None

    def keep(self, key: bytes, value: V, size: int) -> None:
        """`size` in bytes of memory, roughly, with the key. What replaces an entry is counted once more until
        the generation is over."""
        self[key] = value
        self._bytes += size
        if self._bytes > self._half:
            self._old, self._old_bytes = dict(self), self._bytes
            self.clear()
            self._bytes = 0
