"""The client's commands against a real node, and against a wire that loses answers."""

import json
import os
import pty
import subprocess
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Thread

import httpx
import pytest

from cli import feed, post
from cli.drawings import landscape
from cli.network import post_id
from cli.output import called, printable
from tests.cli.live import HELIOGRAPH, Person, environment, running

NAMES = count()


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with running(tmp_path_factory.mktemp("node") / "data") as url:
        yield url


@pytest.fixture
def someone(node, tmp_path):
    """Signs a new person up."""

    def made():
        name = f"person{next(NAMES)}"
        person = Person(node, tmp_path / name)
        person.name = name
        return person.sign_up(name)

    return made


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "a [red] photo.jpg"
    path.write_bytes(landscape(1))
    return path


# --- signing in ----------------------------------------------------------------------------------------
def test_sign_up_and_sign_in(someone, node, tmp_path):
    first = someone()
    again = Person(node, tmp_path / "another machine")
    said = again.json("login", first.name, "--password-stdin", stdin="a good long one\n")
    assert said == {"url": node, "username": first.name, "user_id": first.kept["user_id"]}


def test_a_wrong_password_is_denied_and_keeps_nothing(someone, node, tmp_path):
    stranger = Person(node, tmp_path / "stranger")
    result = stranger.type("login", someone().name, "--password-stdin", stdin="not that one\n", code=4)
    assert "wrong_credentials" in result.stderr
    assert not stranger.file.exists()


def test_a_taken_name_is_one_clear_line(someone, node, tmp_path):
    name = someone().name
    result = Person(node, tmp_path / "late").type(
        "login", name, "--sign-up", "--password-stdin", stdin="another good one\n", code=1
    )
    assert "username_taken" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "stdin", "missing"),
    [
        (["login", "ada"], "secret secret\n", "--password-stdin"),
        (["login", "--password-stdin"], "secret secret\n", "USERNAME"),
        (["login", "ada", "--password-stdin"], "", "no password"),
        (["login", "ada", "--display-name", "Ada", "--password-stdin"], "secret secret\n", "--sign-up"),
    ],
)
def test_what_sign_in_lacks_is_wrong_usage(node, tmp_path, words, stdin, missing):
    assert missing in Person(node, tmp_path / "home").type(*words, stdin=stdin, code=2).stderr


def test_a_password_is_asked_for_unseen(node, tmp_path):
    parent, child = pty.openpty()
    env = environment(HELIOGRAPH_HOME=str(tmp_path / "home"), HELIOGRAPH_URL=node)
    words = [*HELIOGRAPH, "login", "typist", "--sign-up"]
    process = subprocess.Popen(
        words, stdin=child, stdout=child, stderr=child, env=env, start_new_session=True
    )
    os.close(child)
    screen = b""
    for awaited in (b"Password: ", b"confirmation: "):
        while not screen.endswith(awaited):
            screen += os.read(parent, 1024)
        os.write(parent, b"secret secret\n")
    while b"signed in as typist" not in screen:
        screen += os.read(parent, 1024)
    assert process.wait(30) == 0
    os.close(parent)
    assert b"secret" not in screen


def test_no_sign_in_says_how(node, tmp_path):
    result = Person(node, tmp_path / "home").type("feed", code=4)
    assert f"heliograph login --url {node}" in result.stderr


