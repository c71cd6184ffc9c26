"""Keys are types, declared once over one ordered codec.

A key's bytes are `partition u16 | kind u8 | fields`, all big-endian, so a partition is one contiguous range
of a shard and the order of keys is the order of their bytes. Where the rows of one owner should lie on the
same pages, the kind is a family and the rows' own kind follows the owner:
`partition | family | owner | kind | other fields`.

    class TimelineKey(Key, kind=0x42, family=USER_ROWS):
        author: Id                  # the home: an id carries its partition
        published: Descending
        post: Id

A key whose first field is named `partition` says where it lives itself; any other key lives in the partition
of its first field, which must be an `Id`.
"""

import struct
from collections.abc import Callable
from operator import itemgetter
from typing import Annotated, Any, NamedTuple, Self, dataclass_transform, get_type_hints

from storage.ids import ID_MAX, partition_of

U16 = Annotated[int, "H"]
U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q"]
Id = Annotated[int, "Q", "id"]
Descending = Annotated[int, "Q", "descending"]  # u64, larger first
Bytes16 = Annotated[bytes, "16s"]
Hash = Annotated[bytes, "32s"]
Text = Annotated[str, "text"]  # UTF-8, only as the last field: the end of the key ends it
Tail = Annotated[bytes, "tail"]  # raw bytes, only as the last field

KEY_BYTES_MAX = 511  # LMDB's own limit


class KeyDamaged(ValueError):
    """Bytes that are not a key of the type asked for: damage or a bug, never a client's fault."""


class _Field(NamedTuple):
    code: str  # struct code, or "" for a text or tail
    kind: str  # "", "id", "descending", "text", "tail"


def partition_range(partition: int) -> tuple[bytes, bytes]:
    """The half-open range of all keys of a partition."""
    return partition.to_bytes(2, "big"), after(partition.to_bytes(2, "big"))


def after(prefix: bytes) -> bytes:
    """The least key greater than every key that begins with `prefix`; with it a prefix is a range."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return b"\xff" * (KEY_BYTES_MAX + 1)  # above every key
    return stripped[:-1] + bytes((stripped[-1] + 1,))


@dataclass_transform(frozen_default=True)
class Key(tuple[Any, ...]):
    """Base of all keys: an immutable tuple of its fields that knows its bytes.

    Raises TypeError at import for a declaration that cannot be ordered (a text before the end, no home).
    """

    __slots__ = ()
    KIND: int
    _codec: "_Codec"

    def __init_subclass__(cls, *, kind: int, family: int | None = None) -> None:
        hints = get_type_hints(cls, include_extras=True)
        names = tuple(name for name in cls.__annotations__ if name not in ("KIND", "_codec"))
        fields = [_field(cls.__name__, name, hints[name]) for name in names]
        for name, field in zip(names[:-1], fields[:-1], strict=True):
            if not field.code:
                raise TypeError(f"{cls.__name__}.{name}: a text or tail can only be the last field")
        if names[0] != "partition" and fields[0].kind != "id":
            raise TypeError(f"{cls.__name__}: the first field must be `partition` or an Id")
        cls.KIND = kind
        cls._codec = _Codec(cls, kind, family, names, fields)
        for i, name in enumerate(names):
            setattr(cls, name, property(itemgetter(i)))
        # One generated constructor and encoder per type: keys are made a hundred times per feed page.
        setattr(cls, "__new__", _constructor(names))  # noqa: B010
        setattr(cls, "encode", cls._codec.make_encode())  # noqa: B010

    def encode(self) -> bytes:
        raise TypeError("Key itself has no bytes")

    def __repr__(self) -> str:
        return f"{type(self).__name__}{tuple.__repr__(self)}"

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises KeyDamaged where the bytes are not a key of this type."""
        return cls(*cls._codec.decode(data))

    @classmethod
    def prefix(cls, *leading: int | bytes) -> bytes:
        """The bytes that all keys of this type with these leading fields share."""
        return cls._codec.prefix(leading)


def _constructor(names: tuple[str, ...]) -> Any:
    scope: dict[str, Any] = {"make": tuple.__new__}
    arguments = ", ".join(names)
    exec(f"def __new__(cls, {arguments}):\n    return make(cls, ({arguments},))", scope)
    return scope["__new__"]


