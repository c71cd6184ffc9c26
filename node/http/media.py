"""Media over HTTP: promised uploads by signed URL, and the bytes of blobs.

An upload URL is a right of its own: it names medium, size and type, runs out, and needs no token. A blob is
given to everybody while some medium shows it to everybody, else only to the bearer of a viewer's signature.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from io import FileIO
from typing import Annotated, Final
from urllib.parse import parse_qsl, quote

import msgspec
import trio
from quart import Response, request
from werkzeug.datastructures import MultiDict

from cluster.copies.fetching import BlobUnavailable
from cluster.replicas import now_ms
from node.feeds.rendering import SIGNED_S
from node.http.admission import Admission, answer_headers, signed, tell
from node.http.application import FindFile
from node.http.bodies import read_json, stream
from node.http.files import answer_directly, answer_file
from node.http.openapi import Routes, parse_query, render
from node.http.problems import Body, Problem
from node.http.sendfile import FileAnswer
from node.http.tokens import Expired, Signer, TokenError
from node.logs import get_logger
from node.media.catalogue import had
from node.media.intake import Received
from node.media.probe import BY_MIME, MEDIA_TYPES, WHAT_WE_TAKE
from node.parts import Parts, now_s
from node.social import blobs, media, uploads
from node.social.people import rfc3339
from node.social.uploads import Promised, PromiseUpload
from storage.blobs import BlobDamaged, BlobMissing
from storage.ids import partition_of

log = get_logger("media")

PUBLIC: Final = "public, max-age=86400, immutable"  # what was public may be kept for a day
PICTURE_POLICY: Final = "default-src 'none'; sandbox"  # whatever a browser takes the bytes for
MEDIA_PATH: Final = "/media/"
MEDIA_ROUTE: Final = "/media/<name>"
UPLOAD: Final = "upload"  # purposes of signatures
VIEW: Final = "media"
# One spelling per type; `jpg` and `jpeg` are the same thing to people.
EXTENSIONS: Final = {
    **{one.extension: one.mime for one in MEDIA_TYPES},
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
}
_NAME: Final = re.compile(r"([0-9a-f]{64})\.([a-z0-9]{3,5})", re.ASCII)


class NewUpload(Body, frozen=True):
    content_type: str
    size: int
    alt: Annotated[str, msgspec.Meta(max_length=media.ALT_MAX)] = ""


class UploadQuery(Body, frozen=True):
    owner: int
    size: int
    type: str
    expires: int
    signature: str


class ViewQuery(Body, frozen=True):
    viewer: int | None = None
    expires: int | None = None
    signature: str | None = None


class PromisedUpload(msgspec.Struct, frozen=True):
    media_id: str
    upload_url: str
    expires_at: str


class StoredUpload(msgspec.Struct, frozen=True):
    media_id: str
    size: int
    blake3: str


def sign_view(signer: Signer, viewer: int, name: str, until_s: int) -> str:
    """The query with which `viewer` may get the blob `name` until then: what renderers put behind URLs."""
    return f"viewer={viewer}&expires={until_s}&signature={signer.sign(VIEW, (name, str(viewer)), until_s)}"


class Uploads:
    """What the routes of posts and of media share about uploads."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._base = parts.settings.http.public_url.rstrip("/")
        self.lives_ms = int(parts.settings.media.upload_expiry_s * 1000)

    def declared(self, content_type: str | None, size: int | None) -> tuple[str, int]:
        """The declared type and size, checked. Raises Problem invalid_field, unsupported_media, too_large."""
        if content_type is None or size is None:
            raise Problem("invalid_field", "want content_type and size, or media_ids")
        if content_type not in BY_MIME:
            raise Problem("unsupported_media", f"content_type: one of {', '.join(BY_MIME)}")
        most = self._parts.settings.media.photo_bytes_max
        if size > most:
            raise Problem("too_large", f"size: a photo has at most {most} bytes")
        if size < 1:
            raise Problem("invalid_field", "size: a photo has at least one byte")
        return content_type, size

    def promise(self, owner: int, promised: Promised, content_type: str, size: int) -> PromisedUpload:
        """The URL to which the bytes may be PUT."""
        expires_s = promised.expires_ms // 1000
        fields = (str(promised.media), str(owner), str(size), content_type)
        signature = self._parts.signer.sign(UPLOAD, fields, expires_s)
        url = (
            f"{self._base}/v1/uploads/{promised.media}?owner={owner}&size={size}"
            f"&type={quote(content_type, safe='')}&expires={expires_s}&signature={signature}"
        )
        return PromisedUpload(str(promised.media), url, rfc3339(expires_s * 1000))

    async def wait_for(self, media: int) -> None:
        """Let the medium's job begin, and wait a moment for its end, if it has not ended."""
        workshop = self._parts.workshop
        with workshop.expected(media) as done:
            workshop.wake(media)
            with trio.move_on_after(self._parts.settings.media.photo_wait_s):
                await self._parts.service.caught_up(None, (partition_of(media),))
                if workshop.attempt_of(media) is not None:
                    await done.wait()


