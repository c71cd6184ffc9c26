"""The operator's commands as processes of their own, against real nodes: results, exit codes, words."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-c", "from cli.main import main; main(prog_name='heliograph')"]
PASSWORD = "correct horse battery\n"
FREE = ("--http", "127.0.0.1:0", "--admin", "127.0.0.1:0")
SETTINGS = ("storage.reserve_bytes=0", "storage.segment_bytes=1048576", "media.workers=1")
SMALL = tuple(word for setting in SETTINGS for word in ("--set", setting))


def environment():
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HELIOGRAPH_")}
    return {**clean, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def heliograph(*words, stdin="", cwd=None):
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(),
        cwd=cwd,
        timeout=60,
    )


def result(*words, stdin="", code=0):
    """The JSON that the command prints."""
    done = heliograph(*words, "--json", stdin=stdin)
    assert done.returncode == code, (done.returncode, done.stderr)
    return json.loads(done.stdout)


@contextmanager
def node(data, *words):
    """A node as `heliograph node run` starts it, until SIGTERM; then it must have ended well."""
    process = subprocess.Popen(
        [*COMMAND, "node", "run", "--data", str(data), *FREE, *SMALL, *words],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    log = []
    try:
        for line in process.stderr:
            log.append(line)
            if '"serving"' in line:
                break
        else:
            raise AssertionError(f"the node does not serve: {''.join(log)}")
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=30)
        assert process.returncode == 0, rest
        assert "Traceback" not in rest
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The data directory of a node that runs for the whole module."""
    data = tmp_path_factory.mktemp("served") / "node"
    with node(data):
        yield data


def test_help_is_quick_and_imports_little():
    program = (
        "import sys\nfrom cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment(), timeout=60
    )
    assert "dead-letters" in done.stdout
    assert not {"trio", "httpx", "quart", "lmdb", "rich", "PIL", "node"} & set(done.stderr.split())


def test_a_second_node_on_the_directory_says_so(served):
    done = heliograph("node", "run", "--data", served, *FREE)
    assert done.returncode == 1
    assert "in use by the node with process id" in done.stderr and "Traceback" not in done.stderr


def test_ends_that_are_the_worlds_fault_have_a_clear_word(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        done = heliograph(
            "node", "run", "--data", tmp_path / "a", "--http", "127.0.0.1:0", "--admin", at, *SMALL
        )
    assert done.returncode == 1 and f"cannot listen on {at}: Address already in use;" in done.stderr
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("mine")
    other = heliograph("node", "run", "--data", foreign, *FREE)
    assert other.returncode == 1 and "not a data directory" in other.stderr
    (tmp_path / "file").write_text("")
    third = heliograph("node", "run", "--data", tmp_path / "file", *FREE)
    assert third.returncode == 1 and "file" in third.stderr
    assert "Traceback" not in done.stderr + other.stderr + third.stderr


def test_a_damaged_journal_stops_the_start_and_is_found_by_check(tmp_path):
    data = tmp_path / "node"
    with node(data):
        pass
    segment = min((data / "journal").glob("*.log"))
    with open(segment, "r+b") as file:
        file.seek(4200)
        file.write(b"\xff\xff\xff\xff")
    done = heliograph("node", "run", "--data", data, *FREE, *SMALL)
    assert done.returncode == 1
    assert "the journal is damaged" in done.stderr and segment.name in done.stderr
    assert "Traceback" not in done.stderr
    found = heliograph("node", "check", "--data", data)
    assert found.returncode == 1 and segment.name in found.stderr


def test_a_damaged_shard_stops_the_start_and_is_found_by_check(tmp_path):
    whole = tmp_path / "whole"
    with node(whole):
        result("account", "create", "ada", "--password-stdin", "--data", whole, stdin=PASSWORD)

    def refused(name, damage):
        data = tmp_path / name
        shutil.copytree(whole, data)
        damage(data / "shards" / "01" / "data.mdb")
        for words in (("run", *FREE, *SMALL), ("check",), ("compact",)):
            done = heliograph("node", words[0], "--data", data, *words[1:])
            assert done.returncode == 1, words
            assert "data.mdb" in done.stderr or "shards/01" in done.stderr, done.stderr
            assert "Traceback" not in done.stderr

    refused("missing", lambda file: file.unlink())
    refused("empty", lambda file: file.write_bytes(b""))
    refused("short", lambda file: os.truncate(file, 8192))
    refused("foreign", lambda file: file.write_bytes(os.urandom(file.stat().st_size)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "http.prt=1"), "did you mean http.port?"),
        (("--set", "media.workers=many"), "media.workers"),
        (("--http", "8000"), "write HOST:PORT"),
        (("--http", "::1:8000"), "write HOST:PORT"),
        (("--config", "/nonexistent.toml"), "cannot be read"),
    ],
)
def test_bad_settings_exit_2(tmp_path, words, said):
    done = heliograph("node", "run", "--data", tmp_path / "node", *words)
    assert done.returncode == 2 and said in done.stderr
    assert not (tmp_path / "node").exists()


def test_an_interrupt_drains_and_a_restart_is_quick(tmp_path):
    with node(tmp_path / "node") as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    with node(tmp_path / "node"):
        assert result("node", "status", "--data", tmp_path / "node")["boots"] == 2


