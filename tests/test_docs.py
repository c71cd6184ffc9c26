"""The documents tell the truth: links lead somewhere, examples run as printed, the codes are all there."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from node.http import problems
from tests.cli.live import environment, running

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
URL = "http://127.0.0.1:8000"
BETWEEN = "@@@"  # printed after each block, so that what each printed is known
needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="the examples are curl's")


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with running(tmp_path_factory.mktemp("node") / "data") as url:
        yield url


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    text = FENCE.sub("", document.read_text())
    for target in LINK.findall(text):
        if "://" not in target and not target.startswith("#"):
            assert (document.parent / target.partition("#")[0]).exists(), target


def test_the_table_of_problems_is_current():
    assert problems.table() in (ROOT / "docs" / "api.md").read_text()


@needs_curl
def test_the_session_of_the_readme(node, tmp_path):
    section = (ROOT / "README.md").read_text().partition("## A session with curl")[2].partition("\n## ")[0]
    fences = FENCE.findall(section)
    printed = iter(run_shell([text for kind, text in fences if kind == "sh"], node, tmp_path))
    got = next(printed)
    for kind, text in [*fences[1:], ("sh", "")]:
        if kind == "sh":
            assert got == "", "the README does not show what this prints"
            got = next(printed, "")
        else:
            assert plain(got) == plain(text)
            got = ""


@needs_curl
def test_the_examples_for_clients(node, tmp_path):
    fences = FENCE.findall((ROOT / "docs" / "api.md").read_text())
    printed = run_shell([text for kind, text in fences if kind == "sh"], node, tmp_path)
    assert printed[-1] == next(text for kind, text in fences if kind == "json")
    assert "problem" not in "".join(printed[:-1])
    names = {}
    for kind, text in fences:
        if kind == "python":
            exec(placed(text, node, tmp_path), names)
    assert names["captions"] == ["An album", "One #photo"]
    seen = {post["id"]: post for post in names["seen"].json()["posts"]}
    assert seen[names["photo_id"]]["liked_by_me"]
    names["http"].close()


def placed(text, url, folder):
    """An example for this machine: the node's URL, a folder of its own, the Python that runs the tests."""
    for here, there in (("/tmp/", f"{folder}/"), (URL, url), (".venv/bin/python", sys.executable)):
        text = text.replace(here, there)
    return text


def run_shell(blocks, url, folder):
    """What each block prints, run one after the other in one shell."""
    script = "set -euo pipefail\n" + f"echo {BETWEEN}\n".join(placed(block, url, folder) for block in blocks)
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, env=environment()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(f"{BETWEEN}\n")


def plain(text):
    """The text without what differs from run to run: ids, times, hashes, sizes, the picture's blur."""
    text = re.sub(r'"placeholder": "[^"]*"', '"placeholder": "…"', text)
    text = re.sub(r"\b[0-9a-f]{64}\b", "HASH", text)
    return re.sub(r"\d+", "N", text)


def test_what_differs_is_known():
    assert plain(json.dumps({"id": "12", "at": f"/media/{'0a' * 32}.webp"})) == (
        '{"id": "N", "at": "/media/HASH.webp"}'
    )
