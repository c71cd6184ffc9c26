"""How often nodes without a certificate are heard."""

from cluster.peers.strangers import BURST, EVERY_MS, Strangers


def test_a_burst_then_one_at_a_time():
    strangers = Strangers()
    assert [strangers.admits(1000) for _ in range(BURST + 1)] == [True] * BURST + [False]
    assert not strangers.admits(1000 + EVERY_MS - 1)
    assert strangers.admits(1000 + EVERY_MS)
    assert not strangers.admits(1000 + EVERY_MS)


def test_being_refused_costs_nothing_and_rest_fills_the_bucket_no_further():
    strangers = Strangers(burst=2, every_ms=100)
    assert [strangers.admits(0) for _ in range(10)].count(True) == 2
    assert [strangers.admits(100_000) for _ in range(10)].count(True) == 2