def test_console_logs_come_with_a_greeting(tmp_path):
    process = subprocess.Popen(
        [
            *COMMAND,
            "node",
            "run",
            "--data",
            str(tmp_path / "node"),
            *FREE,
            *SMALL,
            "--set",
            "logs.format=console",
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        said = ""
        for line in process.stderr:
            said += line
            if "Ctrl-C stops the node" in line:
                break
        assert "Heliograph is running" in said and "/docs" in said and "--url http://127.0.0.1:" in said
    finally:
        process.terminate()
        process.wait(30)
        process.stderr.close()


def test_status_of_a_running_node_and_none(served, tmp_path):
    status = result("node", "status", "--data", served)
    assert status["ready"] is True and status["partitions"] == 256
    assert "disk free" in heliograph("node", "status", "--data", served).stdout
    assert heliograph("node", "status", "--data", tmp_path).returncode == 5
    gone = heliograph("node", "status", "--data", served, "--admin", "http://127.0.0.1:1")
    assert gone.returncode == 5 and "does the node run?" in gone.stderr
    token = tmp_path / "token"
    token.write_text("not the token")
    assert heliograph("node", "status", "--data", served, "--token-file", token).returncode == 4


def test_accounts(served):
    data = ("--data", served)
    made = result("account", "create", "ada", "--password-stdin", *data, stdin=PASSWORD)
    assert made["username"] == "ada" and made["state"] == "active"
    again = heliograph("account", "create", "ADA", "--password-stdin", *data, stdin=PASSWORD)
    assert again.returncode == 1 and "username_taken" in again.stderr
    assert result("account", "show", "ada", *data)["id"] == made["id"]
    assert result("account", "show", "--id", made["id"], *data)["username"] == "ada"
    assert result("account", "role", "ada", "--role", "admin", *data)["role"] == "admin"
    assert result("account", "suspend", "ada", *data)["state"] == "suspended"
    assert result("account", "unsuspend", "ada", *data)["state"] == "active"
    assert (
        heliograph("account", "password", "ada", "--password-stdin", *data, stdin="short\n").returncode == 1
    )
    assert heliograph("account", "password", "ada", "--password-stdin", *data, stdin=PASSWORD).returncode == 0
    assert heliograph("account", "password", "ada", *data).returncode == 2  # no terminal to ask
    assert heliograph("account", "delete", "ada", *data).returncode == 2
    assert heliograph("account", "delete", "ada", "--yes", *data).returncode == 0
    assert heliograph("account", "show", "ada", *data).returncode == 3
    assert heliograph("account", "show", *data).returncode == 2
    assert heliograph("account", "show", "../../status", *data).returncode == 3


def test_dead_letters_media_and_keys(served):
    data = ("--data", served)
    assert result("dead-letters", "list", *data) == []
    assert "there are no dead letters" in heliograph("dead-letters", "list", *data).stderr
    assert heliograph("dead-letters", "show", "3:1", *data).returncode == 3
    assert heliograph("dead-letters", "retry", "3:1", *data).returncode == 3
    assert heliograph("dead-letters", "retry", *data).returncode == 2
    assert heliograph("dead-letters", "drop", "--all", *data).returncode == 0
    assert result("media", "failed", "list", *data) == []
    assert heliograph("media", "failed", "show", "12", *data).returncode == 3
    assert heliograph("media", "failed", "retry", "12", *data).returncode == 3
    first = result("keys", "rotate", *data)
    assert result("keys", "rotate", *data)["kid"] != first["kid"]


def test_settings_are_shown_and_checked(tmp_path):
    shown = {row["key"]: row for row in result("config", "show", "--set", "http.port=99")}
    assert (shown["http.port"]["value"], shown["http.port"]["source"]) == (99, "--set")
    toml = heliograph("config", "show", "--toml", "--set", "http.trusted_proxies=10.0.0.0/8")
    file = tmp_path / "node.toml"
    file.write_text(toml.stdout)
    assert heliograph("config", "check", "--config", file).returncode == 0
    (changed,) = result("config", "show", "--changed", "--config", file)
    assert changed["key"] == "http.trusted_proxies" and changed["value"] == ["10.0.0.0/8"]
    assert heliograph("config", "check", "--set", "http.tls_cert=x").returncode == 2


def test_backup_check_compact_and_restore(tmp_path):
    data, destination, secret = tmp_path / "node", tmp_path / "backups", tmp_path / "passphrase"
    secret.write_text("two words or more\n")
    phrase = ("--passphrase-file", secret)
    with node(data):
        result("account", "create", "ada", "--password-stdin", "--data", data, stdin=PASSWORD)
        made = result("backup", "create", destination, *phrase, "--data", data)
        assert Path(made["path"]).parent == destination and made["missing_count"] == 0
        for words in (("node", "check"), ("node", "compact")):
            running = heliograph(*words, "--data", data)
            assert running.returncode == 1 and "stop it first" in running.stderr
        assert heliograph("backup", "restore", destination, *phrase, "--data", data).returncode == 1
        again = heliograph("backup", "create", data / "inside", *phrase, "--data", data)
        assert again.returncode == 1 and "lies in the node's data" in again.stderr
    assert heliograph("backup", "create", destination, *phrase, "--data", data).returncode == 5
    assert result("backup", "verify", destination)["damage_count"] == 0
    assert [entry["path"] for entry in result("backup", "list", destination)] == [made["path"]]
    assert result("node", "check", "--data", data)["damage_count"] == 0
    assert result("node", "compact", "--data", data)["journal_after"] > 0
    restored = result("backup", "restore", made["path"], *phrase, "--data", tmp_path / "restored")
    assert restored["missing_count"] == 0
    with node(tmp_path / "restored"):
        assert result("account", "show", "ada", "--data", tmp_path / "restored")["username"] == "ada"
        status = result("node", "status", "--data", tmp_path / "restored")
        assert status["node_id"] == restored["node_id"]
    (Path(made["path"]) / "shards" / "00.mdb").write_bytes(b"")
    assert heliograph("backup", "verify", destination).returncode == 1
    assert heliograph("backup", "verify", tmp_path / "nothing").returncode == 1
