"""A crowd of people who use a node over HTTP, and remember what they were told.

Each does one thing after another and changes only what is their own, so what must be there is known at every
moment but for the one request that was under way when the node went. That one is asked again, with the same
`Idempotency-Key`, until it is answered; it must have taken effect once.
"""

import io
from dataclasses import dataclass, field
from itertools import count
from random import Random

import httpx
import trio
from blake3 import blake3
from PIL import Image

PASSWORD = "correct horse battery"
PAGE = 100
POSTS_KEPT = 40  # per person: above it they delete more than they post
_numbers = count(1)


def photograph(rng, width=48, height=32):
    """A small JPEG like no other."""
    out = io.BytesIO()
    Image.frombytes("RGB", (width // 8, height // 8), rng.randbytes(width * height // 64 * 3)).resize(
        (width, height)
    ).save(out, "JPEG")
    return out.getvalue()


@dataclass
class Post:
    id: str
    author: str
    digest: str  # BLAKE3 of the original, hex
    likes: set = field(default_factory=set)  # ids of users
    comments: dict = field(default_factory=dict)  # id → (user, text)
    checked: bool = False  # its bytes were fetched and compared


@dataclass
class Deed:
    """A request that waits for its answer, and what an answer means."""

    method: str
    path: str
    request: dict
    settle: object  # called with the response


class Facts:
    """What the node has acknowledged."""

    def __init__(self, tell=lambda *event: None):
        self.tell = tell  # hears of each deed when it begins, and of what was acknowledged
        self.posts = {}
        self.deleted = set()
        self.follows = set()  # (viewer, author)
        self.acknowledged = 0

    # What was acknowledged, one method a kind; `tell` hears the same words.
    def posted(self, post, author, digest):
        self.posts[post] = Post(post, author, digest)
        self.tell("posted", post, author, digest)

    def deleted_post(self, post):
        self.posts.pop(post, None)
        self.deleted.add(post)
        self.tell("deleted_post", post)

    def followed(self, viewer, author, *, follows):
        (self.follows.add if follows else self.follows.discard)((viewer, author))
        self.tell("followed", viewer, author, follows)

    def liked(self, user, post, *, likes):
        if post in self.posts:
            (self.posts[post].likes.add if likes else self.posts[post].likes.discard)(user)
        self.tell("liked", user, post, likes)

    def commented(self, post, comment, user, text):
        if post in self.posts:
            self.posts[post].comments[comment] = (user, text)
        self.tell("commented", post, comment, user, text)

    def uncommented(self, post, comment):
        if post in self.posts:
            self.posts[post].comments.pop(comment, None)
        self.tell("uncommented", post, comment)


class Person:
    def __init__(self, name, facts, rng):
        self.name, self.facts, self.rng = name, facts, rng
        self.id = self.token = ""
        self.pending = None  # the deed under way
        self.client = None

    async def sign_up(self):
        answer = await self.client.post("/v1/users", json={"username": self.name, "password": PASSWORD})
        assert answer.status_code == 201, answer.text
        self.id, self.token = answer.json()["user"]["id"], answer.json()["access_token"]

    async def ask(self, method, path, **request):
        headers = {"Authorization": f"Bearer {self.token}", **request.pop("headers", {})}
        return await self.client.request(method, path, headers=headers, **request)

    async def get(self, path):
        answer = await self.ask("GET", path)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    async def pages(self, path, name):
        found, cursor = [], ""
        while True:
            answer = await self.get(f"{path}?limit={PAGE}" + (f"&cursor={cursor}" if cursor else ""))
            found += answer[name]
            cursor = answer["next_cursor"]
            if not cursor:
                return found

    # --- doing -----------------------------------------------------------------------------------------
    async def live(self, others):
        """One deed after another until the node is gone."""
        try:
            while True:
                self.pending = self.next_deed(others)
                await self.carry_on()
        except httpx.TransportError:
            return

    async def carry_on(self):
        """Do what is pending, again if need be."""
        if self.pending is not None:
            deed = self.pending
            self.facts.tell("begins", self.id, deed.method, deed.path, deed.request.get("json"))
            answer = await self.ask(self.pending.method, self.pending.path, **self.pending.request)
            assert answer.status_code < 500, f"{self.pending.path}: {answer.status_code} {answer.text}"
            self.pending.settle(answer)
            self.facts.acknowledged += 1
            self.pending = None
            self.facts.tell("ends", self.id)

    def next_deed(self, others):
        rng, facts = self.rng, self.facts
        own = [post for post in facts.posts.values() if post.author == self.id]
        deeds = [self.post, self.follow, self.like, self.like, self.comment, self.unlike, self.uncomment]
        if len(own) > POSTS_KEPT or (own and rng.random() < 0.05):
            return self.delete(rng.choice(own))
        if not facts.posts:
            return self.post(others)
        return rng.choice(deeds)(others) or self.post(others)

    def post(self, _others):
        data = photograph(self.rng)
        digest = blake3(data).hexdigest()

        def settle(answer):
            assert answer.status_code == 201, answer.text
            self.facts.posted(answer.json()["photo_id"], self.id, digest)

        files = {"photo": ("photo.jpg", data, "image/jpeg")}
        form = {"caption": f"number {next(_numbers)}"}
        return Deed("POST", "/v1/photos", {"files": files, "data": form, "headers": key()}, settle)

    def delete(self, post):
        def settle(answer):
            assert answer.status_code in (204, 404), answer.text  # 404: it was done, the answer got lost
            self.facts.deleted_post(post.id)

        return Deed("DELETE", f"/v1/posts/{post.id}", {}, settle)

    def follow(self, others):
        other = self.rng.choice([one for one in others if one is not self])
        edge = (self.id, other.id)
        if edge in self.facts.follows:

            def settle(answer):
                assert answer.status_code == 204, answer.text
                self.facts.followed(*edge, follows=False)

            return Deed("DELETE", f"/v1/follows/{other.id}", {}, settle)

        def settle(answer):
            assert answer.status_code == 200, answer.text
            self.facts.followed(*edge, follows=True)

        return Deed("POST", "/v1/follows", {"json": {"followed_id": other.id}, "headers": key()}, settle)

    def like(self, _others):
        post = self.rng.choice(list(self.facts.posts.values()))

        def settle(answer):
            assert answer.status_code in (200, 404, 409), answer.text  # deleted by its author meanwhile
            if answer.status_code == 200:
                assert answer.json()["liked_by_me"]
                self.facts.liked(self.id, post.id, likes=True)

        return Deed("POST", f"/v1/posts/{post.id}/like", {"headers": key()}, settle)

    def unlike(self, _others):
        liked = [post for post in self.facts.posts.values() if self.id in post.likes]
        if not liked:
            return None
        post = self.rng.choice(liked)

        def settle(answer):
            assert answer.status_code in (200, 404), answer.text
            self.facts.liked(self.id, post.id, likes=False)

        return Deed("DELETE", f"/v1/posts/{post.id}/like", {}, settle)

    def comment(self, _others):
        post = self.rng.choice(list(self.facts.posts.values()))
        text = f"comment {next(_numbers)}"

        def settle(answer):
            assert answer.status_code in (201, 404, 409), answer.text
            if answer.status_code == 201:
                self.facts.commented(post.id, answer.json()["id"], self.id, text)

        request = {"json": {"text": text}, "headers": key()}
        return Deed("POST", f"/v1/posts/{post.id}/comments", request, settle)

    def uncomment(self, _others):
        own = [
            (post, made)
            for post in self.facts.posts.values()
            for made, (user, _) in post.comments.items()
            if user == self.id
        ]
        if not own:
            return None
        post, made = self.rng.choice(own)

        def settle(answer):
            assert answer.status_code in (204, 404), answer.text
            self.facts.uncommented(post.id, made)

        return Deed("DELETE", f"/v1/comments/{made}", {}, settle)


def key():
    return {"Idempotency-Key": f"deed-{next(_numbers)}"}


class Crowd:
    def __init__(self, size, seed, tell=lambda *event: None):
        self.facts = Facts(tell)
        self.rng = Random(seed)
        self.people = [Person(f"person{seed}.{n}", self.facts, Random(seed * 1000 + n)) for n in range(size)]

    async def connected(self, url, body):
        """Run `body` with everybody connected to the node at `url`."""
        async with trio.open_nursery() as nursery:
            clients = []
            for person in self.people:
                person.client = httpx.AsyncClient(base_url=url, timeout=30, trust_env=False)
                clients.append(person.client)
            try:
                await body()
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    for client in clients:
                        await client.aclose()

    async def sign_up(self):
        for person in self.people:
            await person.sign_up()

    async def live(self, seconds, end):
        """Everybody acts for so long, then `end()` is called, and all see the node go."""
        async with trio.open_nursery() as nursery:
            for person in self.people:
                nursery.start_soon(person.live, self.people)
            await trio.sleep(seconds)
            await trio.to_thread.run_sync(end)

    async def carry_on(self):
        """Ask again what was under way when the node went."""
        async with trio.open_nursery() as nursery:
            for person in self.people:
                nursery.start_soon(person.carry_on)

    # --- looking ---------------------------------------------------------------------------------------
    async def check_at_once(self):
        """Before anything is repeated or has settled: nothing that was acknowledged is missing."""
        facts = self.facts
        unsure = {person.pending.path.split("/")[3] for person in self.people if _touches_post(person)}
        unsure_edges = {(p.id, _other_end(p)) for p in self.people if _other_end(p)}
        for person in self.people:
            grid = {post["id"] for post in await person.pages(f"/v1/users/{person.id}/photos", "photos")}
            own = {post.id for post in facts.posts.values() if post.author == person.id}
            assert own - unsure <= grid, f"posts lost: {own - unsure - grid}"
            assert not grid & facts.deleted, f"deleted posts are back: {grid & facts.deleted}"
            following = {u["id"] for u in await person.pages(f"/v1/users/{person.id}/following", "users")}
            sure = {author for viewer, author in facts.follows - unsure_edges if viewer == person.id}
            assert sure <= following, f"follows lost: {sure - following}"

    async def check(self, every=False):
        """Once all has settled: everything is exactly as it was acknowledged. `every` looks at every post's
        lists and bytes again, else only at those posts that are new."""
        async with trio.open_nursery() as nursery:
            for person in self.people:
                nursery.start_soon(self._check_person, person)
                nursery.start_soon(self._check_feed, person)
        fresh = [post for post in self.facts.posts.values() if every or not post.checked]
        await self._check_posts(fresh)
        for post in self.rng.sample(sorted(self.facts.deleted), min(5, len(self.facts.deleted))):
            assert (await self.people[0].ask("GET", f"/v1/posts/{post}")).status_code == 404

    async def _check_person(self, person):
        facts, me = self.facts, person.id
        grid = await person.pages(f"/v1/users/{me}/photos", "photos")
        assert sorted(post["id"] for post in grid) == sorted(
            post.id for post in facts.posts.values() if post.author == me
        )
        for post in grid:
            self._check_post(post, person)
        followers = [user["id"] for user in await person.pages(f"/v1/users/{me}/followers", "users")]
        assert sorted(followers) == sorted(viewer for viewer, author in facts.follows if author == me)
        following = [user["id"] for user in await person.pages(f"/v1/users/{me}/following", "users")]
        assert sorted(following) == sorted(author for viewer, author in facts.follows if viewer == me)
        user = await person.get("/v1/users/me")
        counts = user["follower_count"], user["following_count"], user["post_count"]
        assert counts == (len(followers), len(following), len(grid))

    async def _check_feed(self, person):
        facts = self.facts
        feed = await person.pages("/v1/feed", "posts")
        authors = {author for viewer, author in facts.follows if viewer == person.id} | {person.id}
        wanted = {post.id for post in facts.posts.values() if post.author in authors}
        assert sorted(post["id"] for post in feed) == sorted(wanted)
        order = [post["published_at"] for post in feed]
        assert order == sorted(order, reverse=True)
        for post in feed:
            self._check_post(post, person)

    def _check_post(self, seen, person):
        post = self.facts.posts[seen["id"]]
        assert seen["upload_status"] == "complete", seen
        assert (seen["like_count"], seen["liked_by_me"]) == (len(post.likes), person.id in post.likes)
        assert seen["comment_count"] == len(post.comments)

    async def _check_posts(self, posts):
        limiter = trio.CapacityLimiter(4)

        async def one(post):
            async with limiter:
                await self._check_lists(post)
                await self._check_bytes(post)
                post.checked = True

        async with trio.open_nursery() as nursery:
            for post in posts:
                nursery.start_soon(one, post)

    async def _check_lists(self, post):
        reader = self.people[0]
        likes = [user["id"] for user in await reader.pages(f"/v1/posts/{post.id}/likes", "users")]
        assert sorted(likes) == sorted(post.likes)
        comments = await reader.pages(f"/v1/posts/{post.id}/comments", "comments")
        found = sorted((one["id"], one["user"]["id"], one["text"]) for one in comments)
        assert found == sorted((made, user, text) for made, (user, text) in post.comments.items())

    async def _check_bytes(self, post):
        author = next(person for person in self.people if person.id == post.author)
        urls = (await author.get(f"/v1/posts/{post.id}"))["media"][0]["urls"]
        variants = [urls[name][form] for name in ("thumbnail", "large") for form in ("webp", "jpeg")]
        for url in (urls["original"], *variants):
            answer = await author.client.get(url)
            assert answer.status_code == 200, f"{url}: {answer.status_code}"
            named = url.rpartition("/")[2].partition(".")[0]
            assert blake3(answer.content).hexdigest() == named
        assert urls["original"].rpartition("/")[2].startswith(post.digest)


def _touches_post(person):
    return person.pending is not None and person.pending.path.startswith("/v1/posts/")


def _other_end(person):
    """Whom the follow under way concerns, or nothing."""
    deed = person.pending
    if deed is None:
        return ""
    if deed.path == "/v1/follows":
        return deed.request["json"]["followed_id"]
    return deed.path.rpartition("/")[2] if deed.path.startswith("/v1/follows/") else ""
