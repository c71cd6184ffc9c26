"""The bench data: users who follow, post, like and comment, made by commands, settled, and kept for the run.

20,000 users follow 50 others each and have 200,000 posts, 200,000 likes and 200,000 comments in all; a few
readers follow 2,000. The tenth has a tenth of each. Each user has one medium with nine blobs' references and
every post shows it, so a post is one command; the blobs' bytes do not exist, and no page of a feed asks for
them. What was made is also written to a manifest, from which the pair of Redis and PostgreSQL gets the same.
"""

import random
import shutil
import time
from pathlib import Path
from typing import Final

import msgspec
import trio
from blake3 import blake3

from bench.bulk import Bulk, open_directory, open_replicas
from bench.figures import Row
from bench.measure import folder_bytes
from bench.questions import Run
from cluster.replicas import now_ms
from node.app import CLUSTER_SECRET
from node.http.tokens import derive, load_secret
from node.social.accounts import SignedUp, SignUp
from node.social.blobs import PROVISIONAL, Reference, Reserve, Reserved, blob_partition
from node.social.comments import AddComment
from node.social.follows import Follow
from node.social.jobs import Claim, Done
from node.social.likes import Like
from node.social.posts import Created, CreatePhoto, CreatePost
from node.social.records import VariantPair
from storage.ids import partition_of

DAY_MS: Final = 24 * 3600 * 1000
PAST_MS: Final = 30 * DAY_MS  # the posts are spread over so long
SESSION_MS: Final = 30 * DAY_MS
SEED: Final = 20_240_101
BLOBS_EACH: Final = 9  # an original and eight variants
SIZES: Final = ((150, 150), (320, 240), (640, 480), (1080, 810))  # of the variants, pixels
NO_PASSWORD: Final = "$argon2id$v=19$m=65536,t=3,p=4$bm9ib2R5IHNpZ25zIGlu$AAAAAAAAAAAAAAAAAAAAAA"
SUNDAYS: Final = "a bridge over the river at dusk with friends who brought tea and a small dog #sunday #river"
WORDS: Final = SUNDAYS.split()


