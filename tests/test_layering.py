"""Who may import whom, read from the source itself.

    cli ▶ node ▶ cluster ▶ storage          bench ▶ the public faces of all

An arrow reaches everything below it. Inside each layer the cores are pure: they take events and `now`, and
know neither clock nor chance, thread nor file. What a core imports of ours is therefore a core too.
"""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("storage", "cluster", "node", "cli", "bench")
REACHES = {  # which of our packages may be imported from each
    "storage": {"storage"},
    "cluster": {"cluster", "storage"},
    "node": {"node", "cluster", "storage"},
    "cli": {"cli", "node", "cluster", "storage"},
    "bench": set(LAYERS),
}
CORES = (
    *(f"storage/{name}.py" for name in ("ids", "keys", "entries", "places", "records", "rows", "memory")),
    *(
        f"cluster/{name}.py"
        for name in (
            *("attempts", "commands", "courier", "duties", "groups", "keys", "mailbox", "memory"),
            *("partition", "reports", "starts", "streams"),
        )
    ),
    "cluster/raft/*.py",
    *(f"cluster/copies/{name}.py" for name in ("copies", "rounds")),
    *(
        f"cluster/members/{name}.py"
        for name in ("alone", "clocks", "layout", "membership", "meta", "meta_rows", "reconcile", "ring")
    ),
    *(f"cluster/snapshots/{name}.py" for name in ("installing", "state_stream")),
    *(
        f"cluster/peers/{name}.py"
        for name in ("errors", "frames", "hello", "invitations", "messages", "strangers")
    ),
    "node/social/*.py",
    "node/feeds/*.py",
    *(f"node/web/{name}.py" for name in ("cluster_view", "ring")),
)
# Pure, but raise problems of the edge, or know the recipes of variants, which name files.
EDGE_CORES = ("node/http/limits.py", "node/http/cursors.py", "node/web/pictures.py")
SHELL_ONLY = {  # modules that bring in time, chance, threads, files or the network
    *("trio", "asyncio", "outcome", "threading", "queue", "concurrent", "multiprocessing", "subprocess"),
    *("time", "random", "secrets", "uuid", "socket", "ssl", "select", "selectors", "signal", "http"),
    *("os", "io", "pathlib", "shutil", "tempfile", "glob", "mmap", "fcntl", "locale", "platform", "urllib"),
    *("lmdb", "quart", "quart_trio", "hypercorn", "httpx", "structlog", "logging", "prometheus_client"),
    *("click", "rich", "argon2", "jwt", "PIL", "pillow_heif"),
}
NETWORK = {
    *("trio", "asyncio", "socket", "ssl", "select", "selectors", "http", "urllib", "httpx", "hypercorn"),
    *("quart", "quart_trio", "h2", "trio_websocket"),
}
CLOCKS = {"now", "utcnow", "today", "time", "time_ns", "monotonic", "perf_counter"}
IMPURE_CALLS = {"open", "input", "print", "id", "hash", "__import__"}
WEB = {"quart", "quart_trio", "hypercorn"}
FILE_LINES_MAX = 600
FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "manager", "common", "misc", "base"}


def sources(*patterns):
    found = {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}
    assert found or not patterns
    return sorted(path for path in found if "__pycache__" not in path)


SOURCES = sources(*(f"{layer}/**/*.py" for layer in LAYERS))
CORE_SOURCES = sources(*CORES)
TOLD = {"cluster/reports.py"}  # pure, but what it says is for people and enters no log
APPLIED = [
    path for path in CORE_SOURCES if path.startswith(("cluster/", "node/social/")) and path not in TOLD
]
TREES = {path: ast.parse((ROOT / path).read_text(), path) for path in SOURCES}


def imports(path):
    """(dotted module, line) of everything imported, inside functions too; relative ones made absolute.

    `from package import name` counts as `package.name` where that is a module of ours.
    """
    here = path.removesuffix(".py").split("/")
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(here[: -node.level]) + "." if node.level else ""
            module = (start + (node.module or "")).rstrip(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield (inner if module_path(inner) else module), node.lineno


def module_path(module):
    """The source file of a module of ours, or None."""
    path = module.replace(".", "/")
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if (ROOT / name).exists()), None)


