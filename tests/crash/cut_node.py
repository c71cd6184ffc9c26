"""The program that `test_cuts.py` records: a whole node with its listeners, and a crowd that uses it.

    python -m tests.crash.cut_node DIRECTORY SEED DEEDS

Each thing that the node acknowledged becomes a marker in the trace, at its place between the file operations:
a JSON list, the words of `crowd.Facts`. `CRASH_PLANTED` as in `heliograph.py`.
"""

import json
import os
import sys
from pathlib import Path

import trio


class Enough(Exception):
    """The crowd has done what it should."""


def record_workers_too():
    """Media workers start with an environment of their own; what they write is part of the trace."""
    from node.media import pool

    clean = pool._environment
    traced = {name: value for name, value in os.environ.items() if name.startswith(("TRACE_", "LD_PRELOAD"))}
    pool._environment = lambda: {**clean(), **traced}


async def main(directory, seed, deeds):
    record_workers_too()
    from tests.crash.crowd import Crowd
    from tests.node.nodes import running

    left = deeds
    held = []  # what an answer said is one marker together with the deed's end
    markers = os.open(os.environ["CRASH_MARKERS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(*event):
        nonlocal left
        held.append(json.dumps(event).encode() + b"\n")
        if event[0] in ("begins", "ends"):
            os.write(markers, b"".join(held))
            held.clear()
        if event[0] == "ends":
            left -= 1
            if not left:
                raise Enough

    crowd = Crowd(4, seed, tell)
    flags = (
        "storage.segment_bytes=1048576",
        "accounts.argon2_memory_kib=64",
        "accounts.argon2_passes=1",
        "accounts.argon2_lanes=1",
        "media.photo_wait_s=0.2",
        "logs.level=error",
    )
    async with running(directory, *flags) as node:

        async def act():
            await crowd.sign_up()
            try:
                async with trio.open_nursery() as nursery:
                    for person in crowd.people:
                        nursery.start_soon(person.live, crowd.people)
            except* Enough:
                os._exit(0)  # as sudden as the cuts

        await crowd.connected(node.url, act)


if __name__ == "__main__":
    planted = os.environ.get("CRASH_PLANTED")
    if planted:
        exec(compile(Path(planted).read_text(), planted, "exec"), {"__name__": "planted"})
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
