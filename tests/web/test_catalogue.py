"""The languages say the same things, and every word that is asked for is there."""

import re
from pathlib import Path

import pytest

from node.web import icons
from node.web.assets import Assets
from node.web.catalogue import Catalogue, preferred

WEB = Path(icons.__file__).parent
CATALOGUE = Catalogue()
WORDS = CATALOGUE.languages
FORMS = {"one", "other"}


def names(text):
    forms = text.values() if isinstance(text, dict) else [text]
    return {name for form in forms for name in re.findall(r"\{(\w+)\}", form)}


@pytest.mark.parametrize("language", sorted(WORDS))
def test_languages_agree(language):
    english, other = WORDS["en"].texts, WORDS[language].texts
    assert set(english) == set(other)
    for key, text in other.items():
        assert names(text) == names(english[key]), key
        assert isinstance(text, dict) == isinstance(english[key], dict), key
        assert not isinstance(text, dict) or set(text) == FORMS, key


def sources():
    http = WEB.parent / "http"
    pages = [*http.glob("web*.py"), http / "admin_cluster.py", *WEB.glob("*.py")]
    return [*WEB.glob("templates/*.html"), *WEB.glob("static/*.js"), *pages]


def test_every_word_is_in_the_catalogue():
    """But those that are put together, of which one of a kind is asked for by its page's test."""
    asked = set()
    for path in sources():
        asked.update(re.findall(r"""(?:\bt|web\.words)\(["'](\w+)["']\s*[,)]""", path.read_text()))
    assert len(asked) > 60
    assert asked <= set(WORDS["en"].texts)


def test_no_word_is_left_over():
    """A text that nothing names has outlived its use."""
    everything = "".join(path.read_text() for path in sources())
    put_together = ("state_", "theme_")
    unused = [
        key
        for key in WORDS["en"].texts
        if not key.startswith(put_together) and not re.search(rf"""["']{key}["']""", everything)
    ]
    assert not unused


def test_plurals_and_values():
    t = WORDS["en"]
    assert (t("comments", count=1), t("comments", count=0)) == ("1 comment", "0 comments")
    assert t("photo_of", name="{x}") == "A photo by {x}"
    with pytest.raises(KeyError):
        t("never heard of")


def test_what_a_browser_prefers():
    assert preferred("de-AT, en;q=0.8, *;q=0.1") == ["de-at", "en", "*"]
    assert preferred("en;q=0.1, de;q=0.9, fr;q=0, it;q=2, es;q=x") == ["de", "en"]
    assert preferred("") == []


def test_icons_are_what_the_code_draws():
    for icon in icons.ICONS:
        assert (icons.FOLDER / icon.name).read_bytes() == icon.png()


def test_a_changed_asset_changes_every_address(tmp_path):
    (tmp_path / "a.js").write_text("1")
    before = Assets(CATALOGUE, tmp_path)
    (tmp_path / "a.js").write_text("2")
    after = Assets(CATALOGUE, tmp_path)
    assert before.url("a.js") != after.url("a.js")
    assert after.find(before.version, "a.js") is None
    with pytest.raises(KeyError):
        after.url("b.js")


def test_scripts_use_nothing_that_the_policy_or_the_style_forbids():
    for path in WEB.glob("static/*.js"):
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, and no address
        assert text.startswith("//"), f"{path.name} does not begin with what it is"
        assert text.count("\n") <= 500
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "://", "document.write"):
            assert word not in text, (path.name, word)
