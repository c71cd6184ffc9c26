"""The variants of one original: upright, in sRGB, without metadata, as WebP and JPEG.

Runs in the worker process only. Each size is made from the next larger one, and colours are converted after
the first reduction, so that a photograph of 12 megapixels costs a fraction of what decoding and scaling it
afresh for each size would. Transparency is kept in WebP and laid on white in JPEG and in the placeholder.
"""

from io import BytesIO
from pathlib import Path

import blurhash
from blake3 import blake3
from PIL import Image, ImageCms

from node.media.decode import FILE_BYTES_MAX, Original, decode
from node.media.recipes import (
    FORMATS,
    SCALED,
    THUMBNAIL,
    Format,
    ImageRefused,
    Processed,
    Recipe,
    VariantFile,
    variant_path,
)

WEBP_QUALITY = 80
WEBP_METHOD = 2  # half the CPU of method 4, and files some 4 % larger
JPEG_QUALITY = 82
REDUCING_GAP = 2.0  # whole-number box reduction down to twice the target, then the exact filter
PLACEHOLDER_EDGE = 32  # pixels; BlurHash keeps four waves, more pixels only cost time
PLACEHOLDER_WAVES = (4, 3)  # along the longer edge, along the shorter one
WHITE = (255, 255, 255)

# What undoes each EXIF orientation (EXIF 2.32, §4.6.4); orientation 1 needs nothing.
UPRIGHT_BY = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LYING = frozenset((5, 6, 7, 8))  # orientations that exchange width and height


def make_variants(source: Path, into: Path) -> Processed:
    """Decode the original at `source` and write every variant into the directory `into`, which exists.

    Files that are already there are overwritten; nothing is synced to disk. Raises ImageRefused when the
    bytes are at fault, OSError when a file cannot be read or written, MemoryError when the process may not
    have more.
    """
    with source.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise ImageRefused(
            f"The file has more than {FILE_BYTES_MAX} bytes, the most that is decoded; send a smaller one."
        )
    original = decode(data)
    del data
    passed_over = list(original.passed_over)
    pictures = _scale_all(original, passed_over)
    # Variants of a small original are one and the same picture: each picture is encoded once.
    distinct = {id(picture): picture for picture in pictures.values()}
    flat = {key: _on_white(picture) for key, picture in distinct.items()}
    encoded = {key: (_webp(picture), _jpeg(flat[key])) for key, picture in distinct.items()}
    variants = tuple(
        _write(into, name, format, picture.size, data)
        for name, picture in pictures.items()
        for format, data in zip(FORMATS, encoded[id(picture)], strict=True)
    )
    lying = original.orientation in LYING
    return Processed(
        width=original.height if lying else original.width,
        height=original.width if lying else original.height,
        type=original.type.mime,
        placeholder=placeholder(flat[id(pictures[SCALED[0].name])]),
        variants=variants,
        passed_over=tuple(passed_over),
    )


def scaled_size(width: int, height: int, recipe: Recipe) -> tuple[int, int]:
    """The size in pixels of what `recipe` makes of `width` × `height`: never enlarged, never nothing."""
    if recipe.square:
        edge = min(recipe.edge, width, height)
        return edge, edge
    longest = max(width, height)
    if longest <= recipe.edge:
        return width, height
    return max(1, round(width * recipe.edge / longest)), max(1, round(height * recipe.edge / longest))


def placeholder(picture: Image.Image) -> str:
    """The BlurHash of an RGB picture (github.com/woltapp/blurhash, Algorithm.md), the usual 28 characters."""
    width, height = picture.size
    tiny = picture.resize(
        scaled_size(width, height, Recipe("placeholder", PLACEHOLDER_EDGE)), Image.Resampling.BOX
    )
    row_bytes, pixels = 3 * tiny.width, tiny.tobytes()
    rows = [
        [pixels[at : at + 3] for at in range(start, start + row_bytes, 3)]
        for start in range(0, len(pixels), row_bytes)
    ]
    waves = PLACEHOLDER_WAVES if width >= height else PLACEHOLDER_WAVES[::-1]
    return str(blurhash.encode(rows, *waves))