class Scale(msgspec.Struct, frozen=True):
    """How much of everything."""

    users: int
    follows: int = 50
    posts_each: int = 10
    likes_each: int = 10
    comments_each: int = 10
    eager: int = 8  # readers who follow `eager_follows`
    eager_follows: int = 2000

    @property
    def tenth(self) -> "Scale":
        return msgspec.structs.replace(self, users=self.users // 10, eager=2)


FULL: Final = Scale(20_000)


class Member(msgspec.Struct, array_like=True, frozen=True):
    user: int
    session: int
    username: str
    media: int


class Posted(msgspec.Struct, array_like=True, frozen=True):
    post: int
    author: int
    caption: str
    created_ms: int


class Manifest(msgspec.Struct):
    """What the data directory holds, for whoever needs to know without reading it."""

    members: list[Member] = []
    eager: list[Member] = []  # they follow many, and have a medium but no posts
    following: dict[int, list[int]] = {}
    posts: list[Posted] = []  # oldest first
    likes: list[tuple[int, int]] = []  # (post, user)
    comments: list[tuple[int, int]] = []
    disk_bytes: int = 0  # when all was settled
    stages: list[tuple[str, int, float]] = []  # name, commands, seconds with all messages settled


def place(run: Run, tenth: bool = False) -> Path:
    """The folder of the full data of this run, or of a tenth of it: `node` and `manifest`."""
    return run.folder / ("data-tenth" if tenth else "data")


def node_of(run: Run, tenth: bool = False) -> Path:
    return place(run, tenth) / "node"


def manifest_of(run: Run, tenth: bool = False) -> Manifest:
    return msgspec.msgpack.decode((place(run, tenth) / "manifest").read_bytes(), type=Manifest)


def node_id_of(data: Path) -> str:
    """The id of the node that this data directory belongs to: the issuer of its tokens."""
    node_id: str = msgspec.json.decode((data / "node.json").read_bytes())["node_id"]
    return node_id


def scale_of(run: Run, tenth: bool = False) -> Scale:
    full = FULL.tenth if run.quick else FULL
    return full.tenth if tenth else full


def ensure(run: Run, tenth: bool = False) -> Manifest:
    """Make the data unless this run has it."""
    where = place(run, tenth)
    if not (where / "manifest").exists():
        if where.exists():
            shutil.rmtree(where)  # left by a run that was stopped
        where.mkdir(parents=True)
        manifest = trio.run(make, where / "node", scale_of(run, tenth))
        manifest.disk_bytes = folder_bytes(where / "node")
        (where / "manifest").write_bytes(msgspec.msgpack.encode(manifest))
    return manifest_of(run, tenth)


def answer(run: Run) -> list[Row]:
    """How long the data took: real commands, journalled and synced, with their messages settled."""
    manifest = ensure(run)
    ensure(run, tenth=True)
    commands = sum(count for _, count, _ in manifest.stages)
    seconds = sum(took for *_, took in manifest.stages)
    scale = scale_of(run)
    what = f"loading {scale.users:,} users, {len(manifest.posts):,} posts: durable commands, messages settled"
    stages = "; ".join(f"{name} {count / took:,.0f}/s" for name, count, took in manifest.stages)
    note = f"{commands:,} commands in {seconds:.0f} s, {manifest.disk_bytes / 1e9:.2f} GB on disk"
    return [Row(run.question, what, "/s", commands / seconds, beside=f"{note}; {stages}", note=note)]


# --- making it -----------------------------------------------------------------------------------------
class Maker:
    """One stage after another; each settles before the next, so nothing refers to what is not there yet."""

    def __init__(self, bulk: Bulk, scale: Scale, name_key: bytes, partitions: int) -> None:
        self._bulk = bulk
        self._scale = scale
        self._name_key = name_key
        self._partitions = partitions
        self._random = random.Random(SEED)
        self._now = now_ms() - PAST_MS
        self.manifest = Manifest()

    async def stage(self, name: str, work: object) -> None:
        began, before = time.perf_counter(), self._bulk.commands
        await work  # type: ignore[misc]
        await self._bulk.settle()
        commands = self._bulk.commands - before
        self.manifest.stages.append((name, commands, time.perf_counter() - began))

    def _partition_of_name(self, name: str) -> int:
        digest = blake3(name.encode(), key=self._name_key).digest(8)
        return int.from_bytes(digest, "big") % self._partitions

    async def sign_up(self) -> None:
        """All users; results come in any order, so they are put in that of their names."""
        for number in range(self._scale.users + self._scale.eager):
            name = f"bench_{number:06}"

            def then(result: bytes, name: str = name) -> None:
                signed = msgspec.msgpack.decode(result, type=SignedUp)
                member = Member(signed.user, signed.session, name, 0)
                self.manifest.members.append(member)

            token = blake3(name.encode()).digest()
            command = SignUp(name, f"Bench {number}", NO_PASSWORD, token, self._now + PAST_MS + SESSION_MS)
            await self._bulk.put(self._partition_of_name(name), command, then, self._now)
        await self._bulk.settle()
        self.manifest.members.sort(key=lambda member: member.username)

    async def media(self) -> None:
        members = await self.with_media(self.manifest.members)
        self.manifest.members = members[: self._scale.users]
        self.manifest.eager = members[self._scale.users :]

    async def with_media(self, members: list[Member]) -> list[Member]:
        """The members with one medium each, in rounds: each settles before the next."""
        blobs = {member.user: blobs_of(member.username) for member in members}
        reserved: dict[bytes, int] = {}
        await self._reserve(blobs, reserved)
        await self._bulk.settle()
        for member in members:
            original = blobs[member.user][0]
            # The original is referenced under a provisional number, as an upload does.
            await self._refer(original, reserved[original], PROVISIONAL | member.user, member)
        await self._bulk.settle()
        media: dict[int, int] = {}
        for member in members:

            def made(result: bytes, user: int = member.user) -> None:
                media[user] = msgspec.msgpack.decode(result, type=Created).media[0]

            photo = CreatePhoto(
                member.user,
                "",
                "",
                (),
                "",
                blobs[member.user][0],
                "image/jpeg",
                len(text_of(member.username, 0)),
                PROVISIONAL | member.user,
            )
            await self._bulk.put(partition_of(member.user), photo, made, self._now)
        await self._bulk.settle()
        for member in members:
            for variant in blobs[member.user][1:]:
                await self._refer(variant, reserved[variant], media[member.user], member)
            claim = Claim(media[member.user], 1, "bench", self._now + DAY_MS)
            await self._bulk.put(partition_of(member.user), claim, None, self._now)
        await self._bulk.settle()
        for member in members:
            done = Done(
                media[member.user], 1, 4000, 3000, "LEHV6nWB2yk8pyo0adR*.7kCMdnj", _pairs(blobs[member.user])
            )
            await self._bulk.put(partition_of(member.user), done, None, self._now)
        return [Member(m.user, m.session, m.username, media[m.user]) for m in members]

    async def _reserve(self, blobs: dict[int, list[bytes]], reserved: dict[bytes, int]) -> None:
        for hashes in blobs.values():
            for blob in hashes:

                def held(result: bytes, blob: bytes = blob) -> None:
                    reserved[blob] = msgspec.msgpack.decode(result, type=Reserved).index

                until = self._now + PAST_MS + DAY_MS
                await self._bulk.put(blob_partition(blob), Reserve(blob, until), held, self._now)

    async def _refer(self, blob: bytes, reservation: int, media: int, owner: Member) -> None:
        size = len(text_of(owner.username, 0))
        command = Reference(blob, reservation, media, owner.user, size, "image/webp")
        await self._bulk.put(blob_partition(blob), command, None, self._now)

    async def follows(self) -> None:
        users = [member.user for member in self.manifest.members]
        eager = min(self._scale.eager_follows, len(users) - 1)
        wishes = [(member.user, self._scale.follows) for member in self.manifest.members]
        wishes += [(member.user, eager) for member in self.manifest.eager]
        edges: list[tuple[int, int]] = []
        for viewer, count in wishes:
            chosen = [author for author in self._random.sample(users, count + 1) if author != viewer][:count]
            self.manifest.following[viewer] = chosen
            edges += [(author, viewer) for author in chosen]
        self._random.shuffle(edges)
        for author, viewer in edges:
            await self.follow(author, viewer)

    async def follow(self, author: int, viewer: int) -> None:
        await self._bulk.put(partition_of(author), Follow(author, viewer), None, self._now)

    async def posts(self) -> None:
        """In random order of authors, at even times up to now."""
        turns = [member for member in self.manifest.members for _ in range(self._scale.posts_each)]
        self._random.shuffle(turns)
        step = PAST_MS / (len(turns) + 1)
        start = self._now
        for number, member in enumerate(turns):
            self._now = start + int(number * step)
            caption = " ".join(self._random.choices(WORDS, k=self._random.randint(3, 24)))
            tags = tuple(sorted({word[1:] for word in caption.split() if word.startswith("#")}))

            def made(
                result: bytes, member: Member = member, caption: str = caption, now: int = self._now
            ) -> None:
                created = msgspec.msgpack.decode(result, type=Created)
                self.manifest.posts.append(Posted(created.post, member.user, caption, now))

            post = CreatePost(member.user, caption, "Bilbao", tags, (member.media,))
            await self._bulk.put(partition_of(member.user), post, made, self._now)

    async def likes(self) -> None:
        """By those who follow the author, so that readers meet what they liked."""
        followers = self._followers()
        chosen: set[tuple[int, int]] = set()
        posts = self.manifest.posts
        wanted = self._scale.likes_each * len(self.manifest.members)
        while len(chosen) < wanted:
            posted = self._random.choice(posts)
            if posted.author in followers:
                chosen.add((posted.post, self._random.choice(followers[posted.author])))
        self.manifest.likes = sorted(chosen)
        for post, viewer in self.manifest.likes:
            await self._bulk.put(partition_of(post), Like(viewer, post), None, self._now)

    async def comments(self) -> None:
        users = [member.user for member in self.manifest.members]
        for _ in range(self._scale.comments_each * len(users)):
            posted, author = self._random.choice(self.manifest.posts), self._random.choice(users)
            text = " ".join(self._random.choices(WORDS, k=8))
            self.manifest.comments.append((posted.post, author))
            await self._bulk.put(
                partition_of(posted.post), AddComment(author, posted.post, text), None, self._now
            )

    def _followers(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for viewer, authors in self.manifest.following.items():
            for author in authors:
                found.setdefault(author, []).append(viewer)
        return found


def blobs_of(name: str) -> list[bytes]:
    """Hashes for an original and its eight variants."""
    return [blake3(text_of(name, number)).digest() for number in range(BLOBS_EACH)]


def text_of(name: str, number: int) -> bytes:
    """What such a blob holds, where somebody wants it to exist."""
    return f"{name}/{number}".encode()


def _pairs(blobs: list[bytes]) -> tuple[VariantPair, ...]:
    hashes = blobs[1:]
    return tuple(
        VariantPair(hashes[2 * number], hashes[2 * number + 1], *size) for number, size in enumerate(SIZES)
    )


async def make(node: Path, scale: Scale) -> Manifest:
    """A data directory with people in it."""
    with open_directory(node) as directory:
        name_key = derive(load_secret(directory.keys / CLUSTER_SECRET), "names")
        async with open_replicas(directory) as replicas:
            maker = Maker(Bulk(replicas), scale, name_key, directory.identity.partition_count)
            await maker.stage("sign-ups", maker.sign_up())
            await maker.stage("media and blobs", maker.media())
            await maker.stage("follows", maker.follows())
            await maker.stage("posts", maker.posts())
            await maker.stage("likes", maker.likes())
            await maker.stage("comments", maker.comments())
    maker.manifest.posts.sort(key=lambda posted: posted.created_ms)
    return maker.manifest
