"""From the bytes of an original to pixels, or a refusal that says what is wrong with them.

Runs in the worker process only: it imports codecs, and what they are fed is hostile. Everything that can be
known from the headers is checked before a pixel is decoded. A JPEG is decoded at half, quarter or eighth size
where that is still enough for the largest variant; other codecs know no such step.
"""

import math
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO

import msgspec
from PIL import Image, ImageFile, UnidentifiedImageError

from node.media.probe import AVIF, GIF, HEIC, JPEG, PNG, SNIFF_BYTES, WEBP, WHAT_WE_TAKE, MediaType, sniff
from node.media.recipes import SCALED, THUMBNAIL, ImageRefused

PIXELS_MAX = 50_000_000  # the published bound; the worker's memory limit is made for it
BLOCK_PIXELS = 64  # HEVC and AV1 code whole blocks, at most this wide, and crop what is over
FRAMES_MAX = 1_000  # an animation of a minute or so; only the first frame is used
SCANS_MAX = 100  # of a progressive JPEG; encoders write about ten, and each goes over all its pixels again
FILE_BYTES_MAX = 64 * 1024 * 1024  # read whole into memory; the upload limit is far lower

ISPE = b"\x00\x00\x00\x14ispe\x00\x00\x00\x00"  # box of 20 bytes, version 0; width and height follow
ORIENTATION_TAG = 0x0112  # EXIF 2.32, §4.6.4
UPRIGHT = 1
EIGHT_OF_SIXTEEN_BITS = 255 / 65_535
DECODING_THREADS = 1  # CPU is counted per job, and each thread takes address space from the worker's limit

# What Pillow, its plugins and the codecs are known to raise when the bytes are wrong. MemoryError is not
# among them.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

# Pillow fails above twice this figure, for some formats before they allocate anything, and warns above it. It
# also warns of odd metadata, which concerns nobody here.
Image.MAX_IMAGE_PIXELS = PIXELS_MAX // 2
warnings.filterwarnings("ignore", module=r"PIL\.")
if ImageFile.LOAD_TRUNCATED_IMAGES:
    raise RuntimeError("LOAD_TRUNCATED_IMAGES is set: a truncated image would pass for a whole one")


class Original(msgspec.Struct, frozen=True):
    """A decoded original, not upright yet and in its own colours.

    `picture` is in mode L, LA, RGB, RGBA or CMYK. It may be smaller than `width` × `height` (those of the
    original as stored, in pixels), never smaller than the variants need. `orientation` is one of EXIF's
    eight, `profile` the ICC profile, empty when there is none. `passed_over` names what was unreadable and
    could be done without.
    """

    type: MediaType
    picture: Image.Image
    width: int
    height: int
    orientation: int
    profile: bytes
    passed_over: tuple[str, ...]


def decode(data: bytes) -> Original:
    """Decode the first frame of `data`. Raises ImageRefused; MemoryError if the process may not have more."""
    kind = sniff(data[:SNIFF_BYTES])
    if kind is None:
        raise ImageRefused(_not_a_picture(data))
    _check_structure(kind, data)
    picture = _open(kind, data)
    width, height = picture.size
    _check_header(kind, picture)
    try:
        if kind is JPEG:
            picture.draft(None, enough(width, height))
        picture.load()
        plain = _plain(picture)
    except DECODER_ERRORS as error:
        raise _refusal(kind, error) from error
    if kind is not JPEG and picture.size != (width, height):
        # A HEIC container may promise one size, which was checked, and its codec deliver another.
        raise ImageRefused(
            f"This {kind.name} image says it has {width} × {height} pixels and has "
            f"{picture.size[0]} × {picture.size[1]}; export it again."
        )
    # After the pixels: a PNG may carry its EXIF behind them.
    orientation, passed_over = _orientation(picture)
    profile = picture.info.get("icc_profile")
    return Original(
        kind, plain, width, height, orientation, profile if isinstance(profile, bytes) else b"", passed_over
    )


