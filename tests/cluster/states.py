"""Partitions with rows to be sent as snapshots, in memory and in LMDB, for tests."""

from random import Random

from cluster.keys import GROUPS, HEADS, HEADS_PARTITION, GroupKey, GroupRow, Head, HeadKey
from cluster.raft.messages import Configuration
from cluster.snapshots.spool import Spool
from cluster.snapshots.state_stream import state_pieces
from storage.keys import partition_range
from tests.cluster.toy import NOTES, NoteKey

ALICE, BOB, CAROL = (bytes([letter]) * 16 for letter in b"abc")  # as in tests.cluster.peers.cluster
FOUNDER = Configuration((ALICE,))
PARTITION = 5


def fill(rows, partition, notes, *, index=7, term=3, group=None):
    """Put notes {number: text}, a head and, if one is given, a group into a transaction."""
    written = {}
    for number, text in notes.items():
        key = NoteKey(partition, number).encode()
        written[key] = NOTES.codec.encode(key, text)
    head = HeadKey(HEADS_PARTITION, partition).encode()
    written[head] = HEADS.codec.encode(head, Head(applied=index, term=term, sent=len(notes)))
    if group is not None:
        key = GroupKey(HEADS_PARTITION, partition).encode()
        written[key] = GROUPS.codec.encode(key, group)
    rows.write(written)


def some_notes(count, seed, *, size=50):
    """Notes of which about two thirds are there for any seed, and half of those that two seeds share are
    equal."""
    rng = Random(seed)
    chosen = [number for number in range(count) if rng.random() < 0.66]
    return {
        number: (b"%d" % number if rng.random() < 0.5 else b"%d of %d" % (number, seed)) * (size // 8)
        for number in chosen
    }


def contents(rows, *partitions):
    """All rows of these partitions, and all heads, groups and installs."""
    ranges = [partition_range(partition) for partition in (*partitions, HEADS_PARTITION)]
    return {key: value for first, behind in ranges for key, value in rows.scan(first, behind)}


def expected(source, target, partition):
    """What the target holds in the end: the source's partition, its own others."""
    own = partition.to_bytes(2, "big")
    head = HeadKey(HEADS_PARTITION, partition).encode()
    group_key = GroupKey(HEADS_PARTITION, partition)
    group = GROUPS.get(source, group_key) or GroupRow((ALICE,), (), 0)
    stand = HEADS.get(source, HeadKey(HEADS_PARTITION, partition))
    installed = GroupRow(group.voters, group.learners, group.index, stand.applied, stand.term)
    kept = {key: value for key, value in contents(target, 0, 1, 4, 6, 9).items() if key[:2] != own}
    kept[head] = source.get(head)
    kept[group_key.encode()] = GROUPS.codec.encode(group_key.encode(), installed)
    return kept | dict(source.scan(*partition_range(partition)))


def stream(rows, partition=PARTITION):
    return list(state_pieces(rows, partition, FOUNDER))


def spooled(source, folder, *, portion=1000):
    """The state as a receiver keeps it, in a file."""
    spool = Spool(folder, PARTITION)
    whole = b"".join(stream(source))
    for start in range(0, len(whole), portion):
        spool.write(whole[start : start + portion])
    assert spool.received_bytes == len(whole)
    return spool.finish()
