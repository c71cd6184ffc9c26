"""Blobs in real files: placing, raising, collecting, verifying, quarantine, counting, and threads at once."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.blobs import (
    BlobDamaged,
    BlobEntry,
    BlobMismatch,
    BlobMissing,
    Blobs,
    BlobsFailed,
    BlobsFull,
    BlobTooLarge,
)


def digest_of(data):
    return blake3(data).digest()


def opened(path):
    for name in ("blobs", "staging", "quarantine"):
        (path / name).mkdir(exist_ok=True)
    return Blobs(path / "blobs", path / "staging", path / "quarantine")


@pytest.fixture
def blobs(tmp_path):
    return opened(tmp_path)


def put(blobs, data, index=1):
    staged = blobs.stage(1 << 20)
    staged.write(data)
    digest, size = staged.finish()
    assert size == len(data)
    assert blobs.place(staged, digest, index) == size
    return digest


def content(blobs, digest):
    with blobs.open(digest) as file:
        return file.read()


def file_of(tmp_path, digest):
    (found,) = (tmp_path / "blobs").glob(f"*/*/{digest.hex()}.*")
    return found


def test_bytes_come_back(blobs, tmp_path):
    staged = blobs.stage(100)
    assert [staged.write(part) for part in (b"photo", bytearray(b"graph"), memoryview(b"y"))] == [5, 10, 11]
    digest, size = staged.finish()
    assert (digest, size) == (digest_of(b"photography"), 11) == staged.finish()
    blobs.place(staged, digest, 7)
    assert content(blobs, digest) == b"photography"
    assert blobs.size(digest) == blobs.verify(digest) == 11
    assert blobs.reserve_index(digest) == 7
    assert file_of(tmp_path, digest).parent == tmp_path / "blobs" / digest.hex()[:2] / digest.hex()[2:4]
    assert content(opened(tmp_path), digest) == b"photography"


def test_a_file_that_was_made_elsewhere_is_placed_only_under_its_own_hash(blobs, tmp_path):
    path = tmp_path / "staging" / "fetched"
    path.write_bytes(b"fetched")
    with pytest.raises(BlobMismatch, match=digest_of(b"fetched").hex()):
        blobs.place(path, digest_of(b"other"), 1)
    assert path.exists() and list(blobs.iterate()) == []
    blobs.place(path, digest_of(b"fetched"), 1)
    assert not path.exists() and content(blobs, digest_of(b"fetched")) == b"fetched"


def test_a_second_put_raises_the_index_and_never_lowers_it(blobs, tmp_path):
    for index, held in ((5, 5), (9, 9), (7, 9)):
        digest = put(blobs, b"same", index)
        assert blobs.reserve_index(digest) == held
    assert len(list((tmp_path / "blobs").glob("*/*/*"))) == 1
    assert list((tmp_path / "staging").iterdir()) == []
    assert blobs.statistics().blobs == 1 and blobs.statistics().bytes == 4


def test_only_older_files_are_collected(blobs):
    digest = put(blobs, b"data", 9)
    assert not blobs.unlink(digest, 8)
    assert not blobs.unlink(digest, 9)
    assert content(blobs, digest) == b"data"
    assert blobs.unlink(digest, 10)
    assert not blobs.unlink(digest, 10)
    with pytest.raises(BlobMissing, match=digest.hex()):
        blobs.open(digest)
    assert blobs.statistics().bytes == 0


def test_an_open_file_outlives_its_collection(blobs):
    digest = put(blobs, b"data")
    with blobs.open(digest) as file:
        blobs.unlink(digest, 2)
        assert file.read() == b"data"


def test_damage_is_found_before_a_byte_leaves(blobs, tmp_path):
    digest = put(blobs, b"right")
    file_of(tmp_path, digest).write_bytes(b"wrong")
    with pytest.raises(BlobDamaged, match=digest_of(b"wrong").hex()):
        blobs.open(digest)
    with pytest.raises(BlobMissing):
        blobs.open(digest)
    (kept,) = (tmp_path / "quarantine").iterdir()
    assert kept.read_bytes() == b"wrong" and kept.name.startswith(digest.hex())
    assert blobs.statistics().damaged == 1 and blobs.statistics().blobs == 0
    put(blobs, b"right")
    assert content(blobs, digest) == b"right"


def test_a_blob_is_read_before_it_is_linked(blobs, tmp_path):
    digest = put(blobs, b"right")
    blobs.link(digest, tmp_path / "first")
    assert (tmp_path / "first").read_bytes() == b"right" and blobs.known_good(digest)
    (tmp_path / "first").write_bytes(b"wrong")
    with pytest.raises(BlobDamaged):
        opened(tmp_path).link(digest, tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_the_scrub_finds_what_rotted_after_it_was_served(blobs, tmp_path):
    digest = put(blobs, b"right")
    assert content(blobs, digest) == b"right"
    file_of(tmp_path, digest).write_bytes(b"wrong")
    with pytest.raises(BlobDamaged):
        blobs.verify(digest)
    with pytest.raises(BlobMissing):
        blobs.size(digest)


def test_a_scrub_pushes_nothing_out_of_what_is_remembered(blobs, tmp_path):
    digest = put(blobs, b"right")
    blobs.verify(digest)
    assert not blobs.known_good(digest)
    blobs.open(digest).close()
    blobs.verify(digest)
    assert blobs.known_good(digest)


def test_a_file_that_the_disk_cannot_read_is_damaged(blobs, tmp_path, monkeypatch):
    digest = put(blobs, b"right")

    def unreadable(file):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("storage.blobs._hash", unreadable)
    with pytest.raises(BlobDamaged, match="Input/output error"):
        blobs.verify(digest)
    assert len(list((tmp_path / "quarantine").iterdir())) == 1
    with pytest.raises(BlobMissing):
        blobs.size(digest)


def test_the_index_of_what_is_here_and_right_is_raised(blobs, tmp_path):
    digest = put(blobs, b"right", index=5)
    for index, after in ((3, 5), (9, 9), (9, 9)):
        assert blobs.raise_index(digest, index) and blobs.reserve_index(digest) == after
    assert content(blobs, digest) == b"right"
    assert not blobs.unlink(digest, 9)
    assert not blobs.raise_index(digest_of(b"absent"), 1)
    file_of(tmp_path, digest).write_bytes(b"wrong")
    assert not opened(tmp_path).raise_index(digest, 10)


def test_the_indexes_of_many_are_looked_up_at_once(blobs):
    digests = sorted(put(blobs, b"%d" % n, index=n + 1) for n in range(50))
    absent = digest_of(b"absent")
    asked = sorted([*digests, absent])
    found = dict(zip(asked, blobs.indexes(asked), strict=True))
    assert found.pop(absent) == 0
    assert found == {entry.digest: entry.reserve_index for entry in blobs.iterate()}
    assert blobs.indexes([]) == []


def test_what_was_verified_before_a_removal_is_verified_anew(blobs, tmp_path):
    digest = put(blobs, b"right")
    blobs.open(digest).close()
    blobs.unlink(digest, 2)
    put(blobs, b"right")
    file_of(tmp_path, digest).write_bytes(b"wrong")
    with pytest.raises(BlobDamaged):
        blobs.open(digest)


def test_what_was_verified_is_found_again_when_its_index_was_raised(blobs, tmp_path):
    digest = put(blobs, b"right", 1)
    blobs.open(digest).close()
    put(blobs, b"right", 9)
    assert content(blobs, digest) == b"right"  # under a name that was not remembered
    assert blobs.known_good(digest)
    file_of(tmp_path, digest).rename(tmp_path / "elsewhere")
    with pytest.raises(BlobMissing):
        blobs.open(digest)


def test_a_put_over_damaged_bytes_mends_them(tmp_path):
    digest = put(opened(tmp_path), b"right", 9)
    file_of(tmp_path, digest).write_bytes(b"wrong")
    blobs = opened(tmp_path)
    put(blobs, b"right", 3)
    assert content(blobs, digest) == b"right"
    assert [path.read_bytes() for path in (tmp_path / "quarantine").iterdir()] == [b"wrong"]


def test_an_abandoned_upload_leaves_nothing(blobs, tmp_path):
    staged = blobs.stage(10)
    staged.write(b"12345")
    assert blobs.statistics().staged == 1
    with pytest.raises(BlobTooLarge, match="more than 10 bytes"):
        staged.write(b"678901")
    staged.abandon()
    staged.abandon()
    assert blobs.statistics().staged == 0 and list((tmp_path / "staging").iterdir()) == []
    with pytest.raises(ValueError, match="abandoned"):
        staged.finish()


def test_staging_is_swept_at_start_and_by_age(blobs, tmp_path):
    old, new = blobs.stage(10), blobs.stage(10)
    os.utime(old.path, (1000, 1000))
    os.utime(new.path, (2000, 2000))
    assert blobs.sweep_staging(before=1500) == 1
    assert list((tmp_path / "staging").iterdir()) == [new.path]
    opened(tmp_path)
    assert list((tmp_path / "staging").iterdir()) == []


def test_iterating_is_in_order_and_resumes(blobs, tmp_path):
    digests = sorted(put(blobs, str(n).encode(), n) for n in range(50))
    (tmp_path / "blobs" / "lost+found").mkdir()
    (file_of(tmp_path, digests[0]).parent / "note.txt").write_text("not a blob")
    entries = list(blobs.iterate())
    assert [entry.digest for entry in entries] == digests
    expected = [BlobEntry(digest_of(b"%d" % n), len(str(n)), n) for n in range(50)]
    assert entries == sorted(expected)
    assert [entry.digest for entry in blobs.iterate(after=digests[20])] == digests[21:]
    assert blobs.statistics().foreign >= 1


def test_only_digests_name_files(blobs):
    for name in (b"", b"../../etc/passwd", b"\0" * 31, b"/" * 33):
        for call in (blobs.open, blobs.size, blobs.verify, blobs.quarantine, blobs.reserve_index):
            with pytest.raises((ValueError, IndexError)):
                call(name)


def test_a_link_in_place_of_a_blob_is_not_followed(blobs, tmp_path):
    digest = put(blobs, b"data")
    path = file_of(tmp_path, digest)
    path.unlink()
    (tmp_path / "secret").write_bytes(b"data")
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(OSError) as raised:
        blobs.open(digest)
    assert raised.value.errno == errno.ELOOP


def test_counting_agrees_with_changes_before_during_and_after(tmp_path):
    first = opened(tmp_path)
    old = [put(first, b"old %d" % n) for n in range(30)]
    blobs = opened(tmp_path)
    put(blobs, b"before", 1)
    blobs.unlink(old[0], 2)
    assert not blobs.statistics().counted
    blobs.count()
    put(blobs, b"after", 1)
    blobs.unlink(old[1], 2)
    statistics = blobs.statistics()
    sizes = [entry.size for entry in blobs.iterate()]
    assert statistics.counted
    assert (statistics.blobs, statistics.bytes) == (30, sum(sizes)) and len(sizes) == 30


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["put", "unlink", "rot", "verify", "restart"]),
            st.integers(0, 2),
            st.integers(0, 9),
        ),
        max_size=25,
    )
)
def test_against_a_dictionary(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("blobs")
    blobs = opened(path)
    model = {}
    for step, which, index in steps:
        data = b"blob %d" % which
        digest = digest_of(data)
        held = model.get(digest)
        if step == "put":
            if held and held[1]:
                put(blobs, data, index)
                model[digest] = (max(held[0], index), True)
            else:
                put(blobs, data, index)
                model[digest] = (index, True)
        elif step == "unlink":
            assert blobs.unlink(digest, index) == bool(held and held[0] < index)
            if held and held[0] < index:
                del model[digest]
        elif step == "rot" and held:
            file_of(path, digest).write_bytes(b"rotten")
            blobs = opened(path)
            model[digest] = (held[0], False)
        elif step == "verify":
            if held is None:
                with pytest.raises(BlobMissing):
                    blobs.verify(digest)
            elif held[1]:
                assert content(blobs, digest) == data and blobs.verify(digest) == len(data)
            else:
                with pytest.raises(BlobDamaged):
                    blobs.verify(digest)
                del model[digest]
        elif step == "restart":
            blobs = opened(path)
    blobs.count()
    assert {entry.digest: entry.reserve_index for entry in blobs.iterate()} == {
        digest: index for digest, (index, _) in model.items()
    }
    assert blobs.statistics().blobs == len(model)


def test_many_threads_on_few_blobs(tmp_path):
    threads = threading.active_count()  # other tests' may still be idle
    blobs = opened(tmp_path)
    contents = [b"%d" % n * 1000 for n in range(4)]
    served = []

    def work(n):
        data = contents[n % 4]
        digest = put(blobs, data, n)
        if n % 5 == 0:
            blobs.unlink(digest, n)
        with suppress(BlobMissing):  # another thread was faster to unlink it
            served.append(content(blobs, digest) == data)
        if n == 100:
            blobs.count()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(200)))
    assert len(served) > 100 and all(served)
    blobs.count()
    entries = list(blobs.iterate())
    assert blobs.statistics().blobs == len(entries) == len(list((tmp_path / "blobs").glob("*/*/*")))
    assert blobs.statistics().bytes == sum(entry.size for entry in entries)
    assert list((tmp_path / "staging").iterdir()) == []
    assert threading.active_count() <= threads


def test_a_full_disk_refuses_and_leaves_nothing(blobs, tmp_path, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, "no space left")

    staged = blobs.stage(10)
    staged.write(b"12345")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(BlobsFull):
            staged.finish()
    with pytest.raises(ValueError, match="abandoned"):
        staged.finish()
    staged.abandon()
    assert list((tmp_path / "staging").iterdir()) == []
    put(blobs, b"12345")


def test_after_a_failed_sync_nothing_more_is_placed(blobs, monkeypatch):
    def broken(fd):
        raise OSError(errno.EIO, "the disk is gone")

    digest = put(blobs, b"kept")
    staged = blobs.stage(10)
    staged.write(b"12345")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", broken)
        with pytest.raises(BlobsFailed, match="the disk is gone"):
            staged.finish()
    with pytest.raises(BlobsFailed, match="must exit"):
        put(blobs, b"more")
    assert content(blobs, digest) == b"kept"
