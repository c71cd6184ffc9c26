"""A bank with one account per partition: a state machine small enough to know what must come out.

Bodies are msgpack arrays, a word first. Money is neither made nor lost by transfers, so a sum over accounts
and mail under way finds every message that was lost or taken twice.
"""

import msgspec

from cluster.commands import Refused
from storage.keys import U16, U64, Key
from storage.records import Codec
from storage.rows import Table

encode = msgspec.msgpack.encode
decode = msgspec.msgpack.decode


class BalanceKey(Key, kind=0x60):
    partition: U16


class NoteKey(Key, kind=0x61):
    partition: U16
    number: U64


BALANCES = Table(BalanceKey, Codec(int))
NOTES = Table(NoteKey, Codec(bytes))


class Bug(Exception):
    """What no machine may raise."""


class Bank:
    def execute(self, apply, body):
        word, *arguments = decode(body)
        return encode(getattr(self, "_" + word)(apply, *arguments))

    def receive(self, apply, source, body):
        word, *arguments = decode(body)
        if word == "pay":
            _change(apply, arguments[0])
        elif word == "note":
            NOTES.put(apply, NoteKey(apply.partition, apply.mint()), arguments[0])
        elif word == "rows":
            self._rows(apply, arguments[0])
        elif word == "unless_rich":  # does all that a message can do, then refuses
            rich = (BALANCES.get(apply, BalanceKey(apply.partition)) or 0) >= 1000
            self._everything(apply)
            if not rich:
                raise Refused("poor", "come back with 1,000")
        elif word == "bug":
            raise Bug("in receive")
        else:
            raise Refused("unknown", word)

    def proceed(self, apply, work):
        word, count = decode(work)
        if word == "refuse":
            self._everything(apply)
            raise Refused("stuck", "this work cannot be done")
        _change(apply, 1)
        return encode([word, count - 1]) if count > 1 else None

    # --- commands --------------------------------------------------------------------------------------
    def _add(self, apply, amount):
        return _change(apply, amount)

    def _give(self, apply, destination, amount):
        if (BALANCES.get(apply, BalanceKey(apply.partition)) or 0) < amount:
            raise Refused("insufficient", f"less than {amount}")
        apply.send(destination, encode(["pay", amount]))
        return _change(apply, -amount)

    def _tell(self, apply, destination, *message):
        apply.send(destination, encode(message))

    def _mint(self, apply, count):
        return [apply.mint() for _ in range(count)]

    def _random(self, apply, *sizes):
        return [apply.random(size) for size in sizes]

    def _say(self, apply, text):
        apply.publish(text.encode())

    def _work(self, apply, word, count):
        apply.later(encode([word, count]))

    def _rows(self, apply, count):
        for number in range(count):
            NOTES.put(apply, NoteKey(apply.partition, number), b"row")

    def _bug(self, apply):
        _change(apply, 1_000_000)
        raise Bug("in execute")

    def _refuse(self, apply, code="refused"):
        self._everything(apply)
        raise Refused(code, "after all that")

    def _everything(self, apply):
        """Each kind of thing that a refusal must take back."""
        _change(apply, 7)
        NOTES.put(apply, NoteKey(apply.partition, apply.mint()), b"gone?")
        apply.send((apply.partition + 1) % 4, encode(["pay", 7]))
        apply.publish(b"gone?")
        apply.later(encode(["work", 3]))
        return list(apply.scan(NoteKey.prefix(apply.partition), NoteKey.prefix(apply.partition + 1)))


def _change(apply, amount):
    key = BalanceKey(apply.partition)
    balance = (BALANCES.get(apply, key) or 0) + amount
    BALANCES.put(apply, key, balance)
    return balance


def balance(rows, partition):
    return BALANCES.get(rows, BalanceKey(partition)) or 0


def notes(rows, partition):
    return [note for _, note in NOTES.scan(rows, partition)]
