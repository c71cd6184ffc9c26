"""Commands and outcomes as bytes: they lie in journals and in memory rows, and travel between nodes."""

from pathlib import Path

import msgspec
import pytest

from cluster import commands
from cluster.commands import (
    COMMAND_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    MESSAGES_PER_DELIVER_MAX,
    Accepted,
    Continue,
    Declined,
    Deliver,
    Delivery,
    Digest,
    DropDeadLetter,
    Execute,
    ForgetChanges,
    ForgetRemembered,
    Outcome,
    RetryDeadLetter,
    Trim,
)
from cluster.courier import DELIVER_BYTES_MAX, TRIMS_PER_COMMAND_MAX

NOW = 1_800_000_000_000
RANDOM = bytes(range(16))
EXAMPLES = [
    Execute(NOW, 1, RANDOM, 1 << 60, b"i" * 16, b"fingerprint", b"body"),
    Deliver(NOW, 1, RANDOM, (Delivery(1, 2, 3, b"body"), Delivery(4, 0, 5, b""))),
    Trim(((1, 2), (3, 4))),
    Continue(NOW, 1, RANDOM),
    ForgetChanges(5),
    ForgetRemembered(NOW),
    Digest(),
    RetryDeadLetter(NOW, 1, RANDOM, 3),
    DropDeadLetter(3),
]
OUTCOMES = [Accepted(b"result"), Declined("name_taken", "why é")]
FROZEN = Path(__file__).resolve().parents[1] / "fixtures" / "commands.txt"  # hex, a line an example, in order


def test_there_is_an_example_of_each():
    assert [type(example) for example in EXAMPLES] == list(commands.Command.__args__)
    assert [type(example) for example in OUTCOMES] == list(Outcome.__args__)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_round_trip(example):
    assert commands.decode(commands.encode(example)) == example


def test_the_format_is_frozen():
    encoded = [commands.encode(example) for example in EXAMPLES]
    encoded += [msgspec.msgpack.encode(outcome) for outcome in OUTCOMES]
    frozen = [bytes.fromhex(line) for line in FROZEN.read_text().split()]
    assert encoded == frozen, "journals in the field hold the old bytes: make a new command beside the old"
    assert [commands.decode(data) for data in frozen[: len(EXAMPLES)]] == EXAMPLES


@pytest.mark.parametrize(
    "data", [b"", b"\x90", b"\x91\xa3Foo", b"garbage", commands.encode(EXAMPLES[0])[:-1]]
)
def test_what_is_no_command_is_said(data):
    with pytest.raises(msgspec.DecodeError):
        commands.decode(data)


def test_the_largest_commands_of_the_cluster_itself_fit():
    size = DELIVER_BYTES_MAX // MESSAGES_PER_DELIVER_MAX
    many = [Delivery(0xFFFF, 2**63, 2**63, b"x" * size)] * (MESSAGES_PER_DELIVER_MAX - 1)
    last = Delivery(0xFFFF, 2**63, 2**63, b"x" * MESSAGE_BYTES_MAX)
    assert len(commands.encode(Deliver(2**63, 2**63, RANDOM, (*many, last)))) <= COMMAND_BYTES_MAX
    trim = Trim(((0xFFFF, 2**63),) * TRIMS_PER_COMMAND_MAX)
    assert len(commands.encode(trim)) <= COMMAND_BYTES_MAX
