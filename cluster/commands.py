"""What a partition's log holds: the closed union of commands, and the outcomes of applying them.

A command is bytes that carry everything variable: the proposer's `now`, random bits, ids. Apply uses no
clock, no randomness and no local setting, so the same log gives the same state, byte for byte.
"""

from typing import Final, NamedTuple

import msgspec

FEATURE_LEVEL: Final = 1  # stamped in commands; new behaviour waits until all members speak it
COMMAND_BYTES_MAX: Final = 1 << 20
MESSAGE_BYTES_MAX: Final = 64 << 10
MESSAGES_PER_DELIVER_MAX: Final = 128  # of a few rows each; one that writes many ends its batch early


class _Command(msgspec.Struct, array_like=True, frozen=True, tag=True):
    pass


class Execute(_Command, frozen=True):
    """A command of the application. `scope` is the user whose retries are remembered; 0 remembers nothing."""

    now: int  # ms, Unix
    level: int
    random: bytes  # 16 bytes; `Apply.random` stretches them
    scope: int
    id: bytes  # 16 bytes
    fingerprint: bytes  # of the request behind an Idempotency-Key; empty without one
    body: bytes


class Delivery(msgspec.Struct, array_like=True, frozen=True):
    """One message as it travels: taken only if `previous` is the last sequence taken from `source`."""

    source: int
    previous: int  # the sequence sent to this destination before it; 0 before the first
    sequence: int  # counts over all destinations of the source; see `mailbox.INCARNATION_SHIFT`
    body: bytes


class Message(NamedTuple):
    """One row of an outbox, as the courier takes it."""

    destination: int
    delivery: Delivery


class Deliver(_Command, frozen=True):
    now: int
    level: int
    random: bytes
    messages: tuple[Delivery, ...]


class Trim(_Command, frozen=True):
    """Forget outbox rows that were taken: (destination, sequence) each."""

    cuts: tuple[tuple[int, int], ...]


class Continue(_Command, frozen=True):
    """One more piece of the oldest work row."""

    now: int
    level: int
    random: bytes


class ForgetChanges(_Command, frozen=True):
    """Drop the change stream's records below an offset."""

    below: int


class ForgetRemembered(_Command, frozen=True):
    """Drop what is remembered of commands that are older than a day, a bounded number."""

    now: int


class Digest(_Command, frozen=True):
    pass


class RetryDeadLetter(_Command, frozen=True):
    now: int
    level: int
    random: bytes
    number: int


class DropDeadLetter(_Command, frozen=True):
    number: int


Command = (
    Execute
    | Deliver
    | Trim
    | Continue
    | ForgetChanges
    | ForgetRemembered
    | Digest
    | RetryDeadLetter
    | DropDeadLetter
)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Command).decode


def encode(command: Command) -> bytes:
    return _encode(command)


def decode(data: bytes) -> Command:
    """Raises msgspec.DecodeError: in a journal that passed its checksums that is a bug, not damage."""
    command: Command = _decode(data)
    return command


# --- outcomes ------------------------------------------------------------------------------------------
class Accepted(msgspec.Struct, array_like=True, frozen=True, tag=0):
    result: bytes


class Declined(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """A typed, deterministic refusal: it changed nothing."""

    code: str
    detail: str


Outcome = Accepted | Declined


class Refused(Exception):
    """Raised by a state machine: the command's rows are rolled back and this is its result.

    `code` is a word of the published table of problems; only the HTTP edge knows its status.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
