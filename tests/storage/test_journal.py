"""The journal on disk: every torn tail, every flipped bit, full disks, broken syncs, recycled files."""

import errno
import os
import shutil

import pytest

from storage.journal import (
    ENTRY_BYTES_USUAL,
    Entry,
    HardState,
    Journal,
    JournalDamaged,
    JournalFailed,
    JournalFull,
    Truncation,
)
from storage.segments import HEADER_BYTES, Scan, mark_after, read_header

SEGMENT_BYTES = 16 << 10
FIRST = [Entry(1, 1, 1, b"one"), HardState(1, 1, bytes(16), 0)]
LAST = [Entry(1, 1, 2, b"two"), Truncation(2, 9), Entry(2, 1, 9, b"three" * 5)]


def crashed(path, *batches):
    """A journal that was left without `close`. Returns its one segment, and the end of each batch."""
    journal = Journal.open(path, segment_bytes=SEGMENT_BYTES)
    at = HEADER_BYTES
    ends = []
    for batch in batches:
        at += journal.write(batch)
        ends.append(at)
    journal._close_files()
    return path / "000000000001.log", ends


def reopened(path):
    journal = Journal.open(path, segment_bytes=SEGMENT_BYTES)
    found = list(journal.recovered())
    journal.close()
    return found


def changed_copy(source, target, offset, data, *, keep=None):
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    with open(target / "000000000001.log", "r+b") as file:
        if keep is not None:
            file.truncate(keep)
            file.truncate(SEGMENT_BYTES)
        file.seek(offset)
        file.write(data)
    return target


def test_a_tail_torn_at_any_byte_is_cut(tmp_path):
    _, (start, end) = crashed(tmp_path / "a", FIRST, LAST)
    seen = set()
    for cut in range(start, end + 1):
        copy = changed_copy(tmp_path / "a", tmp_path / "b", 0, b"", keep=cut)
        found = reopened(copy)
        assert found == (FIRST + LAST)[: len(found)] and len(found) >= len(FIRST)
        assert (len(found) == len(FIRST + LAST)) == (cut == end)
        assert reopened(copy) == found
        seen.add(len(found))
    assert seen == {2, 3, 4, 5}


def test_a_flipped_bit_behind_the_last_mark_cuts_the_tail(tmp_path):
    segment, (start, end) = crashed(tmp_path / "a", FIRST, LAST)
    data = segment.read_bytes()
    for offset in range(start, end):
        copy = changed_copy(tmp_path / "a", tmp_path / "b", offset, bytes([data[offset] ^ 0x10]))
        found = reopened(copy)
        assert found == (FIRST + LAST)[: len(found)] and len(FIRST) <= len(found) < len(FIRST + LAST)


def test_a_flipped_bit_before_the_last_mark_is_damage(tmp_path):
    segment, (end, _) = crashed(tmp_path / "a", FIRST, LAST)
    data = segment.read_bytes()
    for offset in range(HEADER_BYTES, end):
        copy = changed_copy(tmp_path / "a", tmp_path / "b", offset, bytes([data[offset] ^ 0x10]))
        with pytest.raises(JournalDamaged, match=r"000000000001.log, offset \d+: .* was synced") as raised:
            reopened(copy)
        assert HEADER_BYTES <= int(str(raised.value).split("offset ")[1].split(":")[0]) <= offset


def test_a_flipped_bit_in_a_header_is_damage(tmp_path):
    segment, _ = crashed(tmp_path / "a", FIRST)
    data = segment.read_bytes()
    for offset in range(48):
        copy = changed_copy(tmp_path / "a", tmp_path / "b", offset, bytes([data[offset] ^ 1]))
        with pytest.raises(JournalDamaged, match="offset 0"):
            reopened(copy)


def test_after_a_clean_close_the_last_batch_is_law(tmp_path):
    journal = Journal.open(tmp_path / "a", segment_bytes=SEGMENT_BYTES)
    journal.write(FIRST)
    journal.close()
    changed_copy(tmp_path / "a", tmp_path / "b", HEADER_BYTES + 60, b"\xff\xff")
    with pytest.raises(JournalDamaged):
        reopened(tmp_path / "b")


def test_what_one_start_recovered_is_law_to_the_next(tmp_path):
    segment, (end,) = crashed(tmp_path / "a", FIRST)
    Journal.open(tmp_path / "a", segment_bytes=SEGMENT_BYTES)._close_files()
    with open(segment, "r+b") as file:
        file.truncate(end - 1)
    with pytest.raises(JournalDamaged, match="was synced"):
        reopened(tmp_path / "a")


def test_cut_bytes_never_come_back(tmp_path):
    """The head of a torn batch is lost, its rest is on the disk; later records must not join up with it."""
    segment, (start, end) = crashed(tmp_path / "a", FIRST, LAST)
    whole_first_record = 27 + len(b"two")
    mark = 27 + 8
    with open(segment, "r+b") as file:
        file.seek(start + mark)
        file.write(bytes(whole_first_record))
    assert reopened(tmp_path / "a") == FIRST
    assert segment.stat().st_size == start + mark < end
    journal = Journal.open(tmp_path / "a", segment_bytes=SEGMENT_BYTES)
    journal.write([Entry(1, 1, 2, b"new")])
    journal._close_files()
    assert reopened(tmp_path / "a") == [*FIRST, Entry(1, 1, 2, b"new")]


def test_a_missing_segment_is_damage(tmp_path):
    for missing in (1, 2):
        path = tmp_path / str(missing)
        journal = Journal.open(path, segment_bytes=SEGMENT_BYTES)
        for index in range(60):
            journal.write([Entry(1, 1, index, bytes(1000))])
        assert journal.statistics().segments >= 4
        journal.close()
        (path / f"{missing:012d}.log").unlink()
        with pytest.raises(JournalDamaged, match=r"missing|gap"):
            reopened(path)


