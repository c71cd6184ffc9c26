import msgspec
import pytest

from node.social import changes
from node.social.changes import Published, Restricted, Withdrawn


@pytest.mark.parametrize("change", [Published(1, 2, 3), Withdrawn(1, 2, 3), Restricted(1)])
def test_round_trip(change):
    assert changes.decode(changes.encode(change)) == change


def test_what_is_not_a_change():
    with pytest.raises(msgspec.DecodeError):
        changes.decode(msgspec.msgpack.encode([9, 1]))


def test_bytes_on_disk_stay():
    assert changes.encode(Published(1, 2, 3)) == bytes.fromhex("9401010203")
    assert changes.encode(Withdrawn(1, 2, 3)) == bytes.fromhex("9402010203")
    assert changes.encode(Restricted(1)) == bytes.fromhex("920301")
