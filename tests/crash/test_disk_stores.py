"""Stores on a real small file system that is full: room made beforehand is there, and a snapshot waits."""

import pytest

from cluster.snapshots.exchange import Snapshots
from cluster.snapshots.installing import unfinished_installs
from cluster.snapshots.spool import Spool, SpoolFull
from storage.journal import Entry, Journal, JournalFull
from storage.memory import MemoryRows
from storage.shard import Shard
from tests.cluster.states import PARTITION, contents, fill, some_notes, spooled, stream
from tests.crash.test_disk import fill as fill_disk
from tests.crash.test_disk import small_disk as small_disk

pytestmark = pytest.mark.crash

SEGMENT_BYTES = 1 << 20
BATCH_BYTES = 300_000


def test_room_that_was_made_is_there_when_others_have_filled_the_disk(small_disk):
    journal = Journal.open(small_disk / "journal", segment_bytes=SEGMENT_BYTES)
    ballast, index = small_disk / "ballast", 0
    for _ in range(6):
        journal.make_room(1, BATCH_BYTES)
        fill_disk(ballast)
        index += 1
        journal.write([Entry(1, 1, index, bytes(BATCH_BYTES))])
        ballast.unlink()
    fill_disk(ballast)
    while True:
        held = journal.statistics()
        try:
            journal.make_room(1, BATCH_BYTES)
        except JournalFull:
            break
        index += 1
        journal.write([Entry(1, 1, index, bytes(BATCH_BYTES))])
    assert journal.statistics() == held and held.segments >= 2
    ballast.unlink()
    journal.make_room(1, BATCH_BYTES)
    index += 1
    journal.write([Entry(1, 1, index, bytes(BATCH_BYTES))])
    journal.close()
    again = Journal.open(small_disk / "journal", segment_bytes=SEGMENT_BYTES)
    assert [entry.index for entry in again.read(1, 1, index)] == list(range(1, index + 1))
    again.close()


class NoLinks:
    """Nobody asks anything."""

    def serve(self, request, handler):
        pass

    serve_stream = serve


def test_an_install_waits_for_room_and_then_ends(small_disk, tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.snapshots.installing.INSTALL_ROWS", 500)
    source = MemoryRows()
    fill(source, PARTITION, some_notes(20_000, 1, size=400), index=40)
    shard = Shard(small_disk / "shard", map_bytes=1 << 30)
    snapshots = Snapshots(b"m" * 16, [PARTITION], None, NoLinks(), [shard], small_disk / "spools")
    kept = spooled(source, tmp_path / "spools")
    pieces = snapshots.pieces(PARTITION, None, kept)
    assert next(pieces)
    fill_disk(small_disk / "ballast")
    waited = 0
    while waited < 3:
        waited += not next(pieces)
    with shard.reading() as rows:
        assert list(unfinished_installs(rows)) == [PARTITION]
    (small_disk / "ballast").unlink()
    assert all(pieces)
    with shard.reading() as rows:
        mine, theirs = contents(rows, PARTITION), contents(source, PARTITION)
    own = PARTITION.to_bytes(2, "big")
    assert {k: v for k, v in mine.items() if k[:2] == own} == {
        k: v for k, v in theirs.items() if k[:2] == own
    }
    shard.close()


def test_a_spool_on_a_full_disk_says_so_and_goes(small_disk):
    source = MemoryRows()
    fill(source, PARTITION, some_notes(20_000, 1, size=400), index=40)
    data = b"".join(stream(source))
    fill_disk(small_disk / "ballast", leave=(64 << 20) + (1 << 20))
    spool = Spool(small_disk / "spools", PARTITION)
    with pytest.raises(SpoolFull, match="no room"):
        for start in range(0, len(data), 1 << 18):
            spool.write(data[start : start + (1 << 18)])
    spool.abandon()
    assert list((small_disk / "spools").iterdir()) == []
