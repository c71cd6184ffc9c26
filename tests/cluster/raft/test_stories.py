"""Stories in text, replayed: each file of `stories/` is one, each line a deed or an expectation.

    nodes 1 2 3 [learners 4] [blank 5]   who there is; blank: a replica without a configuration
    quiet_ticks 5                        a setting, before `nodes`
    campaign 1 · tick 3 [1 2] · propose 1 x y · read 1 42 · transfer 1 2 · compact 1 2
    add 1 4 · promote 1 4 · demote 1 3 · remove 1 3          asked of node 1
    cut 1 2 · isolate 1 · heal · crash 1 · start 1 · hold 1 · release 1    (hold: its disk does not sync)
    silent 1 2                           node 1 is told that it no longer hears node 2
    refused DEED                         the core refuses it

    leader 1 · role 2 follower · term 2 3 · commit 1 4 · state 1 x y · members 1 1 2 / 3 · quiet 1 2 · awake 3
    reads 1 42:4 · lost 1 42 · installs 3 1 · sent N                 (messages since the last `sent`)

After each deed all that moves comes to rest. `state` leaves out no-ops and configurations.
"""

from pathlib import Path

import msgspec
import pytest

from cluster.raft.effects import AddLearner, ChangeRefused, Demote, NotLeader, Overfull, Promote, Remove
from cluster.raft.messages import is_configuration
from tests.cluster.raft.cores import name, node, voters
from tests.cluster.raft.hamlet import SETTINGS, Hamlet

STORIES = sorted((Path(__file__).parent / "stories").glob("*.txt"))
CHANGES = {"add": AddLearner, "promote": Promote, "demote": Demote, "remove": Remove}


class Story:
    def __init__(self):
        self.settings = SETTINGS
        self.hamlet = None
        self.counted = 0

    def play(self, line):
        word, *rest = line.split()
        if word == "refused":
            with pytest.raises((NotLeader, ChangeRefused, Overfull)):
                self.play(" ".join(rest))
        elif word in msgspec.structs.asdict(self.settings):
            self.settings = msgspec.structs.replace(self.settings, **{word: int(rest[0])})
        elif word in CHANGES:
            self.hamlet.do(int(rest[0]), "change", CHANGES[word](node(int(rest[1]))))
            self.hamlet.settle()
        elif hasattr(self, "do_" + word):
            getattr(self, "do_" + word)(*rest)
            self.hamlet.settle()
        else:
            getattr(self, "expect_" + word)(*rest)

    # --- deeds ---
    def do_nodes(self, *words):
        groups, into = {"nodes": [], "learners": [], "blank": []}, "nodes"
        for word in words:
            if word in groups:
                into = word
            else:
                groups[into].append(int(word))
        self.hamlet = Hamlet(
            *groups["nodes"], learners=groups["learners"], blank=groups["blank"], settings=self.settings
        )

    def do_campaign(self, number):
        self.hamlet.do(int(number), "campaign")

    def do_tick(self, count, *numbers):
        self.hamlet.tick(int(count), *map(int, numbers))

    def do_propose(self, number, *entries):
        self.hamlet.do(int(number), "propose", [entry.encode() for entry in entries])

    def do_read(self, number, token):
        self.hamlet.do(int(number), "read", int(token))

    def do_transfer(self, number, target):
        self.hamlet.do(int(number), "transfer", node(int(target)))

    def do_compact(self, number, keep):
        self.hamlet.replicas[int(number)].commit_state()
        self.hamlet.replicas[int(number)].compact(int(keep))

    def do_cut(self, one, other):
        self.hamlet.cut(int(one), int(other))

    def do_isolate(self, number):
        self.hamlet.isolate(int(number))

    def do_heal(self):
        self.hamlet.heal()

    def do_crash(self, number):
        self.hamlet.crash(int(number))

    def do_start(self, number):
        self.hamlet.start(int(number))

    def do_hold(self, number):
        self.hamlet.held.add(int(number))

    def do_release(self, number):
        self.hamlet.held.discard(int(number))

    def do_silent(self, number, other):
        self.hamlet.do(int(number), "node_silent", node(int(other)))

    # --- expectations ---
    def expect_leader(self, number):
        leaders = [
            n for n, replica in self.hamlet.replicas.items() if replica.core and replica.core.leadership
        ]
        terms = {n: self.hamlet.core(n).term for n in leaders}
        assert leaders and max(terms, key=terms.get) == int(number), f"leaders and terms: {terms}"

    def expect_role(self, number, role):
        assert self.hamlet.core(int(number)).role.value == role

    def expect_term(self, number, term):
        assert self.hamlet.core(int(number)).term == int(term)

    def expect_commit(self, number, index):
        assert self.hamlet.core(int(number)).commit == int(index)

    def expect_state(self, number, *entries):
        state = [data.decode() for _, data in self.hamlet.replicas[int(number)].state
                 if data and not is_configuration(data)]  # fmt: skip
        assert state == list(entries)

    def expect_members(self, number, *words):
        at = words.index("/") if "/" in words else len(words)
        members = voters(*map(int, words[:at]), learners=tuple(map(int, words[at + 1 :])))
        assert self.hamlet.core(int(number)).configuration == members

    def expect_quiet(self, *numbers):
        assert [n for n, one in self.hamlet.replicas.items() if one.core and one.core.quiet] == [
            *map(int, numbers)
        ]

    def expect_awake(self, *numbers):
        assert not [number for number in map(int, numbers) if self.hamlet.core(number).quiet]

    def events(self, number, kind):
        return [value for who, what, value in self.hamlet.events if (who, what) == (int(number), kind)]

    def expect_reads(self, number, *reads):
        assert [f"{token}:{index}" for token, index in self.events(number, "read")] == list(reads)

    def expect_lost(self, number, *tokens):
        assert list(map(str, self.events(number, "read lost"))) == list(tokens)

    def expect_installs(self, number, count):
        assert len(self.events(number, "install")) == int(count)

    def expect_sent(self, count):
        sent, self.counted = len(self.hamlet.seen) - self.counted, len(self.hamlet.seen)
        kinds = (
            [f"{a}>{b} {type(message).__name__}" for a, b, message in self.hamlet.seen[-sent:]]
            if sent
            else []
        )
        assert sent == int(count), kinds


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_story(path):
    story = Story()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        try:
            story.play(line)
        except AssertionError as wrong:
            facts = {
                name(one.me): (one.core.role.value, one.core.term, one.core.commit, one.core.group.log.last)
                for one in story.hamlet.replicas.values()
                if one.core is not None
            }
            raise AssertionError(f"{path.name}:{number}: {line}: {wrong}\n{facts}") from wrong


def test_there_are_stories():
    assert len(STORIES) >= 8
