"""What goes wrong in a history, and when it ends again. One climate finds what another leaves hidden."""

from functools import partial
from typing import TYPE_CHECKING, Final

from cluster.raft.effects import ChangeRefused, NotLeader
from cluster.simulation.kernel import MS
from cluster.simulation.network import FAIR, WEATHERS

if TYPE_CHECKING:
    from cluster.simulation.node import Node
    from cluster.simulation.world import World

_MIXED: Final = (
    *("kill", "kill", "kill", "kill_leader", "kill_leader", "kill_many"),
    *("cut_one", "cut_one", "cut_one_way", "cut_pair", "split", "weather", "weather"),
    *("jump", "stall", "slow_disk", "full_disk", "transfer", "lose_disk", "remove", "copy", "calm"),
)
_DEATHS: Final = (
    *("kill", "kill_leader", "kill_leader", "kill_many", "slow_disk", "transfer", "calm", "lose_disk"),
)
_CUTS: Final = (
    *("cut_one", "cut_one_way", "cut_one_way", "cut_pair", "split"),
    *("weather", "stall", "transfer", "remove"),
)
_DISKS: Final = (
    *("kill", "kill_leader", "full_disk", "full_disk", "slow_disk", "failed_sync"),
    *("jump", "stall", "weather", "copy", "calm"),
)
# ms between two faults, on average; and what they are
CLIMATES: Final[tuple[tuple[int, tuple[str, ...]], ...]] = (
    *((1_500, _MIXED), (900, _MIXED), (600, _MIXED)),
    *((700, _DEATHS), (900, _CUTS), (1_000, _DISKS)),
)
CALM: Final = -1  # instead of a climate's number: nothing goes wrong by itself
QUIET_MS: Final = 2_500  # at the beginning
AWAY_MS: Final = (50, 6_000)
CUT_MS: Final = (100, 7_000)
CALM_MS: Final = (2_000, 8_000)


