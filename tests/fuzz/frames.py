"""Fuzzes the reader of frames: good streams and damaged ones, whole, byte by byte and in random pieces.

However the bytes are cut, the frames are the same, and so is whether the stream is taken for broken; what is
kept between two pieces never passes one frame. The same seed makes the same bytes.
"""

import random
import time
from collections import Counter

from cluster.peers import frames
from cluster.peers.frames import FrameError, Reader

BODY_MAX = 300
PIECES_MAX = 30
KIND_SETS = (
    frozenset(frames.KINDS),
    frames.CONTROL_DIALLER,
    frames.CONTROL_ACCEPTOR,
    frames.BULK_ACCEPTOR,
    frames.STRANGER,
)


def main(seconds: float, seed: int) -> int:
    """Fuzz for `seconds`; 0 when nothing was found, else 1."""
    print(f"frames: seed {seed}, {seconds:g} s")
    chance, outcomes = random.Random(seed), Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        kinds, stream = chance.choice(KIND_SETS), damaged(chance, written(chance))
        ways = [[stream], [stream[i : i + 1] for i in range(len(stream))], pieces(chance, stream)]
        results = [read(way, kinds) for way in ways]
        if (wrong := disagreement(results)) is not None:
            print(f"frames: FAILED {wrong}: {stream.hex()}")
            return 1
        outcomes["broken" if results[0][1] else "whole"] += 1
    for outcome, count in sorted(outcomes.items()):
        print(f"frames: {count:8} {outcome}")
    return 0 if len(outcomes) == 2 else 1


def written(chance):
    kinds = [chance.choice(sorted(frames.KINDS)) for _ in range(chance.randrange(1, 8))]
    return b"".join(
        frames.encode(
            kind, chance.randbytes(chance.randrange(BODY_MAX)), chance.getrandbits(64), chance.getrandbits(32)
        )
        for kind in kinds
    )


def damaged(chance, stream):
    data = bytearray(stream)
    for _ in range(chance.choice((0, 0, 1, 2, 5))):
        where = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[where] = chance.getrandbits(8)
            case 1:
                data[where] ^= 1 << chance.randrange(8)
            case 2:
                del data[where : where + chance.randrange(20)]
            case _:
                data[where:where] = chance.randbytes(chance.randrange(20))
        if not data:
            data = bytearray(b"\0")
    return bytes(data)


def pieces(chance, stream):
    cuts = sorted(chance.randrange(len(stream) + 1) for _ in range(chance.randrange(PIECES_MAX)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def read(way, kinds):
    """(frames, broken, the most that was kept)."""
    reader, got, kept = Reader(BODY_MAX, kinds), [], 0
    try:
        for piece in way:
            got += reader.feed(piece)
            kept = max(kept, reader.kept)
    except FrameError:
        return got, True, kept
    return got, False, kept


def disagreement(results):
    (_, broken, _), (reference, _, _), _ = results
    for got, is_broken, kept in results:
        if is_broken != broken:
            return "broken in one way of cutting, whole in another"
        if kept >= frames.HEAD_BYTES + BODY_MAX:
            return f"{kept} bytes were kept"
        if got != reference[: len(got)] or (not broken and len(got) != len(reference)):
            return "other frames in another way of cutting"
    return None
