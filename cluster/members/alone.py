"""Making what one node has the beginning of everything: after a majority was lost for good, and after a
restore; pure, over rows.

Nobody knows what the lost nodes had beyond. So each partition begins a new incarnation of its mailbox, and an
index that no journal has, in a term above all that were seen: whoever joins gets the state as a snapshot and
never the log before it, which does not lead to it.

The replicas of one node stand at different moments. A destination may lack messages that its source saw
taken, by replicas that are lost, and has forgotten: its cursor is set to where the source goes on, or the two
would wait for each other for ever. (The other way round a new incarnation says enough; see `mailbox.take`.)
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from cluster import mailbox
from cluster.commands import FEATURE_LEVEL
from cluster.keys import (
    GROUPS,
    HEADS,
    HEADS_PARTITION,
    META_PARTITION,
    OUTBOX,
    SENT,
    TAKEN,
    GroupKey,
    GroupRow,
    Head,
    HeadKey,
    Taken,
    TakenKey,
)
from cluster.members import meta_rows
from cluster.members.meta_rows import (
    MEMBERS,
    PUBLIC_KEYS,
    REVOKED,
    VERSIONS,
    Member,
    MemberKey,
    Revoked,
    RevokedKey,
    VersionsKey,
)
from storage.rows import Reader, Writer


def cursors_behind(rows_of: Callable[[int], Reader], partitions: Iterable[int]) -> dict[int, dict[int, int]]:
    """Destination → source → the cursor that its messages need. `rows_of` gives the rows of a partition."""
    behind: dict[int, dict[int, int]] = {}
    for source in partitions:
        rows = rows_of(source)
        goes_on = {key.destination: sent.sequence for key, sent in SENT.scan(rows, source)}
        waiting: set[int] = set()
        for key, message in OUTBOX.scan(rows, source):
            if key.destination not in waiting:  # the first one that is not forgotten
                waiting.add(key.destination)
                goes_on[key.destination] = message.previous
        for destination, sequence in goes_on.items():
            taken = TAKEN.get(rows_of(destination), TakenKey(destination, source))
            if (taken.sequence if taken else 0) < sequence:
                behind.setdefault(destination, {})[source] = sequence
    return behind


def begin_alone(
    rows: Writer, partition: int, me: bytes, term: int, cursors: Mapping[int, int], now_ms: int
) -> None:
    """Make `me` the only member of the partition's group, in `term`, which is above all that were seen."""
    key = HeadKey(HEADS_PARTITION, partition)
    head = HEADS.get(rows, key) or Head()
    head.applied += 1
    head.term = term
    mailbox.begin_incarnation(head)
    HEADS.put(rows, key, head)
    group = GroupRow((me,), (), head.applied, head.applied, term)
    GROUPS.put(rows, GroupKey(HEADS_PARTITION, partition), group)
    for source, sequence in cursors.items():
        TAKEN.put(rows, TakenKey(partition, source), Taken(sequence))
    if partition == META_PARTITION:
        _remove_others(rows, me, now_ms)
        _admit(rows, me, now_ms)


def is_alone(rows: Reader, partition: int, me: bytes) -> bool:
    """Whether its group has this node as its only member, and says so."""
    group = GROUPS.get(rows, GroupKey(HEADS_PARTITION, partition))
    return group is not None and (group.voters, group.learners) == ((me,), ())


def _remove_others(rows: Writer, me: bytes, now_ms: int) -> None:
    """They may not come back: what they have is no continuation of what is here."""
    others = {node: member for node, member in meta_rows.members(rows).items() if node != me}
    for node, member in others.items():
        MEMBERS.delete(rows, MemberKey(META_PARTITION, node))
        REVOKED.put(rows, RevokedKey(META_PARTITION, node), Revoked(now_ms, member.boot))
    for key, public in list(PUBLIC_KEYS.scan(rows, META_PARTITION)):
        if public.node in others:
            PUBLIC_KEYS.delete(rows, key)
    if others:
        versions = meta_rows.versions(rows)
        VERSIONS.put(
            rows,
            VersionsKey(META_PARTITION),
            msgspec.structs.replace(versions, layout=versions.layout + 1),
        )


def _admit(rows: Writer, me: bytes, now_ms: int) -> None:
    """A cluster takes no start of a node that is no member; one that was restored has a new identity."""
    if meta_rows.cluster(rows) is not None and meta_rows.member(rows, me) is None:
        MEMBERS.put(rows, MemberKey(META_PARTITION, me), Member(0, now_ms, FEATURE_LEVEL))
