"""The fuzzers of links, for a moment and with one seed: `make fuzz` runs them for longer."""

import pytest

from tests.fuzz import frames, handshakes


@pytest.mark.parametrize("fuzzer", [frames, handshakes])
def test_a_short_run_finds_nothing(fuzzer):
    assert fuzzer.main(1.5, 42) == 0
