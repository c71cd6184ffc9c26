"""Every key type and table that the source declares, found in the source, with examples of their values."""

import ast
import importlib
import types
import typing
from pathlib import Path

import msgspec
from hypothesis import strategies as st

from storage import keys
from storage.ids import ID_MAX, compose
from storage.rows import Table

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cluster", "node")
KEY_TEXT_MAX = 60  # characters; four bytes each stay below what LMDB takes


def _modules():
    """The modules that declare keys or tables."""
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text(), str(path))
        if any(_declares(node) for node in tree.body):
            yield importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def _declares(node):
    if isinstance(node, ast.ClassDef):
        return any(isinstance(base, ast.Name) and base.id == "Key" for base in node.bases)
    value = getattr(node, "value", None)
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "Table"


MODULES = tuple(_modules())
KEY_TYPES = tuple(
    sorted(
        {
            value
            for module in MODULES
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, keys.Key) and value is not keys.Key
        },
        key=lambda type_: (type_.__module__, type_.__name__),
    )
)
TABLES = {
    f"{module.__name__}.{name}": value
    for module in MODULES
    for name, value in vars(module).items()
    if isinstance(value, Table)
}


def key_fields(key_type):
    """(name, kind) of each field, where kind is a type of storage.keys."""
    hints = typing.get_type_hints(key_type, include_extras=True)
    return [(name, hints[name]) for name in key_type.__annotations__ if name not in ("KIND", "_codec")]


_STRATEGIES = {
    keys.U16: st.integers(0, 0xFFFF),
    keys.U32: st.integers(0, 0xFFFFFFFF),
    keys.U64: st.integers(0, ID_MAX),
    keys.Id: st.integers(0, ID_MAX),
    keys.Descending: st.integers(0, ID_MAX),
    keys.Bytes16: st.binary(min_size=16, max_size=16),
    keys.Hash: st.binary(min_size=32, max_size=32),
    keys.Text: st.text(st.characters(codec="utf-8"), max_size=KEY_TEXT_MAX),
    keys.Tail: st.binary(max_size=KEY_TEXT_MAX),
}
_EXAMPLES = {
    keys.U16: 0x0102,
    keys.U32: 0x01020304,
    keys.U64: 0x0102030405060708,
    keys.Id: compose(99_000_000_000, 0x0ABC, 0x155),
    keys.Descending: 0x1112131415161718,
    keys.Bytes16: bytes(range(16)),
    keys.Hash: bytes(range(32)),
    keys.Text: "heliograph é",
    keys.Tail: b"\x00\xfftail",
}


def key_strategy(key_type):
    return st.tuples(*(_STRATEGIES[hint] for _, hint in key_fields(key_type))).map(lambda k: key_type(*k))


def key_example(key_type):
    return key_type(*(_EXAMPLES[hint] for _, hint in key_fields(key_type)))


def record_example(type_, seed=1):
    """A value of a record's type in which no two neighbouring fields are alike."""
    origin = typing.get_origin(type_)
    if origin in (typing.Union, types.UnionType):
        return record_example(next(t for t in typing.get_args(type_) if t is not type(None)), seed)
    if origin is tuple:
        inner = typing.get_args(type_)
        if inner[-1] is Ellipsis:
            return tuple(record_example(inner[0], seed + i) for i in range(2))
        return tuple(record_example(t, seed + i) for i, t in enumerate(inner))
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        hints = typing.get_type_hints(type_)
        names = type_.__struct_fields__
        return type_(**{name: record_example(hints[name], seed + i) for i, name in enumerate(names)})
    return {
        int: lambda: seed * 1_000_003,
        str: lambda: f"text {seed} é",
        bytes: lambda: bytes([seed % 256]) * 4,
        bool: lambda: bool(seed % 2),
        float: lambda: seed / 3,
    }[type_]()
