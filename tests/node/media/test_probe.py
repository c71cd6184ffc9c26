"""The type of a file by its first bytes, whatever it calls itself."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.media.probe import AVIF, BY_MIME, HEIC, MEDIA_TYPES, SNIFF_BYTES, sniff
from tests.node.media.pictures import FORMATS, MIMES, sample


def box(major, *compatible):
    body = b"ftyp" + major + bytes(4) + b"".join(compatible)
    return struct.pack(">I", 4 + len(body)) + body


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_we_take_is_known_by_its_head(name):
    assert sniff(sample(name)[:SNIFF_BYTES]).mime == MIMES[name]
    assert sniff(sample(name)).mime == MIMES[name]


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xff",
        b"\xff\xd8",
        b"<!DOCTYPE html><html><script>alert(1)</script>",
        b"PK\x03\x04\x14\x00\x00\x00\x08\x00",
        b"%PDF-1.7",
        b"BM6\x00\x00\x00",
        b"II*\x00\x08\x00\x00\x00",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"GIF88a" + bytes(20),
        b"RIFF\x24\x00\x00\x00WAVEfmt ",
        b"RIFF\x24\x00\x00\x00WEBPJUNK",
        b"\x89PNG\n\x1a\n" + bytes(20),
        box(b"isom", b"mp42"),
        box(b"qt  "),
        box(b"mif1", b"vvic", b"miaf"),
        box(b"mif1"),
    ],
)
def test_what_we_do_not_take_has_no_type(head):
    assert sniff(head) is None


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (box(b"avif", b"mif1"), AVIF),
        (box(b"avis", b"msf1"), AVIF),
        (box(b"mif1", b"miaf", b"avif"), AVIF),
        (box(b"heic", b"mif1"), HEIC),
        (box(b"mif1", b"miaf", b"heic"), HEIC),
        (box(b"msf1", b"hevc"), HEIC),
    ],
)
def test_the_brands_of_the_shared_container(head, kind):
    assert sniff(head) is kind


def test_a_brand_behind_the_box_does_not_count():
    assert sniff(box(b"mif1", b"miaf") + b"avif") is None


def test_types_are_distinct_and_found_by_mime():
    assert len({kind.extension for kind in MEDIA_TYPES}) == len(MEDIA_TYPES) == len(BY_MIME)
    assert BY_MIME["image/heic"] is HEIC


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x00\x00\x00\xffftypmif1", b"RIFF", b"GIF89a", b"\xff\xd8\xff"]),
)
def test_no_bytes_make_it_fail(rest, start):
    kind = sniff(start + rest)
    assert kind is None or kind in MEDIA_TYPES
