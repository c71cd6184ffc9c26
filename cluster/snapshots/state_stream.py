"""The state of one partition as a stream of bytes: what a follower gets that lacks more than the journal has.

    length u32, big-endian | msgpack array [tag, …fields]

| tag | piece | fields                                                                                  |
|-----|-------|-----------------------------------------------------------------------------------------|
| 1   | Begin | format, partition, index, term, head bin, voters [bin], learners [bin], members_since   |
| 2   | Rows  | [key bin, value bin, key bin, value bin, …], in the order of the keys                   |
| 3   | End   | number of rows, BLAKE3 of all bytes before this piece                                   |

One Begin, any number of Rows, one End. Rows travel as they lie in the shard, checksums included, and replicas
are equal byte for byte. The stream is the same on the wire and in the file in which a receiver keeps it; it
carries its own lengths, so it may be cut anywhere on the way.

The rows of a mailbox and all others of the partition's range are in it; the head is in Begin.
"""

from collections.abc import Generator, Iterable, Iterator
from operator import lt
from typing import Final

import msgspec
from blake3 import blake3

from cluster.keys import GROUPS, HEADS, HEADS_PARTITION, GroupKey, GroupRow, Head, HeadKey
from cluster.raft.messages import Configuration
from storage.keys import partition_range
from storage.records import RecordDamaged, want_whole
from storage.rows import Reader

FORMAT: Final = 1
PIECE_BYTES: Final = 240 << 10  # rows of one piece, unless one row is longer: with its frame below 256 KiB
PIECE_BYTES_MAX: Final = 32 << 20  # of a piece that is taken: a row is far smaller
STATE_BYTES_MAX: Final = 64 << 30  # of one partition, unless a receiver says less
DIGEST_BYTES: Final = 32
_LENGTH_BYTES: Final = 4


class StateDamaged(Exception):
    """The bytes are not a partition's state, or not all of it: the sender's fault, or the wire's."""


class StateTooLarge(Exception):
    """More bytes than the receiver takes."""


class StateTooNew(Exception):
    """The format is one that this program does not know."""


class Begin(msgspec.Struct, array_like=True, frozen=True, tag=1):
    format: int
    partition: int
    index: int  # applied up to here
    term: int  # of the entry there
    head: bytes  # the row of the head, as it lies in the shard
    voters: tuple[bytes, ...]
    learners: tuple[bytes, ...]
    members_since: int  # index of the entry that made them so

    @property
    def configuration(self) -> Configuration:
        return Configuration(self.voters, self.learners)


class Rows(msgspec.Struct, array_like=True, frozen=True, tag=2):
    flat: list[bytes]  # key, value, key, value, …


class End(msgspec.Struct, array_like=True, frozen=True, tag=3):
    rows: int
    digest: bytes


Piece = Begin | Rows | End

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Piece).decode


def state_pieces(rows: Reader, partition: int, founder: Configuration) -> Generator[bytes, None, None]:
    """The stream, in pieces, from one consistent view of a shard's rows. `founder` stands for the members of
    a group whose state names none yet.

    Raises storage.records.RecordDamaged rather than pass on a damaged row.
    """
    hashed = blake3()
    opening = _framed(_begin(rows, partition, founder))
    hashed.update(opening)
    yield opening
    count = size = 0
    flat: list[bytes] = []
    for key, value in rows.scan(*partition_range(partition)):
        want_whole(key, value)
        flat += (key, value)
        count += 1
        size += len(key) + len(value)
        if size >= PIECE_BYTES:
            piece = _framed(Rows(flat))
            hashed.update(piece)
            yield piece
            flat, size = [], 0
    if flat:
        piece = _framed(Rows(flat))
        hashed.update(piece)
        yield piece
    yield _framed(End(count, hashed.digest()))


def _begin(rows: Reader, partition: int, founder: Configuration) -> Begin:
    key = HeadKey(HEADS_PARTITION, partition)
    encoded = key.encode()
    head = rows.get(encoded)
    if head is None:
        head = HEADS.codec.encode(encoded, Head())
    stand = HEADS.codec.decode(encoded, head)
    group = GROUPS.get(rows, GroupKey(HEADS_PARTITION, partition))
    if group is None:
        group = GroupRow(founder.voters, founder.learners, 0)
    return Begin(
        FORMAT, partition, stand.applied, stand.term, head, group.voters, group.learners, group.index
    )


