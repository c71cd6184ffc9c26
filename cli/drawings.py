"""Pictures that the demo draws when it is given none: layered hills under a sky, each its own."""

import colorsys
import io
import math
import random
from typing import Final

from PIL import Image, ImageDraw, ImageFilter

SIZES: Final = ((1600, 1200), (1200, 1600), (1600, 1066), (1400, 1400))
LAYERS: Final = 5
JPEG_QUALITY: Final = 88

Colour = tuple[int, int, int]


def landscape(seed: int) -> bytes:
    """A JPEG; the same seed gives the same picture."""
    rng = random.Random(seed)
    width, height = SIZES[seed % len(SIZES)]
    hue = rng.random()
    top, bottom = _colour(hue, 0.55, 0.45), _colour(hue + 0.08, 0.35, 0.98)
    picture = _gradient(width, height, top, bottom)
    draw = ImageDraw.Draw(picture)
    _sun(draw, rng, width, height, _colour(hue + 0.12, 0.18, 1.0))
    for layer in range(LAYERS):
        nearness = (layer + 1) / LAYERS
        colour = _colour(hue + 0.03 * layer, 0.35 + 0.3 * nearness, 0.85 - 0.65 * nearness)
        _hills(draw, rng, width, height, 0.45 + 0.11 * layer, colour)
    softened = picture.filter(ImageFilter.GaussianBlur(0.8))
    out = io.BytesIO()
    softened.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, max(0.0, min(1.0, value)))
    return round(red * 255), round(green * 255), round(blue * 255)


def _gradient(width: int, height: int, top: Colour, bottom: Colour) -> Image.Image:
    column = Image.new("RGB", (1, height))
    for y in range(height):
        share = (y / height) ** 0.8
        red, green, blue = (round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True))
        column.putpixel((0, y), (red, green, blue))
    return column.resize((width, height))


def _sun(draw: ImageDraw.ImageDraw, rng: random.Random, width: int, height: int, colour: Colour) -> None:
    x, y = rng.uniform(0.15, 0.85) * width, rng.uniform(0.15, 0.4) * height
    radius = rng.uniform(0.04, 0.1) * width
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _hills(
    draw: ImageDraw.ImageDraw, rng: random.Random, width: int, height: int, base: float, colour: Colour
) -> None:
    waves = [(rng.uniform(0.5, 4), rng.uniform(0, math.tau), rng.uniform(0.01, 0.05)) for _ in range(4)]
    ridge = []
    for x in range(0, width + 8, 8):
        rise = sum(size * math.sin(turns * math.tau * x / width + phase) for turns, phase, size in waves)
        ridge.append((x, (base + rise) * height))
    draw.polygon([(0, height), *ridge, (width, height)], fill=colour)


if __name__ == "__main__":
    # `python -m cli.drawings 7 > photo.jpg`: a picture for who has none at hand.
    import sys

    sys.stdout.buffer.write(landscape(int(sys.argv[1])))
