"""Fuzzes image processing: broken images of every format through the real pool.

Whatever the bytes, the outcome must be Processed or ImageRefused. A worker that ran into one of its limits is
counted and shown, since that is what limits are for; a worker that died of anything else is a failure, and
the bytes that did it are saved. The same seed makes the same bytes in the same order.
"""

import random
import struct
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

import trio
from PIL import Image

from node.media.pool import PoolSettings, WorkerDied, open_pool
from node.media.recipes import ImageRefused, variant_paths
from tests.node.media.pictures import (
    FORMATS,
    animated,
    corners,
    encode,
    oriented,
    photo,
    png_chunk,
    progressive_with_scans,
    srgb_with,
)

FAILURES = Path("build/fuzz")
LIMITS = ("s of CPU", "MiB of memory", "no answer within")
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEAD_BYTES = 600  # where the structure is: half of all changes happen there
CHANGES_MAX = 6


def main(seconds: float, seed: int) -> int:
    """Fuzz for `seconds`; 0 when every outcome was one of the two allowed, else 1."""
    print(f"images: seed {seed}, {seconds:g} s")
    outcomes, failures = trio.run(_run, seconds, random.Random(seed), seed)
    for outcome, count in sorted(outcomes.items()):
        print(f"images: {count:6} {outcome}")
    for failure in failures:
        print(f"images: FAILED {failure}")
    if not outcomes:
        print("images: FAILED nothing was tried in the time given")
        return 1
    return 1 if failures else 0


async def _run(seconds, chance, seed):
    outcomes, failures = Counter(), []
    corpus = _corpus()
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as directory:
        source, into = Path(directory, "original"), Path(directory, "variants")
        async with open_pool(PoolSettings(workers=1)) as pool:
            while time.monotonic() < until:
                name = chance.choice(sorted(corpus))
                data = _mutated(chance, corpus, name)
                source.write_bytes(data)
                outcome, problem = await _outcome(pool, source, into)
                outcomes[f"{name}: {outcome}"] += 1
                if outcome == "limit" or problem:
                    path = _save(data, f"{name}-{seed}-{outcomes.total()}")
                    print(f"images: {path}: {problem or 'a limit'}")
                if problem:
                    failures.append(f"{path}: {problem}")
    return outcomes, failures


async def _outcome(pool, source, into):
    """What became of it, and what is wrong with that, if anything."""
    try:
        processed = await pool.process(source, into)
    except ImageRefused as refusal:
        left = into.exists()
        if left or not refusal.reason:
            return "refused", "refused but left files" if left else "refused without a reason"
        return "refused", None
    except WorkerDied as death:
        if any(limit in death.reason for limit in LIMITS):
            return "limit", None
        return "died", death.reason
    missing = [path for path in variant_paths(into) if not path.exists()]
    for path in variant_paths(into):
        path.unlink(missing_ok=True)
    into.rmdir()
    if missing or processed.width < 1 or processed.height < 1:
        return "processed", f"processed with {len(missing)} variants missing"
    return "processed", None


def _corpus():
    """Small whole files that between them reach every branch: motion, clearness, metadata, depth, palette."""
    picture, clear = photo(60, 44), corners(60, 44).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    corpus = {f"{name}-plain": encode(picture, name) for name in FORMATS}
    corpus |= {f"{name}-clear": encode(clear, name) for name in ("png", "webp", "avif", "heic")}
    corpus |= {f"{name}-turned": oriented(picture, 6, name) for name in FORMATS if name != "gif"}
    corpus |= {f"{name}-moving": animated(name, 4) for name in ("gif", "png", "webp", "avif")}
    profile = srgb_with(rXYZ="gXYZ", gXYZ="rXYZ")
    corpus |= {
        f"{name}-profile": encode(picture, name, icc_profile=profile) for name in ("jpeg", "png", "webp")
    }
    corpus["jpeg-progressive"] = progressive_with_scans(picture, 2)
    corpus["jpeg-cmyk"] = encode(picture.convert("CMYK"), "jpeg", icc_profile=profile)
    corpus["jpeg-grey"] = encode(picture.convert("L"), "jpeg")
    corpus["webp-lossless"] = encode(clear, "webp", lossless=True)
    corpus["png-palette"] = encode(picture.quantize(16), "png", transparency=3)
    corpus["png-deep"] = encode(Image.frombytes("I;16", (60, 44), bytes(range(240)) * 22), "png")
    return corpus


def _mutated(chance, corpus, name):
    data = bytearray(corpus[name])
    for _ in range(min(chance.randint(1, CHANGES_MAX), chance.randint(1, CHANGES_MAX))):
        if len(data) > 4:
            chance.choice(CHANGES)(chance, data, corpus)
    mended = name.startswith("png") and chance.random() < 0.9
    return _with_checksums(bytes(data)) if mended else bytes(data)


def _place(chance, data):
    return chance.randrange(min(len(data), HEAD_BYTES) if chance.random() < 0.5 else len(data))


def _flip(chance, data, corpus):
    data[_place(chance, data)] ^= 1 << chance.randrange(8)


def _overwrite(chance, data, corpus):
    at = _place(chance, data)
    data[at : at + chance.randint(1, 16)] = chance.randbytes(chance.randint(1, 16))


def _extreme(chance, data, corpus):
    at, form = _place(chance, data), chance.choice((">I", "<I", ">H", "<H", "B"))
    size = struct.calcsize(form)
    value = chance.choice(EXTREMES) & ((1 << 8 * size) - 1)
    data[at : at + size] = struct.pack(form, value)


def _cut(chance, data, corpus):
    at = _place(chance, data)
    del data[at : at + chance.randint(1, 1 + len(data) // 4)]


def _repeat(chance, data, corpus):
    at = _place(chance, data)
    part = data[at : at + chance.randint(1, 200)]
    data[at:at] = part * chance.randint(1, 30)


def _truncate(chance, data, corpus):
    if chance.random() < 0.3:  # the rest of the time, deeper changes are worth more
        del data[max(1, _place(chance, data)) :]


def _splice(chance, data, corpus):
    other = corpus[chance.choice(sorted(corpus))]
    start = chance.randrange(len(other))
    at = _place(chance, data)
    part = other[start : start + chance.randint(1, 400)]
    data[at : at + len(part)] = part


CHANGES = (_flip, _flip, _overwrite, _extreme, _extreme, _cut, _repeat, _truncate, _splice)


def _with_checksums(data):
    """A PNG whose chunks have good checksums again, so that what lies behind them is reached."""
    at, out = 8, bytearray(data[:8])
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 8 : at + 8 + size]
        if len(body) < size:
            break
        out += png_chunk(data[at + 4 : at + 8], body)
        at += 12 + size
    return bytes(out) + data[at:]


def replay(path: Path) -> str:
    """What becomes of the bytes saved at `path`, in a worker of their own: to look at a failure."""

    async def run():
        with tempfile.TemporaryDirectory() as directory:
            async with open_pool(PoolSettings(workers=1)) as pool:
                outcome, problem = await _outcome(pool, path, Path(directory, "variants"))
                return f"{outcome}: {problem}"

    return trio.run(run)


def _save(data, name):
    FAILURES.mkdir(parents=True, exist_ok=True)
    path = FAILURES / f"{name}-{zlib.crc32(data):08x}.bin"
    path.write_bytes(data)
    return path