def _framed(piece: Piece) -> bytes:
    body = _encode(piece)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class StateCheck:
    """Takes a stream as it comes, in any portions, and says what is in it as soon as that is certain to be in
    its place. Nothing is certain to be whole before `end` is there."""

    def __init__(self, partition: int, *, bytes_max: int = STATE_BYTES_MAX) -> None:
        self.begin: Begin | None = None
        self.end: End | None = None
        self.received_bytes = 0
        self._partition = partition
        self._bytes_max = bytes_max
        self._buffer = bytearray()
        self._hashed = blake3()
        self._rows = 0
        self._last_key = b""

    def feed(self, data: bytes) -> list[Piece]:
        """Raises StateDamaged, StateTooLarge, StateTooNew; after that it takes nothing any more."""
        self.received_bytes += len(data)
        if self.received_bytes > self._bytes_max:
            raise StateTooLarge(f"the state of partition {self._partition} has over {self._bytes_max} bytes")
        self._buffer += data
        pieces = []
        while (body := self._next()) is not None:
            try:
                piece: Piece = _decode(body)
            except msgspec.DecodeError as wrong:
                raise self._damaged(f"a piece of {len(body)} bytes cannot be read: {wrong}") from wrong
            self._take(piece, body)
            pieces.append(piece)
        return pieces

    def finish(self) -> Begin:
        """The stream has ended. Raises StateDamaged where it is not whole."""
        if self.end is None or self.begin is None or self._buffer:
            raise self._damaged(f"it ends after {self.received_bytes} bytes, without its end")
        return self.begin

    def _next(self) -> bytes | None:
        if len(self._buffer) < _LENGTH_BYTES:
            return None
        length = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
        if length > PIECE_BYTES_MAX:
            raise self._damaged(f"a piece of {length} bytes; at most {PIECE_BYTES_MAX} are taken")
        if len(self._buffer) < _LENGTH_BYTES + length:
            return None
        body = bytes(self._buffer[_LENGTH_BYTES : _LENGTH_BYTES + length])
        del self._buffer[: _LENGTH_BYTES + length]
        return body

    def _take(self, piece: Piece, body: bytes) -> None:
        if (self.begin is None) != isinstance(piece, Begin) or self.end is not None:
            raise self._damaged(f"a {type(piece).__name__} out of place")
        match piece:
            case Begin():
                self._take_begin(piece)
            case Rows():
                self._take_rows(piece.flat)
            case End():
                if (piece.rows, piece.digest) != (self._rows, self._hashed.digest()):
                    raise self._damaged(f"its {self._rows} rows are not the {piece.rows} that were sent")
                self.end = piece
        self._hashed.update(len(body).to_bytes(_LENGTH_BYTES, "big") + body)

    def _take_begin(self, begin: Begin) -> None:
        if begin.format > FORMAT:
            raise StateTooNew(f"the state of partition {begin.partition} comes in format {begin.format}")
        if begin.partition != self._partition:
            raise self._damaged(f"it is that of partition {begin.partition}")
        try:
            head = HEADS.codec.decode(HeadKey(HEADS_PARTITION, begin.partition).encode(), begin.head)
        except RecordDamaged as wrong:
            raise self._damaged(str(wrong)) from wrong
        if (head.applied, head.term) != (begin.index, begin.term):
            raise self._damaged(f"it is as of {begin.index}, its head as of {head.applied}")
        self.begin = begin

    def _take_rows(self, flat: list[bytes]) -> None:
        keys = flat[::2]
        first, behind = partition_range(self._partition)
        if not keys or len(flat) % 2:
            raise self._damaged(f"a piece with {len(keys)} keys and {len(flat) - len(keys)} values")
        if not (max(first, self._last_key) < keys[0] and keys[-1] < behind):
            raise self._damaged(f"rows from {keys[0].hex()} to {keys[-1].hex()} are out of place")
        if not all(map(lt, keys, keys[1:])):
            raise self._damaged(f"rows from {keys[0].hex()} to {keys[-1].hex()} are out of order")
        self._rows += len(keys)
        self._last_key = keys[-1]

    def _damaged(self, why: str) -> StateDamaged:
        return StateDamaged(f"the state of partition {self._partition}: {why}")


def read_state(partition: int, data: Iterable[bytes]) -> Iterator[Piece]:
    """The pieces of a stream that is kept. Raises StateDamaged, at the latest instead of ending."""
    check = StateCheck(partition)
    for portion in data:
        yield from check.feed(portion)
    check.finish()
