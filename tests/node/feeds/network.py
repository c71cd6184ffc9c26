"""A small network of people whose rows are written directly, and what each of them ought to see.

Beside the rows stand plain Python sets, from which `Network.feed` works out a feed in the most naive way.
"""

import msgspec

from cluster.keys import STREAMS, Change, StreamKey
from cluster.streams import Published as StreamRecord
from node.feeds.rendering import Renderer
from node.social import changes, packs
from node.social.keys import (
    BlockKey,
    CountsKey,
    FollowerKey,
    LikeGivenKey,
    PostKey,
    TimelineHeadKey,
    TimelineKey,
    UserKey,
)
from node.social.records import (
    BLOCKS,
    COUNTS,
    FOLLOWERS,
    LIKES_GIVEN,
    POSTS,
    TIMELINE_HEADS,
    TIMELINES,
    USERS,
    Block,
    Counts,
    Edge,
    Like,
    Post,
    PostMedia,
    TimelineEntry,
    TimelineHead,
    User,
    VariantPair,
)
from storage.ids import NOTHING_MINTED, mint, partition_of
from storage.memory import MemoryRows

NOW = 1_800_000_000_000


class Writing:
    """A Writer that puts straight into committed rows."""

    def __init__(self, rows):
        self._rows = rows
        self.get, self.get_many, self.scan = rows.get, rows.get_many, rows.scan

    def put(self, key, value):
        self._rows.write({key: value})
        self._rows.commit()

    def delete(self, key):
        self._rows.write({key: None})
        self._rows.commit()


def sign(viewer, name, until_s):
    return f"viewer={viewer}&until={until_s}&name={name[:4]}"


