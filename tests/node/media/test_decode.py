"""Bad images: each is refused with a reason for people, before it costs anything."""

import random
import time
from io import BytesIO
from zipfile import ZipFile

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from node.media.decode import (
    FRAMES_MAX,
    PIXELS_MAX,
    SCANS_MAX,
    count_gif_frames,
    count_jpeg_scans,
    decode,
    enough,
)
from node.media.recipes import ImageRefused
from tests.node.media.pictures import (
    FORMATS,
    animated,
    claims,
    encode,
    gif_of,
    photo,
    png_bomb,
    progressive_with_scans,
    sample,
)

# The worker silences these; pytest turns them on again.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def zip_file():
    file = BytesIO()
    with ZipFile(file, "w") as archive:
        archive.writestr("photo.jpg", b"not a photograph")
    return file.getvalue()


@pytest.mark.parametrize("name", FORMATS)
def test_whole_samples_decode(name):
    original = decode(sample(name))
    assert (original.width, original.height) == (203, 151)
    assert original.passed_over == ()


@pytest.mark.parametrize(
    "data", [b"<!DOCTYPE html><html><body>photo.jpg</body></html>", zip_file(), b"\x00" * 1000, b"\xff\xd8"]
)
def test_what_is_no_image_is_refused_whatever_its_name(data):
    with pytest.raises(ImageRefused, match=r"not an image of a kind we take.*send JPEG, PNG"):
        decode(data)


def test_an_empty_file_is_refused():
    with pytest.raises(ImageRefused, match="empty"):
        decode(b"")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("part", [0.03, 0.2, 0.5, 0.9, 0.99])
def test_a_truncated_image_is_refused(name, part):
    whole = sample(name)
    with pytest.raises(ImageRefused, match="damaged or cut short"):
        decode(whole[: int(len(whole) * part)])


@pytest.mark.parametrize("name", FORMATS)
def test_a_head_without_a_body_is_refused(name):
    with pytest.raises(ImageRefused, match="damaged or cut short"):
        decode(sample(name)[:32])


@pytest.mark.parametrize("name", FORMATS)
def test_a_head_with_garbage_behind_it_is_refused(name):
    with pytest.raises(ImageRefused, match="damaged or cut short"):
        decode(sample(name)[:32] + random.Random(7).randbytes(20_000))


def test_a_flipped_bit_in_the_pixels_of_a_png_is_found():
    data = bytearray(sample("png"))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(ImageRefused, match="PNG image is damaged"):
        decode(bytes(data))


def test_a_palette_picture_without_a_palette_is_refused():
    whole = encode(photo(40, 30).quantize(8), "png")
    start = whole.index(b"PLTE") - 4
    end = start + 12 + int.from_bytes(whole[start : start + 4], "big")
    with pytest.raises(ImageRefused, match="PNG image is damaged"):
        decode(whole[:start] + whole[end:])


@pytest.mark.parametrize("name", ["avif", "heic"])
def test_a_container_whose_index_points_outside_is_refused(name):
    data = sample(name)
    at = data.index(b"iloc") + 4
    with pytest.raises(ImageRefused, match="damaged or cut short"):
        decode(data[:at] + b"\xff" * 30 + data[at + 30 :])


@pytest.mark.parametrize("name", FORMATS)
def test_a_header_that_claims_too_many_pixels_is_refused_before_decoding(name):
    bomb = claims(name, 16_000, 16_000)
    started = time.process_time()
    with pytest.raises(ImageRefused, match="more than 50 megapixels"):
        decode(bomb)
    assert time.process_time() - started < 0.5  # 256 megapixels take seconds


def test_a_real_pixel_bomb_is_refused():
    with pytest.raises(ImageRefused, match="more than 50 megapixels"):
        decode(png_bomb(20_000, 20_000))


