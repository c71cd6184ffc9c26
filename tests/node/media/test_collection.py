"""The collector in a real node without listeners: what it takes away, what it leaves, and when."""

from contextlib import asynccontextmanager

import pytest
import trio

from cluster.replicas import now_ms
from node.app import open_parts
from node.parts import now_s
from node.settings import load
from node.social import accounts, blobs, posts
from storage.blobs import BlobMissing
from storage.directory import DataDirectory
from tests.node.nodes import SMALL, picture

HOME = 3
DAY_MS = 24 * 3600 * 1000


@pytest.fixture
def clock(monkeypatch):
    """The proposer's clock, which a test may put forward."""
    ahead = [0]
    for place in ("cluster.router", "node.media.collection", "node.media.intake"):
        monkeypatch.setattr(f"{place}.now_ms", lambda: now_ms() + ahead[0])
    return ahead


@asynccontextmanager
async def node(path):
    settings = load(flags=list(SMALL), environment={})
    with DataDirectory.open(path, now=now_s()) as directory:
        async with open_parts(directory, settings, trio.Event()) as parts:
            yield parts


async def once(data):
    yield data


async def stored(parts, colour, owner=1):
    received = await parts.intake.receive(once(picture(colour)), 1 << 20)
    return await parts.intake.store(received, owner), received.type.mime


async def rounds(parts):
    for partition in range(parts.partitions):
        await parts.collector.round(partition)
    await parts.collector.remove_collected()


def here(parts, digest):
    try:
        return parts.blobs.size(digest) > 0
    except BlobMissing:
        return False


async def test_bytes_without_a_medium_go_after_two_days_and_those_of_a_post_stay(tmp_path, clock):
    async with node(tmp_path / "node") as parts:
        sign_up = accounts.SignUp("ada", "", "no hash", b"", 0)
        ada = (await parts.service.do(HOME, sign_up, accounts.SignedUp)).result.user
        kept, mime = await stored(parts, (1, 2, 3), ada)
        lost, _ = await stored(parts, (9, 8, 7), ada)
        photo = posts.CreatePhoto(ada, "", "", (), "", kept.hash, mime, kept.size, kept.media)
        await parts.service.do(HOME, photo, posts.Created, told=blobs.blob_partition(kept.hash))
        await rounds(parts)
        assert here(parts, kept.hash) and here(parts, lost.hash)
        clock[0] = DAY_MS + 1000  # its reference was never confirmed
        await rounds(parts)
        assert here(parts, lost.hash)
        clock[0] = 2 * DAY_MS + 2000  # nothing has held it for a day
        parts.collector.pause()
        await rounds(parts)
        assert here(parts, lost.hash)  # a backup may be copying it
        parts.collector.resume()
        await rounds(parts)
        assert not here(parts, lost.hash)
        assert here(parts, kept.hash)


async def test_a_file_whose_row_is_gone_goes_at_the_next_start(tmp_path, clock):
    async with node(tmp_path / "node") as parts:
        stray, _ = await stored(parts, (1, 1, 1))
        held, _ = await stored(parts, (2, 2, 2))
        clock[0] = DAY_MS + 1000
        await rounds(parts)
        clock[0] = 2 * DAY_MS + 2000
        # As a node does that is killed before the unlink: the command alone.
        home = blobs.blob_partition(stray.hash)
        await parts.service.do(home, blobs.Collect(stray.hash), blobs.Collected)
        assert here(parts, stray.hash)
    async with node(tmp_path / "node") as parts:
        with trio.fail_after(10):
            while not parts.collector.statistics().collected:
                await trio.sleep(0.01)
        assert not here(parts, stray.hash)
        assert here(parts, held.hash)
