"""Checking rows: every record against its checksum and type, and what rows say of each other; reads only.

Each question is asked of one row at a time, with scans over what belongs to it, so memory is bounded. What
two partitions hold of one thing (the ends of a follow, a like and its trace) agrees only when no message is
under way: those questions are asked of a node at rest.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any, Final

from cluster import keys as cluster_keys
from cluster.keys import (
    DEAD_LETTERS,
    HEADS,
    HEADS_PARTITION,
    OUTBOX,
    STREAMS,
    TAKEN,
    WORK,
    Head,
    TakenKey,
)
from cluster.members import meta_rows
from node.social import packs, records
from node.social.application import MODULES
from node.social.blobs import blob_partition
from node.social.keys import (
    BlobReferenceKey,
    CommentMadeKey,
    CountsKey,
    FollowerKey,
    FollowingKey,
    IdleBlobKey,
    LikeGivenKey,
    LikeKey,
    PostKey,
    TimelineHeadKey,
    UserKey,
)
from node.social.records import (
    BLOB_REFERENCES,
    BLOBS,
    BLOCK_LIST,
    BLOCKS,
    COMMENTS,
    COMMENTS_MADE,
    COUNTS,
    FOLLOW_REQUEST_LIST,
    FOLLOW_REQUESTS,
    FOLLOWER_LIST,
    FOLLOWERS,
    FOLLOWING,
    FOLLOWING_LIST,
    IDLE_BLOBS,
    LIKE_LIST,
    LIKES,
    LIKES_GIVEN,
    POSTS,
    RESERVATIONS,
    TIMELINE_HEADS,
    TIMELINES,
    USERS,
    Blob,
    Media,
    Post,
    User,
)
from storage.keys import KeyDamaged, partition_range
from storage.records import RecordDamaged, RecordTooNew
from storage.rows import Reader, Table

FAMILY_AT: Final = 2  # the byte of a key that says its kind or family
KIND_AT: Final = 11  # and, in a family, the kind: after partition, family and owner
Finding = str


class Kinds:
    """Which table a key belongs to."""

    def __init__(self, modules: Iterable[ModuleType]) -> None:
        self.names: dict[int, str] = {}
        self._plain: dict[int, Table[Any, Any]] = {}
        self._families: dict[int, dict[int, Table[Any, Any]]] = {}
        for module in modules:
            for name, table in vars(module).items():
                if isinstance(table, Table):
                    self.names.setdefault(id(table), name)
                    self._add(table)

    def _add(self, table: Table[Any, Any]) -> None:
        prefix = table.key.prefix(0)
        if len(prefix) == KIND_AT + 1:
            self._families.setdefault(prefix[FAMILY_AT], {})[prefix[KIND_AT]] = table
        else:
            self._plain[prefix[FAMILY_AT]] = table

    def of(self, key: bytes) -> Table[Any, Any] | None:
        if len(key) <= FAMILY_AT:
            return None
        family = self._families.get(key[FAMILY_AT])
        if family is not None:
            return family.get(key[KIND_AT]) if len(key) > KIND_AT else None
        return self._plain.get(key[FAMILY_AT])


def every_kind() -> Kinds:
    return Kinds((cluster_keys, meta_rows, records, *MODULES))


def check_partition(rows: Reader, kinds: Kinds, partition: int, seen: Counter[str]) -> Iterator[Finding]:
    """Every row of a partition: does it decode, and does it agree with the others of its partition?"""
    for key, value in rows.scan(*partition_range(partition)):
        table = kinds.of(key)
        if table is None:
            yield f"key {key.hex()}: of no kind that is known"
            continue
        seen[kinds.names[id(table)].lower()] += 1
        try:
            found = table.key.decode(key), table.codec.decode(key, value)
        except (KeyDamaged, RecordDamaged, RecordTooNew) as wrong:
            yield str(wrong)
            continue
        ask = QUESTIONS.get(id(table))
        if ask is not None:
            yield from undamaged(ask(rows, *found))


def undamaged(findings: Iterator[Finding]) -> Iterator[Finding]:
    """The findings up to a row that cannot be read: that one is reported where it stands."""
    with suppress(KeyDamaged, RecordDamaged, RecordTooNew):
        yield from findings


def check_head(rows: Reader, partition: int, head: Head) -> Iterator[Finding]:
    """What the head of a partition counts, against its rows."""
    counted = {
        "outbox_rows": (_count(OUTBOX.scan(rows, partition)), head.outbox_rows),
        "work_rows": (_count(WORK.scan(rows, partition)), head.work_rows),
        "dead_rows": (_count(DEAD_LETTERS.scan(rows, partition)), head.dead_rows),
        "stream": (_count(STREAMS.scan(rows, partition)), head.stream_next - head.stream_first),
    }
    yield from _compared(f"partition {partition}", counted)


def under_way(rows: Reader, partition: int) -> bool:
    """Whether a message of the partition has not been taken. Those that were may still lie in the outbox."""
    for key, _ in OUTBOX.scan(rows, partition):
        taken = TAKEN.get(rows, TakenKey(key.destination, partition))
        if taken is None or taken.sequence < key.sequence:
            return True
    return False


def heads(rows: Reader) -> dict[int, Head]:
    return {key.of: head for key, head in HEADS.scan(rows, HEADS_PARTITION)}


def _compared(what: str, counted: dict[str, tuple[int, int]]) -> Iterator[Finding]:
    for name, (there, said) in counted.items():
        if there != said:
            yield f"{what}: {name} is {said}, but the rows are {there}"


def _count(rows: Iterator[Any]) -> int:
    return sum(1 for _ in rows)


# --- within one partition ------------------------------------------------------------------------------
def _user(rows: Reader, key: UserKey, user: User) -> Iterator[Finding]:
    if user.state == "deleted":
        return  # its rows are being taken away, its counts first
    owner = key.user
    counts = COUNTS.get(rows, CountsKey(owner))
    if counts is None:
        yield f"user {owner}: has no counts"
        return
    edges = [edge.granted for _, edge in FOLLOWING.scan(rows, owner)]
    mine = sum(block.by_user for _, block in BLOCKS.scan(rows, owner))
    followers = _count(FOLLOWERS.scan(rows, owner))
    granted = sum(edges)
    counted = {
        "followers": (followers, counts.followers),
        "follower list": (followers, _count(FOLLOWER_LIST.scan(rows, owner))),
        "request list": (
            _count(FOLLOW_REQUESTS.scan(rows, owner)),
            _count(FOLLOW_REQUEST_LIST.scan(rows, owner)),
        ),
        "following": (granted, counts.following),
        "following list": (granted, _count(FOLLOWING_LIST.scan(rows, owner))),
        "following packs": (granted, len(set(packs.read(rows, owner)))),
        "requested": (len(edges) - granted, counts.requested),
        "blocks": (mine, counts.blocks),
        "block list": (mine, _count(BLOCK_LIST.scan(rows, owner))),
    }
    yield from _compared(f"user {owner}", counted)
    yield from _timeline(rows, owner)


def _timeline(rows: Reader, owner: int) -> Iterator[Finding]:
    newest = next(TIMELINES.scan(rows, owner), None)
    head = TIMELINE_HEADS.get(rows, TimelineHeadKey(owner))
    posts = _count(TIMELINES.scan(rows, owner))
    yield from _compared(f"user {owner}", {"posts": (posts, head.posts if head else 0)})
    if head is not None and newest is not None:
        key, entry = newest
        if (head.published, head.post) != (key.published, entry.post):
            yield f"user {owner}: the timeline's head is post {head.post}, but the newest is {entry.post}"
    for key, entry in TIMELINES.scan(rows, owner):
        post = POSTS.get(rows, PostKey(entry.post))
        if post is None or post.published != key.published:
            yield f"user {owner}: the timeline has post {entry.post}, which is not published there"


def _post(rows: Reader, key: PostKey, post: Post) -> Iterator[Finding]:
    if post.deleting:
        return
    likes = _count(LIKES.scan(rows, key.post))
    counted = {
        "likes": (likes, post.likes),
        "like list": (likes, _count(LIKE_LIST.scan(rows, key.post))),
        "comments": (_count(COMMENTS.scan(rows, key.post)), post.comments),
    }
    yield from _compared(f"post {key.post}", counted)


def _blob(rows: Reader, key: Any, blob: Blob) -> Iterator[Finding]:
    references = public = 0
    for _, reference in BLOB_REFERENCES.scan(rows, key.partition, key.hash):
        references += 1
        public += reference.public
    reservations = _count(RESERVATIONS.scan(rows, key.partition, key.hash))
    counted = {
        "references": (references, blob.references),
        "public": (public, blob.public),
        "reservations": (reservations, blob.reservations),
    }
    yield from _compared(f"blob {key.hash.hex()}", counted)
    idle = IDLE_BLOBS.has(rows, IdleBlobKey(key.partition, blob.idle_since_ms, key.hash))
    if idle != (blob.references + blob.reservations == 0):
        yield f"blob {key.hash.hex()}: its place among those without a reference is wrong"


QUESTIONS: Final[dict[int, Callable[[Reader, Any, Any], Iterator[Finding]]]] = {
    id(USERS): _user,
    id(POSTS): _post,
    id(BLOBS): _blob,
}


# --- between partitions, at rest -----------------------------------------------------------------------
def check_ends(rows: Reader, owner: int) -> Iterator[Finding]:
    """What a user's rows say of other users' and of blobs, and what those say back."""
    for follower, edge in FOLLOWERS.scan(rows, owner):
        other = FOLLOWING.get(rows, FollowingKey(follower.viewer, owner))
        if other is None or not other.granted or other.version != edge.version:
            yield f"user {follower.viewer} follows {owner}, and does not know it"
    for following, granted in FOLLOWING.scan(rows, owner):
        if granted.granted and not FOLLOWERS.has(rows, FollowerKey(following.author, owner)):
            yield f"user {owner} follows {following.author}, who does not know it"
    for given, _ in LIKES_GIVEN.scan(rows, owner):
        if not LIKES.has(rows, LikeKey(given.post, owner)):
            yield f"user {owner} likes post {given.post}, which does not know it"
    for medium_key, medium in records.MEDIA.scan(rows, owner):
        for digest in _hashes(medium):
            reference = BlobReferenceKey(blob_partition(digest), digest, medium_key.media)
            if not BLOB_REFERENCES.has(rows, reference):
                yield f"medium {medium_key.media}: blob {digest.hex()} does not know of it"


def check_ends_of_post(rows: Reader, post: int) -> Iterator[Finding]:
    for like, _ in LIKES.scan(rows, post):
        if not LIKES_GIVEN.has(rows, LikeGivenKey(like.user, post)):
            yield f"post {post}: the like of user {like.user} has no trace there"
    for comment, written in COMMENTS.scan(rows, post):
        if not COMMENTS_MADE.has(rows, CommentMadeKey(written.author, comment.comment)):
            yield f"post {post}: comment {comment.comment} has no trace at user {written.author}"


def _hashes(medium: Media) -> list[bytes]:
    variants = [digest for pair in medium.variants for digest in (pair.webp, pair.jpeg)]
    return [digest for digest in (medium.original, *variants) if digest]
