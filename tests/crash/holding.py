"""What a data directory holds, read as a node reads it at its start, and what must be true of it.

`check_image` wants everything that was acknowledged, and all rows consistent as they are at any moment:
counts beside their rows in one partition, mailboxes in which no message is lost. `check_at_rest` lets the
node's messages and work run to their end and wants both ends of every edge to agree.
"""

import time
import zlib
from contextlib import ExitStack, closing, contextmanager

import trio

from cluster import keys as cluster_keys
from cluster.keys import META_PARTITION
from cluster.members import meta, meta_rows
from cluster.replicas import Replicas
from node.social import records
from node.social.application import social_machine
from storage.blobs import Blobs
from storage.directory import DataDirectory
from storage.journal import Journal
from storage.rows import Table
from storage.shard import Shard

SEGMENT_BYTES = 1 << 20
REST_WITHIN_S = 30.0
TABLES = {
    table.key._codec._constants: table
    for module in (cluster_keys, meta_rows, records)
    for table in vars(module).values()
    if isinstance(table, Table)
}
FAMILIES = {constants[0] for constants in TABLES if len(constants) == 2}


class Acknowledged:
    """What markers say: every deed that was answered, and those under way that may have taken effect."""

    def __init__(self):
        self.posts = {}  # id → digest of the original
        self.deleted, self.uncommented = set(), set()
        self.follows, self.likes = {}, {}  # (user, other) → whether
        self.comments = {}  # id → (post, user, text)
        self.pending = {}  # user → (method, path, body)

    def hear(self, event):
        match event:
            case ["begins", user, method, path, body]:
                self.pending[user] = (method, path, body)
            case ["ends", user]:
                self.pending.pop(user)
            case ["posted", post, _, digest]:
                self.posts[int(post)] = bytes.fromhex(digest)
            case ["deleted_post", post]:
                self.deleted.add(int(post))
            case ["followed", viewer, author, follows]:
                self.follows[int(viewer), int(author)] = follows
            case ["liked", user, post, likes]:
                self.likes[int(user), int(post)] = likes
            case ["commented", post, comment, user, text]:
                self.comments[int(comment)] = (int(post), int(user), text)
            case ["uncommented", _, comment]:
                self.uncommented.add(int(comment))

    def settle(self):
        """The node is gone: what was under way may be or not be, for good."""
        for user, (method, path, body) in self.pending.items():
            kind, _, rest = path.removeprefix("/v1/").partition("/")
            if kind == "follows":
                self.follows.pop((int(user), int(rest or body["followed_id"])), None)
            elif rest.endswith("/like"):
                self.likes.pop((int(user), int(rest.removesuffix("/like"))), None)
            elif method == "DELETE" and kind == "comments":
                self.comments.pop(int(rest), None)
            elif method == "DELETE" and kind == "posts":
                self.posts.pop(int(rest), None)
        self.pending.clear()
        return self

    def alive(self, post):
        return post in self.posts and post not in self.deleted


@contextmanager
def opened(path, *, runs=False):
    """The stores of a data directory, recovered as at a node's start. Unless it `runs` then, what its journal
    has is applied at once."""
    with ExitStack() as stack:
        directory = stack.enter_context(DataDirectory.open(path, now=time.time()))
        shards = [
            stack.enter_context(closing(Shard(directory.shards / f"{number:02}")))
            for number in range(directory.identity.shard_count)
        ]
        journal = stack.enter_context(closing(Journal.open(directory.journal, segment_bytes=SEGMENT_BYTES)))
        machines = dict.fromkeys(range(directory.identity.partition_count), social_machine())
        machines[META_PARTITION] = meta.MetaMachine()
        replicas = Replicas(journal, shards, machines, me=directory.node_id, boot=directory.boots)
        replicas.recover()
        if not runs:
            replicas.settle()
        blobs = Blobs(directory.blobs, directory.staging, directory.quarantine)
        yield directory, replicas, blobs


