"""A snapshot's rows take the place of a partition's: in bounded pieces, and whole after any crash."""

import shutil

import pytest

from cluster.keys import GroupRow, HeadKey, InstallRow
from cluster.snapshots import installing
from cluster.snapshots.installing import MemorySpooled, install_pieces, unfinished_installs, want_same
from cluster.snapshots.spool import Spool, Spooled, finish_installs
from cluster.snapshots.state_stream import StateDamaged, StateTooLarge
from storage.memory import MemoryRows
from storage.shard import Shard, ShardDamaged
from tests.cluster.states import (
    ALICE,
    BOB,
    PARTITION,
    contents,
    expected,
    fill,
    some_notes,
    spooled,
    stream,
)

ROWS = 20  # walked in a transaction
MAP_BYTES = 64 << 20
STATES = {  # notes of the old and of the new state
    "small into empty": ({}, some_notes(10, 1)),
    "large into empty": ({}, some_notes(200, 1)),
    "large over large": (some_notes(200, 1), some_notes(200, 2)),
    "nothing over large": (some_notes(200, 1), {}),
    "the same again": (some_notes(200, 1), some_notes(200, 1)),
    "few over many before": (some_notes(200, 1), {500: b"x"}),
    "few over many behind": ({n + 100: b"x" for n in range(200)}, {1: b"x"}),
    "many into one": ({50: b"x"}, some_notes(200, 2)),
}


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(installing, "INSTALL_ROWS", ROWS)
    monkeypatch.setattr("cluster.snapshots.state_stream.PIECE_BYTES", 300)


@pytest.fixture(params=STATES)
def states(request):
    """Source and target in memory; the target's neighbours must stay as they are."""
    old, new = STATES[request.param]
    source, target = MemoryRows(), MemoryRows()
    fill(source, PARTITION, new, index=90, term=4, group=GroupRow((ALICE, BOB), (), 60))
    fill(source, PARTITION + 1, some_notes(30, 7))
    fill(target, PARTITION, old, index=20, term=2)
    for neighbour in (PARTITION - 1, PARTITION + 1):
        fill(target, neighbour, some_notes(30, neighbour))
    source.commit()
    target.commit()
    return source, target


def all_rows(rows):
    return contents(rows, *range(10))


def kept(source, name="spool"):
    return MemorySpooled(name, PARTITION, stream(source))


def steps(pieces):
    return sum(1 for _ in pieces)


def test_the_new_state_takes_the_place_of_the_old(states):
    source, target = states
    wanted = expected(source, target, PARTITION)
    before = all_rows(target)
    told = set()
    spool = kept(source)
    for changed in install_pieces(lambda: target, spool):
        assert len(changed) <= 2 * ROWS + 20
        told.update(changed)
    assert all_rows(target) == wanted
    differing = {key for key in before.keys() | wanted.keys() if before.get(key) != wanted.get(key)}
    assert told == {key for key in differing if key[:2] == PARTITION.to_bytes(2, "big")}
    assert unfinished_installs(target) == {} and spool._data == []


def test_a_crash_in_any_step_is_mended(states):
    source, target = states
    wanted = expected(source, target, PARTITION)
    before = all_rows(target)
    total = steps(install_pieces(lambda: copied(before), kept(source)))
    for crash_at in range(total):
        for committed in (False, True):
            rows = copied(before)
            crash_in_step(rows, kept(source), crash_at, committed=committed)
            unfinished = unfinished_installs(rows)
            if crash_at or (committed and total > 1):
                assert unfinished or (crash_at == total - 1 and committed)
            if not unfinished:
                assert all_rows(rows) in (before, wanted)
            for partition, row in unfinished.items():
                assert (partition, row) == (PARTITION, InstallRow("spool", 90, 4, (ALICE, BOB), ()))
                want_same(kept(source), row)
                steps(install_pieces(lambda rows=rows: rows, kept(source)))
                assert all_rows(rows) == wanted


class Crash(Exception):
    pass


def crash_in_step(rows, spool, number, *, committed):
    """Die before or after the commit of this step."""
    count = 0

    def commit(rows):
        nonlocal count
        if count == number and not committed:
            rows.crash()
            raise Crash
        rows.commit()
        count += 1
        if count > number:
            raise Crash
        return True

    with pytest.raises(Crash):
        steps(install_pieces(lambda: rows, spool, commit))


def copied(contents):
    rows = MemoryRows()
    rows.write(contents)
    rows.commit()
    return rows


def test_others_write_between_the_steps(states):
    source, target = states
    wanted = expected(source, target, PARTITION)
    key = HeadKey(0, 1).encode()  # of nobody here, in partition 0
    for number, _ in enumerate(install_pieces(lambda: target, kept(source))):
        target.write({key: b"%d" % number})
        target.commit()
        wanted[key] = b"%d" % number
    assert all_rows(target) == wanted


def test_without_room_a_step_is_tried_again(states):
    source, target = states
    wanted = expected(source, target, PARTITION)
    tries = 0

    def commit(rows):
        nonlocal tries
        tries += 1
        if tries % 3:
            rows.crash()  # as a commit that found the disk full
        else:
            rows.commit()
        return not tries % 3

    key = HeadKey(0, 1).encode()
    for number, _ in enumerate(install_pieces(lambda: target, kept(source), commit)):
        target.write({key: b"%d" % number})
        target.commit()
        wanted[key] = b"%d" % number
    assert all_rows(target) == wanted


def test_what_fits_one_transaction_is_one():
    source, target = MemoryRows(), MemoryRows()
    fill(source, PARTITION, some_notes(ROWS, 1))
    fill(target, PARTITION, some_notes(ROWS, 2))
    assert steps(install_pieces(lambda: target, kept(source))) == 1


