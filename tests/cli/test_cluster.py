"""`heliograph cluster …` as processes of their own, against two nodes that a person made a cluster of."""

import json
import signal
import socket
import subprocess
import time

import pytest

from tests.cli.test_operator import COMMAND, FREE, SMALL, environment, heliograph, result

GROUPS = 257
WELL_S = 60.0


def peers():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return "--cluster", f"127.0.0.1:{listener.getsockname()[1]}"


def started(data, *words):
    """A node that serves; its log goes to a file, for nobody reads it to the end."""
    log = data.with_suffix(".log")
    command = [*COMMAND, "node", "run", "--data", str(data), *FREE, *SMALL, *words]
    with open(log, "w") as file:
        process = subprocess.Popen(command, stderr=file, env=environment())
    deadline = time.monotonic() + WELL_S
    while '"serving"' not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return process


def well(data, nodes):
    deadline = time.monotonic() + WELL_S
    while True:
        done = heliograph("cluster", "status", "--data", data, "--json")
        found = json.loads(done.stdout)
        if done.returncode == 0 and found["nodes"] == nodes:
            return found
        assert done.returncode in (0, 1) and time.monotonic() < deadline, found
        time.sleep(0.1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The directories of two nodes that run as a cluster for the whole module."""
    folder = tmp_path_factory.mktemp("pair")
    first, second = folder / "first", folder / "second"
    processes = [started(first, *peers())]
    try:
        alone = heliograph("cluster", "status", "--data", first)
        assert alone.returncode == 0 and "this node is alone" in alone.stdout
        refused = heliograph("cluster", "invite", "--data", first)
        assert refused.returncode == 1 and "cluster init" in refused.stderr
        made = result("cluster", "init", "--data", first)
        assert len(made["cluster_id"]) == 32
        again = heliograph("cluster", "init", "--data", first)
        assert again.returncode == 1 and "already" in again.stderr
        token = heliograph("cluster", "invite", "--data", first).stdout.strip()
        processes.append(started(second, *peers(), "--zone", "attic", "--join", token))
        well(first, 2)
        yield first, second
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(30)


def test_how_it_stands(pair):
    first, second = pair
    shown = heliograph("cluster", "status", "--data", second)
    assert shown.returncode == 0
    assert "2 of 2 heard" in shown.stdout and "this one" in shown.stdout and "all is well" in shown.stderr
    members = result("cluster", "members", "--data", first)["members"]
    assert [one["zone"] for one in sorted(members, key=lambda one: one["joined_at"])] == ["", "attic"]
    assert "attic" in heliograph("cluster", "members", "--data", first).stdout
    partitions = result("cluster", "partitions", "--data", second)["partitions"]
    assert len(partitions) == GROUPS and all(one["leader"] for one in partitions)
    assert "meta" in heliograph("cluster", "partitions", "--data", second).stdout


def test_settings_are_named_and_checked(pair):
    first, second = pair
    (setting,) = result("cluster", "settings", "get", "--data", first)
    assert (setting["name"], setting["value"], setting["default"]) == ("replication_factor", "3", "3")
    assert (
        heliograph("cluster", "settings", "set", "replication_factor", "5", "--data", second).returncode == 0
    )
    well(second, 2)
    assert result("cluster", "settings", "get", "replication_factor", "--data", second)[0]["value"] == "5"
    wrong = heliograph("cluster", "settings", "set", "replication_factor", "4", "--data", first)
    assert wrong.returncode == 1 and "1, 3, 5, 7" in wrong.stderr
    assert heliograph("cluster", "settings", "set", "colour", "red", "--data", first).returncode == 3
    assert heliograph("cluster", "settings", "get", "colour", "--data", first).returncode == 1
    assert heliograph("cluster", "settings", "set", "replication_factor", "", "--data", first).returncode == 0


def test_what_is_ordered(pair):
    first, second = pair
    for what in ("repair", "scrub"):
        assert result("cluster", what, "--data", second) == {"begun": 2, "unheard": []}
    compared = result("cluster", "digest", "--data", second)
    assert (compared["compared"], compared["replicas"], compared["different"]) == (GROUPS, 2, [])
    learner = max(result("cluster", "members", "--data", first)["members"], key=lambda one: one["joined_at"])
    refused = heliograph("cluster", "transfer", "7", learner["node_id"][:6], "--data", first)
    assert refused.returncode == 1 and "not another voter" in refused.stderr
    nobody = heliograph("cluster", "transfer", "--all", "zz", "--data", first)
    assert nobody.returncode == 1 and learner["address"] in nobody.stderr
    for words in (("transfer", "7"), ("transfer", "seven", "x"), ("transfer", "--all", "1", "x")):
        assert heliograph("cluster", *words, "--data", first).returncode == 2


def test_who_may_not_join(pair, tmp_path):
    wrong = heliograph("node", "run", "--data", tmp_path / "x", *FREE, *peers(), "--join", "abc")
    assert wrong.returncode == 1 and "an invitation begins with" in wrong.stderr
    assert not (tmp_path / "x").exists()


def test_a_port_in_use_costs_no_invitation(pair, tmp_path):
    first, _ = pair
    token = heliograph("cluster", "invite", "--data", first).stdout.strip()
    before = result("cluster", "members", "--data", first)["members"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        ports = ("--http", at, "--admin", "127.0.0.1:0")
        done = heliograph("node", "run", "--data", tmp_path / "x", *ports, *peers(), *SMALL, "--join", token)
    assert done.returncode == 1 and f"cannot listen on {at}" in done.stderr and "--cluster" in done.stderr
    after = result("cluster", "members", "--data", first)["members"]
    assert [one["node_id"] for one in after] == [one["node_id"] for one in before]


def test_the_majority_is_lost_for_ever(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    elder = started(first, *peers())
    result("cluster", "init", "--data", first)
    token = heliograph("cluster", "invite", "--data", first).stdout.strip()
    younger = started(second, *peers(), "--join", token)
    well(first, 2)
    for process in (elder, younger):
        process.kill()
        process.wait()
    told = heliograph("cluster", "recover", "--data", second)
    assert told.returncode == 0 and "nothing was changed" in told.stderr
    assert result("cluster", "recover", "--data", second)["needed"]
    done = heliograph("cluster", "recover", "--data", second, "--accept-data-loss")
    assert done.returncode == 0 and "1 members are revoked" in done.stderr
    alone = started(second, *peers())
    try:
        assert well(second, 1)["writes"] == "taken"
        told = heliograph("cluster", "recover", "--data", second)
        assert told.returncode == 1 and "stop it first" in told.stderr
    finally:
        alone.send_signal(signal.SIGTERM)
        alone.wait(30)
    told = heliograph("cluster", "recover", "--data", second)
    assert told.returncode == 0 and "nothing to recover from" in told.stderr


def test_a_revoked_node_ends_with_a_word_and_a_code(pair, tmp_path):
    first, _ = pair
    token = heliograph("cluster", "invite", "--data", first).stdout.strip()
    third = started(tmp_path / "third", *peers(), "--join", token)
    well(first, 3)
    members = result("cluster", "members", "--data", first)["members"]
    gone = max(members, key=lambda one: one["joined_at"])
    assert heliograph("cluster", "revoke", gone["address"], "--data", first).returncode == 0
    assert third.wait(30) == 4
    assert "was revoked" in (tmp_path / "third.log").read_text()
    well(first, 2)