def enough(width: int, height: int) -> tuple[int, int]:
    """The least size, in pixels, from which every variant of a `width` × `height` original can be made."""
    longest, shortest = max(width, height), min(width, height)
    factor = min(1.0, max(SCALED[-1].edge / longest, THUMBNAIL.edge / shortest))
    return math.ceil(width * factor), math.ceil(height * factor)


def _plain(picture: Image.Image) -> Image.Image:
    """The picture in L, LA, RGB, RGBA or CMYK: modes in which pixels may be mixed when they are scaled."""
    if picture.mode in ("1", "L", "RGB", "P", "PA") and picture.has_transparency_data:
        return picture.convert("RGBA")
    if picture.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return picture
    if picture.mode.startswith("I;16"):  # converting alone would clip all above 255 to white
        return picture.point(lambda level: level * EIGHT_OF_SIXTEEN_BITS + 0.5).convert("L")
    if picture.mode == "1":
        return picture.convert("L")
    return picture.convert("RGB")


def count_gif_frames(data: bytes, at_most: int) -> int:
    """The number of image blocks in a GIF, counting no further than `at_most`; decodes nothing (GIF89a,
    §18-§26).

    Stops without complaint where the blocks end or make no sense: the decoder judges that.
    """
    frames, at = 0, 13 + _colour_table_bytes(data[10:11])
    while frames < at_most and at < len(data):
        introducer = data[at]
        if introducer == 0x2C:
            frames += 1
            at += 10 + _colour_table_bytes(data[at + 9 : at + 10]) + 1
        elif introducer == 0x21:
            at += 2
        else:
            break
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return frames


def coded_too_large(data: bytes) -> bool:
    """Whether a HEIC or AVIF file signals an image that is too large to decode, cropped to however little.

    Looks at every "ispe" box, which gives a size before rotation and cropping (ISO/IEC 23008-12, §6.5.3).
    """
    at = data.find(ISPE)
    while at >= 0:
        size = data[at + len(ISPE) : at + len(ISPE) + 8]
        width, height = int.from_bytes(size[:4], "big"), int.from_bytes(size[4:], "big")
        if max(0, width - BLOCK_PIXELS + 1) * max(0, height - BLOCK_PIXELS + 1) > PIXELS_MAX:
            return True
        at = data.find(ISPE, at + len(ISPE))
    return False


def _colour_table_bytes(flags: bytes) -> int:
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # neither a stuffed byte nor a restart


def count_jpeg_scans(data: bytes, most: int) -> int:
    """Scans of the picture itself, counted up to `most` (ITU T.81, annex B): not what its metadata or a film
    behind it (motion photos) happen to contain."""
    at, scans = 2, 0
    while scans < most and at + 4 <= len(data):
        if data[at] != 0xFF:  # decoders skip what stands between segments, so the count must
            found = _MARKER_IN_SCAN.search(data, at)
            if found is None:
                break
            at = found.start()
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0xD9:  # the end of the image
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # without a length
            at += 2
            continue
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            scans += 1
            found = _MARKER_IN_SCAN.search(data, at)
            if found is None:
                break
            at = found.start()
    return scans


def _check_structure(kind: MediaType, data: bytes) -> None:
    """What can be told from the bytes without a codec, and what no codec checks."""
    if kind is GIF and count_gif_frames(data, FRAMES_MAX + 1) > FRAMES_MAX:
        raise ImageRefused(_too_many_frames(kind))
    if kind is JPEG and count_jpeg_scans(data, SCANS_MAX + 1) > SCANS_MAX:
        raise ImageRefused(
            f"This JPEG image has more than {SCANS_MAX} scans, which no camera writes; "
            "save it again as a plain JPEG."
        )
    if kind in (AVIF, HEIC) and coded_too_large(data):
        raise ImageRefused(_too_many_pixels(kind))
    if kind is PNG:
        # The decoder passes over checksums of pixel data and does not miss the end; a second, cheap look does
        # not.
        try:
            Image.open(BytesIO(data), formats=["PNG"]).verify()
        except DECODER_ERRORS as error:
            raise _refusal(kind, error) from error


