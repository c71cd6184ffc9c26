"""A user's media: what each refers to, who may see it, and how it goes.

A medium is `awaiting` its bytes, `stored` until its variants are made, then `ready`, or `failed`. Its blobs
live in the partitions of their hashes, which are told by `Keep` and `Drop` whenever a medium's row changes
what it refers to or shows. Everybody may see the variants of a published post of a public account and the
thumbnail of an avatar; nobody but its owner ever sees an original.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from cluster.commands import Refused
from cluster.partition import Apply
from node.social.blobs import send_drop, send_keep
from node.social.keys import (
    CountsKey,
    FailedJobKey,
    JobDueKey,
    JobKey,
    MediaKey,
    PostKey,
    UploadExpiryKey,
    UserKey,
)
from node.social.machine import encode
from node.social.records import (
    COUNTS,
    FAILED_JOBS,
    JOBS,
    JOBS_DUE,
    MEDIA,
    POSTS,
    UPLOAD_EXPIRIES,
    USERS,
    Avatar,
    Media,
    PostMedia,
    User,
)
from storage.rows import Reader

AWAITING: Final = "awaiting"
STORED: Final = "stored"
READY: Final = "ready"
FAILED: Final = "failed"

ALT_MAX: Final = 5000  # characters
POSTS_PER_MEDIUM_MAX: Final = 100  # its row names them all
UNFINISHED_POSTS_PER_MEDIUM_MAX: Final = 4  # a medium that becomes ready publishes them in one apply
MEDIA_PER_PIECE: Final = 50  # of work: a medium sends a message per blob, nine with two rows each

replace = msgspec.structs.replace


class SetVisibility(msgspec.Struct, array_like=True, frozen=True, tag=120):
    """Work: bring the visibility of all media of the owner in line with the account as it is now."""

    owner: int
    beyond: int  # media done so far, by id


def check_text(name: str, text: str, most: int) -> None:
    """Raises Refused `invalid_field` for a text over `most` characters (code points) or with a NUL."""
    if len(text) > most:
        raise Refused("invalid_field", f"{name}: {len(text)} characters, at most {most}")
    if "\0" in text:
        raise Refused("invalid_field", f"{name}: has a NUL character")


def is_open(user: User | None) -> bool:
    """Everybody may see what the account publishes."""
    return user is not None and user.state == "active" and not user.private


def has_face(user: User | None) -> bool:
    """Everybody may see the account's avatar: of a private account too."""
    return user is not None and user.state == "active"


def get(rows: Reader, owner: int, media: int) -> Media | None:
    return MEDIA.get(rows, MediaKey(owner, media))


def inlined(media_id: int, media: Media, alt: str) -> PostMedia:
    """The medium as a post's row carries it, so that a feed page reads no other row for it."""
    return PostMedia(
        media_id,
        media.type,
        media.width,
        media.height,
        alt,
        media.placeholder,
        media.original,
        media.variants,
    )


def referred(media: Media) -> dict[bytes, bool]:
    """Every blob that the medium refers to, and whether it shows it to everybody.

    Variants of a small picture may be the same bytes: one blob, public if any of its uses is.
    """
    found = {media.original: False} if media.original else {}
    for number, pair in enumerate(media.variants):
        public = media.shown or (media.face and number == 0)
        for blob in (pair.webp, pair.jpeg):
            found[blob] = public or found.get(blob, False)
    return found


def put(
    apply: Apply, owner: int, media_id: int, before: Media | None, after: Media, provisional: int = 0
) -> None:
    """Write a medium's row and tell the partitions of its blobs what changed for them."""
    if before is after:
        return
    MEDIA.put(apply, MediaKey(owner, media_id), after)
    if before is not None and _refer_alike(before, after):
        return
    old = referred(before) if before else {}
    new = referred(after)
    for blob, public in new.items():
        if old.get(blob) != public:
            send_keep(apply, blob, media_id, owner, public, provisional)
    for blob in old:
        if blob not in new:
            send_drop(apply, blob, media_id)


def _refer_alike(one: Media, other: Media) -> bool:
    return (
        one.shown == other.shown
        and one.face == other.face
        and one.original == other.original
        and one.variants == other.variants
    )