class Rows:
    """All rows of a node, each checked against its checksum, by table."""

    def __init__(self, replicas):
        self._found = {}
        with replicas.snapshot() as snapshot:
            for shard in snapshot._shards:
                with shard.reading() as rows:
                    for key, value in rows.scan(b"", b"\xff" * 64):
                        self._take(key, value)

    def _take(self, key, value):
        assert zlib.crc32(value[4:], zlib.crc32(key)) == int.from_bytes(value[:4], "big"), key.hex()
        kind = (key[2], key[11]) if key[2] in FAMILIES else (key[2],)
        table = TABLES[kind]
        self._found.setdefault(kind, []).append((table.key.decode(key), table.codec.decode(key, value)))

    def of(self, table):
        return self._found.get(table.key._codec._constants, [])

    def __getitem__(self, table):
        return dict(self.of(table))


def check_image(path, acknowledged):
    """Open what is there and compare. Returns how many posts were looked at."""
    with opened(path) as (directory, replicas, blobs):
        rows = Rows(replicas)
        _check_mailboxes(rows)
        _check_counts(rows)
        _check_acknowledged(rows, acknowledged)
        checked = _check_blobs(rows, blobs, acknowledged)
        assert not any(directory.staging.iterdir())
        assert not any(directory.quarantine.iterdir())
        return checked


def _check_mailboxes(rows):
    """Each pair's messages form a chain from what the destination took to what the source sent."""
    sent = {(key.partition, key.destination): row.sequence for key, row in rows.of(cluster_keys.SENT)}
    taken = {(key.source, key.partition): row.sequence for key, row in rows.of(cluster_keys.TAKEN)}
    waiting = {}
    outbox_rows = {}
    for key, row in rows.of(cluster_keys.OUTBOX):
        waiting.setdefault((key.partition, key.destination), {})[row.previous] = key.sequence
        outbox_rows[key.partition] = outbox_rows.get(key.partition, 0) + 1
    assert taken.keys() <= sent.keys()
    for pair, last in sent.items():
        at = taken.get(pair, 0)
        chain = waiting.get(pair, {})
        while at in chain:
            at = chain[at]
        assert at == last, f"partitions {pair}: messages after {at} are lost, {last} was sent"
    for key, head in rows.of(cluster_keys.HEADS):
        assert head.outbox_rows == outbox_rows.get(key.of, 0)
        assert head.dead_rows == 0


def _check_counts(rows):
    """What one partition counts beside the rows themselves is exact at every moment."""
    likes, comments = {}, {}
    for key, _ in rows.of(records.LIKES):
        likes[key.post] = likes.get(key.post, 0) + 1
    for key, _ in rows.of(records.COMMENTS):
        comments[key.post] = comments.get(key.post, 0) + 1
    for key, post in rows.of(records.POSTS):
        if not post.deleting:
            assert post.likes == likes.get(key.post, 0)
            assert post.comments == comments.get(key.post, 0)
    timelines = {(key.author, row.post) for key, row in rows.of(records.TIMELINES)}
    complete = {
        (post.author, key.post)
        for key, post in rows.of(records.POSTS)
        if post.status == "complete" and not post.deleting
    }
    assert timelines == complete
    per_author = {}
    for author, _ in timelines:
        per_author[author] = per_author.get(author, 0) + 1
    for key, head in rows.of(records.TIMELINE_HEADS):
        assert head.posts == per_author.get(key.author, 0)


