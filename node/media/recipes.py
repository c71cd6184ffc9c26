"""What is made from an original: the recipes, the result and the refusal.

Pure and without a codec, because the node imports it too: images are decoded in worker processes only
(`variants.py`, `worker.py`), which `pool.py` runs.
"""

from pathlib import Path
from typing import Literal

import msgspec

Format = Literal["webp", "jpeg"]
EXTENSIONS: dict[Format, str] = {"webp": "webp", "jpeg": "jpg"}
FORMATS: tuple[Format, ...] = ("webp", "jpeg")


class Recipe(msgspec.Struct, frozen=True):
    """`edge` in pixels. A square recipe crops the centre to edge × edge, any other makes `edge` the longest
    edge.

    Nothing is ever enlarged: of an original that is smaller, a plain variant has the original's size and a
    square one the edge of its shorter side, so it is still a square.
    """

    name: str
    edge: int
    square: bool = False


THUMBNAIL = Recipe("thumbnail", 150, square=True)
SCALED = (Recipe("small", 320), Recipe("medium", 640), Recipe("large", 1080))
RECIPES = (THUMBNAIL, *SCALED)


class VariantFile(msgspec.Struct, frozen=True):
    """One variant in one format: `width` × `height` pixels, `size` bytes at `path`, BLAKE3 `digest` (32
    bytes)."""

    name: str
    format: Format
    width: int
    height: int
    path: Path
    size: int
    digest: bytes


class Processed(msgspec.Struct, frozen=True):
    """What became of an original.

    `width` × `height` are those of the upright original, in pixels; `type` is the MIME type its content has;
    `placeholder` is a BlurHash; `variants` holds every recipe in every format, in the order of RECIPES and
    FORMATS. `passed_over` names what was unreadable in the original and did not matter enough to refuse it (a
    broken EXIF block, a useless colour profile).
    """

    width: int
    height: int
    type: str
    placeholder: str
    variants: tuple[VariantFile, ...]
    passed_over: tuple[str, ...] = ()


class ImageRefused(Exception):
    """The bytes are at fault and always will be: the client's fault, no further try.

    `reason` is for the person who uploaded: what is wrong, and what would be right.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def variant_path(into: Path, name: str, format: Format) -> Path:
    """Where the variant `name` in `format` is written in the directory `into`."""
    return into / f"{name}.{EXTENSIONS[format]}"


def variant_paths(into: Path) -> tuple[Path, ...]:
    """Every file that one job may leave in `into`."""
    return tuple(variant_path(into, recipe.name, format) for recipe in RECIPES for format in FORMATS)