def test_signing_out_ends_the_session(someone, node):
    person = someone()
    token = person.kept["access_token"]
    person.type("logout")
    answer = httpx.get(f"{node}/v1/users/me", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    person.type("feed", code=4)


# --- tokens --------------------------------------------------------------------------------------------
def test_an_access_token_that_ends_is_refreshed(someone):
    person = someone()
    before = person.kept
    person.alter(expires_at=0)
    person.type("feed")
    assert person.kept["refresh_token"] != before["refresh_token"]
    assert person.kept["expires_at"] > 0
    assert person.file.stat().st_mode & 0o777 == 0o600


def test_an_access_token_that_is_refused_is_refreshed(someone, photo):
    person = someone()
    person.alter(access_token="nonsense")
    assert person.type("post", photo).stdout.startswith(person.url)
    assert person.kept["access_token"] != "nonsense"


def test_a_session_that_ended_is_forgotten(someone):
    person = someone()
    headers = {"Authorization": f"Bearer {person.kept['access_token']}"}
    httpx.delete(f"{person.url}/v1/sessions", headers=headers).raise_for_status()
    assert "has ended" in person.type("feed", code=4).stderr
    assert person.url not in json.loads(person.file.read_text())["by_url"]


# --- posts, feeds and the rest -------------------------------------------------------------------------
def test_a_photo_and_an_album(someone, photo):
    person = someone()
    link = person.type("post", photo, "--caption", "One #first", "--alt", "Hills").stdout.strip()
    album = person.json("post", photo, photo, "--caption", "Two", "--alt", "left", "--location", "there")
    found = httpx.get(link).json()
    assert (found["caption"], found["media"][0]["alt"], found["upload_status"]) == (
        "One #first",
        "Hills",
        "complete",
    )
    assert [medium["alt"] for medium in album["media"]] == ["left", ""]
    assert (album["location"], album["upload_status"]) == ("there", "complete")
    assert [one["id"] for one in person.json("feed")["posts"]] == [album["id"], found["id"]]


def test_following_shows_what_one_follows(someone, photo):
    author, reader = someone(), someone()
    posted = author.json("post", photo, "--caption", "Seen from here")
    reader.type("follow", f"@{author.name}")
    shown = reader.type("feed").stdout
    assert author.name in shown and "Seen from here" in shown and f"/v1/posts/{posted['id']}" in shown
    reader.type("unfollow", author.name)
    assert "follow somebody" in reader.type("feed").stderr


def test_asking_a_private_account(someone):
    author, reader = someone(), someone()
    headers = {"Authorization": f"Bearer {author.kept['access_token']}"}
    httpx.patch(f"{author.url}/v1/users/me", json={"private": True}, headers=headers).raise_for_status()
    assert "was asked" in reader.type("follow", author.name).stderr
    assert reader.json("follow", author.name) == {"status": "REQUESTED"}


def test_likes_and_comments(someone, photo):
    author, reader = someone(), someone()
    link = author.type("post", photo).stdout.strip()
    assert reader.json("like", link) == {"like_count": 1, "liked_by_me": True}
    assert reader.json("comment", post_id(link), "What a light.")["text"] == "What a light."
    seen = author.json("feed")["posts"][0]
    assert (seen["like_count"], seen["comment_count"]) == (1, 1)
    assert "1 like · 1 comment" in author.type("feed").stdout
    assert reader.json("unlike", link) == {"like_count": 0, "liked_by_me": False}


def test_a_feed_longer_than_a_page(someone, photo, monkeypatch):
    person = someone()
    posted = [person.json("post", photo)["id"] for _ in range(4)]
    monkeypatch.setattr(feed, "PAGE_MAX", 2)
    first = person.json("feed", "--limit", 3)
    assert [one["id"] for one in first["posts"]] == posted[:0:-1]
    rest = person.json("feed", "--cursor", first["next_cursor"])
    assert ([one["id"] for one in rest["posts"]], rest["next_cursor"]) == (posted[:1], None)


def test_words_of_others_are_only_words(someone, photo):
    person = someone()
    person.type("post", photo, "--caption", "\x1b[2Jgone [bold]not bold[/bold]\x07\u202edesrever")
    shown = person.type("feed").stdout
    assert "·[2Jgone [bold]not bold[/bold]··desrever" in shown


def test_a_bar_of_bytes_on_a_terminal_and_only_the_link_on_stdout(someone, photo):
    person = someone()
    parent, child = pty.openpty()
    env = environment(
        HELIOGRAPH_HOME=str(person.home), HELIOGRAPH_URL=person.url, TERM="xterm", COLUMNS="100"
    )
    words = [*HELIOGRAPH, "post", str(photo)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=child, env=env)
    os.close(child)
    screen = b""
    try:
        while part := os.read(parent, 4096):
            screen += part
    except OSError:  # how Linux says that nobody holds the other end
        pass
    stdout = process.communicate(timeout=30)[0].decode()
    os.close(parent)
    assert process.returncode == 0, screen
    assert stdout.splitlines() == [f"{person.url}/v1/posts/{post_id(stdout.strip())}"]
    size = f"{photo.stat().st_size / 1000:.1f}"
    assert f"{size}/{size} kB".encode() in screen
    assert b"a [red] photo.jpg" in screen


# --- what goes wrong -----------------------------------------------------------------------------------
@pytest.mark.parametrize("words", [["follow", "nobody.here"], ["like", "12"], ["comment", "12", "well"]])
def test_what_is_not_there_is_named(someone, words):
    said = someone().type(*words, code=3).stderr
    assert "(not_found)" in said and words[1] in said


@pytest.mark.parametrize("words", [["like", "a/b"], ["like", "-1"], ["feed", "--limit", "0"], ["post"]])
def test_wrong_usage(someone, words):
    someone().type(*words, code=2)


def test_what_is_no_photo(someone, tmp_path):
    (tmp_path / "page.jpg").write_text("<html>")
    person = someone()
    assert "JPEG, PNG" in person.type("post", tmp_path / "page.jpg", code=1).stderr
    assert "No such file" in person.type("post", tmp_path / "absent.jpg", code=1).stderr
    assert "at most 10" in person.type("post", *[tmp_path / "page.jpg"] * 11, code=2).stderr
    assert "--alt" in person.type("post", tmp_path / "page.jpg", *["--alt", "x"] * 2, code=2).stderr


def test_a_photo_that_cannot_be_decoded(someone, tmp_path, photo):
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(photo.read_bytes()[:2000])
    person = someone()
    assert "damaged or cut short" in person.type("post", cut, code=1).stderr
    assert "damaged or cut short" in person.type("post", photo, cut, code=1).stderr


def test_a_photo_that_is_too_large_is_named(someone, tmp_path):
    large = tmp_path / "large.jpg"
    large.write_bytes(landscape(1) + bytes(9 << 20))
    person = someone()
    assert "(too_large)" in person.type("post", large, code=1).stderr
    refused = person.type("post", large, large, code=1).stderr
    assert "(too_large)" in refused and "large.jpg" in refused


def test_nobody_there(tmp_path):
    person = Person("http://127.0.0.1:1", tmp_path / "home")
    result = person.type("login", "ada", "--password-stdin", stdin="secret secret\n", code=5)
    assert "no answer from http://127.0.0.1:1" in result.stderr


@pytest.mark.parametrize("url", ["ftp://example.com", "http://[::1", "http://a.example:eighty"])
def test_what_is_no_url(tmp_path, url):
    person = Person(url, tmp_path / "home")
    assert url in person.type("login", "ada", "--password-stdin", stdin="secret secret\n", code=2).stderr


def test_posts_by_id_and_by_link():
    assert post_id("http://a.example/v1/posts/12/") == post_id("12") == "12"


@pytest.mark.parametrize(
    ("age", "words"),
    [(0, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7199, "1 h ago"), (6 * 86400, "6 d ago")],
)
def test_how_long_ago(age, words):
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert feed.ago((now - timedelta(seconds=age)).isoformat(), now) == words


def test_long_ago_is_a_date():
    now = datetime(2026, 3, 10, 12, tzinfo=UTC)
    assert feed.ago("2026-03-01T12:00:00.000Z", now) == "2026-03-01"


def test_what_a_person_can_type_again(tmp_path, monkeypatch):
    program = tmp_path / "place" / "bin" / "heliograph"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(program)])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert called() == "place/bin/heliograph"
    monkeypatch.chdir("/")
    assert called() == str(program.relative_to("/"))
    monkeypatch.chdir(tmp_path / "place")
    assert called() == "bin/heliograph"
    monkeypatch.setenv("PATH", str(program.parent))
    assert called() == "heliograph"