def test_the_bound_on_pixels_is_exact():
    assert decode(png_bomb(10_000, PIXELS_MAX // 10_000)).width == 10_000
    with pytest.raises(ImageRefused, match="megapixels"):
        decode(png_bomb(10_000, PIXELS_MAX // 10_000 + 1))


@pytest.mark.parametrize("name", ["webp", "png", "avif", "gif"])
def test_too_many_frames_are_refused(name):
    with pytest.raises(ImageRefused, match="more than 1000 frames"):
        decode(gif_of(FRAMES_MAX + 1) if name == "gif" else animated(name, FRAMES_MAX + 1))


def test_a_gif_of_a_million_frames_is_refused_quickly():
    bomb = gif_of(1_000_000)
    started = time.process_time()
    with pytest.raises(ImageRefused, match="frames"):
        decode(bomb)
    assert time.process_time() - started < 0.5


def test_as_many_frames_as_allowed_pass():
    assert decode(gif_of(FRAMES_MAX)).width == 1


@pytest.mark.parametrize("name", ["gif", "webp", "png", "avif"])
def test_of_an_animation_the_first_frame_is_decoded(name):
    first, second = Image.new("RGB", (40, 30), (250, 0, 0)), Image.new("RGB", (40, 30), (0, 0, 250))
    original = decode(encode(first, name, save_all=True, append_images=[second]))
    red, _, blue = original.picture.convert("RGB").getpixel((20, 15))
    assert red > 200 and blue < 60


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_gif_frames_are_counted_without_decoding(frames):
    assert count_gif_frames(animated("gif", frames), 100) == frames
    assert count_gif_frames(gif_of(frames), 3) == min(frames, 3)


def test_counting_frames_takes_any_bytes():
    chance = random.Random(3)
    for length in range(400):
        assert 0 <= count_gif_frames(b"GIF89a" + chance.randbytes(length), 50) <= 50


def test_only_the_scans_of_the_picture_itself_are_counted():
    """A film behind a photo, as phones write them, and a thumbnail before it look like scans to a search."""
    film = b"\x00\x00\x00\x18ftypmp42" + b"\xff\xda" * 500
    exif = b"Exif\x00\x00" + b"\xff\xda\xff\xd9" * 200
    plain = encode(photo(64, 48), "jpeg")
    with_thumbnail = plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:]
    assert count_jpeg_scans(with_thumbnail + film, 1000) == 1
    assert decode(plain + film).picture.size == (64, 48)
    assert count_jpeg_scans(progressive_with_scans(photo(64, 64), 30), 1000) >= 30


def test_a_jpeg_of_endless_scans_is_refused():
    endless = progressive_with_scans(photo(64, 64), SCANS_MAX + 1)
    with pytest.raises(ImageRefused, match="more than 100 scans"):
        decode(endless)
    scan = endless.index(b"\xff\xda")
    with pytest.raises(ImageRefused, match="more than 100 scans"):
        decode(endless[:scan] + b"rubbish" + endless[scan:])  # which decoders skip


def test_a_jpeg_is_decoded_no_larger_than_needed():
    original = decode(encode(photo(4_000, 1_000), "jpeg"))
    assert (original.width, original.height) == (4_000, 1_000)
    assert original.picture.size == (2_000, 500)


@pytest.mark.parametrize(
    ("size", "least"),
    [
        ((4000, 3000), (1080, 810)),
        ((800, 600), (800, 600)),
        ((9000, 600), (2250, 150)),
        ((9000, 100), (9000, 100)),
    ],
)
def test_the_least_size_serves_the_longest_variant_and_the_thumbnail(size, least):
    assert enough(*size) == least
    assert enough(*size[::-1]) == least[::-1]


@pytest.mark.parametrize("block", [b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"Exif\x00\x00what is this"])
def test_broken_exif_does_not_matter(block):
    assert decode(encode(photo(50, 40), "jpeg", exif=block)).orientation == 1


def test_unreadable_exif_is_passed_over_and_named():
    text = PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n4\nnot hexadecimal")
    original = decode(encode(photo(50, 40), "png", pnginfo=text))
    assert original.orientation == 1
    assert original.passed_over == ("unreadable EXIF: ValueError",)


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_is_passed_over_and_named(value):
    exif = Image.Exif()
    exif[0x0112] = value
    original = decode(encode(photo(50, 40), "jpeg", exif=exif.tobytes()))
    assert original.orientation == 1
    assert "orientation" in original.passed_over[0]