def _check_acknowledged(rows, acknowledged):
    posts = {key.post: post for key, post in rows.of(records.POSTS)}
    pending = {path.split("/")[3] for method, path, _ in acknowledged.pending.values() if method == "DELETE"}
    unsure_edges = {
        (int(user), int(path.rpartition("/")[2] if path.count("/") > 2 else body["followed_id"]))
        for user, (_, path, body) in acknowledged.pending.items()
        if path.startswith("/v1/follows")
    }
    unsure_likes = {
        (int(user), int(path.split("/")[3]))
        for user, (_, path, _) in acknowledged.pending.items()
        if path.endswith("/like")
    }
    sure = {post for post in acknowledged.posts if acknowledged.alive(post) and str(post) not in pending}
    assert sure <= posts.keys(), f"posts lost: {sure - posts.keys()}"
    for post in acknowledged.deleted & posts.keys():
        assert posts[post].deleting, f"post {post} was deleted and is back"
    edges = {(key.viewer, key.author) for key, _ in rows.of(records.FOLLOWERS)}
    for edge, follows in acknowledged.follows.items():
        assert edge in unsure_edges or (edge in edges) == follows, f"follow {edge}: want {follows}"
    likes = {(key.user, key.post) for key, _ in rows.of(records.LIKES)}
    for (user, post), liked in acknowledged.likes.items():
        if post in sure and (user, post) not in unsure_likes:
            assert ((user, post) in likes) == liked, f"like {user, post}: want {liked}"
    comments = {key.comment: (key.post, row.author, row.text) for key, row in rows.of(records.COMMENTS)}
    for comment, said in acknowledged.comments.items():
        if said[0] in sure and str(comment) not in pending:
            wanted = None if comment in acknowledged.uncommented else said
            assert comments.get(comment) == wanted, f"comment {comment}: want {wanted}"


def _check_blobs(rows, blobs, acknowledged):
    checked = 0
    for key, post in rows.of(records.POSTS):
        if post.deleting:
            continue
        for medium in post.media:
            hashes = [h for pair in medium.variants for h in (pair.webp, pair.jpeg)]
            for digest in [medium.original, *hashes]:
                blobs.verify(digest)
        wanted = acknowledged.posts.get(key.post)
        assert wanted in (None, post.media[0].original)
        checked += wanted is not None
    return checked


def check_at_rest(path, acknowledged):
    """Let messages and work run to their end; then both ends agree."""
    with opened(path, runs=True) as (_, replicas, _blobs):

        async def rest():
            with trio.fail_after(REST_WITHIN_S):
                async with trio.open_nursery() as nursery:
                    await nursery.start(replicas.run)
                    await replicas.at_rest()
                    nursery.cancel_scope.cancel()

        trio.run(rest)
        rows = Rows(replicas)
    assert not rows.of(cluster_keys.OUTBOX) and not rows.of(cluster_keys.WORK)
    _check_mailboxes(rows)
    _check_counts(rows)
    _check_acknowledged(rows, acknowledged)
    _check_ends(rows)


def _check_ends(rows):
    followers = {(key.viewer, key.author): edge.version for key, edge in rows.of(records.FOLLOWERS)}
    following = {(key.viewer, key.author): edge.version for key, edge in rows.of(records.FOLLOWING)}
    assert followers == following
    for key, counts in rows.of(records.COUNTS):
        assert counts.followers == sum(author == key.user for _, author in followers)
        assert counts.following == sum(viewer == key.user for viewer, _ in followers)
    assert {(key.user, key.post) for key, _ in rows.of(records.LIKES)} == {
        (key.viewer, key.post) for key, _ in rows.of(records.LIKES_GIVEN)
    }
    assert {(row.author, key.comment) for key, row in rows.of(records.COMMENTS)} == {
        (key.viewer, key.comment) for key, _ in rows.of(records.COMMENTS_MADE)
    }
    references = {(key.hash, key.media) for key, _ in rows.of(records.BLOB_REFERENCES)}
    for key, medium in rows.of(records.MEDIA):
        hashes = {medium.original, *(h for pair in medium.variants for h in (pair.webp, pair.jpeg))} - {b""}
        assert {(digest, key.media) for digest in hashes} <= references
    counted = {}
    for digest, _ in references:
        counted[digest] = counted.get(digest, 0) + 1
    for key, blob in rows.of(records.BLOBS):
        assert blob.references == counted.get(key.hash, 0)
