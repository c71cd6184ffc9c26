"""People who use a cluster while it suffers: they go from node to node, and remember what they were told.

Each does one thing after another. A deed with an `Idempotency-Key` is asked again, of any node, until it is
answered; it must take effect once. One without is asked once: where no answer came, it may have taken effect
or not, but not twice. Following and liking are asked until answered: they are idempotent by nature.
"""

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import count
from random import Random

import httpx
import trio

from tests.crash.crowd import photograph

PASSWORD = "correct horse battery"
ANSWER_S = 4.0  # after which a client gives up on a node and asks another
AGAIN_S = (0.02, 0.5)  # wait before another try: at first, at most
PAUSE_S = (0.0, 0.15)  # between two deeds of one person
SOURCES = ("post", "follow", "like", "comment")
_numbers = count(1)


@dataclass
class Span:
    """One deed or look, from its first try to its success."""

    kind: str  # "write" | "read"
    began: float
    ended: float
    trail: tuple = ()  # (node, seconds, what it said) of each try


@dataclass
class Book:
    """What was acknowledged, and what is not known."""

    posts: dict = field(default_factory=dict)  # caption → (id, author)
    maybe_posts: dict = field(default_factory=dict)  # caption → author
    comments: dict = field(default_factory=dict)  # text → (id, post, author)
    maybe_comments: dict = field(default_factory=dict)  # text → post
    likes: dict = field(default_factory=dict)  # (user, post) → bool, as last acknowledged
    follows: dict = field(default_factory=dict)  # (viewer, author) → bool
    names: Counter = field(default_factory=Counter)  # contested name → how many were told that it is theirs
    name_asked: set = field(default_factory=set)
    spans: list = field(default_factory=list)
    answers: Counter = field(
        default_factory=Counter
    )  # "good" | "refused" | "none" → requests to running nodes
    reasons: Counter = field(default_factory=Counter)
    stale: int = 0
    violations: list = field(default_factory=list)

    def worst(self, kind, since=-math.inf, until=math.inf):
        """The deed or look that took longest, of those that touch this time."""
        spans = [s for s in self.spans if s.kind == kind and s.ended >= since and s.began <= until]
        return max(spans, key=lambda span: span.ended - span.began, default=Span(kind, 0.0, 0.0))

    @property
    def availability(self):
        asked = sum(self.answers.values())
        return self.answers["good"] / asked if asked else 1.0


class NotNow(Exception):
    """No usable answer: to be asked again, perhaps of another node."""


