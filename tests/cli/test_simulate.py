"""`heliograph simulate`: what it prints, and that it fails where a law is broken."""

import json

from click.testing import CliRunner

from cli.main import main
from cluster.simulation import World
from cluster.simulation.history import Violation

SHORT = ["simulate", "--nodes", "3", "--minutes", "0.1"]


def run(*arguments):
    return CliRunner().invoke(main, [*SHORT, *arguments])


def test_one_history_is_summed_up(tmp_path):
    trace = tmp_path / "trace"
    said = run("--seed", "4", "--trace", str(trace))
    assert said.exit_code == 0, said.output
    assert "commits" in said.output and "trace" in said.output
    assert "all heals" in trace.read_text()


def test_the_same_seed_has_the_same_hash():
    one, other = (json.loads(run("--seed", "4", "--json").stdout) for _ in range(2))
    assert one == other
    assert one["seed"] == 4 and one["commits"] > 0 and one["broken"] == ""


def test_a_broken_law_is_told_with_the_way_to_see_it_again(monkeypatch):
    def broken(self):
        raise Violation("law 1", "something acknowledged is gone")

    monkeypatch.setattr(World, "run", broken)
    said = run("--seed", "4")
    assert said.exit_code == 1
    assert "something acknowledged is gone" in said.output
    assert "heliograph simulate --seed 4 --nodes 3 --minutes 0.1" in said.output


def test_several_histories():
    said = run("--seeds", "2", "--jobs", "1", "--json")
    told = json.loads(said.stdout)
    assert told["seeds"] == 2
    assert said.exit_code == (1 if told["failed"] else 0)
