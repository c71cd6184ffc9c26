"""Variants by their pixels: size, crop, orientation, colour, transparency; and nothing else is in them."""

import random
import struct
import zlib
from io import BytesIO

import blurhash
import pytest
from blake3 import blake3
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from node.media.recipes import FORMATS as VARIANT_FORMATS
from node.media.recipes import RECIPES, ImageRefused, Recipe, variant_paths
from node.media.variants import make_variants, placeholder, scaled_size
from tests.node.media.pictures import (
    CORNERS,
    FORMATS,
    GREEN,
    MIMES,
    RED,
    STORED_AS,
    corners,
    encode,
    oriented,
    photo,
    png_chunk,
    sample,
    srgb_with,
)

NEAR = 22  # of 255: what lossy codecs and colour conversions may be off in a flat area


@pytest.fixture
def make(tmp_path):
    """make(data) -> (Processed, picture(name, format))."""

    def run(data):
        source, into = tmp_path / "original", tmp_path / "variants"
        source.write_bytes(data)
        into.mkdir(exist_ok=True)
        processed = make_variants(source, into)

        def picture(name, format="webp"):
            found = next(v for v in processed.variants if (v.name, v.format) == (name, format))
            return Image.open(found.path)

        return processed, picture

    return run


def near(found, wanted, by=NEAR):
    return len(found) == len(wanted) and all(abs(a - b) <= by for a, b in zip(found, wanted, strict=True))


def colour_at(picture, x, y):
    return picture.convert("RGB").getpixel((int(x * picture.width), int(y * picture.height)))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_every_variant_as_it_says(make, name, tmp_path):
    processed, picture = make(encode(photo(1300, 900), name))
    assert (processed.width, processed.height, processed.type) == (1300, 900, MIMES[name])
    assert [(v.name, v.format) for v in processed.variants] == [
        (recipe.name, format) for recipe in RECIPES for format in VARIANT_FORMATS
    ]
    sizes = {"thumbnail": (150, 150), "small": (320, 222), "medium": (640, 443), "large": (1080, 748)}
    for variant in processed.variants:
        data = variant.path.read_bytes()
        assert variant.size == len(data)
        assert variant.digest == blake3(data).digest()
        opened = picture(variant.name, variant.format)
        assert opened.size == (variant.width, variant.height) == sizes[variant.name]
        assert opened.format == variant.format.upper()
        opened.load()
    assert set((tmp_path / "variants").iterdir()) == set(variant_paths(tmp_path / "variants"))


@pytest.mark.parametrize(
    ("original", "recipe", "size"),
    [
        ((4000, 3000), Recipe("large", 1080), (1080, 810)),
        ((3000, 4000), Recipe("large", 1080), (810, 1080)),
        ((1080, 10), Recipe("large", 1080), (1080, 10)),
        ((100, 50), Recipe("small", 320), (100, 50)),
        ((50_000, 1), Recipe("small", 320), (320, 1)),
        ((4000, 3000), Recipe("thumbnail", 150, square=True), (150, 150)),
        ((4000, 100), Recipe("thumbnail", 150, square=True), (100, 100)),
        ((1, 1), Recipe("thumbnail", 150, square=True), (1, 1)),
    ],
)
def test_sizes_are_never_enlarged_and_never_nothing(original, recipe, size):
    assert scaled_size(*original, recipe) == size
    assert scaled_size(*original[::-1], recipe) == size[::-1]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (40, 30), (149, 151), (1, 2000), (3000, 20), (9000, 60)])
def test_odd_sizes_are_taken(make, size):
    processed, picture = make(encode(Image.new("RGB", size, GREEN), "png"))
    for recipe in RECIPES:
        made = picture(recipe.name, "jpeg")
        assert made.size == scaled_size(*size, recipe)
        assert near(colour_at(made, 0.5, 0.5), GREEN)
    assert (processed.width, processed.height) == size


def test_a_small_original_has_its_own_size_in_every_variant(make):
    processed, _ = make(encode(photo(90, 60), "png"))
    assert {(v.width, v.height) for v in processed.variants if v.name != "thumbnail"} == {(90, 60)}
    assert len({v.digest for v in processed.variants}) == 4  # thumbnail and the rest, in two formats


def test_pure_noise_at_full_size_is_encoded(make):
    noise = Image.frombytes("RGB", (1080, 1080), random.Random(5).randbytes(1080 * 1080 * 3))
    processed, _ = make(encode(noise, "png"))
    assert max(v.size for v in processed.variants) > 500_000


