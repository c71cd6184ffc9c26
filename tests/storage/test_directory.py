"""The data directory: made once, locked by one, refused when it is another's."""

import json
import os
import stat
import subprocess
import sys

import pytest

from storage.directory import (
    FOLDERS,
    DataDirectory,
    DirectoryDamaged,
    DirectoryForeign,
    DirectoryInUse,
    DirectoryTooNew,
    cluster_file,
    has_identity,
    write_durably,
)

NOW = 1_800_000_000.25


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_directory(tmp_path):
    path = tmp_path / "deep" / "data"
    with DataDirectory.open(path, now=NOW, shard_count=3) as made:
        assert (made.identity.shard_count, made.identity.partition_count, made.boots) == (3, 256, 1)
        assert made.identity.created == "2027-01-15T08:00:00.250Z"
        assert len(made.node_id) == 16
        assert made.blobs == path / "blobs" and made.quarantine == path / "quarantine"
    assert mode(path) == 0o700
    for entry in path.iterdir():
        assert mode(entry) == (0o700 if entry.is_dir() else 0o600)
    assert {entry.name for entry in path.iterdir()} == {*FOLDERS, "node.json", "boots", "lock"}


def test_a_later_start_keeps_the_identity_and_raises_the_count(tmp_path):
    with DataDirectory.open(tmp_path, now=NOW) as first:
        pass
    with DataDirectory.open(tmp_path, now=NOW + 9, shard_count=7, partition_count=512) as second:
        assert second.identity == first.identity and second.boots == 2
    with DataDirectory.open(tmp_path, now=NOW, boot=False) as stopped:
        assert stopped.boots == 2
    assert len({DataDirectory.open(tmp_path / name, now=NOW).node_id for name in "ab"}) == 2


def test_a_second_node_is_told_who_is_there(tmp_path):
    with DataDirectory.open(tmp_path, now=NOW), pytest.raises(DirectoryInUse, match=f" {os.getpid()}$"):
        DataDirectory.open(tmp_path, now=NOW)
    DataDirectory.open(tmp_path, now=NOW).close()


def test_the_lock_dies_with_its_process(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from storage.directory import DataDirectory\n"
        "held = DataDirectory.open(Path(sys.argv[1]), now=0); print('ready', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(DirectoryInUse, match=f" {process.pid}$"):
            DataDirectory.open(tmp_path, now=NOW)
        process.kill()
    with DataDirectory.open(tmp_path, now=NOW) as mine:
        assert mine.boots == 2


def test_someone_elses_directory_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(DirectoryForeign, match=r"thesis\.tex"):
        DataDirectory.open(tmp_path, now=NOW)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_root_of_a_file_system_will_do(tmp_path):
    (tmp_path / "lost+found").mkdir()
    DataDirectory.open(tmp_path, now=NOW).close()


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"format": 2, "anything": 1}, DirectoryTooNew, "format 2"),
        ({"format": 0}, DirectoryDamaged, "format 0"),
        ({"node_id": "abc"}, DirectoryDamaged, "node.json"),
        ({"node_id": "abcd"}, DirectoryDamaged, "abcd"),
        ({"shard_count": "two"}, DirectoryDamaged, "shard_count"),
        ({"stranger": 1}, DirectoryDamaged, "stranger"),
    ],
)
def test_an_identity_that_is_not_ours(tmp_path, change, error, word):
    DataDirectory.open(tmp_path, now=NOW).close()
    fields = json.loads((tmp_path / "node.json").read_text())
    (tmp_path / "node.json").write_text(json.dumps(fields | change))
    with pytest.raises(error, match=word):
        DataDirectory.open(tmp_path, now=NOW)
    assert (tmp_path / "boots").read_text() == "1\n"
    (tmp_path / "node.json").write_text(json.dumps(fields))
    DataDirectory.open(tmp_path, now=NOW).close()


@pytest.mark.parametrize("text", ["", "[]", "\0" * 50, "{"])
def test_an_unreadable_identity(tmp_path, text):
    DataDirectory.open(tmp_path, now=NOW).close()
    (tmp_path / "node.json").write_text(text)
    with pytest.raises(DirectoryDamaged, match=r"node\.json"):
        DataDirectory.open(tmp_path, now=NOW)


def test_an_interrupted_first_start_is_begun_again(tmp_path):
    for name in ("journal", "blobs"):
        (tmp_path / name).mkdir()
    (tmp_path / "node.json.new").write_text("{")
    DataDirectory.open(tmp_path, now=NOW).close()


def test_data_without_identity_is_refused(tmp_path):
    DataDirectory.open(tmp_path, now=NOW).close()
    (tmp_path / "journal" / "000000000001.log").write_text("x")
    (tmp_path / "node.json").unlink()
    with pytest.raises(DirectoryDamaged, match=r"journal/ but no node\.json"):
        DataDirectory.open(tmp_path, now=NOW)


def test_a_lost_count_of_starts_is_refused(tmp_path):
    DataDirectory.open(tmp_path, now=NOW).close()
    (tmp_path / "boots").write_bytes(b"\xff\0")
    with pytest.raises(DirectoryDamaged, match="boots holds no number"):
        DataDirectory.open(tmp_path, now=NOW)


def test_counts_out_of_range(tmp_path):
    for shards, partitions in ((0, 256), (2, 8193), (300, 256)):
        with pytest.raises(ValueError, match="1 <= shards"):
            DataDirectory.open(tmp_path / "x", now=NOW, shard_count=shards, partition_count=partitions)


def test_files_are_replaced_whole(tmp_path):
    write_durably(tmp_path / "key", b"one")
    write_durably(tmp_path / "key", b"two", mode=0o640)
    assert (tmp_path / "key").read_bytes() == b"two" and mode(tmp_path / "key") == 0o640
    assert len(list(tmp_path.iterdir())) == 1


def test_a_directory_made_for_a_cluster_says_so_before_it_has_an_identity(tmp_path):
    path = tmp_path / "data"
    with DataDirectory.open(path, now=NOW, cluster=b"joining", partition_count=16) as made:
        assert made.cluster_file.read_bytes() == b"joining"
        assert made.identity.partition_count == 16
    with DataDirectory.open(path, now=NOW, cluster=b"another"):
        assert cluster_file(path) == b"joining"
    # The crash between the two: it is finished by the next start, and nothing takes it for a lone node's.
    half = tmp_path / "half"
    with DataDirectory.open(half, now=NOW, cluster=b"joining"):
        (half / "node.json").unlink()
    assert not has_identity(half) and cluster_file(half) == b"joining"
    with DataDirectory.open(half, now=NOW, cluster=b"joining", partition_count=32) as again:
        assert again.identity.partition_count == 32
    assert cluster_file(tmp_path / "nowhere") == b"" and not has_identity(tmp_path / "nowhere")
