"""One LMDB environment: commits, reads beside them, cuts, copies, and what a killed process leaves."""

import os
import subprocess
import sys
import threading

import lmdb
import pytest

from storage.keys import partition_range
from storage.memory import MemoryRows
from storage.shard import Shard, ShardDamaged, Snapshot, want_shards

MAP_BYTES = 64 << 20
ROWS = {bytes([0, 5, 0x20, number]): bytes([number]) * 3 for number in range(0, 100, 2)}
FIRST, STOP = partition_range(5)


@pytest.fixture
def shard(tmp_path):
    shard = Shard(tmp_path / "shard", map_bytes=MAP_BYTES)
    yield shard
    shard.close()


def write(shard, rows):
    transaction = shard.begin()
    transaction.write(rows)
    transaction.commit()


def read_all(shard):
    with shard.reading() as rows:
        return dict(rows.scan(b"", b"\xff" * 8))


# --- one contract, two stores ----------------------------------------------------------------------------
class _Memory:
    """MemoryRows with the calls of a shard's transaction."""

    def __init__(self):
        self.rows = MemoryRows()

    def begin(self):
        return self.rows

    def drop(self, transaction):
        self.rows.crash()


class _Lmdb:
    def __init__(self, path):
        self.shard = Shard(path / "store", map_bytes=MAP_BYTES)

    def begin(self):
        return self.shard.begin()

    def drop(self, transaction):
        transaction.abort()


@pytest.fixture(params=["memory", "lmdb"])
def store(request, tmp_path):
    if request.param == "memory":
        yield _Memory()
    else:
        store = _Lmdb(tmp_path)
        yield store
        store.shard.close()


def test_what_is_written_is_read_in_the_same_transaction_and_the_next(store):
    transaction = store.begin()
    transaction.write(ROWS)
    for last in (False, True):
        assert transaction.get(b"\0\5\x20\x02") == b"\x02" * 3
        assert transaction.get(b"\0\5\x20\x01") is None
        keys = [b"\0\5\x20\x04", b"\0\5\x20\x03", b"\0\5\x20\x02"]
        assert transaction.get_many(iter(keys)) == {key: ROWS[key] for key in keys if key in ROWS}
        assert transaction.get_many([]) == {}
        assert dict(transaction.scan(FIRST, STOP)) == ROWS
        transaction.commit()
        if not last:
            transaction = store.begin()


def test_deletes_and_empty_values(store):
    transaction = store.begin()
    transaction.write({b"a": b"1", b"b": b"", b"c": b"3"})
    transaction.write({b"a": None, b"absent": None, b"c": b"4"})
    assert list(transaction.scan(b"", b"z")) == [(b"b", b""), (b"c", b"4")]
    store.drop(transaction)


def test_a_crash_loses_what_was_not_committed_and_nothing_else(store):
    transaction = store.begin()
    transaction.write(ROWS)
    transaction.commit()
    transaction = store.begin()
    transaction.write({b"\0\5\x20\x01": b"new", b"\0\5\x20\x02": None, b"\0\5\x20\x04": b"changed"})
    transaction.write({b"\0\5\x20\x04": b"changed again", b"\0\5\x20\x01": None})
    store.drop(transaction)
    transaction = store.begin()
    assert dict(transaction.scan(FIRST, STOP)) == ROWS
    store.drop(transaction)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (b"", b"\xff" * 512),
        (b"\0\5\x20\x02", b"\0\5\x20\x08"),  # both ends are rows
        (b"\0\5\x20\x01", b"\0\5\x20\x07"),  # neither is
        (b"\0\5\x20\x08", b"\0\5\x20\x02"),  # the wrong way round
        (b"\0\5\x20\x02", b"\0\5\x20\x02"),
        (b"\0\6", b"\0\7"),
        (b"\0\5\x20\x62", b"\0\6"),
        (b"", b"\0\5\x20\x00"),
    ],
)
def test_a_scan_holds_its_start_and_not_its_stop(store, start, stop, reverse):
    transaction = store.begin()
    transaction.write(ROWS)
    expected = sorted(row for row in ROWS.items() if start <= row[0] < stop)
    found = list(transaction.scan(start, stop, reverse=reverse))
    assert found == (expected[::-1] if reverse else expected)
    store.drop(transaction)


