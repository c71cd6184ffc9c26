"""What the replicas of one group say to each other, and how it lies in bytes.

A message is a msgpack array `[tag, group, term, …fields]`, its fields in the order in which they stand below.
Integers are msgpack's shortest unsigned form, `bool` is `c2`/`c3`, node ids and entries are `bin`, lists are
arrays. Sender and receiver are not in it: the link between two nodes has authenticated them. New fields go
to the end with a default, so that an older node skips them and a newer one fills them in.

| tag | message       | fields after group and term                                  | who sends it          |
|-----|---------------|--------------------------------------------------------------|-----------------------|
| 1   | Append        | previous, previous_term, commit, entries_term, entries [bin] | leader                |
| 2   | Appended      | match                                                        | follower              |
| 3   | Mismatch      | previous, hint, hint_term                                    | follower              |
| 4   | Heartbeat     | commit, round, quiet                                         | leader                |
| 5   | Heard         | round                                                        | follower              |
| 6   | Vote          | last, last_term, transfer                                    | candidate             |
| 7   | VoteAnswer    | granted                                                      | voter                 |
| 8   | PreVote       | last, last_term                                              | who would be candidate|
| 9   | PreVoteAnswer | granted                                                      | voter                 |
| 10  | Install       | last, last_term, [voters [bin], learners [bin]]              | leader                |
| 11  | TimeoutNow    |                                                              | leader                |
| 12  | Stale         |                                                              | anybody               |
| 13  | Commit        | commit                                                       | leader                |

So `Append(group=5, term=2, previous=7, previous_term=2, commit=6, entries_term=2, entries=[b"x"])` is
`98 01 05 02 07 02 06 02 91 c4 01 78`.

An entry of the log is bytes, passed through unread, with two exceptions. An empty one is the no-op with which
a leader begins. One that begins with `c1`, a byte with which no msgpack value begins, is a configuration:
`c1` and the msgpack array `[voters [bin], learners [bin]]`.
"""

from typing import Final

import msgspec

MEMBERS_MAX: Final = 64  # voters and learners of one group; every leader keeps a progress of each
CONFIGURATION_MARK: Final = 0xC1
NO_OP: Final = b""


class Configuration(msgspec.Struct, array_like=True, frozen=True):
    """Who belongs to a group. Node ids, sorted; a node is in one of the two at most."""

    voters: tuple[bytes, ...]
    learners: tuple[bytes, ...] = ()

    @property
    def members(self) -> tuple[bytes, ...]:
        return self.voters + self.learners

    @property
    def quorum(self) -> int:
        return len(self.voters) // 2 + 1


class _Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    group: int  # u16: the partition
    term: int


class Append(_Message, frozen=True, tag=1):
    """AppendEntries. All entries of one message are of one term; none is a probe."""

    previous: int
    previous_term: int
    commit: int
    entries_term: int
    entries: list[bytes]


class Appended(_Message, frozen=True, tag=2):
    """The sender has synced a log equal to the leader's up to `match`."""

    match: int


class Mismatch(_Message, frozen=True, tag=3):
    """There is no entry `previous` of the term named. `hint` is the last place where the logs may agree, and
    `hint_term` the sender's term there."""

    previous: int
    hint: int
    hint_term: int


class Heartbeat(_Message, frozen=True, tag=4):
    """`commit` never passes what the receiver has acknowledged. `round` counts within the term."""

    commit: int
    round: int
    quiet: bool


class Heard(_Message, frozen=True, tag=5):
    round: int


class Vote(_Message, frozen=True, tag=6):
    """RequestVote. `transfer`: the leader itself asked for this election, so no one protects it."""

    last: int
    last_term: int
    transfer: bool


class VoteAnswer(_Message, frozen=True, tag=7):
    granted: bool


class PreVote(_Message, frozen=True, tag=8):
    """Would you vote for me in `term`? Nobody's term changes by asking."""

    last: int
    last_term: int


class PreVoteAnswer(_Message, frozen=True, tag=9):
    """`term` is the one asked about where granted, else the answerer's own."""

    granted: bool


class Install(_Message, frozen=True, tag=10):
    """InstallSnapshot. The state itself travels apart; this goes to the core when all of it is there."""

    last: int
    last_term: int
    configuration: Configuration


class TimeoutNow(_Message, frozen=True, tag=11):
    pass


class Stale(_Message, frozen=True, tag=12):
    """You speak in a term that is over; mine is `term`."""


class Commit(_Message, frozen=True, tag=13):
    """So far all is committed; never beyond what the receiver has acknowledged. Not answered: the next
    heartbeat says the same."""

    commit: int


Message = (
    Append
    | Appended
    | Mismatch
    | Heartbeat
    | Heard
    | Vote
    | VoteAnswer
    | PreVote
    | PreVoteAnswer
    | Install
    | TimeoutNow
    | Stale
    | Commit
)

encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode
_decode_configuration = msgspec.msgpack.Decoder(Configuration).decode


def decode(data: bytes) -> Message:
    """Raises msgspec.DecodeError: the peer's fault."""
    message: Message = _decode(data)
    return message


def encode_configuration(configuration: Configuration) -> bytes:
    return bytes((CONFIGURATION_MARK,)) + encode(configuration)


def is_configuration(entry: bytes) -> bool:
    return bool(entry) and entry[0] == CONFIGURATION_MARK


def decode_configuration(entry: bytes) -> Configuration:
    """Of an entry that `is_configuration`. Raises msgspec.DecodeError."""
    return _decode_configuration(memoryview(entry)[1:])