def named(findings):
    return "\n" + "\n".join(findings)


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_follow_the_arrows(layer):
    wrong = [
        f"{path}:{line}: {layer} imports {module}"
        for path in SOURCES
        if path.startswith(layer + "/")
        for module, line in imports(path)
        if (package := module.split(".")[0]) in {*LAYERS, "tests"} and package not in REACHES[layer]
    ]
    assert not wrong, named(wrong)


def test_storage_knows_no_network():
    wrong = [
        f"{path}:{line}: imports {module}"
        for path in SOURCES
        if path.startswith("storage/")
        for module, line in imports(path)
        if module.split(".")[0] in NETWORK
    ]
    assert not wrong, named(wrong)


def test_lmdb_is_imported_by_the_shard_alone():
    users = {path for path in SOURCES for module, _ in imports(path) if module.split(".")[0] == "lmdb"}
    assert users - {path for path in users if path.startswith("bench/")} == {"storage/shard.py"}


def test_the_web_framework_stays_at_the_http_edge():
    wrong = [
        f"{path}:{line}: imports {module}"
        for path in SOURCES
        if not path.startswith(("node/http/", "bench/"))
        for module, line in imports(path)
        if module.split(".")[0] in WEB
    ]
    assert not wrong, named(wrong)


def test_the_social_data_is_below_feeds_media_and_http():
    """The state machine can be replicated without them."""
    wrong = [
        f"{path}:{line}: imports {module}"
        for path in SOURCES
        if path.startswith("node/social/")
        for module, line in imports(path)
        if module.startswith("node.") and not module.startswith("node.social")
    ]
    assert not wrong, named(wrong)


@pytest.mark.parametrize("path", CORE_SOURCES + sources(*EDGE_CORES))
def test_cores_are_pure(path):
    wrong = []
    for module, line in imports(path):
        package = module.split(".")[0]
        if package in SHELL_ONLY:
            wrong.append(f"{path}:{line}: a core imports {module}")
        elif path in CORE_SOURCES and package in LAYERS and module_path(module) not in CORE_SOURCES:
            wrong.append(f"{path}:{line}: a core imports {module}, which is none")
    for node in ast.walk(TREES[path]):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in IMPURE_CALLS:
            wrong.append(f"{path}:{node.lineno}: a core calls {called.id}()")
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            owner = called.value.id
            if called.attr == "urandom" or (owner in {"datetime", "date", "time"} and called.attr in CLOCKS):
                wrong.append(f"{path}:{node.lineno}: a core calls {owner}.{called.attr}()")
    assert not wrong, named(wrong)


@pytest.mark.parametrize("path", APPLIED)
def test_what_is_applied_uses_neither_float_nor_the_order_of_a_set(path):
    """Sets of bytes and texts iterate in another order in each process."""
    wrong = []
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.For | ast.comprehension) and isinstance(node.iter, ast.Set | ast.SetComp):
            wrong.append(f"{path}:{node.iter.lineno}: iterates over a set")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float":
            wrong.append(f"{path}:{node.lineno}: makes a float")
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            wrong.append(f"{path}:{node.lineno}: divides into a float")
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            wrong.append(f"{path}:{node.lineno}: has a float")
    assert not wrong, named(wrong)


def test_importing_the_cores_brings_in_no_shell():
    """The same, held against what really is imported."""
    modules = [path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in CORE_SOURCES]
    program = f"import sys\nfor name in {modules}: __import__(name)\nprint(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"trio", "lmdb", "quart", "hypercorn", "structlog", "httpx", "PIL"} & set(loaded)


@pytest.mark.parametrize("path", SOURCES + sources("tests/**/*.py"))
def test_files_are_small_and_say_what_they_are(path):
    text = (ROOT / path).read_text()
    assert text.count("\n") <= FILE_LINES_MAX, f"{path}: over {FILE_LINES_MAX} lines asks to be two ideas"
    if text.strip() and path in TREES:
        assert ast.get_docstring(ast.parse(text)), f"{path} does not begin with what it is and why"
    assert Path(path).stem not in FORBIDDEN_NAMES


def test_every_package_is_installed():
    """The list in setup.cfg is exact: a package left out works here and is missing elsewhere."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    listed = set(parser["options"]["packages"].split())
    assert listed == {path.rsplit("/", 1)[0].replace("/", ".") for path in SOURCES}
