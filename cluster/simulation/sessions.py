"""Clients: each does one thing after the other, through any node, and asks again as real ones do."""

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cluster.attempts import State
from cluster.commands import FEATURE_LEVEL, Declined, Execute
from cluster.partition import Applied
from cluster.simulation.kernel import MS
from cluster.simulation.traffic import Client, Read, Write

if TYPE_CHECKING:
    from cluster.simulation.node import Node
    from cluster.simulation.world import World

AGAIN_MS: Final = (50, 400)
HOP_US: Final = (100, 2_000)  # between a client and a node
SILENCE_MS: Final = 12_000  # after which a client gives a connection up


class Session:
    """Of one client. `number` counts its tries: what an earlier one brings comes too late."""

    def __init__(self, world: "World", client: Client, pause_ms: int) -> None:
        self.world = world
        self.kernel = world.kernel
        self.client = client
        self.idle = True
        self._pause_ms = pause_ms
        self._number = 0
        self._step: Write | Read | None = None
        self._id = b""
        self._node: Node | None = None
        self._life = 0
        self.kernel.after(self.kernel.between(0, 2 * pause_ms) * MS, self._next)

    def _next(self) -> None:
        if self.world.is_ending:
            self._step = None
            self.idle = True
            return
        self.idle = False
        self._step = self.client.next(self.kernel.now)
        self._id = self.kernel.draw_bytes(16)
        self._try()

    def _rest(self) -> None:
        self.idle = True
        self.kernel.after(int(self.kernel.random.expovariate(1 / self._pause_ms) * MS), self._next)

    def _again(self) -> None:
        self.world.history.retried += 1
        self._number += 1
        self._node = None
        self.kernel.after(self.kernel.between(*AGAIN_MS) * MS, self._try_again, self._number)

    def _try_again(self, number: int) -> None:
        if number == self._number:
            self._try()

    def _try(self) -> None:
        living = [node for node in self.world.nodes if node.alive]
        if not living:
            self._again()
            return
        self._number += 1
        node = self._node = living[self.kernel.between(0, len(living) - 1)]
        self._life = node.life
        self.kernel.after(self._hop(), self._arrive, node, node.life, self._number)
        self.kernel.after(SILENCE_MS * MS, self._broken, self._number)

    def _hop(self) -> int:
        return self.kernel.between(*HOP_US)

    def node_died(self, node: "Node") -> None:
        if node is self._node and not self.idle:
            self.kernel.after(self._hop(), self._broken, self._number)

    def _broken(self, number: int) -> None:
        if number != self._number or self.idle:
            return
        self._number += 1
        self._node = None
        if isinstance(self._step, Read) or (self._step is not None and self._step.scope):
            self._again()
        elif self._step is not None:
            self._unsettled()

    def _arrive(self, node: "Node", life: int, number: int) -> None:
        step = self._step
        if not node.alive or node.life != life or number != self._number or step is None:
            return
        if self.kernel.now < node.stalled_until:
            self.kernel.after(node.wakes_in(), self._arrive, node, life, number)
            return
        if isinstance(step, Read):
            saw = partial(self._reply, node, life, number, self._saw)
            failed = partial(self._reply, node, life, number, self._failed)
            node.service.read(step.partition, step.look, saw, failed)
            return
        random = self.kernel.draw_bytes(16)
        command = Execute(node.clock_ms(), FEATURE_LEVEL, random, step.scope, self._id, b"", step.body)
        ended = partial(self._reply, node, life, number, self._ended)
        node.service.execute(step.partition, command, ended)

    def _reply(self, node: "Node", life: int, number: int, take: Any, *arguments: Any) -> None:
        if node.life == life:
            self.kernel.after(self._hop(), self._take, number, take, arguments)

    def _take(self, number: int, take: Any, arguments: tuple[Any, ...]) -> None:
        if number == self._number:
            self._number += 1
            self._node = None
            take(*arguments)

    # --- what comes back -----------------------------------------------------------------------------------
    def _ended(self, state: State, applied: Applied | None) -> None:
        step = self._step
        assert isinstance(step, Write)
        history = self.world.history
        if applied is not None:
            history.answered += 1
            history.refused += isinstance(applied.outcome, Declined)
            self.world.checks.answered(step.partition, applied.index)
            self.kernel.note(f"{step.name} in {step.partition}:{applied.index} is answered")
            self.client.answered(step, applied.outcome, self.kernel.now)
            self._rest()
        elif state is State.UNSETTLED:
            if step.scope:
                self._again()
            else:
                self._unsettled()
        else:
            history.unavailable += 1
            self._again()

    def _unsettled(self) -> None:
        assert self._step is not None
        self.world.history.unsettled += 1
        self.kernel.note(f"{self._step.name} is not settled")
        self.client.unsettled(self._step, self.kernel.now)
        self._rest()

    def _saw(self, seen: Any) -> None:
        assert isinstance(self._step, Read)
        self.world.history.reads += 1
        self.client.answered(self._step, seen, self.kernel.now)
        self._rest()

    def _failed(self) -> None:
        self._again()
