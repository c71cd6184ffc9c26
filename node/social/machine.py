"""The social state machine: which function applies which command, message or piece of work.

Each module of this package declares its typed commands and exports three tables, COMMANDS, MESSAGES and
WORK, from a type to the function that applies it. A type's integer tag is its name on disk: it is given once
and never reused. Functions take `Apply` and nothing else that varies, and raise `Refused` to change nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from operator import or_
from types import ModuleType
from typing import Any

import msgspec

from cluster.partition import Apply

Table = Mapping[type, Callable[..., Any]]

_encode = msgspec.msgpack.Encoder().encode


def _join(modules: Iterable[ModuleType], name: str) -> dict[type, Callable[..., Any]]:
    table: dict[type, Callable[..., Any]] = {}
    for module in modules:
        table.update(getattr(module, name, {}))
    return table


def _decoder(table: Table) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(reduce(or_, table) if table else type(None))


class SocialMachine:
    """The application as a partition sees it (`cluster.partition.StateMachine`)."""

    def __init__(self, modules: Iterable[ModuleType]) -> None:
        modules = tuple(modules)
        self._commands = _join(modules, "COMMANDS")
        self._messages = _join(modules, "MESSAGES")
        self._work = _join(modules, "WORK")
        self._decode_command = _decoder(self._commands).decode
        self._decode_message = _decoder(self._messages).decode
        self._decode_work = _decoder(self._work).decode

    def execute(self, apply: Apply, body: bytes) -> bytes:
        command = self._decode_command(body)
        return _encode(self._commands[type(command)](apply, command))

    def receive(self, apply: Apply, source: int, body: bytes) -> None:
        message = self._decode_message(body)
        self._messages[type(message)](apply, source, message)

    def proceed(self, apply: Apply, work: bytes) -> bytes | None:
        piece = self._decode_work(work)
        rest = self._work[type(piece)](apply, piece)
        return None if rest is None else _encode(rest)


def encode(command: msgspec.Struct) -> bytes:
    """The bytes of a command, message or piece of work."""
    return _encode(command)
