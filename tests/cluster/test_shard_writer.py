"""The writer thread of one shard, run in the test's own thread."""

from contextlib import closing

from cluster.groups import Committed
from cluster.shard_writer import Installation, ShardWriter, WriterSettings, load_partitions
from storage.shard import Shard
from tests.cluster.toy import Bank

BATCHES = 40


def test_a_snapshot_is_installed_though_the_queue_is_never_empty(tmp_path):
    """Small batches, one waiting whenever another is done: each piece has its turn between two of them."""
    with closing(Shard(tmp_path / "shard", map_bytes=64 << 20)) as shard:
        bank = Bank()
        outbound = []
        partitions = load_partitions(shard, (0, 2), lambda _: bank)
        writer = ShardWriter(0, shard, partitions, WriterSettings(), outbound.append)
        applied, installed = [], []

        def report(indexes):
            applied.append(indexes[0])
            if len(applied) < BATCHES:
                writer.submit([Committed(0, len(applied) + 1, 1, [b""], [])])
            else:
                writer.stop()

        writer.report = report
        writer.install(Installation(2, iter([[], []]), lambda: installed.append(len(applied))))
        writer.submit([Committed(0, 1, 1, [b""], [])])
        writer.loop()
    assert installed == [3]  # a step after each of the first three batches; the last finds nothing more
    assert applied == list(range(1, BATCHES + 1))
    assert [one.installed for one in outbound if one.installed is not None] == [2]
