"""Journal, blobs and LMDB on disks that lose or tear what was not synced: what was acknowledged is there."""

import shutil
from pathlib import Path
from random import Random

import lmdb
import pytest
from blake3 import blake3

from storage.blobs import BlobDamaged, Blobs
from storage.journal import Entry, HardState, Journal, JournalDamaged
from tests.crash.images import images
from tests.crash.trace import GCC, run_python

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(GCC is None, reason="the recorder is compiled with gcc, which is not installed"),
]

ACKNOWLEDGE = """
import os, sys
from pathlib import Path
from random import Random
here, seed = Path(sys.argv[1]), int(sys.argv[2])
rng = Random(seed)
def acknowledge(*words):
    with open(os.environ["CRASH_MARKERS"], "a") as markers:
        markers.write(" ".join(map(str, words)) + "\\n")
"""

JOURNAL = """
from storage.journal import Entry, HardState, Journal
journal = Journal.open(here / "journal", segment_bytes=32 << 10)
last = max((r.index for r in journal.recovered() if isinstance(r, Entry)), default=0)
acknowledge("start", last)
for batch in range(60):
    entries = [Entry(1, seed, last + 1 + n, bytes([(last + 1 + n) % 251]) * rng.choice((10, 300, 3000)))
               for n in range(rng.randint(1, 8))]
    last = entries[-1].index
    journal.write([*entries, HardState(1, batch, b"", last)])
    acknowledge("written", last)
    if rng.random() < 0.2:
        passed = max(0, last - rng.randint(0, 30))
        acknowledge("releasing", passed)
        journal.release(lambda partition: passed, [HardState(1, batch, b"", last)])
    if rng.random() < 0.05:
        journal.close()
        journal = Journal.open(here / "journal", segment_bytes=32 << 10)
"""


def journal_found(path: Path):
    """Entry indexes and the last hard state's commit, with every command checked; also whether it goes on."""
    journal = Journal.open(path / "journal", segment_bytes=32 << 10)
    recovered = list(journal.recovered())
    entries = {record.index: record for record in recovered if isinstance(record, Entry)}
    states = [record.commit for record in recovered if isinstance(record, HardState)]
    assert all(set(entry.command) == {index % 251} for index, entry in entries.items())
    journal.write([Entry(2, 1, 1, b"goes on")])
    journal.close()
    return sorted(entries), states[-1] if states else 0


def check_journal(image, before=(0, 0)):
    """`before`, as what is returned: the indexes of entries acknowledged so far, and maybe released."""
    marks = [line.split() for line in image.acknowledged]
    written = max(before[0], *(int(index) for word, index in marks if word in ("written", "start")), 0)
    released = max(before[1], *(int(index) for word, index in marks if word == "releasing"), 0)
    indexes, commit = journal_found(image.path)
    assert indexes == list(range(indexes[0], indexes[-1] + 1)) if indexes else written <= released
    assert not indexes or (indexes[0] <= released + 1 and indexes[-1] >= written)
    assert commit >= written
    return written, released


def test_the_journal(scratch):
    (scratch / "data" / "journal").mkdir(parents=True)
    trace = run_python(ACKNOWLEDGE + JOURNAL, scratch / "data", 1)
    seen = set()
    for image in images(trace, Random(2), 500, scratch):
        check_journal(image)
        seen.add(image.cut)
    trace.close()
    assert len(seen) > 200


def test_the_journal_cut_again_and_again(scratch):
    """Each run starts from an image of the one before, so torn tails lie under what is written next."""
    data = scratch / "data"
    (data / "journal").mkdir(parents=True)
    before = (0, 0)
    for turn in range(8):
        trace = run_python(ACKNOWLEDGE + JOURNAL, data, turn)
        chosen = scratch / "chosen"
        for number, image in enumerate(images(trace, Random(turn), 20, scratch)):
            if number == 12 + turn:
                shutil.copytree(image.path, chosen)
                after = check_journal(image, before)
            else:
                check_journal(image, before)
        before = after
        trace.close()
        shutil.rmtree(data)
        chosen.rename(data)


BLOBS = """
from blake3 import blake3
from storage.blobs import Blobs
for folder in ("blobs", "staging", "quarantine"):
    (here / folder).mkdir(exist_ok=True)
fd = os.open(here, os.O_RDONLY); os.fsync(fd)
blobs = Blobs(here / "blobs", here / "staging", here / "quarantine")
index = 0
for turn in range(80):
    index += 1
    data = b"%d" % rng.randint(0, 30) * 2000
    digest = blake3(data).digest()
    if rng.random() < 0.7:
        staged = blobs.stage(1 << 20)
        for at in range(0, len(data), 1500):
            staged.write(data[at : at + 1500])
        if rng.random() < 0.1:
            staged.abandon()
            continue
        staged.finish()
        blobs.place(staged, digest, index)
        acknowledge("placed", digest.hex(), index)
    else:
        acknowledge("collecting", digest.hex(), index)
        blobs.unlink(digest, index)
        acknowledge("collected", digest.hex(), index)
"""


