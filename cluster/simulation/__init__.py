"""The cluster in virtual time: the real cores on a simulated network, clock and disk, one history a seed.

    result = simulate(seed, application)        # raises Violation where what must hold does not

What a node is made of is real: all Raft cores (`cluster.groups`), partitions and mailboxes, the leader's
duties, the fate of commands. Its threads, its disk, the network and its clients are played by this package.
The same seed gives the same events, and so the same hash of its trace.
"""

from cluster.simulation.build import PRODUCTION as PRODUCTION
from cluster.simulation.build import Build as Build
from cluster.simulation.history import History as History
from cluster.simulation.history import Violation as Violation
from cluster.simulation.history import thin as thin
from cluster.simulation.kernel import Trace
from cluster.simulation.traffic import Application as Application
from cluster.simulation.world import Options as Options
from cluster.simulation.world import World as World


def simulate(
    seed: int,
    application: Application,
    options: Options | None = None,
    build: Build = PRODUCTION,
    trace: Trace | None = None,
) -> tuple[History, str]:
    """What happened, and the hash of the trace. Raises Violation; a core's own AssertionError."""
    world = World(seed, application, options, build, trace)
    return world.run(), world.kernel.digest()
