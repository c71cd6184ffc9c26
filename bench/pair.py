"""The same feed over Redis (a list per reader) and PostgreSQL (posts, users, likes), in the same web stack.

The server, application, access tokens, limits and metrics are the node's own. The pair is treated well: the
feed lists are ready, media stand in the row as finished JSON, session and list come in one round trip, and
one statement brings the page, which holds the one right that every page must ask: the follow at this moment.
"""

import sys
from pathlib import Path
from typing import Any, Final

import msgspec
import trio
from quart import Response, g, request

from bench.bench_data import SIZES, Manifest, blobs_of
from bench.pooled import Pool, Postgres
from bench.processes import announce, until_input_ends
from bench.redis_wire import Redis, command
from cluster.replicas import now_ms
from node.http.application import make_application
from node.http.limits import Limits
from node.http.metrics import Metrics
from node.http.openapi import Route, Routes
from node.http.problems import Problem
from node.http.server import Address, Server
from node.http.tokens import Keyring
from node.settings import Http
from node.settings import Limits as LimitSettings
from node.social.people import rfc3339
from node.social.records import VARIANTS

CONNECTIONS_MAX: Final = 64
FEED_LIST_MAX: Final = 500  # posts kept per reader, as fan-out on write keeps them
COUNT_MAX: Final = 1_000_000_000  # a limit that counts and never refuses

FEED: Final = """
SELECT p.id, p.caption, p.location, p.hashtags, p.media, p.photo_url, p.likes, p.comments, p.created_at,
       u.id, u.username, u.display_name, u.avatar_url, l.user_id IS NOT NULL
  FROM posts p JOIN users u ON u.id = p.author AND u.state = 'active'
  LEFT JOIN likes l ON l.post = p.id AND l.user_id = $2::bigint
 WHERE p.id = ANY($1::bigint[])
   AND (p.author = $2 OR EXISTS (SELECT FROM follows f WHERE f.viewer = $2 AND f.author = p.author))
 ORDER BY p.id DESC
"""
TABLES: Final = """
CREATE TABLE users (id bigint PRIMARY KEY, username text NOT NULL, display_name text NOT NULL,
    avatar_url text, state text NOT NULL);
CREATE TABLE follows (viewer bigint, author bigint, PRIMARY KEY (viewer, author));
CREATE TABLE posts (id bigint PRIMARY KEY, author bigint NOT NULL, caption text NOT NULL,
    location text NOT NULL, hashtags text NOT NULL, media text NOT NULL, photo_url text NOT NULL,
    likes int NOT NULL, comments int NOT NULL, created_at text NOT NULL);
CREATE TABLE likes (post bigint, user_id bigint, PRIMARY KEY (post, user_id));
"""


class Pair(msgspec.Struct, frozen=True):
    redis_port: int
    postgres_port: int
    keys: str  # the node's folder of keys: the same tokens are good for both
    node_id: str

    @property
    def postgres_address(self) -> str:
        return f"host=127.0.0.1 port={self.postgres_port} user=bench dbname=postgres"


class _User(msgspec.Struct, frozen=True):
    id: str
    username: str
    display_name: str
    avatar_url: str | None


class _Post(msgspec.Struct, frozen=True):
    """The `post` of the API."""

    id: str
    user: _User
    caption: str
    location: str
    hashtags: msgspec.Raw
    media: msgspec.Raw
    photo_url: str
    upload_status: str
    failure: None
    like_count: int
    comment_count: int
    liked_by_me: bool
    created_at: str
    published_at: str
    edited_at: None


class _Page(msgspec.Struct, frozen=True):
    posts: list[_Post]
    next_cursor: str | None


# --- filling -------------------------------------------------------------------------------------------
def fill(pair: Pair, manifest: Manifest) -> None:
    """Give both the bench data: rows by COPY, lists by pipelined RPUSH."""
    _fill_postgres(pair, manifest)
    trio.run(_fill_redis, pair, manifest)


