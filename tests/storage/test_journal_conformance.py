"""What the journal promises, held against the one on disk and its in-memory twin alike."""

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storage.journal import Entry, HardState, Journal, JournalFailed, JournalFull, Truncation
from storage.memory_journal import MemoryJournal

SEGMENT_BYTES = 16 << 10
SECTOR_BYTES = 512
VOTE = bytes(range(16))
# Hundreds of journals: in memory if possible. That syncs reach a disk is another test's business.
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class OnDisk:
    """A journal in files. A crash during a write leaves any mixture of old and new sectors."""

    def __init__(self) -> None:
        self._scratch = TemporaryDirectory(dir=SCRATCH)
        self.path = Path(self._scratch.name) / "journal"
        self.journal = Journal.open(self.path, segment_bytes=SEGMENT_BYTES)

    def reopen(self):
        self.journal.close()
        self.journal = Journal.open(self.path, segment_bytes=SEGMENT_BYTES)

    def kill(self):
        self.journal._close_files()
        self.journal = Journal.open(self.path, segment_bytes=SEGMENT_BYTES)

    def crash_while_writing(self, records, rng):
        # Segments made for the batch are durable before it is written, so they count as old.
        before = self._contents()
        self.journal.write(records)
        self.journal._close_files()
        for name, new in self._contents().items():
            old = before.get(name) or new[:4096].ljust(len(new), b"\0")
            sectors = range(0, len(new), SECTOR_BYTES)
            changed = [at for at in sectors if new[at : at + SECTOR_BYTES] != old[at : at + SECTOR_BYTES]]
            with open(self.path / name, "r+b") as file:
                for at in changed:
                    if rng.random() < 0.5:
                        file.seek(at)
                        file.write(old[at : at + SECTOR_BYTES])
        self.journal = Journal.open(self.path, segment_bytes=SEGMENT_BYTES)

    def close(self):
        self.journal.close()
        self._scratch.cleanup()

    def _contents(self):
        return {path.name: path.read_bytes() for path in self.path.glob("*.log")}


class InMemory:
    def __init__(self) -> None:
        self.journal = MemoryJournal(segment_bytes=SEGMENT_BYTES)

    def reopen(self):
        self.journal.close()
        self.journal.crash(Random(0))

    def kill(self):
        self.journal.crash(Random(0))

    def crash_while_writing(self, records, rng):
        self.journal.append(records)
        self.journal.crash(rng)

    def close(self):
        self.journal.close()


@pytest.fixture(params=[OnDisk, InMemory])
def bench(request):
    bench = request.param()
    yield bench
    bench.close()


def entries(partition, first, last, *, term=1, size=20):
    return [Entry(partition, term, index, bytes([index % 251]) * size) for index in range(first, last + 1)]


def test_a_new_journal_is_empty(bench):
    assert list(bench.journal.recovered()) == []
    assert bench.journal.read(0, 0, 100) == []
    assert bench.journal.statistics().segments == 1


def test_records_come_back_in_order(bench):
    batches = [
        [*entries(3, 1, 4), HardState(3, 7, VOTE, 2)],
        [Truncation(3, 3), *entries(3, 3, 3, term=8), HardState(65535, 2**64 - 1, b"", 2**64 - 1)],
        [Entry(0, 0, 0, b"")],
    ]
    for batch in batches:
        bench.journal.write(batch)
    bench.kill()
    assert list(bench.journal.recovered()) == [record for batch in batches for record in batch]


def test_read_gives_what_holds(bench):
    bench.journal.write(entries(3, 1, 5))
    bench.journal.write(entries(4, 1, 5))
    bench.journal.write([Truncation(3, 4), *entries(3, 4, 4, term=2)])
    bench.journal.write([Truncation(4, 1)])
    assert bench.journal.read(3, 2, 9) == [*entries(3, 2, 3), *entries(3, 4, 4, term=2)]
    assert bench.journal.read(4, 1, 5) == []
    bench.reopen()
    assert bench.journal.read(3, 2, 9) == [*entries(3, 2, 3), *entries(3, 4, 4, term=2)]
    assert bench.journal.read(3, 1, 1) == entries(3, 1, 1)


