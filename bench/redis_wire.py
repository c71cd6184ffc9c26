"""Redis' protocol, RESP2, as thin as can be: commands to bytes, and a connection for trio."""

from typing import Any, Final

import trio

RECEIVE_BYTES: Final = 64 << 10


def command(*words: bytes) -> bytes:
    """A command as RESP: an array of bulk strings."""
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


class Redis:
    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._data = b""
        self._at = 0

    @classmethod
    async def connect(cls, port: int) -> "Redis":
        return cls(await trio.open_tcp_stream("127.0.0.1", port))

    async def ask(self, commands: bytes, answers: int) -> list[Any]:
        """Send commands in one piece and return their answers: bytes, int, None or lists of them."""
        await self._stream.send_all(commands)
        return [await self._answer() for _ in range(answers)]

    async def _line(self) -> bytes:
        while (end := self._data.find(b"\r\n", self._at)) < 0:
            await self._more()
        line = self._data[self._at : end]
        self._at = end + 2
        return line

    async def _more(self) -> None:
        data = await self._stream.receive_some(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("Redis closed the connection")
        self._data = self._data[self._at :] + data
        self._at = 0

    async def _answer(self) -> Any:
        line = await self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            size = int(rest)
            if size < 0:
                return None
            while len(self._data) < self._at + size + 2:
                await self._more()
            value = self._data[self._at : self._at + size]
            self._at += size + 2
            return value
        if kind == b"*":
            return [await self._answer() for _ in range(int(rest))]
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        raise RuntimeError(f"Redis: {rest.decode()}")
