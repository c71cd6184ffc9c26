"""A photograph of 12 megapixels to four sizes in WebP and JPEG: processor time, beside naive Pillow.

Naive is what one writes first: for each size open the original, decode it whole, scale it and save both
formats, with the same filter, qualities and effort.
"""

import resource
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from bench.figures import Row, at_least, at_most
from bench.measure import alternating
from bench.pictures import photograph
from bench.questions import Run
from node.media.recipes import RECIPES
from node.media.variants import JPEG_QUALITY, WEBP_METHOD, WEBP_QUALITY, make_variants, scaled_size


def answer(run: Run) -> list[Row]:
    with tempfile.TemporaryDirectory(dir=run.folder) as name:
        folder = Path(name)
        photo = photograph()
        source = folder / "photo.jpg"
        source.write_bytes(photo)
        into = folder / "variants"
        into.mkdir()
        ours, naive = alternating(
            [lambda: _cpu_ms(lambda: make_variants(source, into)), lambda: _cpu_ms(lambda: _naive(source))],
            rounds=3 if run.quick else 7,
        )
    megabytes = len(photo) / 1e6
    what = "photograph of 12 megapixels → 4 sizes, WebP and JPEG: CPU"
    beside = f"naive Pillow, full decode for each size: {naive:.0f} ms (a JPEG of {megabytes:.1f} MB)"
    return [
        Row(run.question, what, "ms", ours, at_most(280), beside),
        Row(run.question, "the same beside naive Pillow", "×", naive / ours, at_least(1.5), beside),
    ]


def _cpu_ms(work: Callable[[], object]) -> float:
    """Processor time of the whole process: encoders may use threads of their own."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1000


def _naive(source: Path) -> int:
    written = 0
    for recipe in RECIPES:
        with Image.open(source) as opened:
            picture = ImageOps.exif_transpose(opened.convert("RGB"))
        if recipe.square:
            picture = ImageOps.fit(picture, (recipe.edge, recipe.edge), Image.Resampling.LANCZOS)
        else:
            picture = picture.resize(scaled_size(*picture.size, recipe), Image.Resampling.LANCZOS)
        for format, options in (
            ("WEBP", {"quality": WEBP_QUALITY, "method": WEBP_METHOD}),
            ("JPEG", {"quality": JPEG_QUALITY, "optimize": True}),
        ):
            into = BytesIO()
            picture.save(into, format, **options)
            written += len(into.getvalue())
    return written