class Faults:
    def __init__(self, world: "World") -> None:
        self.world = world
        self.kernel = world.kernel
        drawn = self.kernel.between(0, len(CLIMATES) - 1)
        climate = world.options.climate
        self._every_ms, self._kinds = CLIMATES[drawn if climate is None or climate == CALM else climate]
        self._ended = False
        self._calm_until = 0
        if climate != CALM:
            self.kernel.after(QUIET_MS * MS, self._next)

    def end(self) -> None:
        self._ended = True

    def _next(self) -> None:
        if self._ended:
            return
        kind = self.kernel.random.choice(self._kinds)
        if self.kernel.now >= self._calm_until or kind in ("lose_disk", "remove", "copy"):
            getattr(self, kind)()
        self.kernel.after(int(self.kernel.random.expovariate(1 / self._every_ms) * MS), self._next)

    def _later(self, span: tuple[int, int], call: "partial[None]") -> None:
        self.kernel.after(self.kernel.between(*span) * MS, self._unless_ended, call)

    def _unless_ended(self, call: "partial[None]") -> None:
        if not self._ended:
            call()

    def _living(self) -> "list[Node]":
        return [node for node in self.world.nodes if node.alive]

    def _any(self) -> "Node":
        return self.kernel.random.choice(self.world.nodes)

    # --- nodes ---------------------------------------------------------------------------------------------
    def kill(self) -> None:
        living = self._living()
        if living:
            self._kill(self.kernel.random.choice(living))

    def kill_leader(self) -> None:
        number = self.kernel.random.choice(self.world.partitions)
        for node in self._living():
            if node.service.leads(number):
                self._kill(node)
                return

    def kill_many(self) -> None:
        living = self._living()
        for node in self.kernel.random.sample(living, self.kernel.between(0, len(living))):
            self._kill(node)

    def lose_disk(self) -> None:
        if self.world.operators.may_lose():
            self.world.operators.replace(self._any(), kill=True)

    def remove(self) -> None:
        if self.world.operators.may_lose():
            self.world.operators.replace(self._any(), kill=False)

    def copy(self) -> None:
        if self.world.operators.may_lose():
            self.world.operators.copy(self._any())

    def calm(self) -> None:
        """Nothing goes wrong for a while, so that what is under way may come to its end."""
        self._calm_until = self.kernel.now + self.kernel.between(*CALM_MS) * MS

    def _kill(self, node: "Node") -> None:
        self.world.kill(node)
        self._later(AWAY_MS, partial(self._start, node))

    def _start(self, node: "Node") -> None:
        if not node.alive and node in self.world.nodes:
            node.start()

    def stall(self) -> None:
        node = self._any()
        self.world.history.stalls += 1
        node.stalled_until = self.kernel.now + self.kernel.between(100, 4_000) * MS
        self.kernel.note(f"{node} stands still")

    def jump(self) -> None:
        node = self._any()
        self.world.history.jumps += 1
        node.clock_off_ms = self.kernel.between(-20_000, 20_000)
        node.clock_rate = self.kernel.random.uniform(0.8, 1.25)
        self.kernel.note(f"{node} has another clock")

    # --- disks ---------------------------------------------------------------------------------------------
    def slow_disk(self) -> None:
        node = self._any()
        node.disk_is_slow = True
        self.kernel.note(f"{node} has a slow disk")
        self._later(CUT_MS, partial(self._good_disk, node))

    def failed_sync(self) -> None:
        """The disk fails at a node's next sync; it comes back with the next start."""
        node = self._any()
        node.disk.journal.fail()
        self.kernel.note(f"{node} has a disk that fails")
        self._later(AWAY_MS, partial(self._start, node))

    def full_disk(self) -> None:
        node = self._any()
        self.world.history.full += 1
        node.disk.journal.disk_full = True
        self.kernel.note(f"{node} has a full disk")
        self._later(CUT_MS, partial(self._good_disk, node))

    def _good_disk(self, node: "Node") -> None:
        node.disk_is_slow = False
        node.disk.journal.disk_full = False

    # --- the network ---------------------------------------------------------------------------------------
    def cut_one(self) -> None:
        one = self._any().number
        others = self._others(one)
        self._cut({(one, other) for other in others} | {(other, one) for other in others})

    def cut_one_way(self) -> None:
        one = self._any().number
        others = self._others(one)
        if self.kernel.chance(0.5):
            self._cut({(one, other) for other in others})
        else:
            self._cut({(other, one) for other in others})

    def _others(self, one: int) -> list[int]:
        return [node.number for node in self.world.nodes if node.number != one]

    def cut_pair(self) -> None:
        one = self._any().number
        for other in self._others(one)[:1]:
            self._cut({(one, other), (other, one)})

    def split(self) -> None:
        numbers = [node.number for node in self.world.nodes]
        self.kernel.random.shuffle(numbers)
        size = self.kernel.between(0, len(numbers))
        here, there = numbers[:size], numbers[size:]
        self._cut({(a, b) for a in here for b in there} | {(b, a) for a in here for b in there})

    def _cut(self, ways: set[tuple[int, int]]) -> None:
        self.world.history.cuts += 1
        self.world.network.cuts |= ways
        self.kernel.note(f"cut {sorted(ways)}")
        self._later(CUT_MS, partial(self._heal, ways))

    def _heal(self, ways: set[tuple[int, int]]) -> None:
        self.world.network.cuts -= ways

    def weather(self) -> None:
        self.world.history.storms += 1
        self.world.network.weather = self.kernel.random.choice(WEATHERS)
        self.kernel.note(f"weather {self.world.network.weather}")
        self._later(CUT_MS, partial(self._fair))

    def _fair(self) -> None:
        self.world.network.weather = FAIR

    # --- leads ---------------------------------------------------------------------------------------------
    def transfer(self) -> None:
        number = self.kernel.random.choice(self.world.partitions)
        for node in self._living():
            if node.service.leads(number):
                target = self.kernel.random.choice(node.groups.configuration(number).voters)
                node.put(partial(self._transfer, node, number, target))

    def _transfer(self, node: "Node", number: int, target: bytes) -> None:
        try:
            node.groups.transfer(number, target)
            self.world.history.transfers += 1
        except (NotLeader, ChangeRefused):
            pass