def test_release_removes_whole_segments_and_remembers_hard_states(bench):
    for index in range(1, 101):
        bench.journal.write([*entries(1, index, index, size=1000), HardState(1, index, VOTE, index)])
    held = bench.journal.statistics().segments
    assert held > 5
    assert bench.journal.release(lambda partition: 0, []) == {}
    assert bench.journal.release(lambda partition: 60, [], keep=held) == {}
    states = [HardState(1, 100, VOTE, 100), HardState(2, 5, b"", 0)]
    gone = bench.journal.release(lambda partition: 60, states)
    released = held - bench.journal.statistics().segments
    assert gone.keys() == {1} and gone[1] <= 60 and 2 <= released < held
    assert bench.journal.read(1, gone[1], 100) == []
    assert bench.journal.read(1, gone[1] + 1, 61) == entries(1, gone[1] + 1, 61, size=1000)
    assert bench.journal.read(1, 61, 100) == entries(1, 61, 100, size=1000)
    bench.kill()
    recovered = list(bench.journal.recovered())
    assert recovered[:2] == states
    assert [record for record in recovered if isinstance(record, HardState)][2:] == []
    indexes = [record.index for record in recovered if isinstance(record, Entry)]
    assert indexes == list(range(indexes[0], 101)) and 1 < indexes[0] <= 61


def test_the_newest_segments_are_kept_for_those_who_were_away(bench):
    for index in range(1, 101):
        bench.journal.write(entries(1, index, index, size=1000))
    held = bench.journal.statistics().segments
    bench.journal.release(lambda partition: 100, [], keep=3)
    assert bench.journal.statistics().segments == 4 < held
    bench.journal.release(lambda partition: 100, [])
    assert bench.journal.statistics().segments == 1


def test_a_read_ends_before_a_gap_and_before_too_many_bytes(bench):
    bench.journal.write([*entries(1, 1, 10, size=1000), *entries(1, 12, 40, size=100)])
    assert bench.journal.read(1, 5, 40) == entries(1, 5, 10, size=1000)
    assert bench.journal.read(1, 11, 40) == []
    assert bench.journal.read(1, 2, 40, bytes_max=2999) == entries(1, 2, 3, size=1000)
    assert bench.journal.read(1, 2, 40, bytes_max=3000) == entries(1, 2, 4, size=1000)
    assert bench.journal.read(1, 2, 40, bytes_max=1) == entries(1, 2, 2, size=1000)
    assert bench.journal.read(1, 12, 40, bytes_max=10**6) == entries(1, 12, 40, size=100)


def test_a_read_with_a_bound_sees_the_truncation_behind_it(bench):
    bench.journal.write(entries(1, 1, 10, size=100))
    for other in range(40):
        bench.journal.write(entries(2, other, other, size=500))
    bench.journal.write([Truncation(1, 2), *entries(1, 2, 5, term=2, size=10)])
    bench.journal.write([Truncation(1, 4)])
    assert bench.journal.read(1, 1, 9, bytes_max=250) == [
        *entries(1, 1, 1, size=100),
        *entries(1, 2, 3, term=2, size=10),
    ]


def test_room_that_was_made_is_there(bench, monkeypatch):
    journal = bench.journal
    number = 0

    def batch(size):
        nonlocal number
        number += 1
        return [*entries(1, number, number, size=size), HardState(1, number, VOTE, number)]

    for size in (0, 10, 5000, 3 * SEGMENT_BYTES, 5000, 10):
        journal.make_room(2, size)
        with full_disk(journal, monkeypatch):
            journal.write(batch(size))
    with full_disk(journal, monkeypatch):
        while True:
            before = journal.statistics()
            try:
                journal.make_room(2, 900)
            except JournalFull:
                break
            journal.write(batch(900))
        assert journal.statistics() == before
        with pytest.raises(JournalFull):
            journal.write(batch(4 * SEGMENT_BYTES))
        assert journal.statistics() == before
    journal.write(batch(900))


@contextmanager
def full_disk(journal, monkeypatch):
    """No room for another segment."""
    if isinstance(journal, MemoryJournal):
        journal.disk_full = True
        yield
        journal.disk_full = False
        return

    def refuse(fd, offset, length):
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", refuse)
        yield


def test_a_batch_larger_than_a_segment_is_taken_whole(bench):
    large = entries(1, 1, 30, size=2000)
    bench.journal.write(entries(1, 0, 0))
    bench.journal.write(large)
    bench.journal.write(entries(1, 31, 31))
    bench.reopen()
    assert bench.journal.read(1, 1, 31) == [*large, *entries(1, 31, 31)]


def test_a_wrong_record_changes_nothing(bench):
    with pytest.raises(ValueError, match="a vote of 3 bytes"):
        bench.journal.write([*entries(1, 1, 1), HardState(1, 1, b"abc", 0)])
    with pytest.raises(ValueError, match="at most"):
        bench.journal.write([Entry(1, 1, 1, bytes((16 << 20) + 1))])
    bench.kill()
    assert list(bench.journal.recovered()) == []


def test_a_closed_journal_takes_nothing(bench):
    bench.journal.write(entries(1, 1, 1))
    bench.journal.close()
    with pytest.raises(JournalFailed, match="closed"):
        bench.journal.write(entries(1, 2, 2))


