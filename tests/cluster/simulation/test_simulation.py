"""Histories of a cluster in virtual time: what must hold holds, and enough happened for that to mean much.

A history that fails is printed with the command that shows it again.
"""

import os
import subprocess
import sys

import pytest

from cluster.simulation.history import LEAST_PER_MINUTE, History, thin
from cluster.simulation.many import replay, run_many
from cluster.simulation.world import Options, World
from node.traffic import SocialApplication

SEEDS = range(300)
SECONDS = 60
PROCESSES = 2
# At least so many of each in all histories together: with less, they would prove little.
LEAST = History(
    commits=200_000, leaders=40_000, answered=50_000, refused=3_000, retried=15_000, forwarded=45_000,
    unsettled=250, unavailable=2_500, reads=8_000, messages=25_000, kills=2_500, cuts=2_200, storms=700,
    jumps=300, stalls=550, full=400, changes=30_000, transfers=12_000, snapshots=2_500, joins=1_000,
    removals=50, lost_disks=100, copies_refused=200, frames=5_000_000, events=9_000_000,
)  # fmt: skip


def test_what_must_hold_holds_whatever_happens():
    total, failed, little = History(), [], []
    options = Options(nodes=0, seconds=SECONDS)
    for result in run_many(SEEDS, SocialApplication, options, processes=PROCESSES):
        total.add(result.history)
        again = replay(result.seed, result.nodes, SECONDS)
        if result.detail:
            failed.append(f"seed {result.seed}: {result.detail}\n  {again}")
        elif lacks := thin(result.history, SECONDS):
            little.append(f"seed {result.seed}: {', '.join(lacks)}\n  {again}")
    print(total)
    assert not failed, "\n" + "\n".join(failed)
    assert not little, "too little happened:\n" + "\n".join(little)
    both = {name: (getattr(total, name), getattr(LEAST, name)) for name in LEAST.__struct_fields__}
    assert not {name: pair for name, pair in both.items() if pair[0] < pair[1]}, "too little happened"


DIGEST = (
    "from cluster.simulation.world import Options, World; from node.traffic import SocialApplication; "
    "world = World(7, SocialApplication(), Options(nodes=4, seconds=15)); world.run(); "
    "print(world.kernel.digest())"
)


def test_a_seed_is_one_history():
    """In another process too, in which sets and hashes have another order."""

    def digest(order):
        environment = {**os.environ, "PYTHONHASHSEED": order}
        done = subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    one = digest("1")
    assert one == digest("2")
    world = World(7, SocialApplication(), Options(nodes=4, seconds=15))
    world.run()
    assert world.kernel.digest() == one.strip()


def test_another_seed_is_another_history():
    digests = set()
    for seed in (1, 2):
        world = World(seed, SocialApplication(), Options(nodes=3, seconds=3))
        world.run()
        digests.add(world.kernel.digest())
    assert len(digests) == 2


def test_the_trace_says_what_happened():
    lines = []
    World(7, SocialApplication(), Options(nodes=3, seconds=8), trace=lines.append).run()
    text = "".join(lines)
    assert "n1 starts, boot 1" in text
    assert "leads 3 in term" in text
    assert "is answered" in text
    assert "all heals" in text


def test_a_history_in_which_little_happened_is_called_thin():
    little = thin(History(commits=5), 60)
    assert {said.split()[0] for said in little} == set(LEAST_PER_MINUTE)
    assert thin(History(commits=1000, leaders=100, answered=500, messages=500, kills=10), 60) == []


@pytest.mark.parametrize("nodes", [1, 2, 7])
def test_other_numbers_of_nodes(nodes):
    world = World(3, SocialApplication(), Options(nodes=nodes, seconds=20))
    assert world.run().commits > 50
    assert len(world.nodes) == nodes
