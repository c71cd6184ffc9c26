"""The wires between the nodes: every link runs through a proxy that can hold, delay and cut it.

Each node advertises a port of the proxy. Who dials is not in the bytes (they are encrypted), so it is asked
of the kernel: the socket at the other end belongs to one of the processes that the harness started. What is
held waits, as it does in a network that loses all packets, and flows on when the wire is healed; what is cut
is closed, and new connections too.
"""

import os
from collections import defaultdict
from pathlib import Path

import trio

PIECE_BYTES = 64 << 10
PIECES_MAX = 64  # under way in one direction of a connection: then the sender feels it
DIAL_S = 5.0


class Wires:
    """What happens to the bytes from one node to another. Nodes are named by their numbers."""

    def __init__(self, pid_of):
        self.pid_of = pid_of  # node → the process that runs it now, or None
        self.refused = 0
        self.carried = 0
        self._held = set()  # (from, to)
        self._cut = set()
        self._delay_s = defaultdict(float)
        self._healed = trio.Event()
        self._open = defaultdict(set)  # {from, to} → cancel scopes of connections

    # --- faults ----------------------------------------------------------------------------------------
    def hold(self, *pairs):
        """Bytes of these (from, to) wait until `heal`: one direction alone, if only that is named."""
        self._held.update(pairs)

    def cut(self, *pairs):
        """Connections between these nodes are closed, and no new one is made."""
        for one, other in pairs:
            self._cut.add(frozenset((one, other)))
            for scope in tuple(self._open[frozenset((one, other))]):
                scope.cancel()

    def delay(self, seconds, *pairs):
        for pair in pairs:
            self._delay_s[pair] = seconds

    def heal(self):
        self._held.clear()
        self._cut.clear()
        self._delay_s.clear()
        healed, self._healed = self._healed, trio.Event()
        healed.set()

    # --- the wire --------------------------------------------------------------------------------------
    async def serve(self, listener, target, port):
        """Pass connections on to node `target`, which listens on `port` of loopback."""

        async def passed(stream):
            async with stream:
                dialer = await trio.to_thread.run_sync(self._dialer, stream.socket.getpeername()[1])
                if dialer is None or frozenset((dialer, target)) in self._cut:
                    self.refused += 1
                    return
                await self._pass(stream, dialer, target, port)

        await trio.serve_listeners(passed, [listener])

    async def _pass(self, stream, dialer, target, port):
        try:
            with trio.fail_after(DIAL_S):
                onward = await trio.open_tcp_stream("127.0.0.1", port)
        except (OSError, trio.TooSlowError):
            return
        link = frozenset((dialer, target))
        async with onward:
            with trio.CancelScope() as scope:
                self._open[link].add(scope)
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._one_way, stream, onward, (dialer, target), scope)
                        nursery.start_soon(self._one_way, onward, stream, (target, dialer), scope)
                finally:
                    self._open[link].discard(scope)

    async def _one_way(self, source, sink, pair, scope):
        """Each piece leaves when its time has come, and not while the pair is held."""
        to_wire, from_wire = trio.open_memory_channel(PIECES_MAX)

        async def receive():
            async with to_wire:
                while piece := await source.receive_some(PIECE_BYTES):
                    await to_wire.send((trio.current_time() + self._delay_s[pair], piece))

        async def send():
            async for due, piece in from_wire:
                await trio.sleep_until(due)
                while pair in self._held:
                    await self._healed.wait()
                await sink.send_all(piece)
                self.carried += len(piece)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                nursery.start_soon(send)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass
        scope.cancel()  # one direction has ended: so has the connection

    def _dialer(self, port):
        """The node whose process has the socket with this port of loopback."""
        inode = _inode_of(port)
        if inode is None:
            return None
        for node, pid in self.pid_of().items():
            if pid is not None and _holds(pid, inode):
                return node
        return None


def _inode_of(port):
    wanted = f":{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(wanted) and fields[1].startswith("0100007F"):
            return fields[9]
    return None


def _holds(pid, inode):
    folder = f"/proc/{pid}/fd"
    try:
        for name in os.listdir(folder):
            try:
                if os.readlink(f"{folder}/{name}") == f"socket:[{inode}]":
                    return True
            except FileNotFoundError:
                continue
    except (FileNotFoundError, ProcessLookupError):
        return False
    return False