def test_what_is_equal_is_not_written():
    source, target = MemoryRows(), MemoryRows()
    fill(source, PARTITION, some_notes(200, 1))
    fill(target, PARTITION, some_notes(200, 1), index=1)
    target.commit()
    assert [changed for changed in install_pieces(lambda: target, kept(source)) if changed] == []


def test_a_step_that_fails_changes_nothing_of_its_own():
    source, target = MemoryRows(), MemoryRows()
    fill(source, PARTITION, some_notes(200, 1))
    spool = kept(source)
    pieces = install_pieces(lambda: target, spool)
    next(pieces)
    spool._data[3:4] = []
    before = all_rows(target)

    class Failing(MemoryRows):
        def scan(self, start, stop, *, reverse=False):
            raise OSError("the disk is gone")

    broken = install_pieces(lambda: Failing(), kept(source))
    with pytest.raises(OSError, match="gone"):
        next(broken)
    assert all_rows(target) == before


def test_a_kept_state_that_was_bent_is_not_begun():
    source = MemoryRows()
    fill(source, PARTITION, some_notes(200, 1))
    data = stream(source)
    with pytest.raises(StateDamaged):
        MemorySpooled("x", PARTITION, data[:-1])
    with pytest.raises(StateDamaged, match="the install began as of 8"):
        want_same(kept(source), InstallRow("spool", 8, 3, (), ()))


# --- on disk ---------------------------------------------------------------------------------------------
@pytest.fixture
def disk(tmp_path, states):
    """The target of `states` as a shard with a spool of the source: (source, target, shard's folder)."""
    source, target = states
    shard = Shard(tmp_path / "shard", map_bytes=MAP_BYTES)
    transaction = shard.begin()
    transaction.write(all_rows(target))
    transaction.commit()
    shard.close()
    return source, target, tmp_path


def shard_rows(shard):
    with shard.reading() as rows:
        return all_rows(rows)


def test_a_process_that_dies_between_any_two_steps_finishes_at_its_next_start(disk):
    source, target, path = disk
    wanted = expected(source, target, PARTITION)
    before = all_rows(target)
    number = 0
    while True:
        here = path / str(number)
        here.mkdir()
        shutil.copytree(path / "shard", here / "shard")
        image = here / "image"
        shard = Shard(here / "shard", map_bytes=MAP_BYTES)
        (here / "spools").mkdir()
        pieces = install_pieces(shard.begin, spooled(source, here / "spools"))
        over = False
        for _ in range(number):
            over = next(pieces, None) is None
        shutil.copytree(here, image)  # as a kill would leave it
        del pieces
        shard.close()
        again = Shard(image / "shard", map_bytes=MAP_BYTES)
        done = finish_installs([again], image / "spools")
        assert done in ([], [PARTITION])
        assert shard_rows(again) == (wanted if done or number else before)
        assert list((image / "spools").iterdir()) == []
        again.close()
        if over:
            return
        number += 1


def test_a_start_says_when_the_spool_it_needs_is_gone_or_bent(disk):
    source, _, path = disk
    shard = Shard(path / "shard", map_bytes=MAP_BYTES)
    pieces = install_pieces(shard.begin, spool := spooled(source, path / "spools"))
    next(pieces)
    with shard.reading() as rows:
        cut = bool(unfinished_installs(rows))
    data = spool.path.read_bytes() if cut else b""
    for damaged in (None, data[:-1], data[: len(data) // 2], b"", data[:300] + b"x" + data[301:]):
        if not cut:
            break  # it was done in one transaction
        if damaged is None:
            spool.path.unlink()
        else:
            spool.path.write_bytes(damaged)
        with pytest.raises(ShardDamaged, match=f"partition {PARTITION} were being replaced"):
            finish_installs([shard], path / "spools")
    if cut:
        spool.path.write_bytes(data)
        assert finish_installs([shard], path / "spools") == [PARTITION]
    shard.close()


def test_spools_that_nobody_needs_are_swept(tmp_path):
    shard = Shard(tmp_path / "shard", map_bytes=MAP_BYTES)
    source = MemoryRows()
    fill(source, PARTITION, some_notes(20, 1))
    folder = tmp_path / "spools"
    spooled(source, folder)
    Spool(folder, 7).write(stream(source, 7)[0])
    assert len(list(folder.iterdir())) == 2
    assert finish_installs([shard], folder) == [] and list(folder.iterdir()) == []
    assert finish_installs([shard], tmp_path / "none") == []
    shard.close()


def test_a_spool_that_is_given_up_leaves_nothing(tmp_path):
    spool = Spool(tmp_path / "spools", PARTITION, bytes_max=100)
    with pytest.raises(StateTooLarge):
        spool.write(bytes(101))
    spool.abandon()
    spool.abandon()
    cut = Spool(tmp_path / "spools", PARTITION)
    with pytest.raises(StateDamaged, match="without its end"):
        cut.finish()
    cut.abandon()
    assert list((tmp_path / "spools").iterdir()) == []


def test_a_spool_is_opened_again_by_its_name(tmp_path):
    source = MemoryRows()
    fill(source, PARTITION, some_notes(200, 1))
    spool = spooled(source, tmp_path / "spools")
    again = Spooled.open(tmp_path / "spools" / spool.name, PARTITION)
    assert again.begin == spool.begin and list(again.pieces()) == list(spool.pieces())
    with pytest.raises(StateDamaged, match="partition 5"):
        Spooled.open(spool.path, PARTITION + 1)
