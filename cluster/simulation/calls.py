"""Calls between simulated nodes: answered once, or seen to have broken off; the network repeats none."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cluster.simulation.errand import LinkLost, Unreachable
from cluster.simulation.kernel import MS

if TYPE_CHECKING:
    from cluster.simulation.node import Node

BREAK_MS: Final = (50, 900)  # until a call that got lost is seen to have broken off
CALL_WITHIN_MS: Final = 6_000

Done = Callable[[Any], None]
Failed = Callable[[Exception], None]
Answer = Callable[[bool, Any], None]


class Calls:
    """Of one life of a node. What it serves is `serve_…` of the node's service."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._waiting: dict[int, tuple[int, Done, Failed]] = {}  # number of the call: peer, who waits
        self._called = 0

    def call(self, to: bytes, what: str, arguments: tuple[Any, ...], done: Done, failed: Failed) -> None:
        """`done` or `failed` is called once, unless this node dies."""
        node, network, kernel = self._node, self._node.world.network, self._node.kernel
        peer = node.world.node(to)
        reachable = peer is not None and peer.alive and network.connected(node.number, peer.number)
        if peer is None or (not reachable and kernel.chance(0.5)):
            node.after(MS, failed, Unreachable())
            return
        self._called += 1
        number = self._called
        self._waiting[number] = (peer.number, done, failed)
        call = partial(self._on_peer, peer, number, node.life, what, arguments)
        if network.call(node.number, peer.number, call) and reachable:
            node.after(CALL_WITHIN_MS * MS, self._broken, number)
        else:
            self._break(number)

    def _break(self, number: int) -> None:
        self._node.after(self._node.kernel.between(*BREAK_MS) * MS, self._broken, number)

    def _broken(self, number: int) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            waiting[2](LinkLost())

    def peer_lost(self, peer: int) -> None:
        """Its links broke."""
        for number in [number for number, (to, _, _) in self._waiting.items() if to == peer]:
            self._broken(number)

    def _on_peer(self, peer: "Node", number: int, life: int, what: str, arguments: tuple[Any, ...]) -> None:
        if not peer.alive or not peer.service.belonging.admits(self._node):
            self._answer_lost(life, number)
            return
        peer.world.checks.heard(peer, self._node)
        peer_life = peer.life

        def answer(ok: bool, value: Any) -> None:
            if self._node.life != life:
                return
            network = self._node.world.network
            if peer.life != peer_life or not network.call(
                peer.number, self._node.number, self._answered, life, number, ok, value
            ):
                self._answer_lost(life, number)

        peer.after(0, getattr(peer.service, "serve_" + what), self._node, *arguments, answer)

    def _answer_lost(self, life: int, number: int) -> None:
        if self._node.life == life and number in self._waiting:
            self._break(number)

    def _answered(self, life: int, number: int, ok: bool, value: Any) -> None:
        if self._node.life != life:
            return
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            _, done, failed = waiting
            (done if ok else failed)(value)
