"""Rate limits and client addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.http.limits import Crowd, Limit, Limits, Proxies, address_key
from node.http.problems import Problem
from node.settings import Limits as LimitSettings


def test_a_burst_up_to_the_count_then_one_per_spacing():
    limit = Limit(3, 30, 100)
    assert [limit.take("a", 0).remaining for _ in range(3)] == [2, 1, 0]
    refused = limit.take("a", 0)
    assert (refused.allowed, refused.retry_after_s, refused.reset_s) == (False, 10, 30)
    assert refused.headers() == {
        "RateLimit-Limit": "3",
        "RateLimit-Remaining": "0",
        "RateLimit-Reset": "30",
        "RateLimit-Policy": "3;w=30",
        "Retry-After": "10",
    }
    assert limit.take("b", 0).allowed
    assert not limit.take("a", 9.9).allowed
    assert limit.take("a", 10).allowed
    assert not limit.take("a", 10.1).allowed
    assert limit.take("a", 1000).remaining == 2


@given(st.lists(st.floats(0, 30), min_size=1, max_size=200), st.integers(1, 20), st.floats(0.5, 100))
def test_no_window_ever_holds_more_than_twice_the_count(steps, count, window):
    limit, now, taken = Limit(count, window, 10), 0.0, []
    for step in steps:
        now += step
        before = limit.look("a", now)
        verdict = limit.take("a", now)
        assert verdict.allowed == before.allowed
        if verdict.allowed:
            assert verdict.remaining == before.remaining - 1
            taken.append(now)
        else:
            assert limit.look("a", now + verdict.retry_after_s).allowed
    for start in taken:
        assert sum(start <= at < start + window for at in taken) <= 2 * count


def test_memory_is_bounded_and_forgets_the_longest_unseen():
    limit = Limit(1, 1000, 3)
    for key in "abc":
        assert limit.take(key, 0).allowed
    assert not limit.take("a", 1).allowed
    assert limit.take("d", 2).allowed
    assert len(limit) == 3
    assert not limit.take("a", 3).allowed
    assert limit.take("b", 4).allowed  # was forgotten


def test_a_refused_request_costs_no_other_key():
    limits = Limits(LimitSettings(sign_in_count=2, sign_in_window_s=60))
    assert limits.take("sign_in", ["name:a", "address:1"], 0).remaining == 1
    limits.take("sign_in", ["name:a", "address:2"], 0)
    for _ in range(5):
        with pytest.raises(Problem) as caught:
            limits.take("sign_in", ["name:a", "address:3"], 0)
    assert caught.value.status == 429
    assert caught.value.headers["Retry-After"] == "30"
    assert "2 sign-in requests in 60 s" in caught.value.detail
    assert limits.take("sign_in", ["name:b", "address:3"], 0).remaining == 1


@pytest.mark.parametrize(
    "address, key",
    [
        ("192.0.2.1", "address:192.0.2.1"),
        ("::ffff:192.0.2.1", "address:192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "address:2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "address:2001:db8:1:2::/64"),
        ("fe80::1%eth0", "address:fe80::/64"),
        ("<local>", "address:unknown"),
    ],
)
def test_an_ipv6_subscriber_is_one_caller(address, key):
    assert address_key(address) == key


@pytest.mark.parametrize(
    "peer, forwarded, client",
    [
        ("10.0.0.1", "", "10.0.0.1"),
        ("192.0.2.9", "6.6.6.6", "192.0.2.9"),
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "198.51.100.7:4711", "198.51.100.7"),
        ("10.0.0.1", "[2001:db8::1]:443", "2001:db8::1"),
        ("10.0.0.1", "6.6.6.6, unknown", "10.0.0.1"),
        ("10.0.0.1", "6.6.6.6, , 10.0.0.2", "10.0.0.2"),
        ("::ffff:10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("<local>", "6.6.6.6", "<local>"),
    ],
)
def test_only_trusted_proxies_are_believed(peer, forwarded, client):
    assert Proxies(["10.0.0.0/8"]).client(peer, forwarded) == client
    assert Proxies([]).client(peer, forwarded) == peer


def test_each_address_has_its_part_of_the_connections_and_proxies_all():
    crowd = Crowd(2, Proxies(["10.0.0.0/8"]))
    assert [crowd.enter("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert [crowd.enter(f"2001:db8::{n}") for n in (1, 2, 3)] == [True, True, False]
    assert [crowd.enter("::ffff:192.0.2.1"), crowd.enter("192.0.2.2")] == [False, True]
    assert all(crowd.enter("10.1.2.3") for _ in range(9))
    crowd.leave("192.0.2.1")
    assert [crowd.enter("192.0.2.1"), crowd.enter("192.0.2.1")] == [True, False]
    left = ["192.0.2.1"] * 2 + ["2001:db8::9"] * 2 + ["192.0.2.2"] + ["10.1.2.3"] * 9
    for peer in left:
        crowd.leave(peer)
    assert len(crowd) == 0


def test_a_clock_that_was_set_back_locks_nobody_out():
    limit = Limit(10, 60.0, 100)
    for _ in range(10):
        assert limit.take("ann", 1_000_000.0).allowed
    assert not limit.take("ann", 1_000_000.0).allowed
    assert limit.take("ann", 1_000_000.0 - 3600).allowed