def test_of_a_multi_picture_jpeg_the_first_is_taken(make):
    file = BytesIO()
    corners(1600, 1200).save(
        file, "MPO", save_all=True, append_images=[Image.new("RGB", (1600, 1200), GREEN)]
    )
    processed, picture = make(file.getvalue())
    assert processed.type == "image/jpeg"
    assert all(near(colour_at(picture("large"), x, y), colour) for x, y, colour in CORNERS)


def test_the_thumbnail_is_the_centre(make):
    wide = Image.new("RGB", (900, 300), RED)
    wide.paste(GREEN, (300, 0, 600, 300))
    for data in (encode(wide, "png"), encode(wide.transpose(Image.Transpose.ROTATE_90), "png")):
        _, picture = make(data)
        for x, y in ((0.03, 0.03), (0.97, 0.03), (0.03, 0.97), (0.97, 0.97)):
            assert near(colour_at(picture("thumbnail"), x, y), GREEN)


def test_the_thumbnail_of_a_panorama_is_sharp_and_central(make):
    wide = Image.new("RGB", (9000, 300), RED)
    wide.paste(GREEN, (4350, 0, 4650, 300))
    _, picture = make(encode(wide, "jpeg"))
    assert picture("thumbnail").size == (150, 150)
    assert near(colour_at(picture("thumbnail"), 0.03, 0.5), GREEN)
    assert near(colour_at(picture("thumbnail"), 0.97, 0.5), GREEN)


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "avif", "heic"])
@pytest.mark.parametrize("orientation", STORED_AS)
def test_every_orientation_comes_out_upright(make, name, orientation):
    processed, picture = make(oriented(corners(), orientation, name))
    assert (processed.width, processed.height) == (480, 320)
    for variant in ("small", "large", "thumbnail"):
        for format in VARIANT_FORMATS:
            made = picture(variant, format)
            assert made.width == made.height or made.width > made.height
            for x, y, colour in CORNERS:
                assert near(colour_at(made, x, y), colour), (variant, format, x, y)


def test_a_large_rotated_photograph_is_upright(make):
    processed, picture = make(oriented(corners(3000, 2000), 6, "jpeg"))
    assert (processed.width, processed.height) == (3000, 2000)
    assert picture("large").size == (1080, 720)
    assert all(near(colour_at(picture("large"), x, y), colour) for x, y, colour in CORNERS)


def test_the_orientation_of_a_panorama_holds_in_its_thumbnail(make):
    wide = Image.new("RGB", (6000, 120), RED)
    wide.paste(GREEN, (0, 60, 6000, 120))
    _, picture = make(oriented(wide, 6, "png"))
    assert near(colour_at(picture("thumbnail"), 0.5, 0.2), RED)
    assert near(colour_at(picture("thumbnail"), 0.5, 0.8), GREEN)


def test_cmyk_becomes_rgb(make):
    _, picture = make(encode(corners().convert("CMYK"), "jpeg", quality=95))
    for format in VARIANT_FORMATS:
        assert picture("small", format).mode == "RGB"
        assert all(near(colour_at(picture("small", format), x, y), colour) for x, y, colour in CORNERS)