def _field(owner: str, name: str, hint: Any) -> _Field:
    metadata = getattr(hint, "__metadata__", None)
    if not metadata:
        raise TypeError(f"{owner}.{name}: use the types of storage.keys (Id, U64, Descending, …)")
    if metadata[0] in ("text", "tail"):
        return _Field("", metadata[0])
    return _Field(metadata[0], metadata[1] if len(metadata) > 1 else "")


class _Codec:
    """The compiled form of one declaration: one struct for the fixed part, at most one tail."""

    def __init__(
        self, cls: type, kind: int, family: int | None, names: tuple[str, ...], fields: list[_Field]
    ) -> None:
        self._cls = cls
        self._explicit = names[0] == "partition"
        self._fields = fields[1:] if self._explicit else fields
        self._constants: tuple[int, ...] = (kind,) if family is None else (family, kind)
        self._family = family is not None
        self._tail = self._fields[-1].kind if self._fields and not self._fields[-1].code else ""
        self._fixed = self._fields[:-1] if self._tail else self._fields
        self._struct = struct.Struct(self._format(len(self._fixed)))

    def _format(self, count: int) -> str:
        codes = [field.code for field in self._fixed[:count]]
        if not self._family:
            return ">HB" + "".join(codes)
        return ">HB" + (codes[0] + "B" + "".join(codes[1:]) if codes else "")

    def make_encode(self) -> Callable[[Any], bytes]:
        """One generated function per key type: keys are made a hundred times per feed page."""
        where = 1 if self._explicit else 0
        home = "k[0]" if self._explicit else f"(k[0] >> 10) & {0x1FFF}"
        values = [
            f"{ID_MAX} - k[{i + where}]" if field.kind == "descending" else f"k[{i + where}]"
            for i, field in enumerate(self._fixed)
        ]
        constants = [str(c) for c in self._constants]
        if self._family:
            arguments = [home, constants[0], values[0], constants[1], *values[1:]]
        else:
            arguments = [home, constants[0], *values]
        body = f"pack({', '.join(arguments)})"
        if self._tail:
            last = f"k[{len(self._fixed) + where}]"
            body += f" + {last}.encode()" if self._tail == "text" else f" + {last}"
        scope: dict[str, Any] = {"pack": self._struct.pack}
        exec(f"def encode(k):\n    return {body}", scope)
        encode: Callable[[Any], bytes] = scope["encode"]
        return encode

    def prefix(self, leading: tuple[Any, ...]) -> bytes:
        """The bytes that all keys with these leading fields share; the kind alone needs the home first."""
        home = leading[0] if self._explicit else partition_of(leading[0])
        given = leading[1:] if self._explicit else leading
        if len(given) > len(self._fixed):
            raise TypeError(f"{self._cls.__name__}: a prefix has at most {len(self._fixed)} fixed fields")
        values = [
            ID_MAX - value if field.kind == "descending" else value
            for value, field in zip(given, self._fixed, strict=False)
        ]
        head = [home, self._constants[0]]
        if self._family and values:
            head += [values[0], self._constants[1], *values[1:]]
        elif not self._family:
            head += values
        return struct.pack(self._format(len(values)), *head)

    def decode(self, data: bytes) -> list[Any]:
        size = self._struct.size
        if len(data) < size or (len(data) > size and not self._tail):
            raise KeyDamaged(f"{len(data)} bytes are not a {self._cls.__name__} of {size}")
        raw = self._struct.unpack_from(data)
        if self._family:
            constants, values = [raw[1], raw[3]], [raw[2], *raw[4:]]
        else:
            constants, values = [raw[1]], list(raw[2:])
        if tuple(constants) != self._constants:
            raise KeyDamaged(f"kind {constants} is not {self._constants} of {self._cls.__name__}")
        for i, field in enumerate(self._fixed):
            if field.kind == "descending":
                values[i] = ID_MAX - values[i]
        if self._tail:
            try:
                values.append(data[size:].decode() if self._tail == "text" else data[size:])
            except UnicodeDecodeError as wrong:
                raise KeyDamaged(f"the text of a {self._cls.__name__} is not UTF-8: {wrong}") from wrong
        return [raw[0], *values] if self._explicit else values