def _scale_all(original: Original, passed_over: list[str]) -> dict[str, Image.Image]:
    """Every recipe's picture, finished, in the order of RECIPES; `passed_over` grows by a useless profile."""
    width, height = original.width, original.height  # as stored: lying down, longest stays longest
    base = original.picture
    scaled: dict[str, Image.Image] = {}
    previous = base
    for recipe in reversed(SCALED):
        size = scaled_size(width, height, recipe)
        if previous is base:
            previous = _finish(_resize(base, size), original, passed_over)
        else:
            previous = _resize(previous, _turned(size, original.orientation))
        scaled[recipe.name] = previous
    edge = scaled_size(width, height, THUMBNAIL)[0]
    wide_enough = [picture for picture in scaled.values() if min(picture.size) >= edge]
    if wide_enough:
        thumbnail = _centre(wide_enough[-1], edge)
    else:  # a panorama: even its largest variant is lower than the thumbnail
        thumbnail = _finish(_centre(base, edge), original, [])
    return {THUMBNAIL.name: thumbnail, **{recipe.name: scaled[recipe.name] for recipe in SCALED}}


def _resize(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    if picture.size == size:
        return picture
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP)


def _centre(picture: Image.Image, edge: int) -> Image.Image:
    """The middle square of the picture, `edge` pixels wide."""
    side = min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    box = (left, top, left + side, top + side)
    if side == edge:
        return picture.crop((int(left), int(top), int(left) + side, int(top) + side))
    return picture.resize((edge, edge), Image.Resampling.LANCZOS, box=box, reducing_gap=REDUCING_GAP)


def _turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return (size[1], size[0]) if orientation in LYING else size


def _finish(picture: Image.Image, original: Original, passed_over: list[str]) -> Image.Image:
    """The reduced picture upright, in sRGB, RGB or (where something shows through) RGBA, nothing attached."""
    alpha = picture.getchannel("A") if picture.mode in ("LA", "RGBA") else None
    colours = picture.convert(picture.mode[:-1]) if alpha is not None else picture
    colours = _to_srgb(colours, original.profile, passed_over)
    if alpha is not None and alpha.getextrema() != (255, 255):
        colours.putalpha(alpha)
    if original.orientation in UPRIGHT_BY:
        colours = colours.transpose(UPRIGHT_BY[original.orientation])
    colours.info = {}  # encoders write what they find here: comments, EXIF, resolution
    return colours


def _to_srgb(picture: Image.Image, profile: bytes, passed_over: list[str]) -> Image.Image:
    """An L, RGB or CMYK picture in sRGB; without a profile that fits it is taken to be sRGB already."""
    if not profile:
        return picture.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = str(source.profile.xcolor_space).strip()
        if space == "RGB" and picture.mode == "L":
            picture = picture.convert("RGB")
        if {"GRAY": "L"}.get(space, space) != picture.mode:
            passed_over.append(f"a colour profile for {space[:8]} in a picture of mode {picture.mode}")
            return picture.convert("RGB")
        converted = ImageCms.profileToProfile(
            picture,
            source,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        passed_over.append(f"an unusable colour profile: {str(error)[:80]}")
        return picture.convert("RGB")
    if converted is None:
        raise RuntimeError("the colour transform returned nothing")
    return converted


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    page = Image.new("RGB", picture.size, WHITE)
    page.paste(picture, mask=picture.getchannel("A"))
    return page


def _webp(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "WEBP", quality=WEBP_QUALITY, method=WEBP_METHOD)
    return buffer.getvalue()


def _jpeg(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def _write(into: Path, name: str, format: Format, size: tuple[int, int], data: bytes) -> VariantFile:
    path = variant_path(into, name, format)
    path.write_bytes(data)
    return VariantFile(name, format, *size, path, len(data), blake3(data).digest())
