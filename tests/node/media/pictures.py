"""Pictures made with code: what the tests and the fuzzer feed to the codecs, the good and the bad."""

import functools
import random
import struct
import zlib
from io import BytesIO

import pillow_heif
from PIL import Image, ImageCms

pillow_heif.register_heif_opener()

FORMATS = {
    "jpeg": ("JPEG", "image/jpeg"),
    "png": ("PNG", "image/png"),
    "webp": ("WEBP", "image/webp"),
    "avif": ("AVIF", "image/avif"),
    "gif": ("GIF", "image/gif"),
    "heic": ("HEIF", "image/heic"),
}
MIMES = {name: mime for name, (_, mime) in FORMATS.items()}

RED, GREEN, BLUE, YELLOW = (200, 40, 40), (40, 180, 60), (40, 60, 200), (220, 200, 40)
CORNERS = ((0.25, 0.25, RED), (0.75, 0.25, GREEN), (0.25, 0.75, BLUE), (0.75, 0.75, YELLOW))

EXIF_ORIENTATION = 0x0112
# What a camera held that way stores: the inverse of what a viewer does (EXIF 2.32, §4.6.4).
STORED_AS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def corners(width=480, height=320):
    """Four colours, one in each quarter: tells every orientation from every other."""
    picture = Image.new("RGB", (width, height))
    for x, y, colour in CORNERS:
        picture.paste(colour, (int((x - 0.25) * width), int((y - 0.25) * height), width, height))
        if x > 0.5 and y < 0.5:
            picture.paste(colour, (width // 2, 0, width, height // 2))
        if x < 0.5 and y > 0.5:
            picture.paste(colour, (0, height // 2, width // 2, height))
    return picture


def photo(width, height, seed=1):
    """What costs a codec as much as a photograph does: soft shapes, detail, noise."""
    chance = random.Random(seed)
    soft = Image.frombytes("RGB", (40, 30), chance.randbytes(3_600)).resize((width, height), 3)
    detail = Image.frombytes("RGB", (400, 300), chance.randbytes(360_000)).resize((width, height), 3)
    noise = Image.frombytes("L", (width, height), chance.randbytes(width * height)).convert("RGB")
    return Image.blend(Image.blend(soft, detail, 0.25), noise, 0.05)


def encode(picture, name, **options):
    """The bytes of the picture in the format `name` of FORMATS."""
    file = BytesIO()
    if name == "avif":
        options = {"speed": 10, "max_threads": 1} | options
    if name == "heic":
        options = {"enc_params": {"preset": "ultrafast"}} | options
    picture.save(file, FORMATS[name][0], **options)
    return file.getvalue()


@functools.cache
def sample(name, width=203, height=151):
    """A whole, good file in the format `name`."""
    return encode(photo(width, height), name)


def oriented(picture, orientation, name):
    """A file that shows `picture` to who heeds its orientation."""
    stored = picture if STORED_AS[orientation] is None else picture.transpose(STORED_AS[orientation])
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return encode(stored, name, exif=exif.tobytes())


def srgb_with(**swapped):
    """The sRGB profile with tags in the place of others: rXYZ="gXYZ", gXYZ="rXYZ" swaps red and green."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">I", profile, 128)[0]
    entries = {}
    for at in range(132, 132 + 12 * count, 12):
        entries[bytes(profile[at : at + 4]).decode()] = (at, bytes(profile[at + 4 : at + 12]))
    for tag, other in swapped.items():
        at, where = entries[tag][0], entries[other][1]
        profile[at + 4 : at + 12] = where
    return bytes(profile)


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_bomb(width, height):
    """A real PNG of black 1-bit pixels: a thousandth of a byte per pixel."""
    rows = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    packed = b"".join(rows.compress(row) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", packed)
        + png_chunk(b"IEND", b"")
    )


def claims(name, width, height):
    """A small file whose header claims `width` × `height` pixels (WebP: at most 16,383 each)."""
    data = bytearray(sample(name))
    if name == "jpeg":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    elif name == "png":
        header = struct.pack(">II", width, height) + data[24:29]
        data[8:33] = png_chunk(b"IHDR", bytes(header))
    elif name == "webp":
        struct.pack_into("<HH", data, data.index(b"\x9d\x01\x2a") + 3, width, height)
    elif name == "gif":
        struct.pack_into("<HH", data, 6, width, height)
    else:  # every "ispe" box: image spatial extents
        at = data.find(b"ispe")
        while at >= 0:
            struct.pack_into(">II", data, at + 8, width, height)
            at = data.find(b"ispe", at + 4)
    return bytes(data)


def gif_of(frames):
    """A GIF with that many frames of one pixel, eighteen bytes each."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes((0, 0, 0, 255, 255, 255))
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * frames + b"\x3b"


def animated(name, frames):
    """An animation of flat frames of 16 × 16 pixels, no two alike."""
    pictures = [
        Image.new("RGB", (16, 16), (index % 256, index // 256, 255 * (index % 2))) for index in range(frames)
    ]
    return encode(pictures[0], name, save_all=True, append_images=pictures[1:], duration=20)


def progressive_with_scans(picture, repeats):
    """A progressive JPEG with its last scan `repeats` times: each is a pass over the whole picture."""
    data = encode(picture, "jpeg", progressive=True, quality=50)
    start = data.rindex(b"\xff\xda")
    scan = data[start:-2]
    tables = data.rindex(b"\xff\xc4", 0, start)
    return data[:tables] + data[tables:start] + scan * repeats + data[-2:]