def make_routes(parts: Parts, admission: Admission, shared: Uploads) -> Routes:
    routes = Routes("media")
    service = parts.service

    @routes.add(
        "POST", "/v1/media/upload", "Promise an upload, for an album or an avatar", body=NewUpload,
        answers={201: PromisedUpload}, limit="uploads",
        problems=("invalid_field", "too_large", "unsupported_media"), idempotent_by_key=True,
    )  # fmt: skip
    async def promise_upload() -> Response:
        wanted = await read_json(request, NewUpload)
        owner = signed().user
        content_type, size = shared.declared(wanted.content_type, wanted.size)
        async with admission.once(owner, msgspec.json.encode(wanted)) as retry:
            command = PromiseUpload(owner, content_type, size, wanted.alt, shared.lives_ms)
            done = await service.do(partition_of(owner), command, Promised, by=owner, retry=retry)
        tell(done)
        return render(shared.promise(owner, done.result, content_type, size), 201)

    @routes.add(
        "PUT", "/v1/uploads/<id:media_id>", "The bytes of a promised upload",
        upload="application/octet-stream", query=UploadQuery, answers={200: StoredUpload}, signed_in=False,
        asks_who=False, limit="reads",
        problems=(
            "invalid_signature", "not_found", "upload_expired", "upload_mismatch", "size_mismatch",
            "type_mismatch",
        ),
    )  # fmt: skip
    async def upload(media_id: int) -> Response:
        query = parse_query(UploadQuery, request.args)
        check_upload(media_id, query)
        if not is_promised(media_id, query):  # by another node, of whose promise this one has yet to hear?
            await service.caught_up(None, (partition_of(query.owner),))
            if not is_promised(media_id, query):
                raise Problem("not_found", "there is no such upload, or what it was for is gone")
        received = await receive(query)
        try:
            stored = await parts.intake.store(received, query.owner, media_id)
        finally:
            received.staged.abandon()
        command = uploads.StoreUpload(query.owner, media_id, stored.hash, stored.size, query.type)
        done = await service.do(partition_of(query.owner), command, uploads.Stored)
        tell(done)
        parts.workshop.wake(media_id)
        return render(StoredUpload(str(media_id), stored.size, stored.hash.hex()))

    def check_upload(media_id: int, query: UploadQuery) -> None:
        """Whether this URL is good and its bytes may still come, before they do. Raises Problem."""
        fields = (str(media_id), str(query.owner), str(query.size), query.type)
        try:
            parts.signer.verify(UPLOAD, fields, query.expires, query.signature, now_s())
        except Expired:
            raise Problem("upload_expired", "ask for a new upload URL") from None
        except TokenError as wrong:
            raise Problem("invalid_signature", str(wrong)) from None
        verdict = parts.limits.take("uploads", [f"user:{query.owner}:put"], now_s())
        answer_headers().update(verdict.headers())
        if request.content_length not in (None, query.size):
            raise Problem("size_mismatch", f"announced {query.size} bytes, sent {request.content_length}")

    def is_promised(media_id: int, query: UploadQuery) -> bool:
        with service.read() as rows:
            return media.get(rows, query.owner, media_id) is not None

    async def receive(query: UploadQuery) -> Received:
        """The body, if it is as announced. Raises Problem; then nothing is left of it."""
        # One byte more than announced may come, so that too many are told as such.
        received = await parts.intake.receive(stream(request, query.size + 1), query.size + 1)
        try:
            if received.size != query.size:
                raise Problem("size_mismatch", f"announced {query.size} bytes, sent {received.size} or more")
            if received.type is None:
                raise Problem("unsupported_media", f"want a picture: {WHAT_WE_TAKE}")
            if received.type.mime != query.type:
                raise Problem("type_mismatch", f"announced {query.type}, the content is {received.type.mime}")
        except Problem:
            received.staged.abandon()
            raise
        return received

    @routes.add(
        "GET", MEDIA_ROUTE, "The bytes of a photo or variant", query=ViewQuery,
        answers={200: "image/*", 206: "image/*", 304: None},
        signed_in=False, asks_who=False, limit="none",
        problems=("not_found", "range_not_satisfiable"),
    )  # fmt: skip
    async def blob(name: str) -> Response:
        digest, headers = look(parts, name, request.args)
        return answer_file(request, await open_blob(digest), etag=digest.hex(), headers=headers)

    async def open_blob(digest: bytes) -> FileIO:
        """From here, or from the node that has it: rows say that it exists, so it is not absent."""
        try:
            if parts.blobs.known_good(digest):
                return parts.blobs.open(digest)
        except (BlobMissing, BlobDamaged):
            pass  # gone since it was read; it may be elsewhere
        try:
            opened = partial(trio.to_thread.run_sync, parts.blobs.open, digest)
            return await had(parts.fetching, digest, opened)
        except (BlobMissing, BlobDamaged, BlobUnavailable) as wrong:
            log.error("blob_not_served", blob=digest.hex(), reason=str(wrong))
            raise Problem("unavailable", "these bytes cannot be read here now") from None

    return routes


