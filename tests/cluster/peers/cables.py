"""A network in memory, whose cables can be cut and can stop carrying; for tests with a clock of their own."""

import trio
from trio.testing import memory_stream_pair

BUFFER_BYTES = 64 << 10  # in each direction: then a sender waits, as with TCP


class End(trio.abc.Stream):
    """One end of a cable."""

    def __init__(self, stream):
        self._stream = stream
        self._carries = trio.Event()
        self._carries.set()
        self.buffered = 0
        self.other = None
        self._room = trio.Event()

    async def send_all(self, data):
        for start in range(0, len(data), BUFFER_BYTES):
            piece = data[start : start + BUFFER_BYTES]
            while self.buffered + len(piece) > BUFFER_BYTES:
                self._room = trio.Event()
                await self._room.wait()
            self.buffered += len(piece)
            await self._stream.send_all(piece)

    async def wait_send_all_might_not_block(self):
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes=None):
        await self._carries.wait()
        data = await self._stream.receive_some(max_bytes)
        await self._carries.wait()
        self.other.buffered -= len(data)
        self.other._room.set()
        return data

    async def aclose(self):
        await self._stream.aclose()


class Cable:
    def __init__(self):
        ours, theirs = memory_stream_pair()
        self.ends = End(ours), End(theirs)
        self.ends[0].other, self.ends[1].other = self.ends[1], self.ends[0]

    def stall(self, *ends):
        """Nothing arrives any more, at either end or at those named (0: who dialled); nobody is told."""
        for end in ends or (0, 1):
            self.ends[end]._carries = trio.Event()

    def resume(self):
        for end in self.ends:
            end._carries.set()

    async def cut(self):
        for end in self.ends:
            await trio.aclose_forcefully(end._stream)


class Network:
    """Addresses are names of nodes. `cables` are those made so far, newest last, by (from, to)."""

    def __init__(self, nursery):
        self._nursery = nursery
        self.nodes = {}
        self.cables = []
        self.dialled = []  # (when, address)
        self.down = set()  # addresses that refuse
        self.silent = set()  # addresses that never answer

    async def connect(self, address):
        self.dialled.append((trio.current_time(), address))
        await trio.lowlevel.checkpoint()
        if address in self.down or address not in self.nodes:
            raise OSError("connection refused")
        cable = Cable()
        if address in self.silent:
            cable.stall()
        self.cables.append(cable)
        self._nursery.start_soon(self.nodes[address].links.accept, cable.ends[1])
        return cable.ends[0]
