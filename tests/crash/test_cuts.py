"""A whole node, cut off from its disk at any moment: everything that it acknowledged is on the disk.

A node with its listeners and media workers is used over HTTP under the recorder. Then its directory is built
as a disk might hold it when the power fails, with unsynced writes dropped or torn, at 2,000 points of the
trace, and opened by the stores that a node opens at its start. Each run but the first starts from an image of
the one before, so tails and leftovers lie under what is written next.
"""

import json
import os
import shutil
import sys
import time
from random import Random

import msgspec
import pytest

from storage import segments
from storage.blobs import BlobDamaged, BlobMissing
from storage.directory import DirectoryDamaged
from storage.journal import JournalDamaged
from storage.keys import KeyDamaged
from storage.records import RecordDamaged
from tests.crash.holding import Acknowledged, check_at_rest, check_image
from tests.crash.images import images
from tests.crash.trace import GCC, Op, run_traced

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(GCC is None, reason="the recorder is compiled with gcc, which is not installed"),
]

RUNS = 5
CUTS_PER_RUN = 400
DEEDS_PER_RUN = 50
REST_EVERY = 20  # images; messages and work run to their end in each of these
# What an image of a planted bug may meet: a check that fails, or a store that says so.
FOUND_OUT = (
    *(AssertionError, JournalDamaged, BlobDamaged, BlobMissing, DirectoryDamaged, RecordDamaged, KeyDamaged),
    msgspec.DecodeError,  # a command that is none
)


def record(directory, seed, deeds, planted=None):
    argv = [sys.executable, "-m", "tests.crash.cut_node", os.fspath(directory), str(seed), str(deeds)]
    return run_traced(argv, directory, env={"CRASH_PLANTED": os.fspath(planted)} if planted else None)


class Listener:
    """Follows the markers of one trace from image to image."""

    def __init__(self, acknowledged):
        self.acknowledged = acknowledged
        self._heard = 0

    def hear(self, image):
        for line in image.acknowledged[self._heard :]:
            self.acknowledged.hear(json.loads(line))
        self._heard = len(image.acknowledged)
        return self.acknowledged


def test_two_thousand_cuts_lose_nothing(scratch, capsys):
    data, chosen = scratch / "data", scratch / "chosen"
    data.mkdir()
    begun = time.monotonic()
    acknowledged, cuts, points, posts, rests = Acknowledged(), 0, set(), 0, 0
    for turn in range(RUNS):
        trace = record(data, turn + 1, DEEDS_PER_RUN)
        listener = Listener(acknowledged)
        keep = Random(turn).randrange(CUTS_PER_RUN * 3 // 4, CUTS_PER_RUN)
        for number, image in enumerate(images(trace, Random(turn), CUTS_PER_RUN, scratch)):
            if number == keep:
                shutil.copytree(image.path, chosen)
                kept = Listener(Acknowledged())
                kept.acknowledged = _copy(listener.hear(image)).settle()
            posts += check_image(image.path, listener.hear(image))
            if number % REST_EVERY == 0:
                check_at_rest(image.path, acknowledged)
                rests += 1
            cuts += 1
            points.add((turn, image.cut))
        trace.close()
        shutil.rmtree(data)
        chosen.rename(data)
        acknowledged = kept.acknowledged
    assert cuts == RUNS * CUTS_PER_RUN and len(points) > cuts // 2 and posts > cuts
    with capsys.disabled():
        print(
            f"\n  {cuts} cuts at {len(points)} points, {posts} acknowledged posts looked at, {rests} let run "
            f"to rest; {time.monotonic() - begun:.0f} s"
        )


def _copy(acknowledged):
    copy = Acknowledged()
    for name, value in vars(acknowledged).items():
        setattr(copy, name, value.copy())
    return copy


# --- the tests can fail: bugs planted in the node that is recorded ---------------------------------------
ANSWER_BEFORE_THE_SYNC = """
import os, threading, time
from storage import journal
class Late:
    def __getattr__(self, name):
        return getattr(os, name)
    def fdatasync(self, fd):
        def later(fd):
            os.fdatasync(fd)
            os.close(fd)
        threading.Timer(0.05, later, (os.dup(fd),)).start()
journal.os = Late()
"""
BLOBS_WITHOUT_THEIR_NAMES = """
from storage.blobs import Blobs
Blobs._sync_directory = lambda self, path: None
"""
HEAD_IN_A_TRANSACTION_OF_ITS_OWN = """
from cluster import partition, shard_writer
from storage.rows import Overlay
whole, store_head = shard_writer.ShardWriter._commit, partition.Partition.store_head
def commit(self, applied=None):
    dirty = list(self._dirty.values())
    partition.Partition.store_head = lambda self, rows: None
    whole(self, applied)
    partition.Partition.store_head = store_head
    if dirty:
        transaction = self._shard.begin()
        overlay = Overlay(transaction)
        for replica in dirty:
            replica.store_head(overlay)
        overlay.flush()
        transaction.commit()
shard_writer.ShardWriter._commit = commit
"""
PLANTED = {
    "answers before the journal's sync": ANSWER_BEFORE_THE_SYNC,
    "blobs without their names": BLOBS_WITHOUT_THEIR_NAMES,
    "applied without the head": HEAD_IN_A_TRANSACTION_OF_ITS_OWN,
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found_out(scratch, bug):
    data, planted = scratch / "data", scratch / "planted.py"
    data.mkdir()
    planted.write_text(PLANTED[bug])
    trace = record(data, 7, 40, planted)
    listener = Listener(Acknowledged())
    found = 0
    for image in images(trace, Random(7), 150, scratch):
        try:
            check_image(image.path, listener.hear(image))
        except FOUND_OUT as wrong:
            print(repr(wrong)[:300])
            found += 1
            break
    trace.close()
    assert found


def journal_writes(trace):
    """Where writes of several sectors to the journal are under way: an append is synced before all else."""
    appended = [
        event.op == Op.WRITE and event.offset % 512 and event.offset % 512 + len(event.data) > 512
        for event in trace.events()
    ]
    return [at for at, is_append in enumerate(appended) if is_append]


class _Agreeable(int):
    """A checksum that equals every other."""

    def __ne__(self, other):
        return False

    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


def test_a_torn_tail_taken_for_whole_is_found_out(scratch, monkeypatch):
    """The journal's start as it is, but blind to checksums: it takes what was torn for records."""
    data = scratch / "data"
    data.mkdir()
    trace = record(data, 8, 40)
    listener = Listener(Acknowledged())
    crc32 = segments.crc32
    found = looked_at = 0
    for image in images(trace, Random(8), 4000, scratch, among=journal_writes(trace)):
        looked_at += 1
        whole = shutil.copytree(image.path, scratch / "whole")
        check_image(whole, listener.hear(image))
        shutil.rmtree(whole)
        monkeypatch.setattr(segments, "crc32", lambda *data: _Agreeable(crc32(*data)))
        try:
            check_image(image.path, listener.hear(image))
        except FOUND_OUT:
            found += 1
        finally:
            monkeypatch.setattr(segments, "crc32", crc32)
        if found:
            break
    trace.close()
    print(f"{looked_at} images until a torn write passed for whole")
    assert found
