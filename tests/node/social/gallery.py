"""A village with pictures: uploads, jobs and posts by name, and what must hold of all their rows."""

from collections import Counter

from blake3 import blake3

from node.social import blobs, jobs, media, posts, publication, uploads
from node.social import records as tables
from node.social.hashtags import hashtags
from node.social.records import VariantPair
from storage.ids import partition_of
from storage.keys import KeyDamaged
from storage.rows import Table
from tests.node.social.village import DAY_MS, Village

JPEG = "image/jpeg"
EVERY_TABLE = [table for table in vars(tables).values() if isinstance(table, Table)]
LEFT_FOR_GOOD = {"NameKey", "RestingNameKey"}  # the names of accounts that went rest


def every(rows, table):
    """All rows of a table, over all partitions."""
    for raw, value in rows.scan(b"", b"\xff" * 512):
        if raw[2] < 0x20:
            continue
        try:
            key = table.key.decode(raw)
        except KeyDamaged:
            continue
        yield key, table.codec.decode(raw, value)


class Gallery(Village):
    def __init__(self):
        super().__init__(256)
        self._pictures = 0

    # --- bytes -------------------------------------------------------------------------------------------
    def picture(self):
        """Hash of a new picture."""
        self._pictures += 1
        return blake3(self._pictures.to_bytes(8, "big")).digest()

    def hold(self, blob, media_id, owner, size=1000, mime=JPEG):
        """The bytes are stored on their owners and referenced."""
        home = blobs.blob_partition(blob)
        reserved = self.run_in(home, blobs.Reserve(blob, self.now + 60_000), blobs.Reserved)
        self.run_in(home, blobs.Reference(blob, reserved.index, media_id, owner, size, mime))
        return reserved.index

    def variants(self, media_id, owner, blob, alike=False):
        """Hashes of what a worker would make of the picture, stored and referenced."""
        pairs = []
        for name in tables.VARIANTS:
            mark = b"same" if alike else name.encode()
            webp = blake3(blob + mark + b"webp").digest()
            jpeg = blake3(blob + mark + b"jpeg").digest()
            self.hold(webp, media_id, owner, 10, "image/webp")
            self.hold(jpeg, media_id, owner, 10, JPEG)
            pairs.append(VariantPair(webp, jpeg, 4, 3))
        return tuple(pairs)

    # --- media -------------------------------------------------------------------------------------------
    def promise(self, owner, size=1000, alt=""):
        return self.run(owner, uploads.PromiseUpload(owner, JPEG, size, alt), uploads.Promised)

    def store(self, owner, media_id, blob=None, size=1000, mime=JPEG):
        blob = blob or self.picture()
        self.hold(blob, media_id, owner, size, mime)
        return self.run(owner, uploads.StoreUpload(owner, media_id, blob, size, mime), uploads.Stored)

    def claim(self, media_id, worker="w1", lives_ms=60_000):
        job = self.job(media_id)
        command = jobs.Claim(media_id, job.attempt + 1, worker, self.now + lives_ms)
        return self.run(media_id, command, jobs.Claimed | None)

    def job(self, media_id):
        return tables.JOBS.get(self.rows, tables.JOBS.key(media_id))

    def due(self, media_id):
        """Let the time come at which the medium's job is due."""
        self.now = max(self.now, self.job(media_id).due_ms)

    def finish(self, media_id, alike=False):
        """The claimed attempt is done."""
        job = self.job(media_id)
        blob = self.medium(job.owner, media_id).original
        variants = self.variants(media_id, job.owner, blob, alike)
        self.run(media_id, jobs.Done(media_id, job.attempt, 40, 30, "L00000fQ", variants))

    def make_ready(self, media_id, alike=False):
        self.due(media_id)
        self.claim(media_id)
        self.finish(media_id, alike)

    def fail(self, media_id, permanent=False, reason="it broke"):
        self.run(media_id, jobs.Failed(media_id, self.job(media_id).attempt, reason, permanent))

    def use_up(self, media_id):
        """All tries fail."""
        for _ in range(jobs.TRIES_MAX):
            self.due(media_id)
            self.claim(media_id)
            self.fail(media_id)

    def ready_medium(self, owner):
        media_id = self.promise(owner).media
        self.store(owner, media_id)
        self.make_ready(media_id)
        return media_id

    def medium(self, owner, media_id):
        return media.get(self.rows, owner, media_id)

    # --- posts -------------------------------------------------------------------------------------------
    def photo(self, author, caption="", alt=""):
        """A photo whose bytes are stored: its post and its medium, still processing."""
        blob = self.picture()
        provisional = blobs.PROVISIONAL | self._pictures
        self.hold(blob, provisional, author)
        command = posts.CreatePhoto(
            author, caption, "", hashtags(caption), alt, blob, JPEG, 1000, provisional
        )
        return self.run(author, command, posts.Created)

    def post(self, author, caption=""):
        """A complete post."""
        made = self.photo(author, caption)
        self.make_ready(made.media[0])
        return made.post

    def album(self, author, *media_ids):
        return self.run(author, posts.CreatePost(author, "", "", (), media_ids), posts.Created)

    def promise_post(self, author, size=1000):
        command = posts.PromisePost(author, "", "", (), "", JPEG, size)
        return self.run(author, command, uploads.Promised)

    def row(self, post_id):
        return tables.POSTS.get(self.rows, tables.POSTS.key(post_id))

    def delete(self, author, post_id):
        self.run(post_id, posts.DeletePost(author, post_id))

    def everything(self):
        """All rows there are, but for heads: what a refusal must not change."""
        return dict(self.rows.scan(b"", b"\xff" * 512))

    # --- what must hold once all has settled -------------------------------------------------------------
    def check(self):
        assert self.dead_letters() == 0
        self._check_posts()
        self._check_likes()
        self._check_comments()
        self._check_media()
        self._check_blobs()

    def _check_posts(self):
        rows, t = self.rows, tables
        all_posts = {key.post: post for key, post in every(rows, t.POSTS)}
        timelines = {(k.author, k.published): entry.post for k, entry in every(rows, t.TIMELINES)}
        published = {(p.author, p.published): i for i, p in all_posts.items() if p.published}
        assert timelines == published
        unfinished = {(k.author, k.post) for k, _ in every(rows, t.UNFINISHED)}
        assert unfinished == {(p.author, i) for i, p in all_posts.items() if not p.published}
        heads = {k.author: (h.published, h.post, h.posts) for k, h in every(rows, t.TIMELINE_HEADS)}
        want = {}
        for (author, place), post in sorted(published.items()):
            want[author] = (place, post, want.get(author, (0, 0, 0))[2] + 1)
        assert heads == want
        for post_id, post in all_posts.items():
            assert not post.deleting
            shown = [self.medium(post.author, entry.media) for entry in post.media]
            assert all(post_id in medium.posts for medium in shown)
            assert post.status == publication.status_of([medium.state for medium in shown])
            assert bool(post.published) == (post.status == "complete")
            assert bool(post.failure) == (post.status == "failed")
            for entry, medium in zip(post.media, shown, strict=True):
                assert (entry.original, entry.variants) == (medium.original, medium.variants)
                assert (entry.width, entry.placeholder) == (medium.width, medium.placeholder)

    def _check_likes(self):
        rows, t = self.rows, tables
        edges = {(k.post, k.user): like.version for k, like in every(rows, t.LIKES)}
        assert {(k.post, e.user): k.version for k, e in every(rows, t.LIKE_LIST)} == edges
        assert {(k.post, k.viewer): g.version for k, g in every(rows, t.LIKES_GIVEN)} == edges
        counts = Counter(post for post, _ in edges)
        assert {k.post: p.likes for k, p in every(rows, t.POSTS) if p.likes} == counts

    def _check_comments(self):
        rows, t = self.rows, tables
        found = {k.comment: (k.post, c.author) for k, c in every(rows, t.COMMENTS)}
        assert {k.comment: of.post for k, of in every(rows, t.COMMENT_POSTS)} == {
            comment: post for comment, (post, _) in found.items()
        }
        made = {k.comment: (of.post, k.viewer) for k, of in every(rows, t.COMMENTS_MADE)}
        assert made == found
        counts = Counter(post for post, _ in found.values())
        assert {k.post: p.comments for k, p in every(rows, t.POSTS) if p.comments} == counts

    def _check_media(self):
        rows, t = self.rows, tables
        found = {(k.owner, k.media): m for k, m in every(rows, t.MEDIA)}
        stored = {media_id for (_, media_id), m in found.items() if m.state == "stored"}
        all_jobs = {k.media: job for k, job in every(rows, t.JOBS)}
        assert set(all_jobs) == stored
        due = {(k.partition, k.due_ms, k.media) for k, _ in every(rows, t.JOBS_DUE)}
        assert due == {(partition_of(i), job.due_ms, i) for i, job in all_jobs.items()}
        failed = {media_id for (_, media_id), m in found.items() if m.state == "failed"}
        assert {k.media for k, _ in every(rows, t.FAILED_JOBS)} <= failed
        awaiting = {(m.expires_ms, i) for (_, i), m in found.items() if m.state == "awaiting"}
        assert {(k.expires_ms, k.media) for k, _ in every(rows, t.UPLOAD_EXPIRIES)} == awaiting
        used = Counter()
        for (owner, media_id), medium in found.items():
            used[owner] += medium.size if medium.original else 0
            self._check_shown(owner, media_id, medium)
        for key, counts in every(rows, t.COUNTS):
            assert counts.uploads == used[key.user]

    def _check_shown(self, owner, media_id, medium):
        user = tables.USERS.get(self.rows, tables.USERS.key(owner))
        shows = [self.row(post_id) for post_id in medium.posts]
        assert all(media_id in [entry.media for entry in post.media] for post in shows)
        active = user.state == "active"
        assert medium.shown == (active and not user.private and any(post.published for post in shows))
        assert medium.avatar == (user.avatar is not None and user.avatar.media == media_id)
        assert medium.face == (medium.avatar and active)

    def _check_blobs(self):
        """References are exactly those of the media, and the counts of blobs those of their references."""
        rows, t = self.rows, tables
        want = {}
        for key, medium in every(rows, t.MEDIA):
            for blob, public in media.referred(medium).items():
                want[blob, key.media] = (key.owner, public)
        held = {(k.hash, k.media): r for k, r in every(rows, t.BLOB_REFERENCES)}
        confirmed = {key: (r.owner, r.public) for key, r in held.items() if r.confirmed}
        assert confirmed == want
        loose = {(k.since_ms, k.hash, k.media) for k, _ in every(rows, t.UNCONFIRMED_REFERENCES)}
        assert loose == {(r.since_ms, *key) for key, r in held.items() if not r.confirmed}
        waiting = Counter(k.hash for k, _ in every(rows, t.RESERVATIONS))
        counts = Counter(blob for blob, _ in held)
        public = Counter(blob for (blob, _), r in held.items() if r.public)
        idle = {k.hash: k.since_ms for k, _ in every(rows, t.IDLE_BLOBS)}
        for key, blob in every(rows, t.BLOBS):
            numbers = (blob.references, blob.public, blob.reservations)
            assert numbers == (counts[key.hash], public[key.hash], waiting[key.hash])
            assert bool(blob.idle_since_ms) == (not blob.references and not blob.reservations)
            assert idle.get(key.hash, 0) == blob.idle_since_ms
        known = {key.hash for key, _ in every(rows, t.BLOBS)}
        assert known >= set(counts) | set(waiting) | set(idle)

    def collect_all(self):
        """Sweep and collect until nothing more may go."""
        for _ in range(2):
            self.now += DAY_MS + 1
            for home in range(256):
                old = blobs.expired_reservations(self.rows, home, self.now)
                if old:
                    self.run_in(home, blobs.ExpireReservations(tuple(old)))
                if blobs.unconfirmed_since(self.rows, home):
                    self.run_in(home, blobs.SweepReferences())
                for blob in blobs.collectable(self.rows, home, self.now):
                    self.run_in(home, blobs.Collect(blob))

    def leftovers(self):
        """Names of the tables that have rows, but for those that outlive accounts."""
        return {
            table.key.__name__
            for table in EVERY_TABLE
            if table.key.__name__ not in LEFT_FOR_GOOD and next(every(self.rows, table), None)
        }
