"""Posts as JSON: the one rendering that feed, grid and post pages share.

The structs declare the shape (the OpenAPI description is made from them). A post is encoded once and kept
in pieces between which its user and `liked_by_me` are put, so a page of a feed is a join of bytes. What is
kept is found again only while the row's bytes are equal, so it is never stale: a like makes another value.

URLs are relative to the root, or absolute under the public URL of the settings. Those of private accounts'
media carry a signature for their viewer; so do originals, which are for their owner alone. The ends of
signatures are rounded, so that a browser meets the same URL for a while and can use what it holds.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from node.feeds.memo import Memo
from node.social.keys import FollowerKey, PostKey, UserKey
from node.social.people import ShortUser, rfc3339
from node.social.records import POSTS, USERS, VARIANTS, Avatar, Post, PostMedia, User
from storage.ids import time_of

SIGNED_S: Final = 3600  # how long a signed URL is good for, at most
SIGNED_STEP_S: Final = 900  # how long it stays the same
POSTS_BYTES_MAX: Final = 64 << 20  # rendered posts: about 25,000
AUTHORS_BYTES_MAX: Final = 16 << 20  # about 16,000
EXTENSIONS: Final = {
    "image/jpeg": "jpeg",
    "image/png": "png",
    "image/webp": "webp",
    "image/avif": "avif",
    "image/gif": "gif",
    "image/heic": "heic",
}

# (viewer, file name, end in seconds since 1970) → the query that lets the viewer have the file until then
Sign = Callable[[int, str, int], str]


class VariantUrls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    webp: str
    jpeg: str


class MediaUrls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    thumbnail: VariantUrls
    small: VariantUrls
    medium: VariantUrls
    large: VariantUrls
    original: str | None  # to its owner alone


class MediaView(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    type: str
    width: int
    height: int
    alt: str
    placeholder: str | None  # BlurHash
    urls: MediaUrls | None  # None before they exist


class PostView(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `post` of the API."""

    id: str
    user: ShortUser
    liked_by_me: bool  # here, so that all that follows is the same for every reader
    caption: str
    location: str
    hashtags: tuple[str, ...]
    media: tuple[MediaView, ...]
    photo_url: str | None
    upload_status: str
    failure: str | None
    like_count: int
    comment_count: int
    created_at: str
    published_at: str | None
    edited_at: str | None


class Author:
    """What pages need of an author: keys made once, and the face as the user's row last said."""

    __slots__ = ("active", "face", "followers", "id", "posts", "private", "user_key", "value")

    def __init__(self, author: int) -> None:
        self.id = author
        self.user_key = UserKey(author).encode()
        self.followers = FollowerKey.prefix(author)  # + viewer, 8 bytes: the follower's edge
        self.posts = PostKey(author).encode()[:-8]  # + post, 8 bytes: a post lives where its author does
        self.value: bytes | None = None  # of the user's row, from which the rest was made
        self.face = b""  # JSON of a ShortUser
        self.active = False
        self.private = False

    def see(self, value: bytes | None, renderer: "Renderer") -> None:
        """Take in the user's row as it is now. Raises RecordDamaged."""
        if value is None:
            self.active = False
        else:
            user = USERS.codec.decode(self.user_key, value)
            self.face = _encode(renderer.short_user(self.id, user))
            self.active, self.private = user.state == "active", user.private
        self.value = value


class Authors(Memo[Author]):
    """Authors by the 8 bytes of their ids; whoever is not held is made anew."""

    def __missing__(self, key: bytes) -> Author:
        try:
            return super().__missing__(key)
        except KeyError:
            author = Author(int.from_bytes(key, "big"))
            self.keep(key, author, _AUTHOR_BYTES)
            return author


class Rendered(NamedTuple):
    """A post in pieces: before | user | liked_by_me | after."""

    value: bytes  # of the row from which it was made
    shown: bool  # complete, by its author and not under deletion: others may see it
    before: bytes
    after: bytes
    until_s: int  # end of the signatures in it; 0 without


LIKED: Final = (b',"liked_by_me":false', b',"liked_by_me":true')
_AUTHOR_BYTES: Final = 1300  # object, keys, face and row
_GAP: Final = msgspec.Raw(b"\x00")  # JSON never holds a bare NUL, so a post is cut at its gaps
_RENDERED_BYTES: Final = 450  # objects and key of a rendered post, beside its row and its longest piece
_encode: Final = msgspec.json.Encoder().encode


def _no_sign(viewer: int, name: str, until_s: int) -> str:
    raise AssertionError("private media need a function that signs URLs")


