"""The meta group: members and their starts, public keys, settings of the cluster."""

import pytest

from cluster import commands, meta
from cluster.commands import Accepted, Execute
from cluster.keys import META_PARTITION
from cluster.meta import KEYS_PER_MEMBER_MAX, SETTINGS, Boot, MetaMachine, PublishKeys, SetSetting, SettingKey
from cluster.partition import Partition
from storage.memory import MemoryRows
from storage.rows import Overlay

NOW = 1_800_000_000_000
ADA, BOB = b"a" * 16, b"b" * 16


class Group:
    """The meta partition alone; each command comes a millisecond after the one before."""

    def __init__(self):
        self.rows = Overlay(MemoryRows())
        self._partition = Partition(META_PARTITION, MetaMachine())
        self._index = 0

    def do(self, command):
        """`ok`, or the code of the refusal."""
        self._index += 1
        data = Execute(NOW + self._index, 1, bytes(16), 0, bytes(16), b"", meta.encode(command))
        outcome = self._partition.apply(self.rows, self._index, 1, commands.encode(data)).outcome
        return "ok" if isinstance(outcome, Accepted) else outcome.code


@pytest.fixture
def group():
    return Group()


def test_each_start_is_above_the_last_and_a_copy_is_refused(group):
    assert [group.do(Boot(ADA, boot)) for boot in (1, 2, 5)] == ["ok"] * 3
    assert [group.do(Boot(ADA, boot)) for boot in (5, 4, 1)] == ["stale_boot"] * 3
    assert group.do(Boot(BOB, 1)) == "ok"
    assert group.do(Boot(ADA, 6)) == "ok"
    members = meta.members(group.rows)
    assert (members[ADA].boot, members[ADA].joined_ms) == (6, NOW + 1)
    assert members[BOB].boot == 1


def test_the_keys_of_a_member_are_those_it_published_last(group):
    assert group.do(PublishKeys(ADA, (("one", b"1" * 32, 0),))) == "ok"
    assert group.do(PublishKeys(BOB, (("other", b"3" * 32, 0),))) == "ok"
    assert group.do(PublishKeys(ADA, (("one", b"1" * 32, 9), ("two", b"2" * 32, 0)))) == "ok"
    keys = meta.public_keys(group.rows)
    assert {kid: (key.public[:1], key.since_ms - NOW, key.until_ms) for kid, key in keys.items()} == {
        "one": (b"1", 1, 9),
        "two": (b"2", 3, 0),
        "other": (b"3", 2, 0),
    }
    assert group.do(PublishKeys(ADA, (("two", b"2" * 32, 0),))) == "ok"
    assert set(meta.public_keys(group.rows)) == {"two", "other"}


def test_keys_that_are_refused_change_nothing(group):
    group.do(PublishKeys(ADA, (("one", b"1" * 32, 0),)))
    many = tuple((str(number), b"x" * 32, 0) for number in range(KEYS_PER_MEMBER_MAX + 1))
    assert group.do(PublishKeys(ADA, many)) == "invalid_field"
    assert group.do(PublishKeys(BOB, (("mine", b"2" * 32, 0), ("one", b"2" * 32, 0)))) == "conflict"
    assert set(meta.public_keys(group.rows)) == {"one"}


def test_a_setting_is_kept_until_it_is_emptied(group):
    key = SettingKey(META_PARTITION, "limits.reads_count")
    assert group.do(SetSetting(key.name, "5")) == "ok"
    assert SETTINGS.get(group.rows, key).value == "5"
    assert group.do(SetSetting(key.name, "x" * meta.SETTING_BYTES_MAX)) == "invalid_field"
    assert SETTINGS.get(group.rows, key).value == "5"
    assert group.do(SetSetting(key.name, "")) == "ok"
    assert not SETTINGS.has(group.rows, key)
