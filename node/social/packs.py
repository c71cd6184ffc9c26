"""Following packs: a viewer's followed authors once more, many in a row: a feed page begins with few reads.

Packs are dense: with n granted authors, pack `n // 250` is the only one that is not full, so adding touches
one row and needs no search. Removing looks through the packs (30 at most) and moves the last author into the
gap; the order inside means nothing. Pure functions over rows; who calls them keeps the number of authors
(`Counts.following`), which is the one thing that says where the end is.
"""

import struct
from typing import Final

from node.social.keys import FollowingPackKey
from node.social.records import FOLLOWING_PACKS
from storage.rows import Reader, Writer

PACK_AUTHORS_MAX: Final = 250  # 2,000 bytes: above about 2 KB a value spills into pages of its own
_ID_BYTES: Final = 8


def unpack(pack: bytes) -> tuple[int, ...]:
    """The authors' ids of one pack."""
    return struct.unpack(f">{len(pack) // _ID_BYTES}Q", pack)


def add(rows: Writer, viewer: int, author: int, size: int) -> None:
    """Append an author who is not in the packs; `size` is the number of authors before."""
    key = FollowingPackKey(viewer, size // PACK_AUTHORS_MAX)
    pack = FOLLOWING_PACKS.get(rows, key) or b""
    FOLLOWING_PACKS.put(rows, key, pack + author.to_bytes(_ID_BYTES, "big"))


def remove(rows: Writer, viewer: int, author: int, size: int) -> None:
    """Take an author out; `size` is the number of authors before. The last author takes the place."""
    last_key = FollowingPackKey(viewer, (size - 1) // PACK_AUTHORS_MAX)
    last = _pack(rows, last_key)
    for number in range(last_key.pack + 1):
        key = FollowingPackKey(viewer, number)
        pack = last if key == last_key else _pack(rows, key)
        authors = unpack(pack)
        if author in authors:
            at = authors.index(author) * _ID_BYTES
            break
    else:
        raise AssertionError(f"author {author} is in none of the packs of viewer {viewer}")
    moved, rest = last[-_ID_BYTES:], last[:-_ID_BYTES]
    if key != last_key:
        FOLLOWING_PACKS.put(rows, key, pack[:at] + moved + pack[at + _ID_BYTES :])
    elif at < len(rest):
        rest = rest[:at] + moved + rest[at + _ID_BYTES :]
    if rest:
        FOLLOWING_PACKS.put(rows, last_key, rest)
    else:
        FOLLOWING_PACKS.delete(rows, last_key)


def read(rows: Reader, viewer: int) -> list[int]:
    """All authors whom the viewer follows, in no particular order."""
    return [author for _, pack in FOLLOWING_PACKS.scan(rows, viewer) for author in unpack(pack)]


def clear(rows: Writer, viewer: int) -> None:
    for key in [key for key, _ in FOLLOWING_PACKS.scan(rows, viewer)]:
        FOLLOWING_PACKS.delete(rows, key)


def _pack(rows: Reader, key: FollowingPackKey) -> bytes:
    pack = FOLLOWING_PACKS.get(rows, key)
    if pack is None:
        raise AssertionError(f"viewer {key.viewer} has no pack {key.pack}, against the count of authors")
    return pack
