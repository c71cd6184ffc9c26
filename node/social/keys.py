"""Where each row of the social data lives: every key of the application, declared once.

Rows of one user lie together (family USER_ROWS), so a command dirties few pages. Rows that grow by minted ids
(posts, comments) have ranges of their own, so new ones share a page with their neighbours.
Kinds below 0x20 belong to `cluster/`.
"""

from typing import Final

from storage.keys import U16, U64, Descending, Hash, Id, Key, Text

USER_ROWS: Final = 0x40  # a user's rows, clustered: partition | 0x40 | user | kind | …
POST_ROWS: Final = 0x41  # what hangs on a post: partition | 0x41 | post | kind | …


# --- names and the directory ---------------------------------------------------------------------------
class NameKey(Key, kind=0x20):
    """Lives in the partition of the name's keyed hash, which is also that of the user who chose it."""

    partition: U16
    name: Text  # lower case


class RestingNameKey(Key, kind=0x22):
    """Names of deleted accounts by the end of their rest, so that they can be found when it is over."""

    partition: U16
    until_ms: U64
    name: Text


class DirectoryKey(Key, kind=0x21):
    """Public, active accounts of a partition, newest first."""

    partition: U16
    user: Descending


# --- accounts ------------------------------------------------------------------------------------------
class UserKey(Key, kind=0x01, family=USER_ROWS):
    user: Id


class CountsKey(Key, kind=0x02, family=USER_ROWS):
    user: Id


class CredentialKey(Key, kind=0x03, family=USER_ROWS):
    user: Id


class SessionKey(Key, kind=0x04, family=USER_ROWS):
    user: Id
    session: U64


# --- follows and blocks --------------------------------------------------------------------------------
class FollowerKey(Key, kind=0x10, family=USER_ROWS):
    """The edge itself, at its owner: the author."""

    author: Id
    viewer: U64


class FollowerListKey(Key, kind=0x11, family=USER_ROWS):
    author: Id
    version: Descending


class FollowRequestKey(Key, kind=0x12, family=USER_ROWS):
    author: Id
    viewer: U64


class FollowRequestListKey(Key, kind=0x13, family=USER_ROWS):
    author: Id
    version: Descending


class FollowingKey(Key, kind=0x14, family=USER_ROWS):
    """The viewer's copy of an edge, written only by messages from the author's partition."""

    viewer: Id
    author: U64


class FollowingListKey(Key, kind=0x15, family=USER_ROWS):
    viewer: Id
    version: Descending


class FollowingPackKey(Key, kind=0x16, family=USER_ROWS):
    """The granted authors once more, up to PACK_AUTHORS_MAX in a row: what a feed page begins with."""

    viewer: Id
    pack: U16


class BlockKey(Key, kind=0x17, family=USER_ROWS):
    """One row for either direction, at both ends: whoever owns an object decides with one read."""

    user: Id
    other: U64


class BlockListKey(Key, kind=0x18, family=USER_ROWS):
    """The blocks that the user made, newest first."""

    user: Id
    version: Descending


# --- posts, timelines, likes, comments -----------------------------------------------------------------
class PostKey(Key, kind=0x24):
    post: Id


class TimelineHeadKey(Key, kind=0x25):
    """An author's newest published post; compact, because a feed page reads one per followed author."""

    author: Id


class TimelineKey(Key, kind=0x20, family=USER_ROWS):
    """An author's published posts, newest first. `published` is an id minted at publication: unique."""

    author: Id
    published: Descending


class UnfinishedKey(Key, kind=0x21, family=USER_ROWS):
    """An author's posts that are pending, processing or failed, newest first."""

    author: Id
    post: Descending


class LikeKey(Key, kind=0x01, family=POST_ROWS):
    post: Id
    user: U64


class LikeListKey(Key, kind=0x02, family=POST_ROWS):
    post: Id
    version: Descending


class CommentKey(Key, kind=0x03, family=POST_ROWS):
    post: Id
    comment: Descending


class CommentPostKey(Key, kind=0x26):
    """From a comment's id to its post (both live in the post's partition)."""

    comment: Id


class LikeGivenKey(Key, kind=0x30, family=USER_ROWS):
    viewer: Id
    post: U64


class CommentMadeKey(Key, kind=0x31, family=USER_ROWS):
    viewer: Id
    comment: U64


# --- media and jobs, in the owner's partition ----------------------------------------------------------
class MediaKey(Key, kind=0x28, family=USER_ROWS):
    owner: Id
    media: U64


class UploadExpiryKey(Key, kind=0x29):
    """Uploads that were promised and have not come, by the time at which the promise ends."""

    partition: U16
    expires_ms: U64
    media: U64


class JobKey(Key, kind=0x2A):
    """A medium to be made ready: one job a medium."""

    media: Id


class JobDueKey(Key, kind=0x2B):
    partition: U16
    due_ms: U64
    media: U64


class FailedJobKey(Key, kind=0x2C):
    """Jobs whose tries are used up: dead letters for `heliograph media failed`."""

    partition: U16
    media: U64


# --- blobs, in the partition of their hash -------------------------------------------------------------
class BlobKey(Key, kind=0x30):
    partition: U16
    hash: Hash


class BlobReferenceKey(Key, kind=0x31):
    partition: U16
    hash: Hash
    media: U64


class ReservationKey(Key, kind=0x32):
    partition: U16
    hash: Hash
    reservation: U64


class UnconfirmedReferenceKey(Key, kind=0x33):
    """References whose medium has not said `Keep` yet, by age: swept after a day."""

    partition: U16
    since_ms: U64
    hash: Hash
    media: U64


class IdleBlobKey(Key, kind=0x34):
    """Blobs without a reference, by the time of losing the last one: collected after a day."""

    partition: U16
    since_ms: U64
    hash: Hash
