"""What kind of picture these bytes are, by their first bytes alone.

Runs in the node on every upload, before anything is stored or decoded: pure, reads at most SNIFF_BYTES, never
fails. A name or a declared type is a wish; only what is returned here is believed, and the worker looks again
before it decodes. Signatures: JPEG ISO/IEC 10918-1 B.1.1.3, PNG (W3C) §5.2, GIF89a §17, WebP container RFC
9649 §2.3, AVIF and HEIC brands ISO/IEC 14496-12 §4.3 and 23008-12 §10.
"""

import msgspec

SNIFF_BYTES = 256  # a file type box with some sixty brands still fits; writers use three to ten

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
WEBP_FIRST_CHUNKS = (b"VP8 ", b"VP8L", b"VP8X")
AVIF_BRANDS = frozenset((b"avif", b"avis"))
HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
CONTAINER_BRANDS = frozenset((b"mif1", b"msf1"))  # an image, the codec is in the other brands
BRAND_BYTES = 4
BRANDS_OFFSET = 16  # box size, "ftyp", major brand, minor version: four bytes each


class MediaType(msgspec.Struct, frozen=True):
    """A kind of picture we take: `name` for people, `mime` for headers, `extension` without the dot."""

    name: str
    mime: str
    extension: str


JPEG = MediaType("JPEG", "image/jpeg", "jpg")
PNG = MediaType("PNG", "image/png", "png")
WEBP = MediaType("WebP", "image/webp", "webp")
AVIF = MediaType("AVIF", "image/avif", "avif")
GIF = MediaType("GIF", "image/gif", "gif")
HEIC = MediaType("HEIC", "image/heic", "heic")

MEDIA_TYPES = (JPEG, PNG, WEBP, AVIF, GIF, HEIC)
BY_MIME = {kind.mime: kind for kind in MEDIA_TYPES}
WHAT_WE_TAKE = "JPEG, PNG, WebP, AVIF, GIF or HEIC"


def sniff(head: bytes) -> MediaType | None:
    """The type of the picture that starts with `head`, None if it is not a kind we take.

    `head`: the first SNIFF_BYTES bytes of the file, or all of a shorter one. The answer says what a decoder
    should be tried, not that it will succeed.
    """
    head = head[:SNIFF_BYTES]
    if head.startswith(b"\xff\xd8\xff"):
        return JPEG
    if head.startswith(PNG_SIGNATURE):
        return PNG
    if head.startswith((b"GIF87a", b"GIF89a")):
        return GIF
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP" and head[12:16] in WEBP_FIRST_CHUNKS:
        return WEBP
    if head[4:8] == b"ftyp":
        return _by_brands(head)
    return None


def _by_brands(head: bytes) -> MediaType | None:
    """AVIF and HEIC share a container. The major brand decides; where it names only the container, the first
    compatible brand that names a codec does."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12]]
    if brands[0] in CONTAINER_BRANDS:
        last = end - BRAND_BYTES
        brands += [head[at : at + BRAND_BYTES] for at in range(BRANDS_OFFSET, last + 1, BRAND_BYTES)]
    for brand in brands:
        if brand in AVIF_BRANDS:
            return AVIF
        if brand in HEIC_BRANDS:
            return HEIC
    return None