class Person:
    def __init__(self, name, crowd, rng):
        self.name, self.crowd, self.book, self.rng = name, crowd, crowd.book, rng
        self.id = self.token = ""
        self.asked = 0  # the node of the last request
        self.home = None  # the node that this person asks as long as it answers

    # --- asking ----------------------------------------------------------------------------------------
    async def ask(self, method, path, *, node=None, **request):
        """One request to one node. Raises NotNow unless the answer is final."""
        node = node or self._node()
        self.asked = node.number
        headers = dict(request.pop("headers", {}))
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        client = self.crowd.client_of(node)
        was_up = node.up
        try:
            with trio.fail_after(ANSWER_S):
                answer = await client.request(method, path, headers=headers, **request)
        except (httpx.TransportError, trio.TooSlowError) as wrong:
            self.home = None
            if was_up and node.up:
                self.book.answers["none"] += 1
                self.book.reasons[type(wrong).__name__] += 1
            raise NotNow(repr(wrong)) from None
        final = answer.status_code < 500 and answer.status_code not in (401, 429)
        if final and answer.status_code == 409 and "request_in_progress" in answer.text:
            raise NotNow("in progress")
        self.book.answers["good" if final else "refused"] += 1
        if answer.status_code == 500:
            self.book.violations.append(f"{method} {path}: 500 {answer.text[:300]}")
        if not final:
            self.book.reasons[f"{answer.status_code} {method} {said(answer)}"] += 1
            self.home = None
            if answer.status_code == 401 and self.token:
                await self._sign_in()
            raise NotNow(f"{answer.status_code} {said(answer)}")
        if answer.headers.get("Heliograph-Stale"):
            self.book.stale += 1
        return answer

    def _node(self):
        if self.home is None or not self.home.up:
            running = self.crowd.cluster.up
            if not running:
                raise NotNow("no node runs")
            self.home = self.rng.choice(running)
        return self.home

    async def until_answered(self, kind, method, path, **request):
        began = trio.current_time()
        wait = AGAIN_S[0]
        trail = []
        while True:
            asked = trio.current_time()
            try:
                answer = await self.ask(method, path, **request)
                break
            except NotNow as why:
                trail.append((self.asked, round(trio.current_time() - asked, 2), str(why)[:160]))
                await trio.sleep(wait * self.rng.uniform(0.5, 1))
                wait = min(wait * 2, AGAIN_S[1])
        self.book.spans.append(Span(kind, began, trio.current_time(), tuple(trail)))
        return answer

    async def sign_up(self):
        form = {"username": self.name, "password": PASSWORD}
        answer = await self.until_answered("write", "POST", "/v1/users", json=form, headers=key())
        assert answer.status_code == 201, answer.text
        self.id, self.token = answer.json()["user"]["id"], answer.json()["access_token"]

    async def _sign_in(self):
        """The node that signed this person's tokens may have left the cluster."""
        self.token = ""
        form = {"username": self.name, "password": PASSWORD}
        answer = await self.until_answered("write", "POST", "/v1/sessions", json=form)
        assert answer.status_code == 201, answer.text
        self.token = answer.json()["access_token"]

    # --- doing -----------------------------------------------------------------------------------------
    async def live(self):
        deeds = (self.post, self.follow, self.like, self.comment, self.like, self.contest)
        weights = (6, 3, 6, 4, 2, 1)
        while not self.crowd.ending:
            (deed,) = self.rng.choices(deeds, weights)
            try:
                await deed()
            except NotNow:
                continue  # asked once, and no answer: the book says so
            await trio.sleep(self.rng.uniform(*PAUSE_S))

    async def post(self):
        caption, data = f"number {next(_numbers)} of {self.name}", photograph(self.rng)
        request = {"files": {"photo": ("photo.jpg", data, "image/jpeg")}, "data": {"caption": caption}}
        answer = await self._once_or_with_key(
            "/v1/photos", request, lambda: self.book.maybe_posts.__setitem__(caption, self.id)
        )
        assert answer.status_code == 201, answer.text
        self.book.maybe_posts.pop(caption, None)
        self.book.posts[caption] = (answer.json()["photo_id"], self.id)
        await self._find_own(answer)

    async def _once_or_with_key(self, path, request, unsure):
        if self.rng.random() < 0.7:
            return await self.until_answered("write", "POST", path, headers=key(), **request)
        unsure()
        began = trio.current_time()
        answer = await self.ask("POST", path, **request)
        self.book.spans.append(Span("write", began, trio.current_time()))
        return answer

    async def _find_own(self, made):
        """Whoever posts and reloads sees the post, whichever node answers; or is told that it is stale."""
        token = made.headers.get("Heliograph-Token")
        node = self.rng.choice(self.crowd.cluster.up or [None])
        if node is None:
            return
        headers = {"Heliograph-Token": token} if token else {}
        path = f"/v1/posts/{made.json()['photo_id']}"
        try:
            answer = await self.ask("GET", path, node=node, headers=headers)
        except NotNow:
            return
        if answer.status_code != 200 and not answer.headers.get("Heliograph-Stale"):
            self.book.violations.append(f"node {node.number}: own post is not found: {answer.text[:200]}")

    async def follow(self):
        other = self.rng.choice([one for one in self.crowd.people if one is not self and one.id])
        edge = (self.id, other.id)
        if self.book.follows.get(edge):
            answer = await self.until_answered("write", "DELETE", f"/v1/follows/{other.id}")
            assert answer.status_code == 204, answer.text
            self.book.follows[edge] = False
        else:
            form = {"followed_id": other.id}
            answer = await self.until_answered("write", "POST", "/v1/follows", json=form)
            assert answer.status_code == 200, answer.text
            self.book.follows[edge] = True

    async def like(self):
        if not self.book.posts:
            return
        post, _ = self.rng.choice(list(self.book.posts.values()))
        edge = (self.id, post)
        method = "DELETE" if self.book.likes.get(edge) else "POST"
        answer = await self.until_answered("write", method, f"/v1/posts/{post}/like")
        if answer.status_code == 200:  # 409: it is not complete yet
            self.book.likes[edge] = method == "POST"
        else:
            assert answer.status_code in (404, 409), answer.text

    async def comment(self):
        if not self.book.posts:
            return
        post, _ = self.rng.choice(list(self.book.posts.values()))
        text = f"comment {next(_numbers)} of {self.name}"
        path = f"/v1/posts/{post}/comments"
        answer = await self._once_or_with_key(
            path, {"json": {"text": text}}, lambda: self.book.maybe_comments.__setitem__(text, post)
        )
        self.book.maybe_comments.pop(text, None)
        if answer.status_code == 201:
            self.book.comments[text] = (answer.json()["id"], post, self.id)
        else:
            assert answer.status_code in (404, 409), answer.text

    async def contest(self):
        """Two nodes are asked for one name at once; at most one may give it."""
        name = f"wanted{next(_numbers)}.{self.rng.randrange(10**6)}"
        self.book.name_asked.add(name)

        async def want(word):
            try:
                node = self.rng.choice(self.crowd.cluster.up)
                form = {"username": name, "password": f"{PASSWORD} {word}"}
                answer = await self.ask("POST", "/v1/users", node=node, json=form)
                self.book.names[name] += answer.status_code == 201
            except NotNow:
                pass

        token, self.token = self.token, ""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(want, "one")
                nursery.start_soon(want, "two")
        finally:
            self.token = token

    async def read(self):
        """One look after another, at the feed and at others' posts."""
        while not self.crowd.ending:
            if self.book.posts and self.rng.random() < 0.5:
                post, _ = self.rng.choice(list(self.book.posts.values()))
                await self.until_answered("read", "GET", f"/v1/posts/{post}")
            else:
                answer = await self.until_answered("read", "GET", "/v1/feed?limit=20")
                assert answer.status_code == 200, answer.text
            await trio.sleep(self.rng.uniform(0, 0.1))


