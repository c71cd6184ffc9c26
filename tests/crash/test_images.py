"""The images themselves: what must be caught is caught, and what was synced is always there.

Each program below makes one thing durable and says so. Those that forget a sync must be found out; those that
forget none must never be.
"""

from pathlib import Path
from random import Random

import pytest

from tests.crash.images import images
from tests.crash.trace import GCC, Untraceable, run_python

pytestmark = pytest.mark.skipif(
    GCC is None, reason="the recorder is compiled with gcc, which is not installed"
)

CUTS = 120
BEGIN = """
import os, sys
from pathlib import Path
here = Path(sys.argv[1])
def acknowledge(word):
    with open(os.environ["CRASH_MARKERS"], "a") as markers:
        markers.write(word + "\\n")
def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
def write(path, data, *, flags=0, offset=0, mode=0o600):
    fd = os.open(path, os.O_RDWR | os.O_CREAT | flags, mode)
    os.pwrite(fd, data, offset)
    return fd
"""
DATA = b"x" * 10_000


def outcomes(scratch, program, look, *, cuts=CUTS, seed=1):
    """What `look` finds in images taken after the program acknowledged."""
    directory = scratch / "data"
    directory.mkdir()
    (directory / "old").write_bytes(b"o" * 10_000)
    trace = run_python(BEGIN + program, directory)
    found = set()
    for image in images(trace, Random(seed), cuts, scratch):
        if image.acknowledged:
            found.add(look(image.path))
    trace.close()
    return found


def new_file(path: Path):
    return (path / "new").read_bytes() if (path / "new").exists() else None


def nested_file(path: Path):
    return (path / "a" / "b" / "new").exists()


GOOD = """
os.fsync(write(here / "new", b"x" * 10_000)); sync(here); acknowledge("new")
os.pwrite(os.open(here / "old", os.O_WRONLY), b"later", 0)
"""
NO_SYNC_OF_DATA = GOOD.replace("os.fsync", "int")
NO_SYNC_OF_NAME = GOOD.replace("sync(here);", "")


def test_what_was_synced_is_always_there(scratch):
    assert outcomes(scratch, GOOD, new_file) == {DATA}


def test_data_that_was_not_synced_is_lost_or_torn(scratch):
    found = outcomes(scratch, NO_SYNC_OF_DATA, new_file)
    assert {b"", DATA} <= found
    torn = found - {b"", DATA}
    assert torn and all(set(content) <= {0, ord("x")} for content in torn)
    assert any(content.lstrip(b"\0") and content[0] == 0 for content in torn), "a hole before kept sectors"


def test_a_name_that_was_not_synced_is_lost(scratch):
    assert outcomes(scratch, NO_SYNC_OF_NAME, new_file) == {None, DATA}


NESTED = """
(here / "a").mkdir(); (here / "a" / "b").mkdir()
os.fsync(write(here / "a" / "b" / "new", b"x"))
for path in (here / "a" / "b", here / "a", here): sync(path)
acknowledge("new")
os.pwrite(os.open(here / "old", os.O_WRONLY), b"later", 0)
"""


def test_new_directories_need_syncs_too(scratch):
    assert outcomes(scratch, NESTED, nested_file) == {True}


@pytest.mark.parametrize("forgotten", ["here / 'a'", "here"])
def test_a_forgotten_parent_is_found_out(scratch, forgotten):
    listed = {"here / 'a'": '(here / "a" / "b", here)', "here": '(here / "a" / "b", here / "a")'}[forgotten]
    program = NESTED.replace('(here / "a" / "b", here / "a", here)', listed)
    assert outcomes(scratch, program, nested_file) == {True, False}


REPLACED = """
fd = write(here / "old.new", b"n" * 10_000); os.fsync(fd)
os.rename(here / "old.new", here / "old"); sync(here); acknowledge("replaced")
"""


def old_file(path: Path):
    return (path / "old").read_bytes()


