"""Upload sessions: bytes that were promised, with a size and a type, and come or do not.

A promise mints the medium and lives as long as its command says. The bytes are stored and referenced in the
partition of their hash before `StoreUpload` says so here. The same bytes again get the same answer.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from cluster.commands import Refused
from cluster.partition import Apply
from node.social import media as media_rows
from node.social.follows import acting
from node.social.jobs import make_job
from node.social.keys import UploadExpiryKey
from node.social.media import ALT_MAX, AWAITING, FAILED, STORED, add_bytes, check_text, free, replace
from node.social.publication import advance
from node.social.records import UPLOAD_EXPIRIES, Media, UploadPromise
from storage.rows import Reader

UPLOAD_PROMISE_MS: Final = 15 * 60 * 1000  # unless the command says otherwise
TYPES: Final = frozenset({"image/jpeg", "image/png", "image/webp", "image/avif", "image/gif", "image/heic"})
EXPIRED_AT_ONCE_MAX: Final = 100  # promises per sweep; each may fail a few posts


class PromiseUpload(msgspec.Struct, array_like=True, frozen=True, tag=120):
    """A medium for later use, its bytes to come; answers `Promised`."""

    owner: int
    mime: str  # type, declared
    size: int  # bytes, declared
    alt: str
    lives_ms: int = UPLOAD_PROMISE_MS


class Promised(msgspec.Struct, array_like=True, frozen=True):
    media: int
    expires_ms: int
    post: int = 0  # where a post was made with it


class StoreUpload(msgspec.Struct, array_like=True, frozen=True, tag=121):
    """The promised bytes are stored and `Reference`d by the medium's id; answers `Stored`.

    Refused `not_found`, `upload_expired`, `size_mismatch` or `type_mismatch` (not what was declared) or
    `upload_mismatch` (other bytes came before).
    """

    owner: int
    media: int
    hash: bytes
    size: int
    mime: str  # type, by content


class Stored(msgspec.Struct, array_like=True, frozen=True):
    media: int
    size: int
    hash: bytes


class ExpireUploads(msgspec.Struct, array_like=True, frozen=True, tag=122):
    """End promises that have had their time, up to EXPIRED_AT_ONCE_MAX; answers `Expired`.

    A medium that no post shows goes; a post that waited for one fails, and its author sees why.
    """


class Expired(msgspec.Struct, array_like=True, frozen=True):
    count: int


def promise(apply: Apply, owner: int, mime: str, size: int, alt: str, lives_ms: int) -> tuple[int, Media]:
    """Mint a medium that awaits its bytes; the caller writes its row."""
    _check(mime, size, alt)
    media_id = apply.mint()
    expires = apply.now + lives_ms
    key = UploadExpiryKey(apply.partition, expires, media_id)
    UPLOAD_EXPIRIES.put(apply, key, UploadPromise(owner))
    return media_id, _new(apply, AWAITING, mime, size, alt, expires, b"")


def store(apply: Apply, owner: int, blob: bytes, mime: str, size: int, alt: str) -> tuple[int, Media]:
    """Mint a medium whose bytes are stored already, with its job; the caller writes its row."""
    _check(mime, size, alt)
    media_id = apply.mint()
    make_job(apply, owner, media_id)
    add_bytes(apply, owner, size)
    return media_id, _new(apply, STORED, mime, size, alt, 0, blob)


def _check(mime: str, size: int, alt: str) -> None:
    if mime not in TYPES:
        raise Refused(
            "unsupported_media", f"content_type: {mime[:40]!r}, want one of {', '.join(sorted(TYPES))}"
        )
    if size <= 0:
        raise Refused("invalid_field", f"size: {size} bytes, want at least 1")
    check_text("alt", alt, ALT_MAX)


def _new(apply: Apply, state: str, mime: str, size: int, alt: str, expires: int, blob: bytes) -> Media:
    return Media(
        state=state,
        type=mime,
        size=size,
        alt=alt,
        created_ms=apply.now,
        expires_ms=expires,
        original=blob,
        width=0,
        height=0,
        placeholder="",
        variants=(),
        posts=(),
        avatar=False,
        shown=False,
        failure="",
        face=False,
    )


def promise_upload(apply: Apply, command: PromiseUpload) -> Promised:
    acting(apply, command.owner)
    owner, lives_ms = command.owner, command.lives_ms
    media_id, medium = promise(apply, owner, command.mime, command.size, command.alt, lives_ms)
    media_rows.put(apply, command.owner, media_id, None, medium)
    return Promised(media_id, medium.expires_ms)


def store_upload(apply: Apply, command: StoreUpload) -> Stored:
    owner, media_id = command.owner, command.media
    medium = media_rows.get(apply, owner, media_id)
    if medium is None:
        raise Refused("not_found", f"there is no upload {media_id}")
    answer = Stored(media_id, command.size, command.hash)
    if medium.original:
        if medium.original != command.hash:
            raise Refused("upload_mismatch", f"upload {media_id}: other bytes came before")
        return answer
    if medium.state == FAILED or medium.expires_ms <= apply.now:
        raise Refused("upload_expired", f"upload {media_id}: its time was over")
    if command.size != medium.size:
        raise Refused("size_mismatch", f"upload {media_id}: {command.size} bytes, declared {medium.size}")
    if command.mime != medium.type:
        raise Refused("type_mismatch", f"upload {media_id}: {command.mime}, declared {medium.type}")
    acting(apply, owner)
    UPLOAD_EXPIRIES.delete(apply, UploadExpiryKey(apply.partition, medium.expires_ms, media_id))
    make_job(apply, owner, media_id)
    add_bytes(apply, owner, medium.size)
    stored = replace(medium, state=STORED, expires_ms=0, original=command.hash)
    advance(apply, owner, media_id, medium, stored)
    return answer


def expire_uploads(apply: Apply, _: ExpireUploads) -> Expired:
    over: list[tuple[UploadExpiryKey, UploadPromise]] = []
    for key, made in UPLOAD_EXPIRIES.scan(apply, apply.partition):
        if key.expires_ms > apply.now or len(over) == EXPIRED_AT_ONCE_MAX:
            break
        over.append((key, made))
    for key, made in over:
        medium = media_rows.get(apply, made.owner, key.media)
        if medium is None:
            raise AssertionError(f"medium {key.media} of an upload has no row")
        if not medium.posts:
            free(apply, made.owner, key.media, medium)
            continue
        UPLOAD_EXPIRIES.delete(apply, key)
        failed = replace(medium, state=FAILED, failure="its bytes did not come in time")
        advance(apply, made.owner, key.media, medium, failed)
    return Expired(len(over))


def next_expiry_ms(rows: Reader, partition: int) -> int | None:
    """When the partition's oldest promise ends; None without one. What a sweeper asks first."""
    for key, _ in UPLOAD_EXPIRIES.scan(rows, partition):
        return key.expires_ms
    return None


_Functions = dict[type, Callable[..., Any]]
COMMANDS: Final[_Functions] = {
    PromiseUpload: promise_upload,
    StoreUpload: store_upload,
    ExpireUploads: expire_uploads,
}