class Network:
    def __init__(self, people, partitions=4):
        self.rows = MemoryRows()
        self.write = Writing(self.rows)
        self.now = NOW
        self.undelivered = []
        self.people = []
        self.follows = set()  # (viewer, author): as the viewer's packs have it
        self.edges = set()  # (viewer, author): as the author has it
        self.blocks = set()  # (user, other)
        self.posts = {}  # id → Post, published ones
        self.likes = set()  # (viewer, post)
        self._minted = {}
        self._offsets = {}
        for number in range(people):
            user = self.mint(number % partitions)
            self.people.append(user)
            self.put_user(
                user, User(f"name{number}", f"Näme {number}", "", None, False, "user", "active", NOW)
            )
            self._put_counts(user)

    def mint(self, partition):
        self.now += 1
        value, last = mint(self.now, partition, self._minted.get(partition, NOTHING_MINTED))
        self._minted[partition] = last
        return value

    def user(self, user):
        return USERS.get(self.rows, UserKey(user))

    def put_user(self, user, record):
        USERS.put(self.write, UserKey(user), record)

    def change_user(self, user, **fields):
        self.put_user(user, msgspec.structs.replace(self.user(user), **fields))
        self._publish(user, changes.Restricted(user))

    def _put_counts(self, user):
        following = sum(1 for viewer, _ in self.follows if viewer == user)
        blocks = sum(1 for blocker, _ in self.blocks if blocker == user)
        COUNTS.put(self.write, CountsKey(user), Counts(0, following, 0, blocks, 0))

    def _publish(self, author, change):
        partition = partition_of(author)
        offset = self._offsets[partition] = self._offsets.get(partition, 0) + 1
        body = changes.encode(change)
        STREAMS.put(self.write, StreamKey(partition, offset), Change(self.now, body))
        self.undelivered.append(StreamRecord(partition, offset, body))

    def delivered(self):
        records, self.undelivered = self.undelivered, []
        return records

    # --- what people do --------------------------------------------------------------------------------
    def follow(self, viewer, author):
        if (viewer, author) in self.follows or viewer == author:
            return
        packs.add(self.write, viewer, author, sum(1 for one, _ in self.follows if one == viewer))
        self.follows.add((viewer, author))
        self._put_counts(viewer)
        FOLLOWERS.put(
            self.write, FollowerKey(author, viewer), Edge(self.mint(partition_of(author)), self.now)
        )
        self.edges.add((viewer, author))

    def revoke(self, viewer, author):
        """The author's end of an edge goes first; the viewer's follows with a message."""
        FOLLOWERS.delete(self.write, FollowerKey(author, viewer))
        self.edges.discard((viewer, author))

    def unfollow(self, viewer, author):
        self.revoke(viewer, author)
        if (viewer, author) in self.follows:
            packs.remove(self.write, viewer, author, sum(1 for one, _ in self.follows if one == viewer))
            self.follows.discard((viewer, author))
            self._put_counts(viewer)

    def block(self, user, other):
        """Only the block's row: what it does to edges comes with `revoke` and `unfollow`."""
        BLOCKS.put(self.write, BlockKey(user, other), Block(True, False, self.now))
        self.blocks.add((user, other))
        self._put_counts(user)

    def unblock(self, user, other):
        BLOCKS.delete(self.write, BlockKey(user, other))
        self.blocks.discard((user, other))
        self._put_counts(user)

    def publish(self, author, caption="", media=1):
        partition = partition_of(author)
        post, published = self.mint(partition), self.mint(partition)
        entries = tuple(picture(self.mint(partition)) for _ in range(media))
        record = Post(author, caption, "", (), entries, "complete", "", 0, 0, self.now, published, 0, False)
        self.put_post(post, record)
        TIMELINES.put(self.write, TimelineKey(author, published), TimelineEntry(post))
        head = TIMELINE_HEADS.get(self.rows, TimelineHeadKey(author))
        newest = TimelineHead(published, post, head.posts + 1 if head else 1)
        TIMELINE_HEADS.put(self.write, TimelineHeadKey(author), newest)
        self._publish(author, changes.Published(author, post, published))
        return post

    def put_post(self, post, record):
        POSTS.put(self.write, PostKey(post), record)
        self.posts[post] = record

    def withdraw(self, post, *, row_stays=False):
        record = self.posts.pop(post)
        author = record.author
        TIMELINES.delete(self.write, TimelineKey(author, record.published))
        head = TIMELINE_HEADS.get(self.rows, TimelineHeadKey(author))
        first = next(TIMELINES.scan(self.rows, author), None)
        if first is None:
            TIMELINE_HEADS.delete(self.write, TimelineHeadKey(author))
        else:
            newest = TimelineHead(first[0].published, first[1].post, head.posts - 1)
            TIMELINE_HEADS.put(self.write, TimelineHeadKey(author), newest)
        if row_stays:
            POSTS.put(self.write, PostKey(post), msgspec.structs.replace(record, deleting=True))
        else:
            POSTS.delete(self.write, PostKey(post))
        self._publish(author, changes.Withdrawn(author, post, record.published))

    def like(self, viewer, post):
        LIKES_GIVEN.put(self.write, LikeGivenKey(viewer, post), Like(self.mint(0), self.now))
        self.likes.add((viewer, post))
        self.put_post(post, msgspec.structs.replace(self.posts[post], likes=self.posts[post].likes + 1))

    def unlike(self, viewer, post):
        LIKES_GIVEN.delete(self.write, LikeGivenKey(viewer, post))
        self.likes.discard((viewer, post))

    # --- what they ought to see ------------------------------------------------------------------------
    def visible(self, viewer, post):
        author = self.posts[post].author
        if self.user(author).state != "active" or (viewer, author) in self.blocks:
            return False
        followed = (viewer, author) in self.follows and (viewer, author) in self.edges
        return author == viewer or followed

    def feed(self, viewer, before=None):
        """Ids of all posts of the viewer's feed, newest first, those before a cursor alone."""
        seen = [post for post in self.posts if self.visible(viewer, post)]
        seen.sort(key=lambda post: -self.posts[post].published)
        return [post for post in seen if before is None or self.posts[post].published < before]

    def rendered(self, viewer, posts):
        """The same posts as JSON, each encoded from its struct at once."""
        renderer = Renderer(sign)
        views = [
            renderer.view(
                post,
                self.posts[post],
                self.user(self.posts[post].author),
                viewer,
                (viewer, post) in self.likes,
                self.now,
            )
            for post in posts
        ]
        return msgspec.json.encode(views)


def picture(media):
    variants = tuple(
        VariantPair((media + n).to_bytes(32, "big"), (media + n).to_bytes(32, "little"), 10 * n, 8 * n)
        for n in range(1, 5)
    )
    return PostMedia(media, "image/png", 40, 32, "alt ✓", "LEHV6nWB", media.to_bytes(32, "big"), variants)
