"""Which clock is off, by what frames say."""

from cluster.members.clocks import SAMPLE_EVERY_MS, STALE_MS, Clocks

NOW = 1_800_000_000_000


def heard(clocks, peer, ahead, way=5, ticks=0):
    clocks.heard(peer, NOW + ahead - way, NOW, ticks)


def test_even_clocks_and_slow_ways_accuse_nobody():
    clocks = Clocks()
    for number, way in enumerate((3000, 2, 900)):  # held up by the network, once quick
        heard(clocks, b"a", 0, way, ticks=number)
        heard(clocks, b"b", 20, way, ticks=number)
    assert abs(clocks.off_ms(10)) < 50 and not clocks.is_off(10)


def test_one_that_is_off_is_found_out_by_itself_and_misleads_nobody():
    mine_is_ahead = Clocks()
    for peer in (b"a", b"b"):
        heard(mine_is_ahead, peer, -800)
    assert mine_is_ahead.peers_off(0) == ()
    assert 790 <= mine_is_ahead.off_ms(0) <= 810 and mine_is_ahead.is_off(0)
    for wrong in (-9000, 9000):
        another_is_off = Clocks()
        heard(another_is_off, b"a", wrong)
        heard(another_is_off, b"b", 10)
        assert not another_is_off.is_off(0) and another_is_off.peers_off(0) == (b"a",)
        heard(another_is_off, b"c", -10)
        assert not another_is_off.is_off(0)


def test_of_two_nobody_can_say_who_is_right():
    clocks = Clocks()
    heard(clocks, b"a", -9000)
    assert clocks.off_ms(0) == 0 and clocks.peers_off(0) == ()


def test_samples_are_taken_now_and_then_and_grow_old():
    clocks = Clocks()
    assert clocks.wants(b"a", 0)
    for peer in (b"a", b"b"):
        heard(clocks, peer, 9000, ticks=0)
    assert not clocks.wants(b"a", SAMPLE_EVERY_MS - 1) and clocks.wants(b"a", SAMPLE_EVERY_MS)
    assert clocks.is_off(STALE_MS)
    assert not clocks.is_off(STALE_MS + 1)
    for peer in (b"a", b"b"):  # the clocks were set right: what was said before does not count for ever
        heard(clocks, peer, 0, ticks=STALE_MS + 1)
    assert not clocks.is_off(STALE_MS + 2)