def _open(kind: MediaType, data: bytes) -> Image.Image:
    try:
        return OPENERS[kind](BytesIO(data))
    except DECODER_ERRORS as error:
        raise _refusal(kind, error) from error


def _check_header(kind: MediaType, picture: Image.Image) -> None:
    width, height = picture.size
    if width < 1 or height < 1:
        raise ImageRefused(f"This {kind.name} image is {width} × {height} pixels; it must have at least one.")
    if width * height > PIXELS_MAX:
        raise ImageRefused(_too_many_pixels(kind))
    if kind is not GIF and getattr(picture, "n_frames", 1) > FRAMES_MAX:
        raise ImageRefused(_too_many_frames(kind))


def _orientation(picture: Image.Image) -> tuple[int, tuple[str, ...]]:
    """The EXIF (or XMP) orientation and what could not be read; an unreadable one counts as upright."""
    try:
        value = picture.getexif().get(ORIENTATION_TAG, UPRIGHT)
    except DECODER_ERRORS as error:
        return UPRIGHT, (f"unreadable EXIF: {type(error).__name__}",)
    if isinstance(value, int) and 1 <= value <= 8:
        return value, ()
    return UPRIGHT, (f"EXIF orientation {str(value)[:20]} is not one of 1 to 8",)


def _open_avif(file: BytesIO) -> Image.Image:
    from PIL import AvifImagePlugin

    AvifImagePlugin.DEFAULT_MAX_THREADS = DECODING_THREADS
    return Image.open(file, formats=["AVIF"])


def _open_webp(file: BytesIO) -> Image.Image:
    from PIL import WebPImagePlugin  # noqa: F401  (registers itself)

    return Image.open(file, formats=["WEBP"])


def _open_heic(file: BytesIO) -> Image.Image:
    """Upright already: libheif carries out the container's rotation, and the plugin resets the EXIF
    orientation."""
    import pillow_heif

    pillow_heif.register_heif_opener(
        decode_threads=DECODING_THREADS, thumbnails=False, depth_images=False, aux_images=False
    )
    return Image.open(file, formats=["HEIF"])


OPENERS: dict[MediaType, Callable[[BytesIO], Image.Image]] = {
    JPEG: lambda file: Image.open(file, formats=["JPEG"]),
    PNG: lambda file: Image.open(file, formats=["PNG"]),
    GIF: lambda file: Image.open(file, formats=["GIF"]),
    WEBP: _open_webp,
    AVIF: _open_avif,
    HEIC: _open_heic,
}


def _not_a_picture(data: bytes) -> str:
    if not data:
        return f"The file is empty; send a {WHAT_WE_TAKE} image."
    return f"The content is not an image of a kind we take, whatever its name; send {WHAT_WE_TAKE}."


def _refusal(kind: MediaType, error: Exception) -> ImageRefused:
    """What a codec's error means for the one who sent the bytes. Raises MemoryError if it means our limit."""
    if isinstance(error, Image.DecompressionBombError):
        return ImageRefused(_too_many_pixels(kind))
    if isinstance(error, UnidentifiedImageError):
        said = "its header makes no sense"  # the error's own words name an object in memory
    else:
        said = str(error).split("\n")[0][:120] or type(error).__name__
    if "memory" in said.lower() and "security limit" not in said.lower():
        raise MemoryError(said) from error
    return ImageRefused(
        f"This {kind.name} image is damaged or cut short ({said}); send the whole original again."
    )


def _too_many_pixels(kind: MediaType) -> str:
    return (
        f"This {kind.name} image has more than {PIXELS_MAX // 1_000_000} megapixels, "
        "the most that is taken; send a smaller one."
    )


def _too_many_frames(kind: MediaType) -> str:
    return (
        f"This {kind.name} image has more than {FRAMES_MAX} frames, the most that is taken; "
        "send a shorter one or a still picture."
    )