def _fill_postgres(pair: Pair, manifest: Manifest) -> None:
    import psycopg

    likes: dict[int, int] = {}
    comments: dict[int, int] = {}
    for counts, pairs in ((likes, manifest.likes), (comments, manifest.comments)):
        for post, _ in pairs:
            counts[post] = counts.get(post, 0) + 1
    members = [*manifest.members, *manifest.eager]
    media = {member.user: _media(member.username, member.media) for member in members}
    with psycopg.connect(pair.postgres_address, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(TABLES)
        with cursor.copy("COPY users FROM STDIN") as copy:
            for number, member in enumerate(members):
                copy.write_row((member.user, member.username, f"Bench {number}", None, "active"))
        with cursor.copy("COPY follows FROM STDIN") as copy:
            for viewer, authors in manifest.following.items():
                for author in authors:
                    copy.write_row((viewer, author))
        with cursor.copy("COPY posts FROM STDIN") as copy:
            for post in manifest.posts:
                tags = sorted({word[1:] for word in post.caption.split() if word.startswith("#")})
                shown, url = media[post.author]
                counts_of = (likes.get(post.post, 0), comments.get(post.post, 0))
                row = (post.post, post.author, post.caption, "Bilbao", msgspec.json.encode(tags).decode())
                copy.write_row((*row, shown, url, *counts_of, rfc3339(post.created_ms)))
        with cursor.copy("COPY likes FROM STDIN") as copy:
            for like in manifest.likes:
                copy.write_row(like)
        cursor.execute("ANALYZE")


def _media(username: str, media: int) -> tuple[str, str]:
    """A medium as the JSON of the API, and the URL of its medium variant."""
    names = [blob.hex() for blob in blobs_of(username)[1:]]
    urls: dict[str, Any] = {
        variant: {"webp": f"/media/{names[2 * i]}.webp", "jpeg": f"/media/{names[2 * i + 1]}.jpeg"}
        for i, variant in enumerate(VARIANTS[: len(SIZES)])
    }
    shown = {
        "id": str(media),
        "type": "image/jpeg",
        "width": 4000,
        "height": 3000,
        "alt": "",
        "placeholder": "LEHV6nWB2yk8pyo0adR*.7kCMdnj",
        "urls": {**urls, "original": None},
    }
    return msgspec.json.encode([shown]).decode(), urls["medium"]["jpeg"]


async def _fill_redis(pair: Pair, manifest: Manifest) -> None:
    posts_of: dict[int, list[int]] = {}
    for posted in manifest.posts:
        posts_of.setdefault(posted.author, []).append(posted.post)
    redis = await Redis.connect(pair.redis_port)
    for member in [*manifest.members, *manifest.eager]:
        authors = [*manifest.following.get(member.user, ()), member.user]
        newest = sorted((post for author in authors for post in posts_of.get(author, ())), reverse=True)
        words = [b"%d" % post for post in newest[:FEED_LIST_MAX]]
        session = command(b"SET", b"session:%d" % member.session, b"%d" % member.user)
        if not words:
            await redis.ask(session, 1)
            continue
        await redis.ask(command(b"RPUSH", b"feed:%d" % member.user, *words) + session, 2)


# --- serving -------------------------------------------------------------------------------------------
class _Admission:
    """As the node's: the access token and the limits, before each handler."""

    def __init__(self, pair: Pair) -> None:
        settings = LimitSettings(reads_count=COUNT_MAX)
        self.limits = Limits(settings)
        self.keyring = Keyring(
            Path(pair.keys), node_id=pair.node_id, token_s=900, cache_entries=50_000, now=now_ms() // 1000
        )

    async def admit(self, route: Route) -> None:
        now_s = now_ms() // 1000
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Problem("unauthenticated", "send `Authorization: Bearer` with an access token")
        g.claims = self.keyring.verify(credentials, now_s)
        verdict = self.limits.take("reads", [f"user:{g.claims.user_id}"], now_s)
        request.answer_headers.update(verdict.headers())  # type: ignore[attr-defined]


def make_routes(redis: Pool[Redis], postgres: Pool[Postgres]) -> Routes:
    routes = Routes("pair")
    encode = msgspec.json.Encoder().encode

    @routes.add("GET", "/v1/feed", "The feed of who asks", limit="reads")
    async def feed() -> Response:
        claims = g.claims
        limit = int(request.args.get("limit", "10"))
        ask = command(b"GET", b"session:%d" % claims.session_id)
        ask += command(b"LRANGE", b"feed:%d" % claims.user_id, b"0", b"%d" % limit)
        async with redis.taken() as one:
            session, ids = await one.ask(ask, 2)
        if session is None or int(session) != claims.user_id:
            raise Problem("unauthenticated", "this session has ended: sign in again")
        following = ids[limit - 1].decode() if len(ids) > limit else None
        wanted = b"{" + b",".join(ids[:limit]) + b"}"
        async with postgres.taken() as connection:
            result = await connection.run(b"feed", (wanted, b"%d" % claims.user_id))
        page = _Page([_post(result, row) for row in range(result.ntuples)], following)
        return Response(encode(page), content_type="application/json")

    return routes


def _post(result: Any, row: int) -> _Post:
    get = result.get_value
    avatar = get(row, 12)
    user = _User(
        get(row, 9).decode(),
        get(row, 10).decode(),
        get(row, 11).decode(),
        avatar.decode() if avatar else None,
    )
    created = get(row, 8).decode()
    return _Post(
        id=get(row, 0).decode(),
        user=user,
        caption=get(row, 1).decode(),
        location=get(row, 2).decode(),
        hashtags=msgspec.Raw(get(row, 3)),
        media=msgspec.Raw(get(row, 4)),
        photo_url=get(row, 5).decode(),
        upload_status="complete",
        failure=None,
        like_count=int(get(row, 6)),
        comment_count=int(get(row, 7)),
        liked_by_me=get(row, 13) == b"t",
        created_at=created,
        published_at=created,
        edited_at=None,
    )


async def serve(pair: Pair) -> None:
    async def to_redis() -> Redis:
        return await Redis.connect(pair.redis_port)

    async def to_postgres() -> Postgres:
        return await Postgres.connect(pair.postgres_address, {"feed": FEED})

    settings = Http(host="127.0.0.1", port=0)
    app = make_application(settings, Metrics().observe, "pair")
    app.admit = _Admission(pair).admit
    routes = make_routes(Pool(to_redis, CONNECTIONS_MAX), Pool(to_postgres, CONNECTIONS_MAX))
    app.register_blueprint(routes.blueprint)
    shutdown = trio.Event()
    server = Server(app, settings)
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[Address]) -> None:
            await server.run(host="127.0.0.1", port=0, shutdown=shutdown, task_status=task_status)

        address = await nursery.start(run)
        announce(address.port)
        await until_input_ends()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(serve, msgspec.json.decode(sys.argv[1], type=Pair))