class Renderer:
    """Makes JSON of posts and of the users in them. One task owns it."""

    def __init__(
        self,
        sign: Sign = _no_sign,
        public_url: str = "",
        *,
        posts_bytes: int = POSTS_BYTES_MAX,
        authors_bytes: int = AUTHORS_BYTES_MAX,
    ) -> None:
        self._sign = sign
        self._media_url = public_url.rstrip("/") + "/media/"
        self.posts: Memo[Rendered] = Memo(posts_bytes)
        self.authors = Authors(authors_bytes)

    # --- users -----------------------------------------------------------------------------------------
    def short_user(self, user_id: int, user: User) -> ShortUser:
        avatar = self.avatar_url(user_id, user.avatar) if user.avatar else None
        return ShortUser(str(user_id), user.username, user.display_name, avatar)

    def avatar_url(self, user_id: int, avatar: Avatar) -> str:
        """Avatars are public, those of private accounts too."""
        return f"{self._media_url}{avatar.jpeg.hex()}.jpeg"

    # --- posts -----------------------------------------------------------------------------------------
    def pieces(
        self, post: bytes, key: bytes, value: bytes, viewer: int, author: Author, now_ms: int
    ) -> Rendered:
        """A post's pieces; `post` is its id in 8 bytes, `author` is seen. Raises RecordDamaged."""
        until_s = 0
        if author.private or author.id == viewer:
            post += viewer.to_bytes(8, "big") + (b"private" if author.private else b"own")
            until_s = signed_until(now_ms)
        known = self.posts.find(post)
        if known is None or known.value != value or known.until_s != until_s:
            known = self._render(key, value, viewer, author, until_s)
            self.posts.keep(post, known, _RENDERED_BYTES + len(value) + len(known.after))
        return known

    def _render(self, key: bytes, value: bytes, viewer: int, author: Author, until_s: int) -> Rendered:
        post = POSTS.codec.decode(key, value)
        # Gaps stand where a user and a bool belong: only here, and they are cut out at once.
        gap: Any = _GAP
        view = self._view(int.from_bytes(key[-8:], "big"), post, gap, gap, viewer, author.private, until_s)
        before, _, after = _encode(view).split(b"\x00")
        shown = post.status == "complete" and not post.deleting and post.author == author.id
        return Rendered(value, shown, before, after, until_s)

    def view(self, post_id: int, post: Post, user: User, viewer: int, liked: bool, now_ms: int) -> PostView:
        """The post as a struct; the bytes of the other methods are its encoding."""
        short = self.short_user(post.author, user)
        return self._view(post_id, post, short, liked, viewer, user.private, signed_until(now_ms))

    def _view(
        self, post_id: int, post: Post, user: ShortUser, liked: bool, viewer: int, private: bool, until_s: int
    ) -> PostView:
        own = post.author == viewer
        hidden = private or not post.published  # then nothing of it has been made public
        media = tuple([self._media(entry, viewer, own, hidden, until_s) for entry in post.media])
        first = media[0].urls if media else None
        return PostView(
            id=str(post_id),
            user=user,
            liked_by_me=liked,
            caption=post.caption,
            location=post.location,
            hashtags=post.hashtags,
            media=media,
            photo_url=first.medium.jpeg if first else None,
            upload_status=post.status,
            failure=post.failure or None,
            like_count=post.likes,
            comment_count=post.comments,
            created_at=rfc3339(post.created_ms),
            published_at=rfc3339(time_of(post.published)) if post.published else None,
            edited_at=rfc3339(post.edited_ms) if post.edited_ms else None,
        )

    def _media(self, entry: PostMedia, viewer: int, own: bool, private: bool, until_s: int) -> MediaView:
        urls = None
        if len(entry.variants) == len(VARIANTS):
            thumbnail, small, medium, large = (
                VariantUrls(
                    self._url(variant.webp, "webp", viewer, private, until_s),
                    self._url(variant.jpeg, "jpeg", viewer, private, until_s),
                )
                for variant in entry.variants
            )
            extension = EXTENSIONS.get(entry.type, "bin")
            original = self._url(entry.original, extension, viewer, True, until_s) if own else None
            urls = MediaUrls(thumbnail, small, medium, large, original)
        return MediaView(
            id=str(entry.media),
            type=entry.type,
            width=entry.width,
            height=entry.height,
            alt=entry.alt,
            placeholder=entry.placeholder or None,
            urls=urls,
        )

    def _url(self, blob: bytes, extension: str, viewer: int, signed: bool, until_s: int) -> str:
        name = f"{blob.hex()}.{extension}"
        if not signed:
            return self._media_url + name
        return f"{self._media_url}{name}?{self._sign(viewer, name, until_s)}"


def signed_until(now_ms: int) -> int:
    """The end, in seconds since 1970, of signatures made now: 45 to 60 minutes ahead."""
    now_s = now_ms // 1000
    return now_s - now_s % SIGNED_STEP_S + SIGNED_S


def joined(rendered: Rendered, face: bytes, liked: bool) -> bytes:
    """One post as JSON."""
    return b"".join((rendered.before, face, LIKED[liked], rendered.after))
