"""The demo as a person starts it: twelve people, their pictures, an end that leaves nothing behind."""

import json
import os
import signal
import socket
import subprocess

import httpx
import pytest

from cli.demo import PASSWORD, PEOPLE, drawn, found_in
from cli.drawings import SIZES, landscape
from node.media.probe import JPEG, sniff
from tests.cli.live import HELIOGRAPH, environment


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a_bridge.jpg").write_bytes(landscape(0))
    (folder / "cut.JPG").write_bytes(landscape(1)[:5000])
    (folder / "page.png").write_text("<html>")
    (folder / "the hills.jpeg").write_bytes(landscape(2))
    (folder / "words.txt").write_text("not a photo")
    return folder


@pytest.fixture
def temporary(tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def start(temporary, *words):
    return subprocess.Popen(
        [*HELIOGRAPH, "demo", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(TMPDIR=str(temporary)),
    )


def until(stream, last):
    """The stream's text up to the line `last`."""
    lines = []
    for line in stream:
        lines.append(line)
        if line.rstrip() == last:
            break
    return "".join(lines)


def test_twelve_people_until_ctrl_c(photos, temporary):
    process = start(temporary, "--photos", photos, "--http", "127.0.0.1:0", "--json")
    try:
        made = json.loads(until(process.stdout, "}"))
        assert [one["username"] for one in made["people"]] == list(PEOPLE)
        assert made["posts"] == 2
        with httpx.Client(base_url=made["url"]) as client:
            for post in published(client, made["people"]):
                assert post["upload_status"] == "complete"
                assert post["like_count"] >= 2
                assert post["media"][0]["alt"] in ("a bridge", "the hills")
        assert len(list(temporary.iterdir())) == 1
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, told
    assert "left out: cut: " in told and "left out: page: " in told and "Traceback" not in told
    assert list(temporary.iterdir()) == []


def published(client, people):
    """All posts, as one of the twelve finds them in the feed and the grids."""
    wanted = {"username": people[0]["username"], "password": PASSWORD}
    token = client.post("/v1/sessions", json=wanted).raise_for_status().json()["access_token"]
    feed = client.get("/v1/feed", headers={"Authorization": f"Bearer {token}"}).json()["posts"]
    grids = [post for one in people for post in client.get(f"/v1/users/{one['id']}/photos").json()["photos"]]
    assert {post["id"] for post in feed} <= {post["id"] for post in grids}
    assert len(grids) == 2
    return grids


def test_three_nodes_of_which_one_is_killed(photos, temporary):
    process = start(temporary, "--photos", photos, "--nodes", 3, "--http", "127.0.0.1:0", "--json")
    try:
        made = json.loads(until(process.stdout, "}"))
        nodes = made["nodes"]
        assert len(nodes) == 3 and made["posts"] == 2
        os.kill(nodes[2]["pid"], signal.SIGKILL)
        for node in nodes[:2]:
            with httpx.Client(base_url=node["url"]) as client:
                for post in published(client, made["people"]):
                    assert post["upload_status"] == "complete"
                    assert client.get(post["photo_url"]).status_code == 200
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, told
    assert "Traceback" not in told and list(temporary.iterdir()) == []
    for node in nodes:
        with pytest.raises(ProcessLookupError):
            os.kill(node["pid"], 0)


def test_a_port_in_use_is_one_clear_line(photos, temporary):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start(temporary, "--photos", photos, "--http", f"127.0.0.1:{taken.getsockname()[1]}")
        _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "in use" in told and "--http" in told and len(told.splitlines()) == 1
    assert list(temporary.iterdir()) == []


def test_a_cluster_of_which_one_port_is_in_use_says_so_and_starts_nothing(photos, temporary):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(temporary, "--photos", photos, "--nodes", 3, "--http", f"127.0.0.1:{port - 1}")
        _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "in use" in told and "--http names others" in told and "Traceback" not in told
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("words", [["--http", "nowhere"], ["--http", "127.0.0.1:http"]])
def test_what_is_no_address(temporary, words):
    process = start(temporary, *words)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 2 and "--http" in told


def test_a_folder_without_photographs(temporary):
    process = start(temporary, "--photos", temporary)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 2 and "no photographs" in told


def test_the_photographs_of_a_folder(photos):
    pictures = found_in(photos)
    assert [picture.title for picture in pictures] == ["a bridge", "cut", "page", "the hills"]
    assert pictures[0].read() == landscape(0)


def test_drawn_pictures_are_many_and_the_same_each_time():
    pictures = drawn()
    assert len(pictures) == 24
    picture = pictures[len(SIZES)].read()
    assert picture == landscape(len(SIZES))
    assert picture != pictures[0].read()
    assert sniff(picture) == JPEG
