"""Room on disk: the verdict at and around each limit, and the reserve file."""

import errno
import os

import pytest

from storage.space import BRIM_BYTES, Full, ReserveFile, Room, SpaceLimits, judge, measure

LIMITS = SpaceLimits(quota_bytes=1000, reserve_bytes=500)
FULL = Full("before")


@pytest.mark.parametrize(
    ("before", "used", "free", "full"),
    [
        (Room(), 0, 500, False),
        (Room(), 999, 10_000, False),
        (Room(), 1000, 10_000, True),
        (Room(), 0, 499, True),
        (FULL, 980, 10_000, True),
        (FULL, 979, 10_000, False),
        (FULL, 0, 509, True),
        (FULL, 0, 510, False),
        (FULL, 0, 0, True),
    ],
)
def test_the_verdict(before, used, free, full):
    assert isinstance(judge(before, used, free, LIMITS), Full) == full


def test_the_reason_names_what_ran_out():
    assert judge(Room(), 1000, 0, LIMITS) == Full("1000 bytes used of a quota of 1000")
    assert "3 bytes free" in judge(Room(), 0, 3, LIMITS).reason


def test_without_a_quota_only_the_disk_counts():
    limits = SpaceLimits(quota_bytes=None, reserve_bytes=1)
    assert judge(Room(), 10**18, 1, limits) == Room()


def test_measuring_sees_a_file_grow(tmp_path):
    before = measure(tmp_path)
    assert 0 < before.free_bytes <= before.total_bytes


def test_the_reserve_is_taken_given_up_and_taken_again(tmp_path):
    size = 1 << 20
    reserve = ReserveFile(tmp_path / "reserve", size)
    plenty = size + 2 * BRIM_BYTES
    assert not reserve.held and reserve.available(plenty) == plenty - size
    assert not reserve.tend(plenty - 1)
    assert reserve.tend(plenty) and reserve.held
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= size
    assert reserve.available(7) == 7
    assert reserve.tend(BRIM_BYTES) and not reserve.tend(BRIM_BYTES - 1)
    assert not (tmp_path / "reserve").exists() and reserve.available(5) == 0
    assert reserve.tend(plenty)


def test_no_room_for_the_reserve_is_no_error(tmp_path, monkeypatch):
    def full(fd, offset, length):
        raise OSError(errno.ENOSPC, "no space left")

    reserve = ReserveFile(tmp_path / "reserve", 4096)
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        assert not reserve.tend(10**12)
    assert not (tmp_path / "reserve").exists()
    assert reserve.tend(10**12)
