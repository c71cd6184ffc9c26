"""What a partition's change stream says of its authors' timelines: one closed union, with its bytes.

Whoever keeps a copy or a merged head of timelines follows these. A change names what happened and where it
stands in the order of feeds; the rows themselves say the rest.
"""

from typing import Final

import msgspec


class Published(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """A post became complete: it stands in its author's timeline at `published`."""

    author: int
    post: int
    published: int


class Withdrawn(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """A published post went: it no longer stands at `published`."""

    author: int
    post: int
    published: int


class Restricted(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """Who may see the author's timeline changed (private or public, a block, suspension, deletion)."""

    author: int


Change = Published | Withdrawn | Restricted

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Change).decode


def encode(change: Change) -> bytes:
    return _encode(change)


def decode(data: bytes) -> Change:
    """Raises msgspec.DecodeError: in a stream that passed its checksums that is a bug."""
    change: Change = _decode(data)
    return change