def test_a_file_replaced_in_the_right_order_is_old_or_new(scratch):
    assert outcomes(scratch, 'acknowledge("begin")' + REPLACED, old_file) == {b"o" * 10_000, b"n" * 10_000}


def test_a_rename_of_what_was_not_synced_loses_both(scratch):
    found = outcomes(scratch, 'acknowledge("begin")' + REPLACED.replace("os.fsync(fd)", ""), old_file)
    assert b"" in found and len(found) > 3


def test_a_write_through_o_dsync_keeps_its_pages_and_no_others(scratch):
    program = """
fd = os.open(here / "old", os.O_WRONLY)
os.pwrite(fd, b"1" * 4096, 0); os.pwrite(fd, b"2" * 100, 4096)
os.pwrite(os.open(here / "old", os.O_WRONLY | os.O_DSYNC), b"3" * 100, 4296)
acknowledge("third")
os.pwrite(fd, b"4" * 10, 9990)
"""

    def look(path):
        content = (path / "old").read_bytes()
        return content[4096:4196] + content[4296:4396], content[:4096] == b"1" * 4096

    assert outcomes(scratch, program, look) == {(b"2" * 100 + b"3" * 100, kept) for kept in (True, False)}


def test_a_sector_holds_no_write_without_the_one_before(scratch):
    program = """
acknowledge("begin")
fd = os.open(here / "old", os.O_WRONLY)
for n in range(1, 6): os.pwrite(fd, bytes([n]) * n, 0)
"""
    found = outcomes(scratch, program, lambda path: (path / "old").read_bytes()[:5], cuts=400)
    assert found == {bytes([n]) * n + b"o" * (5 - n) for n in range(6)}


def test_sizes_and_truncations(scratch):
    program = """
fd = os.open(here / "old", os.O_RDWR)
os.ftruncate(fd, 5000); os.fsync(fd); acknowledge("cut")
os.posix_fallocate(fd, 0, 8000); os.ftruncate(fd, 20)
"""
    found = outcomes(scratch, program, old_file)
    assert found == {b"o" * 5000, b"o" * 5000 + bytes(3000), b"o" * 20}


def test_removals_and_links(scratch):
    program = """
os.link(here / "old", here / "new"); sync(here); acknowledge("linked")
os.unlink(here / "old")
"""
    found = outcomes(scratch, program, lambda path: tuple(sorted(p.name for p in path.iterdir())))
    assert found == {("new", "old"), ("new",)}


def test_threads_and_children_are_followed(scratch):
    program = """
import threading, multiprocessing
def work(n):
    for i in range(20):
        os.fsync(write(here / f"{n}-{i}", b"x" * 1000))
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    child = context.Process(target=work, args=("child",)); child.start()
    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    child.join(); assert child.exitcode == 0
    import subprocess
    subprocess.run(["dd", "status=none", f"if={here}/0-0", f"of={here}/copy"], check=True)
    sync(here); sync(here / "copy"); acknowledge("all")
    os.fsync(write(here / "end", b""))
"""
    found = outcomes(
        scratch,
        program,
        lambda path: sum(p.stat().st_size == 1000 for p in path.iterdir() if p.name != "end"),
    )
    assert found == {81}


def test_what_cannot_be_followed_is_refused(scratch):
    program = """
import mmap
fd = os.open(here / "old", os.O_RDWR)
mmap.mmap(fd, 4096)[0] = 1
"""
    with pytest.raises(Untraceable, match="mmap"):
        outcomes(scratch, program, old_file)


def test_equal_seeds_give_equal_images(scratch):
    def contents(seed):
        directory = scratch / "again"
        directory.mkdir(exist_ok=True)
        (directory / "old").write_bytes(b"o")
        trace = run_python(BEGIN + NO_SYNC_OF_DATA, directory)
        found = [
            [(path.name, path.read_bytes()) for path in sorted(image.path.iterdir())]
            for image in images(trace, Random(seed), 30, scratch)
        ]
        trace.close()
        (directory / "new").unlink()
        return found

    assert contents(5) == contents(5) != contents(6)
