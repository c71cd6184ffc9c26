"""The records of the social data and the tables that bind them to their keys.

Every record is frozen; a change is a new record put over the old one. Times are Unix milliseconds, ids are
64-bit integers, hashes are raw BLAKE3 digests of 32 bytes.
"""

from typing import Final

import msgspec

from node.social import keys
from storage.records import Codec, FixedCodec
from storage.rows import Present, Table


class _Record(msgspec.Struct, array_like=True, frozen=True):
    pass


# --- accounts ------------------------------------------------------------------------------------------
class Name(_Record, frozen=True):
    user: int  # 0 once the account is deleted
    rests_until_ms: int  # 0 while the account lives; then nobody may take the name before this time


class Avatar(_Record, frozen=True):
    media: int
    webp: bytes  # hash of the thumbnail variants
    jpeg: bytes


class User(_Record, frozen=True):
    username: str  # as written at sign-up; the name's row is lower case
    display_name: str
    bio: str
    avatar: Avatar | None
    private: bool
    role: str  # "user" | "admin"
    state: str  # "active" | "suspended" | "deleted"
    created_ms: int


class Counts(_Record, frozen=True):
    followers: int
    following: int  # granted ones
    requested: int  # follows under way that wait for a private author's word
    blocks: int  # blocks by this user: 0 spares a feed page the look
    uploads: int  # bytes of originals stored, for quotas


class Credential(_Record, frozen=True):
    password_hash: str  # Argon2id, encoded form
    changed_ms: int


class Session(_Record, frozen=True):
    refresh_hash: bytes  # of the secret in the newest refresh token, 32 bytes
    previous_hash: bytes  # of the other token that works once more for 30 s after `rotated_ms`, or empty
    rotated_ms: int
    opened_ms: int  # when the password was given: admin calls need a young session
    expires_ms: int


# --- follows and blocks --------------------------------------------------------------------------------
class Edge(_Record, frozen=True):
    """A follow, or a request for one; the version is minted by the author's partition at each change."""

    version: int
    since_ms: int


class FollowingEdge(_Record, frozen=True):
    version: int
    since_ms: int
    granted: bool  # False: requested


class EdgeEnd(_Record, frozen=True):
    """The other end of an edge in a list that is ordered by version."""

    user: int


class Block(_Record, frozen=True):
    by_user: bool  # the row's user blocks the other
    by_other: bool
    since_ms: int
    version: int = 0  # of the user's own block, its place in the list; 0 where only the other blocks


# --- posts ---------------------------------------------------------------------------------------------
VARIANTS: Final = ("thumbnail", "small", "medium", "large")


class VariantPair(_Record, frozen=True):
    webp: bytes
    jpeg: bytes
    width: int
    height: int


class PostMedia(_Record, frozen=True):
    media: int
    type: str  # mime type of the original, by content
    width: int
    height: int
    alt: str
    placeholder: str  # BlurHash; "" before it exists
    original: bytes  # hash; empty before the bytes have come
    variants: tuple[VariantPair, ...]  # in the order of VARIANTS; empty before they exist


class Post(_Record, frozen=True):
    author: int
    caption: str
    location: str
    hashtags: tuple[str, ...]
    media: tuple[PostMedia, ...]
    status: str  # "pending" | "processing" | "complete" | "failed"
    failure: str  # which medium and why; "" unless failed
    likes: int
    comments: int
    created_ms: int
    published: int  # minted id of the publication: the order of feeds; 0 before
    edited_ms: int  # 0 if never
    deleting: bool  # hidden from all; a work row takes its likes and comments away


class TimelineHead(_Record, frozen=True):
    """The newest post of an author, in fixed places: `feeds/merge.py` compares thousands undecoded."""

    published: int
    post: int
    posts: int  # complete posts, up to 2^32 - 1


class TimelineEntry(_Record, frozen=True):
    post: int


class Like(_Record, frozen=True):
    version: int
    since_ms: int


class Comment(_Record, frozen=True):
    author: int
    text: str
    created_ms: int


class PostOf(_Record, frozen=True):
    post: int


# --- media, jobs, blobs --------------------------------------------------------------------------------
class Media(_Record, frozen=True):
    state: str  # "awaiting" | "stored" | "ready" | "failed"
    type: str  # declared while awaiting, then by content
    size: int
    alt: str
    created_ms: int
    expires_ms: int  # of the promise, while awaiting
    original: bytes
    width: int
    height: int
    placeholder: str
    variants: tuple[VariantPair, ...]
    posts: tuple[int, ...]  # the posts that show it
    avatar: bool  # it is its owner's avatar
    shown: bool  # its variants' references are public
    failure: str
    face: bool  # its thumbnail's references are public: it is the avatar of somebody everybody may see