PARTITIONS = st.integers(0, 3)
records = st.one_of(
    st.builds(
        Entry,
        PARTITIONS,
        st.integers(0, 9),
        st.integers(1, 40),
        st.one_of(st.binary(max_size=50), st.integers(0, 4000).map(lambda size: os.urandom(1) * size)),
    ),
    st.builds(HardState, PARTITIONS, st.integers(0, 9), st.sampled_from([b"", VOTE]), st.integers(0, 40)),
    st.builds(Truncation, PARTITIONS, st.integers(1, 40)),
)
batches = st.lists(records, min_size=1, max_size=12)


class AgainstAList(RuleBasedStateMachine):
    """The model is the list of all records ever kept, and what release was allowed to forget."""

    bench_type = None

    @initialize()
    def start(self):
        self.bench = self.bench_type()
        self.kept = []
        self.passed = dict.fromkeys(range(4), 0)
        self.released = False

    @rule(batch=batches)
    def write(self, batch):
        self.bench.journal.write(batch)
        self.kept += batch

    @rule()
    def mark(self):
        self.bench.journal.mark()

    @rule()
    def reopen(self):
        self.bench.reopen()
        self._compare_recovered()

    @rule()
    def kill(self):
        self.bench.kill()
        self._compare_recovered()

    @rule(batch=batches, seed=st.integers(0, 2**32))
    def crash_while_writing(self, batch, seed):
        before = len(self.kept)
        self.bench.crash_while_writing(batch, Random(seed))
        recovered = list(self.bench.journal.recovered())
        lengths = [
            n for n in range(len(batch) + 1) if self._explains(self.kept[:before] + batch[:n], recovered)
        ]
        assert lengths, "what is left is not a beginning of the batch"
        self.kept += batch[: lengths[-1]]

    @precondition(lambda self: len(self.kept) > 5)
    @rule(partition=PARTITIONS, index=st.integers(1, 45), keep=st.integers(0, 2))
    def release(self, partition, index, keep):
        self.passed[partition] = max(self.passed[partition], index)
        states = {record.partition: record for record in self.kept if isinstance(record, HardState)}
        segments = self.bench.journal.statistics().segments
        self.bench.journal.release(self.passed.__getitem__, states.values(), keep=keep)
        self.released |= self.bench.journal.statistics().segments < segments

    @invariant()
    def reads_agree(self):
        if hasattr(self, "bench"):
            for partition, log in _logs(self.kept).items():
                read = {}
                for index in range(41):
                    if index not in read:
                        read |= {e.index: e for e in self.bench.journal.read(partition, index, 40)}
                self._compare_log(partition, log, read)

    @rule(
        partition=PARTITIONS,
        first=st.integers(0, 41),
        last=st.integers(0, 45),
        bytes_max=st.integers(0, 9000),
    )
    def read_in_bounds(self, partition, first, last, bytes_max):
        journal = self.bench.journal
        read = journal.read(partition, first, last, bytes_max=bytes_max)
        assert read == journal.read(partition, first, last)[: len(read)]
        assert len(read) <= 1 or sum(len(entry.command) for entry in read) <= bytes_max
        assert read or not journal.read(partition, first, first) or last < first

    def teardown(self):
        if hasattr(self, "bench"):
            self.bench.close()

    def _compare_recovered(self):
        assert self._explains(self.kept, list(self.bench.journal.recovered()))

    def _explains(self, kept, recovered):
        if not self.released:
            return kept == recovered
        if _hard_states(kept) != _hard_states(recovered):
            return False
        logs = _logs(recovered)
        try:
            for partition, log in _logs(kept).items():
                self._compare_log(partition, log, logs.get(partition, {}))
        except AssertionError:
            return False
        return True

    def _compare_log(self, partition, log, found):
        assert {i: e for i, e in found.items() if i > self.passed[partition]} == {
            i: e for i, e in log.items() if i > self.passed[partition]
        }
        if not self.released:
            assert found == log


def _logs(kept):
    logs = {partition: {} for partition in range(4)}
    for record in kept:
        if isinstance(record, Entry):
            logs[record.partition][record.index] = record
        elif isinstance(record, Truncation):
            logs[record.partition] = {i: e for i, e in logs[record.partition].items() if i < record.index}
    return logs


def _hard_states(kept):
    return {record.partition: record for record in kept if isinstance(record, HardState)}


class OnDiskAgainstAList(AgainstAList):
    bench_type = OnDisk


class InMemoryAgainstAList(AgainstAList):
    bench_type = InMemory


EFFORT = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestOnDiskAgainstAList = OnDiskAgainstAList.TestCase
TestOnDiskAgainstAList.settings = EFFORT
TestInMemoryAgainstAList = InMemoryAgainstAList.TestCase
TestInMemoryAgainstAList.settings = EFFORT