def test_joined_letters_stay_joined():
    assert (
        printable("\U0001f468\u200d\U0001f469 می\u200cخواهم\x9b\u202e")
        == "\U0001f468\u200d\U0001f469 می\u200cخواهم··"
    )


# --- a wire that loses answers -------------------------------------------------------------------------
class Wire:
    """A server that answers from a script: (status, body) per request; None hangs up without an answer."""

    def __init__(self, script):
        self.seen = []
        self.watch = lambda: None
        wire, steps = self, iter(script)

        class Answer(BaseHTTPRequestHandler):
            def answer(self):
                length = int(self.headers.get("Content-Length", 0))
                wire.seen.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
                wire.watch()
                step = next(steps)
                if step is None:
                    self.close_connection = True
                    return
                status, body = step
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def wired(script, tmp_path, **sign_in):
    """A person signed in at a `Wire`."""
    wire = Wire(script)
    thread = Thread(target=wire.server.serve_forever, args=(0.01,))
    thread.start()
    person = Person(wire.url, tmp_path / "home")
    person.home.mkdir()
    kept = {"username": "ada", "user_id": "1", "access_token": "a", "refresh_token": "r", "expires_at": 9e9}
    person.file.write_text(json.dumps({"url": wire.url, "by_url": {wire.url: {**kept, **sign_in}}}))
    try:
        yield wire, person
    finally:
        wire.server.shutdown()
        thread.join()
        wire.server.server_close()


