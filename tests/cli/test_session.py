"""Sign-ins on disk: who may read them, which node they belong to, where they lie."""

import stat

import pytest

from cli.output import Failure
from cli.session import DEFAULT_URL, Home, SignIn, find_home, find_url

ADA = SignIn("ada", "1", "access", "refresh", 100.0)
BOB = SignIn("bob", "2", "access 2", "refresh 2", 200.0)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "deep" / "home")


def keep(home, *arguments, **options):
    with home.locked():
        home.keep(*arguments, **options)


def test_nothing_is_kept_at_first(home):
    assert home.load().by_url == {}


def test_only_the_owner_may_read(home, tmp_path):
    keep(home, "http://a", ADA)
    folder = tmp_path / "deep" / "home"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "sign-ins.json").stat().st_mode) == 0o600


def test_one_sign_in_per_node(home):
    keep(home, "http://a", ADA, current=True)
    keep(home, "http://b", BOB)
    kept = home.load()
    assert kept.by_url == {"http://a": ADA, "http://b": BOB}
    assert kept.url == "http://a"


def test_forgetting_takes_one(home):
    keep(home, "http://a", ADA, current=True)
    keep(home, "http://b", BOB)
    with home.locked():
        home.forget("http://a")
    assert home.load().by_url == {"http://b": BOB}


def test_a_damaged_file_is_named(home, tmp_path):
    keep(home, "http://a", ADA)
    path = tmp_path / "deep" / "home" / "sign-ins.json"
    path.write_text("{")
    with pytest.raises(Failure, match=str(path)):
        home.load()


def test_a_home_that_cannot_be_made_is_a_failure(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match="no sign-in can be kept"), Home(tmp_path / "file" / "home").locked():
        pass


def test_where_the_home_is(monkeypatch, tmp_path):
    def kept_below(folder):
        keep(find_home(), "http://a", ADA)
        return (folder / "sign-ins.json").exists()

    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.delenv("HELIOGRAPH_HOME", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert kept_below(tmp_path / "user" / ".config" / "heliograph")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert kept_below(tmp_path / "xdg" / "heliograph")
    monkeypatch.setenv("HELIOGRAPH_HOME", str(tmp_path / "own"))
    assert kept_below(tmp_path / "own")


def test_which_node_is_meant(monkeypatch, home):
    monkeypatch.delenv("HELIOGRAPH_URL", raising=False)
    assert find_url(None, home) == DEFAULT_URL
    keep(home, "http://a", ADA, current=True)
    assert find_url(None, home) == "http://a"
    monkeypatch.setenv("HELIOGRAPH_URL", "http://b/")
    assert find_url(None, home) == "http://b"
    assert find_url("c.example:8000", home) == "http://c.example:8000"
