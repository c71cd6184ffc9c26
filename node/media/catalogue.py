"""The catalogue: what the rows say of blobs, for those parts of the cluster that store and fetch them and
know no rows of ours (`cluster.copies.fetching.Catalogue`); and blobs used wherever they are.

Every answer comes with an index up to which this replica had applied the log when it read the rows: it is
taken before. A blob with a row was held at that index. Of a blob without one it says that every file which
carries an index up to it was collected: the `Reserve` of that index made a row, and only `Collect` removes
one. So a file may go on every node by what that node's own rows say, whoever collected the blob and
whenever; and one whose `Reserve` has not come to this replica yet carries a higher index, and stays.

A partition whose rows are being replaced by a snapshot says that it has applied nothing, from before the
first row goes until the last has come; so of such a partition, nothing is concluded.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple, TypeVar

from cluster.copies.copies import Wanted
from cluster.copies.fetching import Fetching
from cluster.replicas import Replicas
from node.social import blobs as rows_of
from node.social.blobs import HASH_BYTES
from node.social.keys import BlobKey
from storage.blobs import BlobDamaged, BlobMissing

T = TypeVar("T")


def blobs_of(keys: Iterable[bytes]) -> list[bytes]:
    """The hashes of the blobs whose own rows are among these keys of rows."""
    return [key[-HASH_BYTES:] for key in keys if key[2] == BlobKey.KIND]


class Collected(NamedTuple):
    """Files of this blob whose index is lower than `below` are of no use."""

    digest: bytes
    below: int


class Catalogue:
    """One per node. In the trio thread."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self.partitions = rows_of.BLOB_PARTITIONS

    def home(self, digest: bytes) -> int:
        return rows_of.blob_partition(digest)

    def wanted(self, digest: bytes) -> Wanted | None:
        index = self._replicas.committed_index(self.home(digest))
        with self._replicas.snapshot() as rows:
            held = rows_of.served(rows, digest)
        return Wanted(digest, held.size, index) if held and index else None

    def referenced(self, partition: int, beyond: bytes, most: int) -> list[Wanted]:
        index = self._replicas.committed_index(partition)
        if not index:
            return []
        with self._replicas.snapshot() as rows:
            found = rows_of.referenced(rows, partition, beyond, most)
        return [Wanted(digest, size, index) for digest, size in found]

    def collected(self, digests: Iterable[bytes]) -> tuple[list[Collected], list[bytes]]:
        """Those that no row knows; and those of which that cannot be told at this moment."""
        applied = self._replicas.committed_index
        asked = [(digest, applied(self.home(digest))) for digest in digests]
        with self._replicas.snapshot() as rows:
            unknown = [one for one in asked if not rows_of.is_known(rows, one[0])]
        gone: list[Collected] = []
        open_: list[bytes] = []
        for digest, index in unknown:
            # Another index by now may be that of a snapshot whose rows were coming while these were read.
            if index and applied(self.home(digest)) == index:
                gone.append(Collected(digest, index + 1))
            else:
                open_.append(digest)
        return gone, open_


async def had(fetching: Fetching, digest: bytes, use: Callable[[], Awaitable[T]]) -> T:
    """What `use` makes of the blob; if it is not here, or damaged, it is fetched and used once more.

    Raises BlobMissing, BlobDamaged, cluster.copies.fetching.BlobUnavailable, and what `use` raises.
    """
    try:
        return await use()
    except (BlobMissing, BlobDamaged):
        await fetching.fetch(digest)
    return await use()
