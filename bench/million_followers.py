"""A post by an author with a million followers: when followers see it, and what is written for it.

The author and all followers are accounts of their own, made and brought together by commands. A sample of the
followers reads its feeds before (so that they are cached) and right after each post. Beside it stands what
writing a row per follower takes: one ZADD each into Redis, in pipelines of 10,000.
"""

import random
import shutil
import socket
import statistics
import time
from pathlib import Path
from typing import Final

import msgspec
import trio

from bench import baselines
from bench.bench_data import Maker, Scale
from bench.bulk import Bulk, open_directory, open_replicas
from bench.figures import Row, at_most
from bench.in_process import parts_of
from bench.measure import written_bytes
from bench.questions import Run
from bench.redis_wire import command
from cluster.replicas import now_ms
from node.app import CLUSTER_SECRET
from node.http.tokens import derive, load_secret
from node.parts import Parts
from node.social.posts import Created, CreatePost
from storage.ids import partition_of

FOLLOWERS: Final = 1_000_000
SAMPLE: Final = 2000
POSTS: Final = 7
PIPELINE: Final = 10_000  # commands
LOOK_FOR_S: Final = 10.0
SEED: Final = 13
CATCH_UP_S: Final = 6.0  # what the node does by itself every few seconds has been done once


class Fame(msgspec.Struct, frozen=True):
    author: int
    media: int
    followers: list[int]


def answer(run: Run) -> list[Row]:
    count = FOLLOWERS // 10 if run.quick else FOLLOWERS
    where = run.folder / "million"
    manifest = where / "manifest"
    if not manifest.exists():
        if where.exists():
            shutil.rmtree(where)  # left by a run that was stopped
        where.mkdir()
        manifest.write_bytes(msgspec.msgpack.encode(trio.run(_make, where / "node", count)))
    fame = msgspec.msgpack.decode(manifest.read_bytes(), type=Fame)
    seconds, pieces = trio.run(_measure, where / "node", fame)
    beside = _zadd(run, fame.followers)
    worst, size = max(seconds), statistics.median(pieces)
    followers = f"{len(fame.followers):,} followers"
    return [
        Row(
            run.question,
            f"a post by an author with {followers}: published → in their next pages",
            "s",
            worst,
            at_most(1),
            f"worst of {len(seconds)} posts, {SAMPLE:,} followers looking one after another; {beside}",
        ),
        Row(
            run.question,
            f"a post by an author with {followers}: written",
            "KB",
            size / 1024,
            at_most(64),
            f"journal and pages of LMDB, at most {max(pieces) / 1024:.0f} KB; {beside}",
        ),
    ]


async def _make(node: Path, count: int) -> Fame:
    scale = Scale(users=count + 1, eager=0)
    with open_directory(node) as directory:
        name_key = derive(load_secret(directory.keys / CLUSTER_SECRET), "names")
        async with open_replicas(directory) as replicas:
            bulk = Bulk(replicas)
            maker = Maker(bulk, scale, name_key, directory.identity.partition_count)
            await maker.sign_up()
            members = maker.manifest.members
            author = (await maker.with_media(members[:1]))[0]
            followers = [member.user for member in members[1:]]
            for viewer in followers:
                await maker.follow(author.user, viewer)
            await bulk.settle()
    return Fame(author.user, author.media, followers)


async def _measure(node: Path, fame: Fame) -> tuple[list[float], list[int]]:
    """Seconds until the last of the sample saw each post, and bytes written for each."""
    sample = random.Random(SEED).sample(fame.followers, SAMPLE)
    async with parts_of(node) as parts:
        await _post(parts, fame)
        for reader in sample:
            for _ in range(2):  # a reader who comes again is kept
                _page(parts, reader)
        seconds, pieces = [], []
        await trio.sleep(CATCH_UP_S)
        for _ in range(POSTS):
            await parts.replicas.at_rest()
            before = written_bytes()
            published = time.perf_counter()
            post = await _post(parts, fame)
            await parts.replicas.visible(partition_of(fame.author))
            pieces.append(written_bytes() - before)
            for reader in sample:
                while str(post).encode() not in _page(parts, reader):
                    if time.perf_counter() - published > LOOK_FOR_S:
                        raise RuntimeError(f"reader {reader} does not see post {post}")
                    await trio.sleep(0.001)
            seconds.append(time.perf_counter() - published)
        return seconds, pieces


async def _post(parts: Parts, fame: Fame) -> int:
    command = CreatePost(fame.author, "to all of you", "", (), (fame.media,))
    done = await parts.service.do(partition_of(fame.author), command, Created)
    return done.result.post


def _page(parts: Parts, reader: int) -> bytes:
    with parts.service.read() as rows:
        return parts.feeds.page(rows, reader, None, 20, now_ms()).posts


def _zadd(run: Run, followers: list[int]) -> str:
    """What Redis takes for a row per follower, in words."""
    try:
        with baselines.redis(run.folder / "fan-out-redis") as redis:
            commands = [
                b"".join(command(b"ZADD", b"feed:%d" % f, b"1", b"764276552711027712") for f in piece)
                for piece in _pieces(followers)
            ]
            before = written_bytes(redis.pid)
            began = time.perf_counter()
            with socket.create_connection(("127.0.0.1", redis.port)) as connection:
                for data, piece in zip(commands, _pieces(followers), strict=True):
                    connection.sendall(data)
                    _take(connection, len(piece))
            took = time.perf_counter() - began
            size = written_bytes(redis.pid) - before
    except baselines.Missing as missing:
        return f"Redis left out: {missing}"
    return f"Redis, ZADD per follower: {took:.1f} s, {size / 1e6:.0f} MB to its log"


def _pieces(followers: list[int]) -> list[list[int]]:
    return [followers[start : start + PIPELINE] for start in range(0, len(followers), PIPELINE)]


def _take(connection: socket.socket, answers: int) -> None:
    """Read so many one-line answers."""
    while answers > 0:
        data = connection.recv(1 << 16)
        if not data or b"-" in data:
            raise RuntimeError(f"Redis answered {data[:200]!r}")
        answers -= data.count(b"\r\n")
