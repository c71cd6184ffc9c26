"""What pages load: style, scripts, icons and words, read once and kept compressed.

All of them stand under one path that carries the hash of all their bytes. So an address never changes its
content and may be kept for ever, scripts may import each other by plain relative names, and a page never
mixes the scripts of two versions.
"""

import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
from blake3 import blake3

from node.web.catalogue import Catalogue

FOLDER: Final = Path(__file__).parent / "static"
PREFIX: Final = "/assets/"
HASH_CHARACTERS: Final = 16  # 64 bits tell versions apart; nobody is to be defended against here
GZIP_LEVEL: Final = 9  # once, at the start
TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
COMPRESSED: Final = (".css", ".js", ".svg")


class Asset(msgspec.Struct, frozen=True):
    content_type: str
    plain: bytes
    packed: bytes | None  # gzip; None where that gains nothing


class Assets:
    """Every asset by its name, as `style.css` or `icons/icon-192.png`. Raises OSError."""

    def __init__(self, catalogue: Catalogue, folder: Path = FOLDER) -> None:
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in _files(folder)}
        for words in catalogue.languages.values():
            files[f"words/{words.language}.js"] = b"export default " + msgspec.json.encode(words.texts)
        hasher = blake3()
        for name in sorted(files):
            hasher.update(name.encode() + b"\0" + len(files[name]).to_bytes(8, "big") + files[name])
        self.version = hasher.hexdigest()[:HASH_CHARACTERS]
        self._assets = {name: _asset(name, data) for name, data in files.items()}

    def url(self, name: str) -> str:
        """KeyError for an asset that there is not."""
        self._assets[name]
        return f"{PREFIX}{self.version}/{name}"

    def find(self, version: str, name: str) -> Asset | None:
        return self._assets.get(name) if version == self.version else None

    def names(self) -> list[str]:
        return sorted(self._assets)

    def __getitem__(self, name: str) -> Asset:
        return self._assets[name]


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in TYPES)


def _asset(name: str, data: bytes) -> Asset:
    ending = "." + name.rpartition(".")[2]
    packed = gzip.compress(data, GZIP_LEVEL, mtime=0) if ending in COMPRESSED else None
    return Asset(TYPES[ending], data, packed)
