"""`docs/protocol.md` tells the truth: its bytes, its tags and its bounds are those of the code."""

import re
from pathlib import Path

import msgspec
import pytest

from cluster.peers import (
    bulk,
    certificates,
    dialling,
    frames,
    handshake,
    hello,
    link,
    messages,
    serving,
    strangers,
)
from cluster.raft import messages as raft_messages
from cluster.raft import quiet as raft_quiet
from cluster.snapshots import exchange as snapshots
from cluster.snapshots import state_stream

TEXT = Path(__file__).resolve().parents[3].joinpath("docs/protocol.md").read_text()
MODULES = (
    *(bulk, certificates, dialling, frames, handshake, hello, link, messages, serving, strangers),
    *(snapshots, state_stream),
)


def frame(kind, said=b"", request=0, deadline_ms=0):
    body = said if isinstance(said, bytes) else messages.encode(said)
    return frames.encode(kind, body, request, deadline_ms)


def raw(message):
    return msgspec.Raw(messages.encode(message))


WORDS = {
    **{
        name: value
        for module in (raft_quiet, raft_messages, messages, frames, hello)
        for name, value in vars(module).items()
    },
    "frame": frame,
    "raw": raw,
}


def examples():
    """(what is meant, its bytes) of every code block."""
    for block in re.findall(r"^```\n(.*?)^```", TEXT, re.M | re.S):
        for meant, data in re.findall(r"^(\w+\(.*\))\n((?:[0-9a-f]{2}[ \n])*)", block, re.M):
            yield meant, bytes.fromhex(data)


EXAMPLES = list(examples())


@pytest.mark.parametrize(("meant", "data"), EXAMPLES, ids=[meant[:30] for meant, _ in EXAMPLES])
def test_an_example_is_what_the_code_writes(meant, data):
    value = eval(meant, {}, WORDS)
    written = value if isinstance(value, bytes) else messages.encode(value)
    assert written == data, f"{meant} is {written.hex(' ')}"


def test_every_message_has_an_example():
    given = {meant.partition("(")[0] for meant, _ in EXAMPLES}
    unions = (messages.Request, messages.Response, raft_messages.Message)
    wanted = {kind.__name__ for union in unions for kind in union.__args__}
    assert given == wanted | {"RaftFrame", "Hello", "Refusal", "frame"}


def test_tags_and_answers_are_those_of_the_table():
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (?:(\d+) )?(a stream|\w+) \|$", TEXT, re.M)
    told = {kind: (int(tag), int(answer_tag or 0), answer) for tag, kind, answer_tag, answer in rows}
    for kind in messages.Request.__args__:
        answer = messages.ANSWERS.get(kind)
        answer_tag = answer.__struct_config__.tag if answer else 0
        name = answer.__name__ if answer else "a stream"
        assert told[kind.__name__] == (kind.__struct_config__.tag, answer_tag, name)


def test_kinds_of_frames_are_those_of_the_table():
    rows = re.findall(r"^\| (\d+) \| ([A-Z]+) \|", TEXT, re.M)
    assert {int(number): name.lower() for number, name in rows} == frames.KINDS


def test_bounds_have_the_values_told():
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "ms": 0.001, "s": 1, "": 1}
    told = re.findall(r"\b([A-Z]+(?:_[A-Z]+)+|BURST),? \(?([\d.]+)(?: (KiB|MiB|GiB|ms|s)\b)?", TEXT)
    assert len(told) > 25
    for name, number, unit in told:
        values = {vars(module)[name] for module in MODULES if name in vars(module)}
        assert len(values) == 1, name
        value = values.pop() / (1000 if name.endswith("_MS") else 1)
        assert value == pytest.approx(float(number) * units[unit]), name
