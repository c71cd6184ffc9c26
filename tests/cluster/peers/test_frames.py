"""Frames out of bytes: whatever the pieces, the same frames; whatever is wrong, the peer's fault."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.peers import frames
from cluster.peers.frames import Frame, FrameError, Reader

FRAMES = st.lists(
    st.builds(
        Frame,
        st.sampled_from(sorted(frames.KINDS)),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=200) | st.binary(min_size=900, max_size=1000),
        flags=st.just(0),
    ),
    max_size=12,
)


def written(frame):
    return frames.encode(frame.kind, frame.body, frame.request, frame.deadline_ms)


@given(FRAMES, st.data())
def test_any_pieces_give_the_same_frames(given_frames, data):
    stream = b"".join(map(written, given_frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    reader, read = Reader(1000), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        read += reader.feed(stream[start:end])
        assert reader.kept < frames.HEAD_BYTES + 1000
    assert read == given_frames
    assert reader.kept == 0


@given(FRAMES)
def test_byte_by_byte_each_frame_comes_with_its_last_byte(given_frames):
    reader = Reader(1000)
    for frame in given_frames:
        *some, last = written(frame)
        for byte in some:
            assert reader.feed(bytes([byte])) == []
        assert reader.feed(bytes([last])) == [frame]


@pytest.mark.parametrize("whole", [True, False], ids=["in one piece", "byte by byte"])
@pytest.mark.parametrize(
    ("head", "complaint"),
    [
        (frames.HEAD.pack(1001, frames.RAFT, 0, 0, 0), "raft frame of 1001 bytes; at most 1000"),
        (frames.HEAD.pack(2**32 - 1, frames.RAFT, 0, 0, 0), "at most 1000"),
        (frames.HEAD.pack(0, 0, 0, 0, 0), "kind 0, which does not belong here"),
        (frames.HEAD.pack(0, 11, 0, 0, 0), "kind 11"),
        (frames.HEAD.pack(0, 255, 0, 0, 0), "kind 255"),
        (b"GET / HTTP/1.1\r\nHost: example", "kind 47"),
        (frames.HEAD.pack(3, frames.HELLO, 0, 0, 0), "kind hello"),
    ],
)
def test_what_is_no_frame_is_told_by_its_head_and_nothing_is_read_after_it(head, complaint, whole):
    reader = Reader(1000, frozenset(frames.KINDS) - {frames.HELLO})
    assert reader.feed(frames.encode(frames.RAFT, b"good")) == [Frame(frames.RAFT, 0, 0, b"good")]
    with pytest.raises(FrameError, match=complaint):
        for piece in [head] if whole else [head[i : i + 1] for i in range(len(head))]:
            assert reader.feed(piece) == []
    with pytest.raises(FrameError):
        reader.feed(frames.encode(frames.RAFT, b"good"))


def test_a_frame_as_large_as_allowed_is_one():
    body = bytes(1000)
    assert Reader(1000).feed(frames.encode(frames.RAFT, body)) == [Frame(frames.RAFT, 0, 0, body)]


def test_flags_of_a_later_version_are_not_looked_at():
    data = frames.HEAD.pack(1, frames.RAFT, 0xA5, 7, 9) + b"x"
    assert Reader(10).feed(data) == [Frame(frames.RAFT, 7, 9, b"x", 0xA5)]


def test_a_body_that_no_peer_would_take_is_not_sent():
    frames.encode(frames.RAFT, bytes(frames.FRAME_BYTES_MAX))
    with pytest.raises(ValueError, match="at most"):
        frames.encode(frames.RAFT, bytes(frames.FRAME_BYTES_MAX + 1))