def look(parts: Parts, name: str, arguments: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """Which blob `name` asks for, and the headers it goes out with. Raises Problem not_found where there is
    none, and where whoever asks may not see it."""
    match = _NAME.fullmatch(name)
    if match is None or match[2] not in EXTENSIONS:
        raise Problem("not_found")
    try:
        query = parse_query(ViewQuery, arguments)
    except Problem:
        raise Problem("not_found") from None
    digest = bytes.fromhex(match[1])
    with parts.service.read() as rows:
        held = blobs.served(rows, digest)
    if held is None or held.type != EXTENSIONS[match[2]]:
        raise Problem("not_found")
    caching = PUBLIC if held.public else private_caching(parts.signer, name, query)
    return digest, {
        "Content-Type": held.type, "Cache-Control": caching, "Content-Security-Policy": PICTURE_POLICY
    }  # fmt: skip


def make_finder(parts: Parts) -> FindFile:
    """What finds the files of plain GETs before the routes are asked; all else is the route's to answer."""

    def find(path: str, query: str, asked: Sequence[tuple[bytes, bytes]]) -> tuple[str, FileAnswer] | None:
        if not path.startswith(MEDIA_PATH):
            return None
        arguments = MultiDict(parse_qsl(query, keep_blank_values=True)) if query else {}
        try:
            digest, headers = look(parts, path.removeprefix(MEDIA_PATH), arguments)
            if not parts.blobs.known_good(digest):
                return None  # it must be read whole first, in a thread
            file = parts.blobs.open(digest)
        except (Problem, BlobMissing, BlobDamaged):
            return None
        answer = answer_directly(asked, file, etag=digest.hex(), headers=headers)
        return None if answer is None else (MEDIA_ROUTE, answer)

    return find


def private_caching(signer: Signer, name: str, query: ViewQuery) -> str:
    """The `Cache-Control` of what only the bearer of the URL may see. Raises Problem not_found, whatever is
    wrong with the signature: without a good one there is nothing here."""
    try:
        viewer, expires = query.viewer or 0, query.expires or 0
        if expires > now_s() + SIGNED_S:
            raise TokenError("no signature of ours lasts so long")
        signer.verify(VIEW, (name, str(viewer)), expires, query.signature or "", now_s())
    except TokenError:
        raise Problem("not_found") from None
    return f"private, max-age={max(0, expires - now_ms() // 1000)}, immutable"
