"""Freeze one example of every record type as bytes: `python -m tests.storage.freeze [TABLE@VERSION …]`.

Without arguments it adds the records that tests/fixtures/records.txt does not hold yet; with arguments it
makes the named ones anew. That is right only for a format that no release has written: else raise the
version, and keep the old line.
"""

import sys

from tests.storage.declared import ROOT, TABLES, key_example, record_example

FIXTURES = ROOT / "tests" / "fixtures" / "records.txt"


def frozen():
    """{"module.TABLE@version": (key bytes, record bytes)}"""
    lines = FIXTURES.read_text().splitlines() if FIXTURES.exists() else []
    split = (line.split() for line in lines if not line.startswith("#"))
    return {name: (bytes.fromhex(key), bytes.fromhex(value)) for name, key, value in split}


def freeze(again=()):
    known = {name: row for name, row in frozen().items() if name not in again}
    for name, table in TABLES.items():
        key = key_example(table.key).encode()
        value = table.codec.encode(key, record_example(table.codec._type))
        known.setdefault(f"{name}@{table.codec.version}", (key, value))
    lines = ["# table@version, key, record; see tests/storage/freeze.py"]
    lines += [f"{name} {key.hex()} {value.hex()}" for name, (key, value) in sorted(known.items())]
    FIXTURES.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    freeze(sys.argv[1:])