def test_a_lost_answer_is_asked_for_again_under_the_same_key(tmp_path):
    liked = {"like_count": 1, "liked_by_me": True}
    with wired([None, (200, liked)], tmp_path) as (wire, person):
        assert person.json("like", "12") == liked
    keys = {headers["Idempotency-Key"] for _, _, headers, _ in wire.seen}
    assert len(wire.seen) == 2 and len(keys) == 1


def test_a_photo_whose_answer_was_lost_is_sent_whole_again(tmp_path, photo):
    made = {
        "id": "12", "user": {"id": "1", "username": "ada"}, "caption": "", "location": "", "media": [],
        "photo_url": None, "upload_status": "complete", "failure": None, "like_count": 0, "comment_count": 0,
        "liked_by_me": False, "published_at": None,
    }  # fmt: skip
    with wired([None, (201, {"photo_id": "12"}), (200, made)], tmp_path) as (wire, person):
        person.type("post", photo)
    assert all(photo.read_bytes() in body for _, _, _, body in wire.seen[:2])


def test_answers_lost_twice_are_unreachable(tmp_path):
    with wired([None, None], tmp_path) as (wire, person):
        person.type("like", "12", code=5)
    assert len(wire.seen) == 2


def test_a_new_pair_is_kept_before_it_is_used(tmp_path):
    pair = {"access_token": "b", "refresh_token": "s", "token_type": "Bearer", "expires_in": 900}
    page = {"posts": [], "next_cursor": None}
    with wired([(200, pair), (200, page)], tmp_path, expires_at=0) as (wire, person):
        held = []
        wire.watch = lambda: held.append(person.kept["refresh_token"])
        person.type("feed")
    assert held == ["r", "s"]
    assert wire.seen[1][2]["Authorization"] == "Bearer b"


def test_what_is_no_node(tmp_path):
    with wired([(200, ["something", "else"])], tmp_path) as (_, person):
        assert "does not answer like" in person.type("feed", code=1).stderr


def test_blocks_can_be_sent_again(photo):
    moved = []
    with photo.open("rb") as file:
        blocks = post.Blocks(post.Sent(file, moved.append))
        assert b"".join(blocks) == b"".join(blocks) == photo.read_bytes()
    assert max(moved) == photo.stat().st_size
