"""Flow control: every state meets every sign, and what is in flight is bounded by count and bytes."""

import msgspec
import pytest

from cluster.raft.messages import Append, Appended, Heard, Mismatch
from cluster.raft.progress import NEXT, Flow, Progress, Sign
from tests.cluster.raft.cores import node
from tests.cluster.raft.hamlet import SETTINGS, Hamlet

G = 7


def leading(**settings):
    """Node 1 leads; node 2 takes all; what is sent from here on stays under way."""
    hamlet = Hamlet(1, 2, 3, settings=msgspec.structs.replace(SETTINGS, **settings))
    hamlet.elect(1)
    hamlet.isolate(1)
    hamlet.seen.clear()
    return hamlet, hamlet.core(1).leadership.progress[node(2)]


def appends(hamlet):
    return [(m.previous, len(m.entries)) for _, to, m in hamlet.seen if to == 2 and type(m) is Append]


@pytest.mark.parametrize("flow", Flow)
@pytest.mark.parametrize("sign", Sign)
def test_every_state_meets_every_sign(flow, sign):
    progress = Progress(node(2), 5)
    progress.flow = flow
    if (flow, sign) in NEXT:
        progress.turn(sign)
        assert progress.flow is NEXT[flow, sign]
    else:
        with pytest.raises(AssertionError, match=sign.value):
            progress.turn(sign)


def test_a_probe_is_sent_once_until_it_is_answered():
    hamlet, progress = leading()
    hamlet.step(1, 2, Mismatch(G, 1, 1, 0, 0))
    hamlet.seen.clear()
    assert progress.flow is Flow.REPLICATE, "an old refusal says nothing"
    hamlet.propose(1, b"x")
    hamlet.step(1, 2, Mismatch(G, 1, 2, 1, 1))
    assert (progress.flow, progress.waiting) == (Flow.PROBE, True)
    hamlet.propose(1, b"y")
    assert appends(hamlet) == [(1, 1), (1, 1)]
    hamlet.step(1, 2, Heard(G, 1, 0))
    assert appends(hamlet)[2:] == [(1, 2)], "lost perhaps: an answer to a heartbeat allows another"


def test_messages_in_flight_are_bounded():
    hamlet, progress = leading(inflight_messages=2)
    for _ in range(5):
        hamlet.propose(1, b"x")
    assert appends(hamlet) == [(1, 1), (2, 1)]
    hamlet.step(1, 2, Appended(G, 1, 2))
    assert appends(hamlet)[2:] == [(3, 3)]
    assert len(progress.inflight) == 2


def test_bytes_in_flight_are_bounded():
    hamlet, progress = leading(inflight_bytes=10)
    for _ in range(5):
        hamlet.propose(1, b"xxxxxx")
    assert (appends(hamlet), progress.inflight_bytes) == ([(1, 1), (2, 1)], 12)
    hamlet.step(1, 2, Appended(G, 1, 3))
    assert appends(hamlet)[2:] == [(3, 3)]
    hamlet.step(1, 2, Appended(G, 1, 6))
    assert progress.inflight_bytes == 0


@pytest.mark.parametrize(
    ("settings", "sizes"), [({"append_entries": 2}, [2, 2, 1]), ({"append_bytes": 9}, [3, 2])]
)
def test_an_append_is_bounded_by_entries_and_bytes(settings, sizes):
    hamlet, _ = leading(**settings)
    hamlet.propose(1, b"aaa", b"bbb", b"ccc", b"ddd", b"eee")
    assert [count for _, count in appends(hamlet)] == sizes


def test_followers_in_step_get_the_same_message():
    hamlet, _ = leading()
    hamlet.propose(1, b"x")
    first, second = [message for _, _, message in hamlet.seen if type(message) is Append]
    assert first is second, "so that the shell encodes it once"
