"""What a page says of a photo before it is there."""

import pytest
from blurhash import encode

from node.feeds.rendering import MediaUrls, MediaView, VariantUrls
from node.media.recipes import SCALED
from node.media.variants import scaled_size
from node.web import pictures


def medium(width, height, placeholder=None):
    names = ("thumbnail", "small", "medium", "large")
    urls = MediaUrls(*(VariantUrls(f"/{name}.webp", f"/{name}.jpeg") for name in names), None)
    return MediaView("1", "image/jpeg", width, height, "", placeholder, urls)


@pytest.mark.parametrize("size", [(4000, 3000), (3000, 4000), (640, 480), (1080, 1), (1, 1), (333, 1001)])
def test_widths_are_those_of_the_variants(size):
    widths = pictures.widths(medium(*size))
    assert widths == {recipe.name: scaled_size(*size, recipe)[0] for recipe in SCALED}


def test_srcset_names_each_width_once():
    assert pictures.srcset(medium(4000, 3000), "webp") == (
        "/small.webp 320w, /medium.webp 640w, /large.webp 1080w"
    )
    assert pictures.srcset(medium(500, 400), "jpeg") == "/small.jpeg 320w, /medium.jpeg 500w"
    assert pictures.srcset(medium(64, 48), "jpeg") == "/small.jpeg 64w"


def test_a_placeholder_has_the_colours_of_the_photo():
    red = encode([[[250, 5, 5]] * 8] * 6, components_x=4, components_y=3)
    squares = pictures.placeholder(red, True)
    assert [(x, y) for x, y, _ in squares] == [(x, y) for y in range(3) for x in range(4)]
    assert all(colour in ("#f00", "#e00", "#f10", "#f01") for _, _, colour in squares)
    assert len(pictures.placeholder(red, False)) == 12


@pytest.mark.parametrize("broken", [None, "", "L", "LLLLLLLL", "L" * 28 + "é"])
def test_a_broken_placeholder_is_none(broken):
    assert pictures.placeholder(broken, True) == ()


def test_what_is_cropped_in_the_feed():
    assert pictures.is_tall(medium(100, 126)) and not pictures.is_tall(medium(100, 125))
