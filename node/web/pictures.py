"""What a page says of a photo before it is there: its places in `srcset`, its shape, its colours.

Pure. The placeholder is a few coloured squares in SVG, smoothed by the style sheet: a policy without inline
style lets neither a `style` attribute nor a `data:` address through, and this needs neither. The scripts draw
the same (`static/pictures.js`); a test holds the two together.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from blurhash import decode as blur_of

from node.feeds.rendering import MediaView
from node.media.recipes import SCALED

SQUARES_LONG: Final = 4  # along the longer edge; a BlurHash of ours has as many waves
SQUARES_SHORT: Final = 3
PLACEHOLDERS_KEPT: Final = 8192  # some 500 bytes each; decoding one takes 0.1 ms
TALLEST: Final = 1.25  # in the feed nothing is taller than this times its width: the middle is shown
EDGES: Final = {recipe.name: recipe.edge for recipe in SCALED}


def widths(medium: MediaView) -> dict[str, int]:
    """The width in pixels of each scaled variant, as `media/variants.py` makes them."""
    longest = max(medium.width, medium.height, 1)
    return {
        name: medium.width if edge >= longest else max(1, round(medium.width * edge / longest))
        for name, edge in EDGES.items()
    }


def srcset(medium: MediaView, form: str) -> str:
    """The variants of a medium in one format, as `srcset` wants them; of equally wide ones the first."""
    if medium.urls is None:
        return ""
    places: dict[int, str] = {}
    for name, width in widths(medium).items():
        places.setdefault(width, f"{getattr(getattr(medium.urls, name), form)} {width}w")
    return ", ".join(places.values())


def is_tall(medium: MediaView) -> bool:
    return medium.height > TALLEST * medium.width


@lru_cache(PLACEHOLDERS_KEPT)
def placeholder(blurhash: str | None, wide: bool) -> tuple[tuple[int, int, str], ...]:
    """Squares (x, y, colour) in rows; none for a BlurHash that is absent or broken."""
    columns, rows = (SQUARES_LONG, SQUARES_SHORT) if wide else (SQUARES_SHORT, SQUARES_LONG)
    if not blurhash:
        return ()
    try:
        pixels = blur_of(blurhash, columns, rows)
    except (ValueError, IndexError, KeyError):
        return ()
    return tuple((x, y, _colour(pixel)) for y, row in enumerate(pixels) for x, pixel in enumerate(row))


def _colour(pixel: Sequence[float]) -> str:
    """Four bits each are enough for what is blurred."""
    return "#" + "".join(f"{min(15, max(0, int(value)) >> 4):x}" for value in pixel)
