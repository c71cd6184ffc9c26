"""Settings: where a value comes from, and what is said of one that cannot be used."""

import re
from pathlib import Path

import pytest

from node import settings
from node.settings import SettingsError, load


def test_everything_has_a_default_and_a_meaning():
    rows = settings.describe(load(environment={}))
    assert len(rows) > 40
    for row in rows:
        assert row.source == "default"
        assert row.value == row.default
        assert len(row.meaning) > 10
        unit = row.key.rpartition("_")[2]
        if unit in ("s", "bytes", "ms"):
            assert any(word in row.meaning for word in ("second", "byte", "address space")), row


def test_every_setting_is_read_by_somebody():
    readers = [file for file in Path(settings.__file__).parent.rglob("*.py") if file.name != "settings.py"]
    words = set(re.findall(r"\w+", "\n".join(file.read_text() for file in readers)))
    names = {row.key.partition(".")[2] for row in settings.describe(load(environment={}))}
    # Limits are looked up by name: reads_count and reads_window_s for the limit `reads`.
    looked_up = re.compile("(sign_up|sign_in|writes|uploads|reads)_(count|window_s)")
    unread = {name for name in names if name not in words and not looked_up.fullmatch(name)}
    assert not unread


def test_flag_beats_environment_beats_file_beats_default(tmp_path):
    file = tmp_path / "node.toml"
    file.write_text("[http]\nport = 1\nidle_s = 3\nhost = '::1'\n")
    env = {
        "HELIOGRAPH_HTTP_PORT": "2",
        "HELIOGRAPH_HTTP_IDLE_S": "4",
        "OTHER": "x",
        "HELIOGRAPH_URL": "http://a",
    }
    found = load(config=file, environment=env, flags=["http.port=3"])
    assert (found.http.port, found.http.idle_s, found.http.host) == (3, 4.0, "::1")
    rows = {row.key: row.source for row in settings.describe(found)}
    assert rows["http.port"] == "--set"
    assert rows["http.idle_s"] == "HELIOGRAPH_HTTP_IDLE_S"
    assert rows["http.host"] == str(file)
    assert rows["http.graceful_s"] == "default"


def test_lists_are_written_with_commas_or_in_toml(tmp_path):
    found = load(environment={"HELIOGRAPH_HTTP_TRUSTED_PROXIES": "10.0.0.0/8, ::1"})
    assert found.http.trusted_proxies == ("10.0.0.0/8", "::1")
    file = tmp_path / "node.toml"
    file.write_text('[http]\ncors_origins = ["https://a.example"]\n')
    assert load(environment={}, config=file).http.cors_origins == ("https://a.example",)


@pytest.mark.parametrize(
    "flag, words",
    [
        ("http.port=70000", ["http.port", "70000", "--set", "65535", "8000"]),
        ("http.port=many", ["http.port", "many", "int"]),
        ("http.idle_s=soon", ["http.idle_s", "soon", "seconds"]),
        ("http.prot=1", ["http.prot", "http.port"]),
        ("nonsense", ["SECTION.KEY=VALUE"]),
        ("logs.format=xml", ["logs.format", "xml", "json"]),
        ("storage.shards=0", ["storage.shards", ">= 1"]),
        ("storage.shards=3", ["storage.shards", "3", "--set", "power of two"]),
        ("http.tls_cert=/a.pem", ["http.tls_cert", "http.tls_key"]),
        ("http.trusted_proxies=nobody", ["trusted_proxies", "nobody", "10.0.0.0/8"]),
        ("limits.reads_count=-5", ["limits.reads_count", "-5"]),
    ],
)
def test_a_bad_flag_is_explained(flag, words):
    with pytest.raises(SettingsError) as caught:
        load(environment={}, flags=[flag])
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "text, words",
    [
        ("[http", ["not TOML"]),
        ("[web]\nport = 1", ["[web]", "http"]),
        ("port = 1", ["[port]", "no section"]),
        ("[http]\nport = true", ["http.port", "True", "node.toml"]),
        ("[http]\nports = 80", ["http.ports", "http.port"]),
    ],
)
def test_a_bad_file_is_explained(tmp_path, text, words):
    file = tmp_path / "node.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(environment={}, config=file)
    for word in words:
        assert word in str(caught.value)


def test_an_absent_file_and_an_unknown_variable_are_explained(tmp_path):
    with pytest.raises(SettingsError, match="No such file"):
        load(environment={}, config=tmp_path / "absent.toml")
    with pytest.raises(SettingsError, match=r"HELIOGRAPH_HTTP_PROT.*did you mean HELIOGRAPH_HTTP_PORT"):
        load(environment={"HELIOGRAPH_HTTP_PROT": "1"})


def test_sections_are_frozen():
    with pytest.raises(AttributeError):
        load(environment={}).http.port = 1
