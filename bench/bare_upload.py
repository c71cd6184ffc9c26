"""The bare loop beside which uploads are measured: trio receives, writes, syncs, answers; nothing else.

No hash, no check, no name that anybody could find again: what a machine can take at most in this way.
"""

import os
import sys
from pathlib import Path
from typing import Final

import msgspec
import trio

from bench.processes import announce, until_input_ends

RECEIVE_BYTES: Final = 256 << 10
ANSWER: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Bare(msgspec.Struct, frozen=True):
    folder: str


async def _serve(bare: Bare) -> None:
    numbers = iter(range(1 << 60))

    async def connection(stream: trio.SocketStream) -> None:
        data = b""
        while True:
            while (end := data.find(b"\r\n\r\n")) < 0:
                more = await stream.receive_some(RECEIVE_BYTES)
                if not more:
                    return
                data += more
            at = data.index(b"content-length: ") + 16
            left = int(data[at : data.index(b"\r\n", at)])
            data = data[end + 4 :]
            path = Path(bare.folder) / f"{next(numbers)}"
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            while True:
                os.write(file, data)
                left -= len(data)
                if not left:
                    break
                data = await stream.receive_some(min(left, RECEIVE_BYTES))
            await trio.to_thread.run_sync(os.fsync, file)
            os.close(file)
            data = b""
            await stream.send_all(ANSWER)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            lambda task_status: trio.serve_tcp(connection, 0, host="127.0.0.1", task_status=task_status)
        )
        announce(listeners[0].socket.getsockname()[1])
        await until_input_ends()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_serve, msgspec.json.decode(sys.argv[1], type=Bare))