def test_sixteen_bits_of_grey_keep_their_tones(make):
    ramp = b"".join(struct.pack("<H", column * 65_535 // 399) for column in range(400)) * 200
    _, picture = make(encode(Image.frombytes("I;16", (400, 200), ramp), "png"))
    for x in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert near(colour_at(picture("large"), x, 0.5), (255 * x,) * 3, by=6)


def test_sixteen_bits_of_colour_keep_their_colours(make):
    pixel = struct.pack(">HHH", RED[0] * 257, RED[1] * 257, RED[2] * 257)
    rows = zlib.compress(b"".join(b"\0" + pixel * 300 for _ in range(200)))
    header = struct.pack(">IIBBBBB", 300, 200, 16, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
    )
    _, picture = make(data)
    assert near(colour_at(picture("small"), 0.5, 0.5), RED, by=6)


@pytest.mark.parametrize("name", ["png", "gif"])
def test_a_palette_becomes_rgb(make, name):
    _, picture = make(encode(corners().quantize(4), name))
    assert picture("small").mode == "RGB"
    assert all(near(colour_at(picture("small"), x, y), colour) for x, y, colour in CORNERS)


@pytest.mark.parametrize("mode", ["1", "L"])
def test_black_and_white_and_grey_become_rgb(make, mode):
    half = Image.new(mode, (400, 200), 255)
    half.paste(0, (0, 0, 200, 200))
    _, picture = make(encode(half, "png"))
    assert near(colour_at(picture("small"), 0.25, 0.5), (0, 0, 0), by=8)
    assert near(colour_at(picture("small"), 0.75, 0.5), (255, 255, 255), by=8)


def left_half_clear(mode="RGBA"):
    picture = Image.new("RGBA", (400, 200), (*RED, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 200, 200))
    return picture.convert(mode)


@pytest.mark.parametrize("name", ["png", "webp", "avif", "heic"])
def test_transparency_stays_in_webp_and_is_white_in_jpeg(make, name):
    _, picture = make(encode(left_half_clear(), name))
    for variant in ("large", "thumbnail"):
        kept = picture(variant, "webp").convert("RGBA")
        assert kept.getpixel((kept.width // 5, 50))[3] < 10
        assert near(kept.getpixel((kept.width * 4 // 5, 50)), (*RED, 255))
        assert near(colour_at(picture(variant, "jpeg"), 0.2, 0.5), (255, 255, 255), by=6)
        assert near(colour_at(picture(variant, "jpeg"), 0.8, 0.5), RED)


def test_the_edge_of_transparency_has_no_dark_fringe(make):
    white = Image.new("RGBA", (400, 200), (255, 255, 255, 255))
    white.paste((0, 0, 0, 0), (0, 0, 200, 200))
    _, picture = make(encode(white, "png"))
    small = picture("small", "jpeg").convert("L")
    assert small.getextrema()[0] > 245


@pytest.mark.parametrize("name", ["png", "gif"])
def test_a_clear_colour_of_a_palette_is_clear(make, name):
    paletted = left_half_clear("RGB").quantize(2)
    clear = paletted.getpixel((10, 10))
    _, picture = make(encode(paletted, name, transparency=clear))
    assert picture("small", "webp").convert("RGBA").getpixel((50, 50))[3] < 10
    assert near(colour_at(picture("small", "jpeg"), 0.2, 0.5), (255, 255, 255), by=6)


def test_opaque_alpha_is_dropped(make):
    _, picture = make(encode(corners().convert("RGBA"), "png"))
    assert picture("large", "webp").mode == "RGB"


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "avif", "heic"])
def test_colours_are_converted_by_their_profile(make, name):
    swapped = srgb_with(rXYZ="gXYZ", gXYZ="rXYZ")
    processed, picture = make(encode(corners(), name, icc_profile=swapped))
    assert processed.passed_over == ()
    for format in VARIANT_FORMATS:
        for x, y, (red, green, blue) in CORNERS:
            assert near(colour_at(picture("large", format), x, y), (green, red, blue))


def test_a_profile_holds_under_transparency_and_in_a_palette(make):
    swapped = srgb_with(rXYZ="gXYZ", gXYZ="rXYZ")
    _, picture = make(encode(left_half_clear(), "png", icc_profile=swapped))
    assert near(colour_at(picture("large", "jpeg"), 0.8, 0.5), (RED[1], RED[0], RED[2]))
    assert near(colour_at(picture("large", "jpeg"), 0.2, 0.5), (255, 255, 255), by=6)
    _, picture = make(encode(corners().quantize(4), "png", icc_profile=swapped))
    assert near(colour_at(picture("large"), 0.25, 0.25), (RED[1], RED[0], RED[2]))


def test_a_wide_gamut_becomes_srgb(make):
    """Display P3 has sRGB's curve and these colorants (adapted to D50): its figures mean stronger colours."""
    profile = bytearray(srgb_with())
    colorants = {
        b"rXYZ": (0.5151, 0.2412, -0.0011),
        b"gXYZ": (0.2919, 0.6922, 0.0419),
        b"bXYZ": (0.1572, 0.0666, 0.7841),
    }
    for at in range(132, 132 + 12 * struct.unpack_from(">I", profile, 128)[0], 12):
        if bytes(profile[at : at + 4]) in colorants:
            values = colorants[bytes(profile[at : at + 4])]
            offset = struct.unpack_from(">I", profile, at + 4)[0] + 8
            struct.pack_into(">iii", profile, offset, *(round(value * 65_536) for value in values))
    wide = Image.new("RGB", (300, 200), (180, 100, 100))
    _, picture = make(encode(wide, "png", icc_profile=bytes(profile)))
    # By the matrices of IEC 61966-2-1 and SMPTE EG 432-1: Display P3 (180, 100, 100) is sRGB (193, 97, 97).
    assert near(colour_at(picture("small"), 0.5, 0.5), (193, 96, 98), by=4)


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        ("RGB", b"this is no profile at all"),
        ("RGB", b""),
        ("CMYK", srgb_with()),
        ("RGB", srgb_with()[:400]),
    ],
)
def test_a_useless_profile_is_passed_over_and_named(make, mode, profile):
    processed, picture = make(encode(corners().convert(mode), "jpeg", icc_profile=profile, quality=95))
    assert len(processed.passed_over) == bool(profile)
    assert all(near(colour_at(picture("small"), x, y), colour) for x, y, colour in CORNERS)


def jpeg_segments(data):
    """The markers before the pixels, in order."""
    at, markers = 2, []
    while data[at + 1] != 0xDA:
        markers.append(data[at + 1])
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return markers


def webp_chunks(data):
    at, names = 12, []
    while at < len(data):
        names.append(data[at : at + 4])
        size = struct.unpack_from("<I", data, at + 4)[0]
        at += 8 + size + size % 2
    return names


SECRET = "51.4779N 0.0015W by J. Doe"
XMP = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a photoshop:City="{SECRET}"/></x:xmpmeta>'.encode()


def with_metadata(name, picture):
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = SECRET
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2], gps[3], gps[4] = "N", (51.0, 28.0, 40.0), "W", (0.0, 0.0, 5.0)
    options = {"exif": exif.tobytes(), "icc_profile": srgb_with()}
    if name == "png":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_text("Comment", SECRET)
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    elif name == "gif":
        options = {"comment": SECRET.encode()}
    else:
        options["xmp"] = XMP
    if name == "jpeg":
        options |= {"comment": SECRET.encode(), "dpi": (301, 301)}
    return encode(picture, name, **options)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("alpha", [False, True])
def test_no_variant_carries_metadata(make, name, alpha):
    picture = left_half_clear() if alpha and name not in ("jpeg", "gif") else corners()
    data = with_metadata(name, picture)
    assert SECRET.encode() in data
    processed, _ = make(data)
    for variant in processed.variants:
        made = variant.path.read_bytes()
        for trace in (SECRET.encode(), b"Exif", b"xmp", b"Photoshop", b"ICC_PROFILE", b"ICCP", b"Doe"):
            assert trace.lower() not in made.lower()[:2000]
        assert SECRET.encode() not in made
        if variant.format == "jpeg":
            assert set(jpeg_segments(made)) <= {0xE0, 0xDB, 0xC0, 0xC4}
            assert made[11:18] == b"\x01\x01\x00\x00\x01\x00\x01"  # JFIF 1.1, no resolution
        else:
            assert set(webp_chunks(made)) <= {b"VP8 ", b"VP8X", b"ALPH"}
        opened = Image.open(BytesIO(made))
        assert not opened.getexif()
        assert not {"exif", "xmp", "icc_profile", "comment"} & set(opened.info)


def test_a_profile_in_grey_is_used(make):
    """A grey profile of linear light: its middle is far brighter on a screen."""
    curve = b"curv" + bytes(4) + struct.pack(">I", 0) + bytes(0)
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63_190, 65_536, 54_061)
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"grey\0" + bytes(4 + 4 + 2 + 1 + 67)
    blocks, entries, at = b"", b"", 132 + 12 * 3
    for tag, body in ((b"kTRC", curve), (b"wtpt", white), (b"desc", text)):
        body += bytes(-len(body) % 4)
        entries += tag + struct.pack(">II", at, len(body))
        blocks += body
        at += len(body)
    head = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()[:128])
    head[16:20] = b"GRAY"
    head[8:12] = b"\x02\x10\x00\x00"
    struct.pack_into(">I", head, 0, 132 + len(entries) + len(blocks))
    profile = bytes(head) + struct.pack(">I", 3) + entries + blocks
    processed, picture = make(encode(Image.new("L", (300, 200), 128), "png", icc_profile=profile))
    assert processed.passed_over == ()
    assert near(colour_at(picture("small"), 0.5, 0.5), (188, 188, 188), by=4)


def test_the_placeholder_shows_where_the_colours_are(make):
    processed, _ = make(encode(corners(), "jpeg"))
    assert len(processed.placeholder) == 28
    shown = blurhash.decode(processed.placeholder, 16, 16)
    assert shown[2][2][0] > shown[2][2][2]
    assert shown[13][2][2] > shown[13][2][0]


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (32, 32)])
def test_the_placeholder_takes_any_size(size):
    assert len(placeholder(Image.new("RGB", size, RED))) == 28


def test_one_file_is_what_it_says_and_refused_if_it_is_not(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"<html>hello</html>")
    with pytest.raises(ImageRefused):
        make_variants(tmp_path / "photo.jpg", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]
    (tmp_path / "page.html").write_bytes(sample("jpeg"))
    assert make_variants(tmp_path / "page.html", tmp_path).type == "image/jpeg"
