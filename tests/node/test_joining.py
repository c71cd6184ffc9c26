"""What a member keeps in its data directory: pledges and certificates."""

import pytest

from cluster.members.meta_rows import Cluster as ClusterRow
from cluster.peers import certificates
from node import joining
from node.joining import CannotJoin, Pledge
from storage.directory import DataDirectory, cluster_file

NOW = 1_800_000_000_000
DAY_MS = 24 * 3600 * 1000
SECRET = b"s" * 32
CLUSTER = b"c" * 16


@pytest.fixture
def directory(tmp_path):
    with DataDirectory.open(tmp_path / "node", now=NOW / 1000) as made:
        yield made


def row(cluster=CLUSTER):
    authority = certificates.make_authority(cluster, NOW)
    return ClusterRow(
        cluster, authority.certificate, certificates.seal_key(authority, SECRET), b"f" * 16, NOW
    )


def test_a_member_certifies_itself_and_renews_in_time(directory):
    mine = row()
    assert not joining.is_certified(directory, mine, NOW)
    joining.certify(directory, mine, SECRET, NOW)
    assert joining.is_certified(directory, mine, NOW + 19 * DAY_MS)
    assert not joining.is_certified(directory, mine, NOW + 21 * DAY_MS), "there are days for a renewal"
    key = (directory.keys / joining.KEY).read_bytes()
    joining.certify(directory, mine, SECRET, NOW + 21 * DAY_MS)
    assert joining.is_certified(directory, mine, NOW + 21 * DAY_MS)
    assert (directory.keys / joining.KEY).read_bytes() == key
    shown = joining.credentials(directory, CLUSTER)
    assert certificates.verify(shown.chain.read_bytes(), mine.ca, NOW + 22 * DAY_MS).node == directory.node_id


def test_what_is_not_this_clusters_or_damaged_counts_as_none(directory):
    mine = row()
    joining.certify(directory, mine, SECRET, NOW)
    assert not joining.is_certified(directory, row(), NOW), "another CA of the same name"
    (directory.keys / joining.CHAIN).write_bytes(b"-----BEGIN CERTIFICATE-----\n")
    assert not joining.is_certified(directory, mine, NOW)
    with pytest.raises(certificates.BadCertificate):
        joining.certify(directory, mine, b"x" * 32, NOW)


def test_a_pledge_says_whether_the_node_was_there_before(directory):
    assert joining.is_founder(directory) and not joining.is_pledged(directory)
    joining.write_pledge(directory, Pledge(CLUSTER.hex(), "a token"))
    assert not joining.is_founder(directory) and joining.is_pledged(directory)
    joining.write_pledge(directory, Pledge(CLUSTER.hex(), founder=True))
    assert joining.is_founder(directory)
    kept = joining.read_pledge(cluster_file(directory.path))
    assert kept == Pledge(CLUSTER.hex(), founder=True) and kept.cluster_id == CLUSTER


@pytest.mark.parametrize("raw", [b"{", b'{"cluster": "ab"}', b'{"cluster": "xx"}', b"[]"])
def test_a_damaged_pledge_is_named(raw):
    with pytest.raises(CannotJoin, match=r"cluster\.json"):
        joining.read_pledge(raw)
    assert joining.read_pledge(b"") is None