class UploadPromise(_Record, frozen=True):
    owner: int


class Job(_Record, frozen=True):
    attempt: int  # of the newest claim; 0 before the first; grows for ever, so a stale one stays stale
    worker: str  # "" while unclaimed
    until_ms: int  # the claim's end
    due_ms: int  # when it may be claimed: its turn, or the end of the claim
    reason: str  # of the last failure
    owner: int
    free: int  # attempts that cost no try: those before an admin's retry, and released ones


class FailedJob(_Record, frozen=True):
    owner: int
    attempts: int
    reason: str
    failed_ms: int


class Blob(_Record, frozen=True):
    size: int
    type: str  # mime type with which it is served
    references: int
    public: int  # how many of them show it to everybody
    idle_since_ms: int  # when the last reference went; 0 while there is one
    reservations: int


class BlobReference(_Record, frozen=True):
    owner: int
    public: bool
    confirmed: bool
    since_ms: int


class Reservation(_Record, frozen=True):
    until_ms: int


NAMES: Final = Table(keys.NameKey, Codec(Name))
RESTING_NAMES: Final = Table(keys.RestingNameKey, Codec(Present))
DIRECTORY: Final = Table(keys.DirectoryKey, Codec(Present))
USERS: Final = Table(keys.UserKey, Codec(User))
COUNTS: Final = Table(keys.CountsKey, Codec(Counts))
CREDENTIALS: Final = Table(keys.CredentialKey, Codec(Credential))
SESSIONS: Final = Table(keys.SessionKey, Codec(Session))

FOLLOWERS: Final = Table(keys.FollowerKey, Codec(Edge))
FOLLOWER_LIST: Final = Table(keys.FollowerListKey, Codec(EdgeEnd))
FOLLOW_REQUESTS: Final = Table(keys.FollowRequestKey, Codec(Edge))
FOLLOW_REQUEST_LIST: Final = Table(keys.FollowRequestListKey, Codec(EdgeEnd))
FOLLOWING: Final = Table(keys.FollowingKey, Codec(FollowingEdge))
FOLLOWING_LIST: Final = Table(keys.FollowingListKey, Codec(EdgeEnd))
FOLLOWING_PACKS: Final = Table(keys.FollowingPackKey, Codec(bytes))  # 8-byte big-endian ids
BLOCKS: Final = Table(keys.BlockKey, Codec(Block))
BLOCK_LIST: Final = Table(keys.BlockListKey, Codec(EdgeEnd))

POSTS: Final = Table(keys.PostKey, Codec(Post))
TIMELINE_HEADS: Final = Table(keys.TimelineHeadKey, FixedCodec(TimelineHead, "QQI"))
TIMELINES: Final = Table(keys.TimelineKey, Codec(TimelineEntry))
UNFINISHED: Final = Table(keys.UnfinishedKey, Codec(Present))
LIKES: Final = Table(keys.LikeKey, Codec(Like))
LIKE_LIST: Final = Table(keys.LikeListKey, Codec(EdgeEnd))
COMMENTS: Final = Table(keys.CommentKey, Codec(Comment))
COMMENT_POSTS: Final = Table(keys.CommentPostKey, Codec(PostOf))
LIKES_GIVEN: Final = Table(keys.LikeGivenKey, Codec(Like))
COMMENTS_MADE: Final = Table(keys.CommentMadeKey, Codec(PostOf))

MEDIA: Final = Table(keys.MediaKey, Codec(Media))
UPLOAD_EXPIRIES: Final = Table(keys.UploadExpiryKey, Codec(UploadPromise))
JOBS: Final = Table(keys.JobKey, Codec(Job))
JOBS_DUE: Final = Table(keys.JobDueKey, Codec(Present))
FAILED_JOBS: Final = Table(keys.FailedJobKey, Codec(FailedJob))

BLOBS: Final = Table(keys.BlobKey, Codec(Blob))
BLOB_REFERENCES: Final = Table(keys.BlobReferenceKey, Codec(BlobReference))
RESERVATIONS: Final = Table(keys.ReservationKey, Codec(Reservation))
UNCONFIRMED_REFERENCES: Final = Table(keys.UnconfirmedReferenceKey, Codec(Present))
IDLE_BLOBS: Final = Table(keys.IdleBlobKey, Codec(Present))
