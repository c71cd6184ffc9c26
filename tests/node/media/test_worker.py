"""The worker alone: its frames, and when it ends."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from node.media.recipes import Processed, VariantFile
from node.media.worker import FRAME_BYTES_MAX, Done, Job, Limits, Refused, answer_from, frame
from tests.node.media.pictures import sample

ROOT = Path(__file__).resolve().parents[3]


def limits(**changed):
    usual = {
        "parent_pid": os.getpid(),
        "memory_bytes": 2**30,
        "cpu_s": 5,
        "open_files": 32,
        "file_bytes": 2**20,
        "nice": 1,
    }
    return msgspec.json.encode(Limits(**(usual | changed))).decode()


def run(sent, **changed):
    command = [sys.executable, "-m", "node.media.worker", limits(**changed)]
    return subprocess.run(command, input=sent, capture_output=True, cwd=ROOT, timeout=30, check=False)


@pytest.mark.parametrize(
    "answer",
    [
        Refused("no image", 0.25),
        Done(
            Processed(
                4,
                3,
                "image/png",
                "L",
                (VariantFile("small", "webp", 4, 3, Path("/x"), 9, b"d" * 32),),
                ("y",),
            ),
            1.5,
        ),
    ],
)
def test_an_answer_survives_the_wire(answer):
    data = frame(answer)
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert answer_from(data[4:]) == answer


def test_a_frame_that_is_too_long_is_not_made():
    with pytest.raises(ValueError, match="at most"):
        frame(Refused("x" * FRAME_BYTES_MAX, 0.0))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x80", msgspec.msgpack.encode({"type": "else"})])
def test_what_is_no_answer_is_not_taken_for_one(body):
    with pytest.raises(msgspec.DecodeError):
        answer_from(body)


def test_jobs_are_answered_in_order_until_the_input_ends(tmp_path):
    (tmp_path / "good").write_bytes(sample("webp"))
    (tmp_path / "bad").write_bytes(b"no image")
    jobs = [Job(tmp_path / name, tmp_path) for name in ("good", "bad", "good")]
    ended = run(b"".join(map(frame, jobs)))
    assert (ended.returncode, ended.stderr) == (0, b"")
    answers, rest = [], ended.stdout
    while rest:
        size = 4 + int.from_bytes(rest[:4], "big")
        answers.append(answer_from(rest[4:size]))
        rest = rest[size:]
    assert [type(answer) for answer in answers] == [Done, Refused, Done]


def test_it_ends_when_its_input_does():
    assert (run(b"").returncode, run(b"").stdout) == (0, b"")
    assert run(b"\x00\x00").returncode == 0


def test_it_ends_at_once_if_its_parent_is_another(tmp_path):
    (tmp_path / "good").write_bytes(sample("webp"))
    ended = run(frame(Job(tmp_path / "good", tmp_path)), parent_pid=1)
    assert (ended.returncode, ended.stdout) == (0, b"")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"\xff\xff\xff\xff", b"ValueError"),
        (b"\x00\x00\x00\x01\xc1", b"DecodeError"),
        (b"GET / HTTP/1.1", b"at most"),
    ],
)
def test_garbage_ends_it_with_a_word(sent, said):
    ended = run(sent)
    assert ended.returncode == 1
    assert ended.stdout == b""
    assert said in ended.stderr.splitlines()[-1]


def test_the_nodes_end_imports_no_codec():
    program = (
        "import sys, node.media.pool, node.media.probe; "
        "print([m for m in ('PIL', 'pillow_heif', 'blurhash') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=ROOT, check=True)
    assert ended.stdout.strip() == b"[]"
