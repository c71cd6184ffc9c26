"""`heliograph post`: one photo in one request, several through signed upload URLs as an album."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import click
import msgspec

from cli.network import Network, Post, network_command
from cli.output import Failure, json_option, print_json
from node.media.probe import SNIFF_BYTES, WHAT_WE_TAKE, sniff

ALBUM_MAX: Final = 10  # media in a post, by the API
BLOCK_BYTES: Final = 64 << 10  # read, and counted by the bar, at once
POLL_S: Final = 0.2
COMPLETE_S_MAX: Final = 300.0  # three tries with backoff end within this; then the post is left to itself

Move = Callable[[int], None]


class Photo(msgspec.Struct, frozen=True):
    """A photo on this machine, looked at before anything is sent."""

    path: Path
    size: int  # bytes
    content_type: str
    alt: str


class Promised(msgspec.Struct, frozen=True):
    media_id: str
    upload_url: str


class Posted(msgspec.Struct, frozen=True):
    photo_id: str


class Sent:
    """A file that tells how far it has been read. It may be read again from its start."""

    def __init__(self, file: BinaryIO, move: Move) -> None:
        self._file = file
        self._move = move
        self.fileno = file.fileno  # by which its length is found

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._move(self._file.tell())
        return data

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)


class Blocks:
    """The bytes of a `Sent`, as a body that can be sent again."""

    def __init__(self, sent: Sent) -> None:
        self._sent = sent

    def __iter__(self) -> Iterator[bytes]:
        self._sent.seek(0)
        while block := self._sent.read(BLOCK_BYTES):
            yield block


@click.command("post")
@click.argument("photos", metavar="PHOTO...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--caption", default="", help="What is written below; #words become hashtags.")
@click.option("--location", default="", help="Where it is.")
@click.option("--alt", "alts", multiple=True, help="What can be seen, for who cannot; once per photo.")
@network_command
@json_option
def post(
    network: Network,
    photos: tuple[Path, ...],
    caption: str,
    location: str,
    alts: tuple[str, ...],
    as_json: bool,
) -> None:
    """Post a photo, or up to ten as an album, and print the post's link when all can see it."""
    if len(photos) > ALBUM_MAX:
        raise click.UsageError(f"an album has at most {ALBUM_MAX} photos, not {len(photos)}")
    if len(alts) > len(photos):
        raise click.UsageError(f"{len(alts)} times --alt for {len(photos)} photos")
    described = [*alts, *[""] * (len(photos) - len(alts))]
    chosen = [looked_at(path, alt) for path, alt in zip(photos, described, strict=True)]
    words = {"caption": caption, "location": location}
    number = (
        _post_photo(network, chosen[0], words) if len(chosen) == 1 else _post_album(network, chosen, words)
    )
    made = _complete(network, number)
    if as_json:
        print_json(made)
    else:
        click.echo(network.link(number))


def looked_at(path: Path, alt: str) -> Photo:
    """The photo at `path`. Raises Failure for what is no photo that a node takes."""
    try:
        with path.open("rb") as file:
            kind = sniff(file.read(SNIFF_BYTES))
            size = path.stat().st_size
    except OSError as wrong:
        raise Failure(f"{path}: {wrong.strerror}") from None
    if kind is None:
        raise Failure(f"{path} is no photo taken here: {WHAT_WE_TAKE}")
    return Photo(path, size, kind.mime, alt)


def _post_photo(network: Network, photo: Photo, words: dict[str, str]) -> str:
    with _sending([photo]) as bodies:
        files = {"photo": (photo.path.name, bodies[0], photo.content_type)}
        form = {**words, "alt": photo.alt}
        return network.call("POST", "/v1/photos", Posted, files=files, data=form).photo_id


def _post_album(network: Network, photos: list[Photo], words: dict[str, str]) -> str:
    media = []
    with _sending(photos) as bodies:
        for photo, body in zip(photos, bodies, strict=True):
            try:
                media.append(_upload(network, photo, body))
            except Failure as wrong:
                raise Failure(f"{photo.path}: {wrong.message}", wrong.exit_code) from None
    return network.call("POST", "/v1/posts", Post, json={**words, "media_ids": media}).id


def _upload(network: Network, photo: Photo, body: Sent) -> str:
    wanted = {"content_type": photo.content_type, "size": photo.size, "alt": photo.alt}
    promised = network.call("POST", "/v1/media/upload", Promised, json=wanted)
    headers = {"Content-Length": str(photo.size), "Content-Type": "application/octet-stream"}
    network.call_unsigned("PUT", promised.upload_url, dict, content=Blocks(body), headers=headers)
    return promised.media_id


def _complete(network: Network, number: str) -> dict[str, Any]:
    """The post when all can see it. Raises Failure if a photo cannot be used, or it takes too long."""
    until = time.monotonic() + COMPLETE_S_MAX
    while True:
        found: dict[str, Any] = network.call("GET", f"/v1/posts/{number}", dict)
        seen = msgspec.convert(found, Post)
        if seen.upload_status == "complete":
            return found
        if seen.upload_status == "failed":
            raise Failure(f"{network.link(number)} failed: {seen.failure or 'the photo cannot be used'}")
        if time.monotonic() > until:
            raise Failure(f"{network.link(number)} is still {seen.upload_status}; look again later")
        time.sleep(POLL_S)


@contextmanager
def _sending(photos: list[Photo]) -> Iterator[list[Sent]]:
    """The photos' bodies, and a bar of their bytes on stderr where that is a terminal."""
    with ExitStack() as stack:
        files = [stack.enter_context(photo.path.open("rb")) for photo in photos]
        if not sys.stderr.isatty():
            yield [Sent(file, lambda _position: None) for file in files]
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        bar = stack.enter_context(Progress(*columns, console=Console(stderr=True)))

        def follow(photo: Photo) -> Move:
            task = bar.add_task(photo.path.name.replace("[", "\\["), total=photo.size)
            return lambda position: bar.update(task, completed=position)

        yield [Sent(file, follow(photo)) for photo, file in zip(photos, files, strict=True)]