def test_a_scan_of_nothing(store):
    transaction = store.begin()
    for reverse in (False, True):
        assert list(transaction.scan(b"", b"\xff", reverse=reverse)) == []
    store.drop(transaction)


def test_rows_may_be_written_while_a_scan_is_open(store):
    transaction = store.begin()
    transaction.write(ROWS)
    scan = transaction.scan(FIRST, STOP)
    seen = [next(scan)]
    transaction.write({b"\0\5\x10" + bytes([n]): b"before" for n in range(200)})
    seen.extend(scan)
    assert seen == sorted(ROWS.items())
    store.drop(transaction)


# --- the shard itself ------------------------------------------------------------------------------------
def test_readers_see_the_last_commit_only(shard):
    write(shard, {b"a": b"1"})
    transaction = shard.begin()
    transaction.write({b"a": b"2"})
    assert read_in_thread(shard) == {b"a": b"1"}
    with shard.reading() as before:
        transaction.commit()
        assert before.get(b"a") == b"1"
    assert read_all(shard) == {b"a": b"2"}
    assert shard.statistics().commits == 2


def read_in_thread(shard):
    found = {}
    thread = threading.Thread(target=lambda: found.update(read_all(shard)))
    thread.start()
    thread.join()
    return found


def test_a_reopened_shard_holds_what_was_committed(tmp_path):
    for number in range(3):
        shard = Shard(tmp_path / "shard", map_bytes=MAP_BYTES)
        write(shard, {bytes([number]): b"x"})
        assert sorted(read_all(shard)) == [bytes([n]) for n in range(number + 1)]
        shard.close()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda file: file.write_bytes(b""), "empty"),
        (lambda file: file.write_bytes(bytes(range(256)) * 64), "not an LMDB file"),
        (lambda file: os.truncate(file, 8192), "cut short"),
    ],
)
def test_a_file_that_is_not_what_commits_left_is_refused(tmp_path, damage, words):
    shard = Shard(tmp_path / "shard", map_bytes=MAP_BYTES)
    write(shard, ROWS)
    shard.close()
    damage(tmp_path / "shard" / "data.mdb")
    with pytest.raises(ShardDamaged, match=words):
        Shard(tmp_path / "shard", map_bytes=MAP_BYTES)


def test_a_missing_shard_is_missed_once_there_is_a_journal(tmp_path):
    want_shards([tmp_path / "shard"], tmp_path)
    (tmp_path / "000000000001.log").touch()
    with pytest.raises(ShardDamaged, match="missing"):
        want_shards([tmp_path / "shard"], tmp_path)
    Shard(tmp_path / "shard", map_bytes=MAP_BYTES).close()
    want_shards([tmp_path / "shard"], tmp_path)


