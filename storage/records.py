"""Records: versioned, checksummed values, and their upgrades.

A record's bytes are `crc32 u32 | version u8 | msgpack array`. LMDB has no checksums, so each record carries
its own, over its key too: a value that a torn page put under another key is damage as well. A type declares
its version and how to make it from the one before; old bytes stay in the tests as fixtures.

    @record(2, upgrades={1: from_version_1})
    class Profile(Struct, array_like=True, frozen=True): ...
"""

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")
_HEADER_BYTES = 5


class RecordDamaged(Exception):
    """The bytes are not what was written: the disk's fault. The shard stops rather than serve them."""


class RecordTooNew(Exception):
    """The record was written by a later version of the program."""


def want_whole(key: bytes, data: bytes) -> None:
    """Raises RecordDamaged where the checksum of a row of any type is wrong: before it is passed on."""
    if zlib.crc32(data[4:], zlib.crc32(key)).to_bytes(4, "big") != data[:4] or len(data) < _HEADER_BYTES:
        raise RecordDamaged(f"the record at key {key.hex()}: checksum does not match")


class Codec(Generic[T]):
    """Encode and decode records of one type, bound to its version and upgrades."""

    def __init__(
        self, type_: type[T], version: int = 1, upgrades: Mapping[int, Callable[[Any], Any]] | None = None
    ) -> None:
        self.version = version
        self._type = type_
        self._upgrades = dict(upgrades or {})
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(type_).decode
        self._version_byte = bytes((version,))

    def encode(self, key: bytes, value: T) -> bytes:
        body = self._version_byte + self._encode(value)
        return zlib.crc32(body, zlib.crc32(key)).to_bytes(4, "big") + body

    def decode(self, key: bytes, data: bytes) -> T:
        """Raises RecordDamaged for a wrong checksum or content, RecordTooNew for a later version."""
        view = memoryview(data)
        checksum = int.from_bytes(view[:4], "big")
        if zlib.crc32(view[4:], zlib.crc32(key)) != checksum or len(data) < _HEADER_BYTES:
            raise RecordDamaged(f"{self._name(key)}: checksum does not match")
        if data[4] != self.version:
            return self._upgrade(key, data)
        try:
            return self._decode(view[_HEADER_BYTES:])
        except msgspec.DecodeError as wrong:
            raise RecordDamaged(f"{self._name(key)}: {wrong}") from wrong

    def _upgrade(self, key: bytes, data: bytes) -> T:
        version = data[4]
        if version > self.version:
            raise RecordTooNew(f"{self._name(key)}: version {version} > {self.version}")
        try:
            value: Any = msgspec.msgpack.decode(data[_HEADER_BYTES:])
            while version < self.version:
                if version not in self._upgrades:
                    raise RecordDamaged(f"{self._name(key)}: no way from version {version}")
                value = self._upgrades[version](value)
                version += 1
            return msgspec.convert(value, self._type)
        except msgspec.DecodeError as wrong:  # of which a ValidationError is one
            raise RecordDamaged(f"{self._name(key)}: {wrong}") from wrong

    def _name(self, key: bytes) -> str:
        return f"{self._type.__name__} at key {key.hex()}"


class FixedCodec(Codec[T]):
    """A record of fixed fields in fixed places behind the same header, for what is compared in bulk.

    `layout` is a struct format without byte order; the fields are big-endian, so u64s compare as bytes.
    """

    def __init__(
        self,
        type_: type[T],
        layout: str,
        version: int = 1,
        upgrades: Mapping[int, Callable[[Any], Any]] | None = None,
    ) -> None:
        super().__init__(type_, version, upgrades)
        fields = struct.Struct(">" + layout)

        def decode(body: Any) -> T:
            if len(body) != fields.size:
                raise msgspec.DecodeError(f"{len(body)} bytes instead of {fields.size}")
            return type_(*fields.unpack(body))

        self._encode = lambda value: fields.pack(*msgspec.structs.astuple(value))
        self._decode = decode
