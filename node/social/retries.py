"""Requests whose command is remembered elsewhere: what their `Idempotency-Key` came with, kept at home.

A command to another's partition is remembered there, so the same key with another body would go to another
partition and meet no memory. Such a request first leaves word of itself in its user's own partition.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from cluster.partition import Apply


class NoteRequest(msgspec.Struct, array_like=True, frozen=True, tag=60):
    """Changes nothing: that it was applied, and with which fingerprint, is remembered. → None."""

    user: int


def note_request(_: Apply, _command: NoteRequest) -> None:
    return None


_Functions = dict[type, Callable[..., Any]]
COMMANDS: Final[_Functions] = {NoteRequest: note_request}