def test_an_interrupted_release_is_finished(tmp_path):
    journal = Journal.open(tmp_path / "a", segment_bytes=SEGMENT_BYTES)
    for index in range(60):
        journal.write([Entry(1, 1, index, bytes(1000))])
    shutil.copytree(tmp_path / "a", tmp_path / "before")
    before = journal.statistics().segments
    assert journal.release(lambda partition: 40, [HardState(1, 1, b"", 40)])[1] <= 40
    released = before - journal.statistics().segments
    assert released >= 2
    journal._close_files()
    for number in range(1, released + 1):
        shutil.copy(tmp_path / "before" / f"{number:012d}.log", tmp_path / "a")
    found = reopened(tmp_path / "a")
    assert found[0] == HardState(1, 1, b"", 40)
    assert found[1].index > 1 and found[-1].index == 59
    assert not (tmp_path / "a" / "000000000001.log").exists()


def test_recycled_files_show_nothing_of_their_former_life(tmp_path):
    path = tmp_path / "a"
    journal = Journal.open(path, segment_bytes=SEGMENT_BYTES)
    for index in range(200):
        journal.write([Entry(1, 1, index, bytes([index]) * 1000)])
        journal.release(lambda partition, index=index: index, [HardState(1, 1, b"", index)])
    statistics = journal.statistics()
    assert statistics.segments <= 2 and 1 <= statistics.spares <= 2
    journal.write([Entry(1, 1, 200, b"short")])
    journal._close_files()
    found = [record for record in reopened(path) if isinstance(record, Entry)]
    indexes = [entry.index for entry in found]
    assert indexes == list(range(indexes[0], 201)) and len(indexes) < 20


def test_starts_without_writes_do_not_pile_up_files(tmp_path):
    for _ in range(5):
        assert reopened(tmp_path / "a") == []
    assert len(list((tmp_path / "a").iterdir())) == 1


def test_a_failed_sync_is_the_end(tmp_path, monkeypatch):
    journal = Journal.open(tmp_path / "a", segment_bytes=SEGMENT_BYTES)
    journal.write(FIRST)

    def broken(fd):
        raise OSError(errno.EIO, "the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", broken)
        with pytest.raises(JournalFailed, match="the disk is gone"):
            journal.write(LAST)
    for call in (lambda: journal.write(LAST), journal.mark):
        with pytest.raises(JournalFailed, match="must exit"):
            call()
    journal.close()
    assert reopened(tmp_path / "a")[: len(FIRST)] == FIRST


def test_no_room_for_a_segment_refuses_the_write_and_no_more(tmp_path, monkeypatch):
    journal = Journal.open(tmp_path / "a", segment_bytes=SEGMENT_BYTES)
    journal.write(FIRST)

    def full(fd, offset, length):
        raise OSError(errno.ENOSPC, "no space left")

    big = [Entry(1, 1, 5, bytes(SEGMENT_BYTES - HEADER_BYTES - 100))]
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(JournalFull, match="no room"):
            journal.write(big)
        journal.write(LAST)
    journal.write(big)
    journal.close()
    assert reopened(tmp_path / "a") == FIRST + LAST + big
    assert not list((tmp_path / "a").glob("*.new"))


def test_a_full_disk_can_still_release_and_goes_on_with_what_that_gave(tmp_path, monkeypatch):
    journal = Journal.open(tmp_path / "a", segment_bytes=SEGMENT_BYTES)
    for index in range(30):
        journal.write([Entry(1, 1, index, bytes(1000))])

    def full(fd, offset, length):
        raise OSError(errno.ENOSPC, "no space left")

    states = [HardState(partition, 1, bytes(16), 30) for partition in range(40)]
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        for index in range(30, 90):
            try:
                journal.write([Entry(1, 1, index, bytes(1000))])
            except JournalFull:
                break
        assert journal.release(lambda partition: index - 1, states)
    journal.write([Entry(1, 1, index, bytes(1000))])
    journal.close()
    found = reopened(tmp_path / "a")
    assert found[:40] == states and found[-1].index == index


def test_marks_are_found_across_the_edges_of_the_window(tmp_path, monkeypatch):
    segment, (first, _) = crashed(tmp_path / "a", FIRST, [Entry(1, 1, 2, bytes(4000))])
    monkeypatch.setattr("storage.segments.WINDOW_BYTES", 64)
    fd = os.open(segment, os.O_RDONLY)
    header = read_header(fd, "x")
    for start in range(HEADER_BYTES + 1, first + 1):
        assert mark_after(fd, header, start=start, end=SEGMENT_BYTES) == first
    assert mark_after(fd, header, start=first + 1, end=SEGMENT_BYTES) is None
    os.close(fd)


def test_a_few_entries_are_read_without_reading_the_segment(tmp_path, monkeypatch):
    journal = Journal.open(tmp_path / "a", segment_bytes=8 << 20)
    for index in range(1, 101):
        journal.write([Entry(partition, 1, index, bytes(1000)) for partition in range(64)])
    loaded = 0
    load = Scan._load

    def counted(scan, length):
        nonlocal loaded
        window = load(scan, length)
        loaded += len(window)
        return window

    monkeypatch.setattr(Scan, "_load", counted)
    assert journal.read(7, 50, 52) == [Entry(7, 1, index, bytes(1000)) for index in range(50, 53)]
    assert 0 < loaded <= 3 * ENTRY_BYTES_USUAL
    journal.close()
