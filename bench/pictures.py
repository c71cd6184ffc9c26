"""Photographs made by code: of a size and grain that decode, scale and compress as those of a camera do."""

import os
from io import BytesIO
from typing import Final

from PIL import Image, ImageChops, ImageEnhance

CAMERA: Final = (4000, 3000)  # 12 megapixels
OCTAVES: Final = ((8, 90), (40, 60), (200, 30), (1000, 18))  # (cells along the longer edge, contrast)
GRAIN: Final = 9.0  # deviation of the finest noise, of 255
QUALITY: Final = 90
SEGMENT_BYTES_MAX: Final = 65_533  # of a JPEG comment (ITU T.81 §B.2.4.5), two of them its length
_START: Final = b"\xff\xd8"


def photograph(size: tuple[int, int] = CAMERA, quality: int = QUALITY) -> bytes:
    """A JPEG with large soft shapes, finer ones and grain, about 5 MB at 12 megapixels."""
    width, height = size
    bands = []
    for _ in range(3):
        band = Image.effect_noise((max(1, width // 500), max(1, height // 500)), 100).resize(
            size, Image.BICUBIC
        )
        for cells, contrast in OCTAVES:
            shape = (cells, max(1, cells * height // width))
            noise = Image.effect_noise(shape, contrast).resize(size, Image.BICUBIC)
            band = ImageChops.add(band, noise, scale=2.0)
            band = ImageEnhance.Contrast(band).enhance(1.3)
        grain = Image.effect_noise(size, GRAIN)
        bands.append(ImageChops.add(band, grain, scale=1.0, offset=-128))
    return _jpeg(Image.merge("RGB", bands), quality)


def photograph_of(size_bytes: int, size: tuple[int, int] = CAMERA) -> bytes:
    """A photograph of exactly so many bytes: the best quality that fits, filled with comments."""
    picture = Image.open(BytesIO(photograph(size, 97)))
    picture.load()
    low, high, best = 5, 97, b""
    while low <= high:
        quality = (low + high) // 2
        data = _jpeg(picture, quality)
        if len(data) + 8 <= size_bytes:
            low, best = quality + 1, data
        else:
            high = quality - 1
    return _filled(best, size_bytes)


def unlike(photo: bytes) -> bytes:
    """The same picture as other bytes of the same length; it must end its header in a comment of
    `photograph_of`."""
    at = photo.index(b"\xff\xfe") + 4
    return photo[:at] + os.urandom(2).hex().encode() + photo[at + 4 :]


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    into = BytesIO()
    picture.save(into, "JPEG", quality=quality)
    return into.getvalue()


def _filled(jpeg: bytes, size_bytes: int) -> bytes:
    """Comment segments after the start of image, until the file has its size."""
    missing = size_bytes - len(jpeg)
    segments = b""
    while missing:
        length = min(missing - 2, SEGMENT_BYTES_MAX)
        if missing - 2 - length in range(1, 8):  # leave room for a whole segment after this one
            length -= 8
        segments += b"\xff\xfe" + length.to_bytes(2, "big") + b"-" * (length - 2)
        missing -= 2 + length
    return _START + segments + jpeg[2:]
