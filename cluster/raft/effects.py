"""What goes into a Raft core and comes out of it, beside messages: settings, the start, `Ready`, refusals.

The shell's duties, in one place:

- `Ready.hard_state`, `Ready.truncate` and `Ready.appends` are written to the journal in this order and in the
  order of `number`; several may be under way. When a sync has covered them: `Raft.synced(number)`.
- `Ready.messages` may leave at once. `Ready.after_sync` leaves when `number` is synced, not before.
- `Ready.install`: the state that travelled with it replaces the partition's, after the records of the same
  Ready are synced and before `synced(number)` is called. In one transaction with it the index and term of the
  Install are kept: entries of the journal up to there may be another leader's, and no `Start` may name them.
- `Raft.quiet` is looked at after every input: a quiet core needs no ticks, and is told to
  `cluster.raft.quiet.QuietGroups` with `Raft.quiet_with`, when it falls quiet and when it wakes.
- `Ready.committed` is applied in order, each entry once; `Raft.applied(index)` says how far. No-ops and
  configurations are among them; the last configuration applied is kept with the state.
- `Ready.needs` are all answered: by `Raft.supply`, or by a stream of state that ends with an `Install`; how
  that ended is told by `Raft.snapshot_sent` or `Raft.snapshot_failed`.
"""

from typing import Final, NamedTuple

import msgspec

from cluster.raft.messages import Configuration, Install, Message
from cluster.raft.roles import Role


class RaftSettings(msgspec.Struct, frozen=True):
    """Times are in ticks, whose length the shell chooses."""

    election_ticks: int = 10  # without a leader; each wait is drawn from [this, twice this)
    heartbeat_ticks: int = 1
    quiet_ticks: int = 5  # with nothing to do, after which a group falls quiet; 0: never
    append_bytes: int = 256 << 10  # of one Append, unless one entry is longer
    append_entries: int = 1024
    inflight_messages: int = 64  # Appends to one follower without an answer
    inflight_bytes: int = 2 << 20
    window_bytes: int = 256 << 10  # entries kept in memory after they are applied
    uncommitted_bytes: int = 8 << 20  # proposals beyond are refused
    uncommitted_entries: int = 8192
    promote_lag: int = 256  # entries that a learner may lack when it becomes a voter


DEFAULTS: Final = RaftSettings()


class HardState(NamedTuple):
    """What a replica must not forget, as `storage.journal.HardState` keeps it."""

    term: int
    vote: bytes  # empty: none in this term
    commit: int


class Run(NamedTuple):
    """Entries that follow each other and have one term."""

    first: int
    term: int
    entries: list[bytes]


class Start(msgspec.Struct, frozen=True):
    """Where a core begins. The default is an empty replica that waits to be told who it is.

    The log holds the entries after `base`, whose terms are `terms`: (first index, term) of each run. Of the
    last of them `recent` has the bytes; at least all those after `applied`. `base` is not below the last
    snapshot that was installed, and `base_term` is the term of the entry there. Where the journal ends before
    `applied`, base and last are `applied`.
    """

    configuration: Configuration = Configuration(())  # as of `applied`
    hard_state: HardState = HardState(0, b"", 0)
    base: int = 0
    base_term: int = 0
    terms: tuple[tuple[int, int], ...] = ()
    last: int = 0
    recent: tuple[bytes, ...] = ()
    applied: int = 0


class NeedEntries(NamedTuple):
    """The follower needs entries that are only in the journal: to be given to `Raft.supply`."""

    node: bytes
    term: int  # the leader's, when it asked
    first: int
    last: int
    bytes_max: int  # the first entry goes in any case


class NeedSnapshot(NamedTuple):
    """The follower needs what is compacted: a stream of the state, then an `Install`."""

    node: bytes
    term: int


class ReadState(NamedTuple):
    """A read may be served by any replica that has applied `index`."""

    token: int
    index: int  # type: ignore[assignment]


class Standing(NamedTuple):
    role: Role
    term: int
    leader: bytes | None


class Ready(msgspec.Struct):
    number: int  # of the last Ready that had something to write; this one, if it has
    hard_state: HardState | None
    truncate: int  # entries from this index on are void, before the appends; 0: none
    appends: list[Run]
    messages: list[tuple[bytes, Message]]
    after_sync: list[tuple[bytes, Message]]
    committed: list[Run]
    reads: list[ReadState]
    reads_lost: list[int]  # tokens of reads that found no majority: to be asked again
    install: Install | None
    needs: list[NeedEntries | NeedSnapshot]
    standing: Standing | None  # if it has changed
    writes: bool  # there is something for the journal, or a snapshot to install


class NotLeader(Exception):
    """Ask another node: `leader`, if one is known."""

    def __init__(self, group: int, leader: bytes | None) -> None:
        known = leader.hex() if leader else "not known"
        super().__init__(f"group {group}: not led from here; the leader is {known}")
        self.leader = leader


class Lost(Exception):
    """The entry was replaced by another leader's: the command certainly had no effect. It may be proposed
    again."""


class Overfull(Exception):
    """Too much waits for a majority: nothing was taken. To be tried again."""


class HandingOver(Overfull):
    """The lead goes to another voter just now: nothing was taken. Somebody else will lead in a moment."""

    def __init__(self, group: int) -> None:
        super().__init__(f"group {group}: the lead is being handed over")
        self.group = group


class ChangeRefused(Exception):
    """This change of members is not possible, or not now; nothing was proposed."""


# --- changes of members: one at a time (dissertation §4.1) ---
class AddLearner(msgspec.Struct, frozen=True, tag=True):
    node: bytes


class Promote(msgspec.Struct, frozen=True, tag=True):
    """A learner that has caught up becomes a voter."""

    node: bytes


class Demote(msgspec.Struct, frozen=True, tag=True):
    """A voter becomes a learner."""

    node: bytes


class Remove(msgspec.Struct, frozen=True, tag=True):
    node: bytes


Change = AddLearner | Promote | Demote | Remove


class RaftStatistics(msgspec.Struct, frozen=True):
    role: str
    term: int
    leader: bytes | None
    quiet: bool
    last: int
    synced: int
    commit: int
    applied: int
    base: int
    window_entries: int
    window_bytes: int
    followers: dict[bytes, tuple[str, int, int]]  # of a leader: state, match, next