def free(apply: Apply, owner: int, media_id: int, media: Media) -> None:
    """The medium goes, with its job, its blobs' references and its owner's bytes."""
    MEDIA.delete(apply, MediaKey(owner, media_id))
    if media.state == AWAITING:
        UPLOAD_EXPIRIES.delete(apply, UploadExpiryKey(apply.partition, media.expires_ms, media_id))
    elif media.state == STORED:
        job = JOBS.get(apply, JobKey(media_id))
        if job is not None:
            JOBS_DUE.delete(apply, JobDueKey(apply.partition, job.due_ms, media_id))
            JOBS.delete(apply, JobKey(media_id))
    elif media.state == FAILED and FAILED_JOBS.has(apply, FailedJobKey(apply.partition, media_id)):
        FAILED_JOBS.delete(apply, FailedJobKey(apply.partition, media_id))
    if media.original:
        add_bytes(apply, owner, -media.size)
    for blob in referred(media):
        send_drop(apply, blob, media_id)


def add_bytes(apply: Apply, owner: int, size: int) -> None:
    """Count the owner's stored originals; nothing where the account's row is gone already."""
    counts = COUNTS.get(apply, CountsKey(owner))
    if counts is not None:
        COUNTS.put(apply, CountsKey(owner), replace(counts, uploads=counts.uploads + size))


def leave_post(apply: Apply, owner: int, post: int, media_ids: list[int]) -> None:
    """The post no longer shows these media: those shown nowhere else go."""
    for media_id in media_ids:
        media = get(apply, owner, media_id)
        if media is None:
            continue
        after = replace(media, posts=tuple(other for other in media.posts if other != post))
        if after.posts or after.avatar:
            shown = after.shown and _published(apply, after)
            put(apply, owner, media_id, media, replace(after, shown=shown))
        else:
            free(apply, owner, media_id, media)


def _published(apply: Apply, media: Media) -> bool:
    for post_id in media.posts:
        post = POSTS.get(apply, PostKey(post_id))
        if post is not None and post.published and not post.deleting:
            return True
    return False


# --- avatars -------------------------------------------------------------------------------------------
def set_avatar(apply: Apply, owner: int, media_id: int) -> Avatar | None:
    """Make the medium the owner's avatar (0: none) and return what the account's row is to hold; the caller
    puts it. The medium of the avatar before goes unless a post shows it.

    Raises Refused `invalid_field` where the medium is absent or not the owner's, `conflict` where it is not
    ready.
    """
    user = USERS.get(apply, UserKey(owner))
    before = user.avatar.media if user and user.avatar else 0
    avatar: Avatar | None = None
    if media_id:
        media = get(apply, owner, media_id)
        if media is None:
            raise Refused("invalid_field", f"avatar_media_id: you have no medium {media_id}")
        if media.state != READY:
            raise Refused("conflict", f"medium {media_id} is {media.state}; an avatar must be ready")
        put(apply, owner, media_id, media, replace(media, avatar=True, face=has_face(user)))
        avatar = Avatar(media_id, media.variants[0].webp, media.variants[0].jpeg)
    old = get(apply, owner, before) if before and before != media_id else None
    if old is not None:
        if old.posts:
            put(apply, owner, before, old, replace(old, avatar=False, face=False))
        else:
            free(apply, owner, before, old)
    return avatar


# --- private, public, suspended ------------------------------------------------------------------------
def set_visibility(apply: Apply, owner: int) -> None:
    """Call after the account's row changed who may see it (private, state): its media follow, the first
    MEDIA_PER_PIECE at once, all others as work."""
    rest = continue_visibility(apply, SetVisibility(owner, 0))
    if rest is not None:
        apply.later(encode(rest))


def continue_visibility(apply: Apply, work: SetVisibility) -> SetVisibility | None:
    user = USERS.get(apply, UserKey(work.owner))
    beyond = MediaKey(work.owner, work.beyond) if work.beyond else None
    scan = MEDIA.scan(apply, work.owner, beyond=beyond)
    found = [row for _, row in zip(range(MEDIA_PER_PIECE), scan, strict=False)]
    for key, media in found:
        shown = is_open(user) and _published(apply, media)
        after = replace(media, shown=shown, face=media.avatar and has_face(user))
        if after != media:
            put(apply, work.owner, key.media, media, after)
    return SetVisibility(work.owner, found[-1][0].media) if len(found) == MEDIA_PER_PIECE else None


# --- the end of an account -----------------------------------------------------------------------------
def delete_media_piece(apply: Apply, owner: int, most: int) -> bool:
    """Free up to `most` (and MEDIA_PER_PIECE) media of an account that is gone, after its posts; True when
    none is left."""
    most = min(most, MEDIA_PER_PIECE)
    found = [row for _, row in zip(range(most), MEDIA.scan(apply, owner), strict=False)]
    for key, media in found:
        free(apply, owner, key.media, media)
    return len(found) < most


_Functions = dict[type, Callable[..., Any]]
WORK: Final[_Functions] = {SetVisibility: continue_visibility}