def test_a_killed_process_leaves_its_last_commit(tmp_path):
    program = (
        "import os, sys; from pathlib import Path; from storage.shard import Shard\n"
        f"shard = Shard(Path(sys.argv[1]), map_bytes={MAP_BYTES})\n"
        "t = shard.begin(); t.write({b'a': b'1'}); t.commit()\n"
        "reader = shard.read(); reader.get(b'a')\n"
        "t = shard.begin(); t.write({b'a': b'2', b'b': b'2'}); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "shard")], check=False)
    assert done.returncode == -9
    shard = Shard(tmp_path / "shard", map_bytes=MAP_BYTES)
    assert read_all(shard) == {b"a": b"1"}
    write(shard, {b"c": b"3"})  # neither the writer's lock nor a reader's slot is left held
    assert read_all(shard) == {b"a": b"1", b"c": b"3"}
    shard.close()


def test_a_full_map_is_said_and_changes_nothing(tmp_path):
    shard = Shard(tmp_path / "shard", map_bytes=1 << 20)
    write(shard, {b"a": b"1"})
    transaction = shard.begin()
    with pytest.raises(lmdb.MapFullError):
        transaction.write({number.to_bytes(4, "big"): b"x" * 1000 for number in range(2000)})
    transaction.abort()
    assert read_all(shard) == {b"a": b"1"}
    shard.close()


def test_a_frozen_shard_stays_while_the_writer_goes_on(shard, tmp_path):
    write(shard, ROWS)
    frozen = shard.freeze()
    write(shard, dict.fromkeys(ROWS))
    write(shard, {b"later": b"1"})
    assert dict(frozen.scan(FIRST, STOP)) == ROWS
    (tmp_path / "copy").mkdir()
    descriptor = os.open(tmp_path / "copy" / "data.mdb", os.O_WRONLY | os.O_CREAT)
    thread = threading.Thread(target=frozen.copy_to, args=(descriptor,))
    thread.start()
    thread.join()
    os.close(descriptor)
    frozen.close()
    copy = Shard(tmp_path / "copy", map_bytes=MAP_BYTES)
    assert read_all(copy) == ROWS
    copy.close()
    assert read_all(shard) == {b"later": b"1"}


def test_compacting_drops_free_pages(shard, tmp_path):
    write(shard, {number.to_bytes(4, "big"): b"x" * 1000 for number in range(5000)})
    write(shard, {number.to_bytes(4, "big"): None for number in range(1, 5000)})
    (tmp_path / "small").mkdir()
    shard.compact_into(tmp_path / "small")
    small = Shard(tmp_path / "small", map_bytes=MAP_BYTES)
    assert read_all(small) == read_all(shard)
    assert small.statistics().used_bytes < shard.statistics().used_bytes / 50
    small.close()


def test_statistics_count_rows(shard):
    write(shard, ROWS)
    statistics = shard.statistics()
    assert (statistics.entries, statistics.map_bytes) == (len(ROWS), MAP_BYTES)
    assert 0 < statistics.used_bytes < MAP_BYTES


def test_files_are_for_the_owner_alone(shard):
    assert shard.path.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in shard.path.iterdir()} == {0o600}


# --- all shards of a node --------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_snapshot_finds_every_partition_in_its_shard(tmp_path, count):
    shards = [Shard(tmp_path / str(number), map_bytes=MAP_BYTES) for number in range(count)]
    partitions = [0, 1, 2, 3, 255, 256, 257, 0x1FFF, 0xFFFF]
    keys = {number: number.to_bytes(2, "big") + b"\x20k" for number in partitions}
    for number, key in keys.items():
        write(shards[number % count], {key: str(number).encode()})
    with Snapshot(shards) as rows:
        for number, key in keys.items():
            assert rows.get(key) == str(number).encode()
            for reverse in (False, True):
                assert list(rows.scan(*partition_range(number), reverse=reverse)) == [(key, rows.get(key))]
        assert rows.get(b"\0\x07none") is None
        asked = [*keys.values(), b"\0\x07none"]
        assert rows.get_many(iter(asked)) == {key: str(n).encode() for n, key in keys.items()}
        assert rows.get_many([]) == {}
    for shard in shards:
        shard.close()


def test_a_closed_snapshot_holds_no_reader(shard):
    for _ in range(1000):  # far more than there are slots of the reader table
        with Snapshot([shard]) as rows:
            rows.get(b"\0x")
    for _ in range(10):
        with Snapshot([shard]) as rows:
            assert rows.get_many([b"\0x"]) == {}
            write(shard, {b"y": os.urandom(4)})
    assert shard.statistics().used_bytes < 1 << 20