def check_blobs(image):
    if not (image.path / "quarantine").exists() or not image.acknowledged:
        return
    blobs = Blobs(image.path / "blobs", image.path / "staging", image.path / "quarantine")
    state = {}
    for word, digest, index in (line.split() for line in image.acknowledged):
        state[bytes.fromhex(digest)] = (word, int(index))
    found = {entry.digest: entry.reserve_index for entry in blobs.iterate()}
    for digest, (word, index) in state.items():
        if word == "placed":
            assert found.get(digest, 0) >= index
            with blobs.open(digest) as file:
                assert blake3(file.read()).digest() == digest
        elif word == "collected" and digest in found:
            assert found[digest] > index, "a file that was collected is back"
    for digest in found:
        blobs.verify(digest)
    assert blobs.statistics().damaged == 0
    assert not list((image.path / "staging").iterdir())


def test_blobs(scratch):
    (scratch / "data").mkdir()
    trace = run_python(ACKNOWLEDGE + BLOBS, scratch / "data", 3)
    for image in images(trace, Random(4), 400, scratch):
        check_blobs(image)
    trace.close()


LMDB = """
import lmdb
(here / "shard").mkdir()
for path in (here / "shard", here):
    fd = os.open(path, os.O_RDONLY); os.fsync(fd)
environment = lmdb.open(str(here / "shard"), map_size=1 << 30, sync=SYNC, lib_version=0)
fd = os.open(here / "shard", os.O_RDONLY); os.fsync(fd)
for number in range(1, 80):
    with environment.begin(write=True) as transaction:
        for _ in range(rng.randint(1, 30)):
            transaction.put(b"%08d" % rng.randint(0, 2000), b"%d" % number * rng.randint(1, 200))
        transaction.put(b"last", b"%d" % number)
    acknowledge(number)
"""


def lmdb_last(path: Path):
    """The last committed number, with every row read."""
    environment = lmdb.open(str(path / "shard"), map_size=1 << 30, lib_version=0)
    try:
        with environment.begin() as transaction:
            last = int(transaction.get(b"last", b"0"))
            assert all(value for _, value in transaction.cursor())
        with environment.begin(write=True) as transaction:
            transaction.put(b"after", b"x")
        return last
    finally:
        environment.close()


def test_lmdb(scratch):
    (scratch / "data").mkdir()
    trace = run_python(ACKNOWLEDGE + LMDB.replace("SYNC", "True"), scratch / "data", 5)
    for image in images(trace, Random(6), 300, scratch):
        acknowledged = int(image.acknowledged[-1]) if image.acknowledged else 0
        if acknowledged:
            assert lmdb_last(image.path) in (acknowledged, acknowledged + 1)
    trace.close()


def test_lmdb_without_syncs_is_found_out(scratch):
    (scratch / "data").mkdir()
    trace = run_python(ACKNOWLEDGE + LMDB.replace("SYNC", "False"), scratch / "data", 5)
    lost = 0
    for image in images(trace, Random(6), 20, scratch):
        data = image.path / "shard" / "data.mdb"
        # Looking at the newest meta page is enough, and cannot crash on pages that were lost.
        lost += bool(image.acknowledged) and (not data.exists() or data.stat().st_size < 2 * 4096)
    trace.close()
    assert lost


JOURNAL_SYNCS = ["os.fdatasync(self._fd)", "os.fsync(self._directory)"]
BLOB_SYNCS = [
    "self._blobs._sync_file(file, self.path)",
    "self._sync_directory(leaf)",
    "self._sync_directory(leaf.parent)",
    "self._sync_directory(self._root)",
    "self._sync_directory(found.parent)",
]


def run_planted(module, forgotten, story, scratch):
    """Run a story with one line taken out of a module of `storage`."""
    source = (Path(__file__).parents[2] / "storage" / f"{module}.py").read_text()
    assert forgotten in source
    planted = scratch / "planted.py"
    planted.write_text(source.replace(forgotten, "pass"))
    load = (
        "import importlib.util as load\n"
        f"spec = load.spec_from_file_location('storage.{module}', {str(planted)!r})\n"
        f"sys.modules['storage.{module}'] = module = load.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
    )
    return run_python(ACKNOWLEDGE + load + story, scratch / "data", 1)


@pytest.mark.parametrize("forgotten", JOURNAL_SYNCS)
def test_a_journal_that_forgets_a_sync_is_found_out(scratch, forgotten):
    """The journal as it is, but for one line: some image then lacks what was acknowledged."""
    (scratch / "data" / "journal").mkdir(parents=True)
    trace = run_planted("journal", forgotten, JOURNAL, scratch)
    assert any(broken(check_journal, image) for image in images(trace, Random(2), 100, scratch))
    trace.close()


@pytest.mark.parametrize("forgotten", BLOB_SYNCS)
def test_a_blob_that_forgets_a_sync_is_found_out(scratch, forgotten):
    (scratch / "data").mkdir()
    trace = run_planted("blobs", forgotten, BLOBS, scratch)
    assert any(broken(check_blobs, image) for image in images(trace, Random(2), 200, scratch))
    trace.close()


def broken(check, image):
    try:
        check(image)
    except (AssertionError, JournalDamaged, BlobDamaged):
        return True
    return False