class Crowd:
    """Writers and readers of a cluster, and the book of what they were told."""

    def __init__(self, cluster, writers, readers, seed):
        self.cluster, self.book, self.ending = cluster, Book(), False
        self.rng = Random(seed)
        names = [f"person{seed}.{number}" for number in range(writers + readers)]
        self.people = [Person(name, self, Random(f"{seed} {name}")) for name in names]
        self.writers, self.readers = self.people[:writers], self.people[writers:]
        self._clients = {}
        self._idle = defaultdict(list)

    def client_of(self, node):
        """One client per running process: a node that comes back has another address."""
        client = self._clients.get(node.number)
        if client is None or str(client.base_url).rstrip("/") != node.url:
            limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
            client = httpx.AsyncClient(base_url=node.url, timeout=ANSWER_S, trust_env=False, limits=limits)
            self._clients[node.number] = client
        return client

    async def sign_up(self):
        async with trio.open_nursery() as nursery:
            for person in self.people:
                nursery.start_soon(person.sign_up)

    async def live(self, *, task_status=trio.TASK_STATUS_IGNORED):
        """Everybody acts until `end`; returns when the last deed is answered."""
        async with trio.open_nursery() as nursery:
            for person in self.writers:
                nursery.start_soon(person.live)
            for person in self.readers:
                nursery.start_soon(person.read)
            task_status.started()

    def end(self):
        self.ending = True


def said(answer):
    """The words of a problem, without what differs each time."""
    detail = answer.json()["detail"] if "json" in answer.headers.get("Content-Type", "") else answer.text
    return re.sub(r"[0-9a-f]{8,}|[0-9.]+", "…", detail)[:100]


def key():
    return {"Idempotency-Key": f"deed-{next(_numbers)}"}
