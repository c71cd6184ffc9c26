"""Stories: what happens to a cluster, told line by line and played in virtual time.

    run 5           seconds
    kill n1         and `start n1`; `lose n1`: its disk is gone, another comes; `copy n1`: a copy comes up
    cut n1 [n2]     from all, or from one; `mute n1`: nobody hears it, but it hears all; `join`: all cuts end
    full n1         its disk has no room; `room n1`
    still n1 3      it stands still for so many seconds
    leads           who leads partition 0 is called `leader` from here on
    answered        more commands were answered since this was asked last; `unanswered`: none was
    snapshots       some were installed since this was asked last
    away n1         it is a member no more

At the end of each all heals, comes to rest, and the laws are held against what is there.
"""

import pytest

from cluster.simulation.ending import Ending
from cluster.simulation.faults import CALM
from cluster.simulation.kernel import MS, SECOND
from cluster.simulation.world import Options, World
from node.traffic import SocialApplication

STORIES = {
    "one node grows to three": """
        run 8
        answered
    """,
    "the leader dies and comes back": """
        run 8
        leads
        kill leader
        run 4
        answered
        start leader
        run 2
        answered
    """,
    "without a majority nothing is written, and with one all is again": """
        run 8
        kill n2
        kill n3
        run 1
        answered
        run 3
        unanswered
        start n3
        run 4
        answered
    """,
    "who was away for long is brought up by snapshots": """
        run 8
        kill n3
        run 40
        snapshots
        start n3
        run 6
        snapshots
    """,
    "a leader that nobody hears is replaced": """
        run 8
        leads
        mute leader
        run 4
        answered
        join
        run 3
        answered
    """,
    "a leader that hears nobody gives up, and takes no reads": """
        run 8
        leads
        cut leader
        run 4
        answered
        join
    """,
    "a node that stood still does not know what it missed": """
        run 8
        leads
        still leader 3
        run 6
        answered
    """,
    "a full disk refuses writes, and holds up nobody else's": """
        run 8
        leads
        full leader
        run 6
        room leader
        run 3
        answered
    """,
    "a lost disk comes back as another node": """
        nodes 4
        run 12
        lose n2
        run 12
        away n2
        answered
    """,
    "a copy of a disk is refused": """
        nodes 4
        run 12
        copy n2
        run 8
        refused
        answered
    """,
}


class Story:
    def __init__(self, text):
        lines = [line.split() for line in text.strip().splitlines()]
        nodes = int(lines.pop(0)[1]) if lines[0][0] == "nodes" else 3
        options = Options(nodes=nodes, seconds=0, clients=8, pause_ms=150, climate=CALM)
        self.world = World(1, SocialApplication(), options)
        self.lines = lines
        self.leader = None
        self.seen = {}

    def play(self):
        for word, *rest in self.lines:
            getattr(self, word)(*rest)
        self.world.heal()
        Ending(self.world).settle()

    def node(self, name):
        if name == "leader":
            return self.leader
        return next(one for one in self.world.nodes + self.world.lost if repr(one) == name)

    def since(self, name):
        before, now = self.seen.get(name, 0), getattr(self.world.history, name)
        self.seen[name] = now
        return now - before

    # --- what happens ---
    def run(self, seconds):
        self.world.kernel.run_until(self.world.kernel.now + int(seconds) * SECOND)

    def kill(self, name):
        self.world.kill(self.node(name))

    def start(self, name):
        self.node(name).start()

    def lose(self, name):
        assert self.world.operators.may_lose()
        self.world.operators.replace(self.node(name), kill=True)

    def copy(self, name):
        assert self.world.operators.may_lose()
        self.world.operators.copy(self.node(name))

    def cut(self, name):
        self.mute(name)
        me = self.node(name).number
        self.world.network.cuts |= {(one.number, me) for one in self.world.nodes if one.number != me}

    def mute(self, name):
        me = self.node(name).number
        self.world.network.cuts |= {(me, one.number) for one in self.world.nodes if one.number != me}

    def join(self):
        self.world.network.cuts.clear()

    def full(self, name):
        self.node(name).disk.journal.disk_full = True

    def room(self, name):
        self.node(name).disk.journal.disk_full = False

    def still(self, name, seconds):
        self.node(name).stalled_until = self.world.kernel.now + int(seconds) * 1000 * MS

    # --- what is so ---
    def leads(self):
        (self.leader,) = [one for one in self.world.nodes if one.service.leads(0)]

    def answered(self):
        assert self.since("answered") > 0

    def unanswered(self):
        assert self.since("answered") == 0

    def snapshots(self):
        first = "snapshots" not in self.seen
        assert self.since("snapshots") > 0 or first

    def refused(self):
        assert self.since("copies_refused") > 0

    def away(self, name):
        assert self.node(name) in self.world.lost
        assert len(self.world.nodes) == self.world.options.nodes


@pytest.mark.parametrize("name", STORIES)
def test_story(name):
    Story(STORIES[name]).play()
