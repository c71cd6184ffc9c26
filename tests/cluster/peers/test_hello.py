"""Whom a Hello is judged to be: every field, beside every certificate."""

import msgspec
import pytest

from cluster.peers import hello
from cluster.peers.hello import Hello, Name, Refusal, common_version, judge, parse_name
from tests.cluster.peers.cluster import CLUSTER, OTHER_CLUSTER, A, B

MINE = Hello(1, 2, CLUSTER, A, 3, b"startofA", 5, hello.CONTROL)
THEIRS = Hello(1, 2, CLUSTER, B, 9, b"startofB", 5, hello.CONTROL)
NAME = Name(CLUSTER, B)
STRANGER = msgspec.structs.replace(THEIRS, cluster=b"", node=b"")


def with_(one=THEIRS, **changes):
    return msgspec.structs.replace(one, **changes)


@pytest.mark.parametrize(
    ("theirs", "name", "code"),
    [
        (THEIRS, NAME, None),
        (with_(level=9), NAME, None),
        (with_(version_min=2, version_max=3), NAME, None),
        (with_(version_min=3, version_max=4), NAME, hello.NO_COMMON_VERSION),
        (with_(version_min=0, version_max=0), NAME, hello.NO_COMMON_VERSION),
        (with_(version_min=2, version_max=1), NAME, hello.BAD_HELLO),
        (with_(boot=-1), NAME, hello.BAD_HELLO),
        (with_(start=b"short"), NAME, hello.BAD_HELLO),
        (with_(lane="express"), NAME, hello.BAD_HELLO),
        (with_(lane=hello.BULK), NAME, hello.BAD_HELLO),
        (with_(cluster=OTHER_CLUSTER), NAME, hello.FOREIGN_CLUSTER),
        (with_(cluster=b""), NAME, hello.FOREIGN_CLUSTER),
        (THEIRS, Name(OTHER_CLUSTER, B), hello.FOREIGN_CLUSTER),
        (THEIRS, Name(CLUSTER, A), hello.WRONG_IDENTITY),
        (with_(node=b""), NAME, hello.WRONG_IDENTITY),
        (with_(node=A), Name(CLUSTER, A), hello.WRONG_IDENTITY),
        (STRANGER, None, None),
        (with_(STRANGER, cluster=CLUSTER), None, None),
        (with_(STRANGER, cluster=OTHER_CLUSTER), None, hello.FOREIGN_CLUSTER),
        (THEIRS, None, hello.NO_CERTIFICATE),
    ],
)
def test_judgement(theirs, name, code):
    refusal = judge(MINE, theirs, name)
    assert (refusal and refusal.code) == code


def test_a_stranger_has_no_bulk_lane():
    refusal = judge(with_(MINE, lane=hello.BULK), with_(STRANGER, lane=hello.BULK), None)
    assert refusal.code == hello.NO_CERTIFICATE


@pytest.mark.parametrize(
    ("mine", "theirs", "common"),
    [
        ((1, 1), (1, 1), 1),
        ((1, 2), (2, 3), 2),
        ((2, 3), (1, 2), 2),
        ((1, 4), (2, 3), 3),
        ((1, 1), (2, 3), None),
    ],
)
def test_the_highest_version_that_both_speak(mine, theirs, common):
    one = with_(version_min=mine[0], version_max=mine[1])
    other = with_(version_min=theirs[0], version_max=theirs[1])
    assert common_version(one, other) == common == common_version(other, one)


def test_names_are_one_uri():
    assert NAME.uri == f"heliograph://{'c1' * 16}/{'62' * 16}"
    assert parse_name(NAME.uri) == NAME


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "heliograph://",
        f"https://{'c1' * 16}/{'62' * 16}",
        f"heliograph://{'c1' * 16}/{'62' * 15}",
        f"heliograph://{'c1' * 16}/{'62' * 16}/",
        f"heliograph://{'C1' * 16}/{'62' * 16}",
        f"heliograph://{'zz' * 16}/{'62' * 16}",
    ],
)
def test_what_names_no_node(uri):
    assert parse_name(uri) is None


def test_a_certificate_with_two_names_names_nobody():
    uris = (("URI", NAME.uri), ("URI", Name(CLUSTER, A).uri))
    assert hello.name_in({"subjectAltName": uris[:1]}) == NAME
    assert hello.name_in({"subjectAltName": (("DNS", "b.example"), *uris[:1])}) == NAME
    assert hello.name_in({"subjectAltName": uris}) is None
    assert hello.name_in({}) is None
    assert hello.name_in(None) is None


def test_a_later_version_may_say_more():
    longer = msgspec.msgpack.encode([*msgspec.structs.astuple(THEIRS), "more"])
    assert hello.decode_hello(longer) == THEIRS


def test_a_refusal_is_cut_to_what_a_log_line_carries():
    refusal = hello.decode_refusal(hello.encode(Refusal("x" * 5000, "y" * 5000)))
    assert len(refusal.code) == len(refusal.detail) == hello.DETAIL_CHARS_MAX


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", hello.encode(["1"] * 8), hello.encode({})])
def test_what_is_no_hello(data):
    with pytest.raises(msgspec.DecodeError):
        hello.decode_hello(data)
