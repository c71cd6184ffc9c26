"""A disk that is full, and one that breaks: a node on a real small file system.

Full: writes are refused with 507 while reads and deletes go on, nothing acknowledged is lost, and once there
is room writes come back; the process lives through all of it. Broken (syncs fail): the process ends at once
and loudly, and acknowledges nothing more.
"""

import shutil
import subprocess
import sys
import time
from contextlib import closing

import httpx
import pytest
import trio

from storage.shard import Shard, ShardFull
from tests.crash.crowd import Crowd, photograph
from tests.crash.process import ROOT, NodeEnded, NodeProcess

pytestmark = pytest.mark.crash

DISK_BYTES = 96 << 20
FLAGS = ("storage.segment_bytes=1048576", "storage.reserve_bytes=8388608", "logs.level=info")
PHOTOS_MAX = 2000
WITHIN_S = 20.0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of DISK_BYTES."""
    path = tmp_path / "disk"
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", path], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.strip()}")
    yield path
    subprocess.run(["umount", path], check=True)


def fill(path, leave=0):
    """Somebody else fills the disk, but for `leave` bytes."""
    with open(path, "ab", buffering=0) as file:
        free = shutil.disk_usage(path.parent).free - leave
        try:
            while free > 0:
                free -= file.write(bytes(min(free, 1 << 16)))
        except OSError:
            return


async def test_a_full_disk_refuses_writes_and_loses_nothing(small_disk):
    data = small_disk / "node"
    crowd = Crowd(2, seed=3)
    ada, bob = crowd.people
    node = NodeProcess(data, *FLAGS, log=small_disk.with_name("node.log"))
    try:

        async def use():
            await crowd.sign_up()
            for person, other in ((ada, bob), (bob, ada)):
                person.pending = person.follow([other])
                await person.carry_on()
            for _ in range(5):
                ada.pending = ada.post(None)
                await ada.carry_on()
            fill(small_disk / "ballast")
            await until_full(bob)
            await deletes_and_reads_go_on(ada)
            (small_disk / "ballast").unlink()
            await insist(bob, bob.post(None))
            await crowd.carry_on()

        await crowd.connected(node.url, use)
        settled = await trio.to_thread.run_sync(node.settle)
        assert settled["dead_letters"] == 0 and not settled["full"]
        await crowd.connected(node.url, lambda: crowd.check(every=True))
        assert node.process.poll() is None
        fill(small_disk / "ballast")
        node.kill()
        node = NodeProcess(data, *FLAGS, log=small_disk.with_name("node.log"))
        await crowd.connected(node.url, crowd.check_at_once)
        (small_disk / "ballast").unlink()
        await trio.to_thread.run_sync(node.settle)
        await crowd.connected(node.url, lambda: crowd.check(every=True))
    finally:
        node.kill()


async def until_full(person):
    """Post until the answer is 507, and again: each refused or acknowledged, nothing else."""
    refused = 0
    for _ in range(PHOTOS_MAX):
        files = {"photo": ("photo.jpg", photograph(person.rng), "image/jpeg")}
        answer = await person.ask("POST", "/v1/photos", files=files)
        if answer.status_code == 507:
            assert answer.json()["code"] == "storage_full"
            refused += 1
            if refused == 20:
                return
            continue
        assert answer.status_code == 201, answer.text
        person.pending = None
        person.facts.posted(
            answer.json()["photo_id"], person.id, (await original(person, answer.json()["photo_id"]))
        )
    raise AssertionError("the disk never filled")


async def original(person, post):
    url = (await person.get(f"/v1/posts/{post}"))["media"][0]["urls"]["original"]
    return url.rpartition("/")[2].partition(".")[0]


async def deletes_and_reads_go_on(person):
    own = [post for post in person.facts.posts.values() if post.author == person.id]
    for post in own[:3]:
        await insist(person, person.delete(post))
    assert len((await person.get("/v1/feed"))["posts"]) > 0
    assert (await person.get(f"/v1/users/{person.id}/photos"))["photos"]


async def insist(person, deed):
    """Ask until it is done. Where a commit already waits for room, a delete is refused too until the node has
    given up its reserve, a second or two later."""
    deadline = time.monotonic() + WITHIN_S
    while (answer := await person.ask(deed.method, deed.path, **deed.request)).status_code == 507:
        assert time.monotonic() < deadline, f"{deed.method} {deed.path}: still {answer.text}"
        await trio.sleep(0.2)
    deed.settle(answer)


BROKEN = """
import errno, os
from pathlib import Path
broken = Path({broken!r})
def guard(call):
    def guarded(fd):
        if broken.exists() and {kind!r} in os.readlink(f"/proc/self/fd/{{fd}}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return call(fd)
    return guarded
os.fsync, os.fdatasync = guard(os.fsync), guard(os.fdatasync)
"""


@pytest.mark.parametrize("kind", ["/journal/", "/staging/", "/blobs/"])
async def test_a_disk_that_cannot_sync_ends_the_node(tmp_path, kind):
    data, broken, planted = tmp_path / "node", tmp_path / "broken", tmp_path / "planted.py"
    planted.write_text(BROKEN.format(broken=str(broken), kind=kind))
    crowd = Crowd(1, seed=4)
    (ada,) = crowd.people
    node = NodeProcess(data, env={"CRASH_PLANTED": str(planted)})
    try:

        async def use():
            await crowd.sign_up()
            for _ in range(3):
                ada.pending = ada.post(None)
                await ada.carry_on()
            broken.touch()
            try:
                while True:
                    files = {"photo": ("photo.jpg", photograph(ada.rng), "image/jpeg")}
                    answer = await ada.ask("POST", "/v1/photos", files=files)
                    assert answer.status_code >= 500, "acknowledged what was not synced"
            except httpx.TransportError:
                return

        with trio.fail_after(30):
            await crowd.connected(node.url, use)
        assert await trio.to_thread.run_sync(node.process.wait, 30) == 1
        assert "failed and the process must exit" in node.words()
        broken.unlink()
        node = NodeProcess(data)
        await trio.to_thread.run_sync(node.settle)
        await crowd.connected(node.url, lambda: crowd.check(every=True))
    finally:
        node.kill()


async def test_journal_and_shards_without_room_refuse_or_wait(small_disk):
    """No reserve and no warning: the disk is full to the last byte, so the stores meet it themselves."""
    flags = ("storage.segment_bytes=1048576", "storage.reserve_bytes=0", "logs.level=info")
    node = NodeProcess(small_disk / "node", *flags, log=small_disk.with_name("node.log"))
    crowd = Crowd(4, seed=6)
    refused = 0

    async def write(person):
        """Comments until one is refused or hangs: that one is asked again when there is room."""
        nonlocal refused
        while True:
            person.pending = person.comment(None)
            deed = person.pending
            with trio.move_on_after(3):
                answer = await person.ask(deed.method, deed.path, **deed.request)
                if answer.status_code == 201:
                    deed.settle(answer)
                    person.pending = None
                    continue
                assert answer.status_code == 507, answer.text
            refused += 1
            return

    async def use():
        await crowd.sign_up()
        crowd.people[0].pending = crowd.people[0].post(None)
        await crowd.people[0].carry_on()
        await trio.to_thread.run_sync(node.settle)
        fill(small_disk / "ballast")
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for person in crowd.people:
                    nursery.start_soon(write, person)
        assert len((await crowd.people[0].get("/v1/users"))["users"]) == 4
        (small_disk / "ballast").unlink()
        await trio.to_thread.run_sync(node.settle)  # what waited for room has got it
        await crowd.carry_on()

    try:
        await crowd.connected(node.url, use)
        assert refused == 4
        assert (await trio.to_thread.run_sync(node.settle))["dead_letters"] == 0
        await crowd.connected(node.url, lambda: crowd.check(every=True))
        assert node.process.poll() is None
    finally:
        node.kill()


READERS_ON_A_FULL_DISK = """
import sys, threading
from pathlib import Path
from storage.shard import Shard
from tests.crash.test_disk import fill
disk = Path(sys.argv[1])
shard = Shard(disk / "shard", map_bytes=1 << 30)
fill(disk / "ballast")
all_read = threading.Barrier(200)
def read():
    rows = shard.read()  # each thread takes a slot of its own in the lock file
    all_read.wait()
    rows.close()
threads = [threading.Thread(target=read) for _ in range(200)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_readers_on_a_full_disk_do_not_kill_the_process(small_disk):
    subprocess.run([sys.executable, "-c", READERS_ON_A_FULL_DISK, small_disk], check=True, cwd=ROOT)


def test_a_commit_without_room_is_made_once_there_is_some(small_disk):
    rows = {b"%08d" % number: bytes(1000) for number in range(4000)}
    with closing(Shard(small_disk / "shard", map_bytes=1 << 30)) as shard:
        fill(small_disk / "ballast")
        transaction = shard.begin()
        transaction.write(rows)
        with pytest.raises(ShardFull):
            transaction.commit()
        with pytest.raises(ShardFull):
            transaction.again().commit()
        with shard.reading() as seen:
            assert seen.get(b"%08d" % 1) is None
        (small_disk / "ballast").unlink()
        transaction.again().commit()
        with shard.reading() as seen:
            assert dict(seen.scan(b"", b"\xff")) == rows


def test_a_node_without_room_to_start_says_so(small_disk):
    (small_disk / "node").mkdir()
    fill(small_disk / "ballast", leave=64 << 10)
    with pytest.raises(NodeEnded, match=r"No space left|no room"):
        NodeProcess(small_disk / "node", *FLAGS, log=small_disk.with_name("node.log"))
    (small_disk / "ballast").unlink()
    NodeProcess(small_disk / "node", *FLAGS, log=small_disk.with_name("node.log")).kill()
