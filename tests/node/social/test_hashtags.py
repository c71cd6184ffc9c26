import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.social.hashtags import HASHTAG_MAX, HASHTAGS_MAX, hashtags

TABLE = [
    ("", ()),
    ("no tags", ()),
    ("#Sun over #the_sea", ("sun", "the_sea")),
    ("#sun, #SUN. #Sun!", ("sun",)),
    ("a#b", ()),
    ("(#b)", ("b",)),
    ("##b", ()),
    ("#a#b", ("a",)),
    ("&#39; x/#frag", ()),
    ("#1 #2026 #1st", ("1st",)),
    ("#", ()),
    ("# a", ()),
    ("#Straße #STRASSE", ("strasse",)),
    ("#Cafe\u0301 #Caf\u00e9", ("caf\u00e9",)),
    ("#Größe #привет #東京 ＃写真", ("grösse", "привет", "東京", "写真")),
    ("#صور‌ها و #שלום", ("صور‌ها", "שלום")),
    ("#\u200dx", ()),
    ("#x\u200c", ("x",)),
    ("#नमस्ते", ("नमस्ते",)),
    ("#sun🌞 🌞#moon", ("sun", "moon")),
    ("#" + "a" * HASHTAG_MAX, ("a" * HASHTAG_MAX,)),
    ("#" + "a" * (HASHTAG_MAX + 1), ()),
    ("line\n#next", ("next",)),
]


@pytest.mark.parametrize(("caption", "want"), TABLE)
def test_the_rule(caption, want):
    assert hashtags(caption) == want


def test_only_the_first_of_many():
    many = " ".join(f"#t{i}" for i in range(HASHTAGS_MAX + 5))
    assert hashtags(many) == tuple(f"t{i}" for i in range(HASHTAGS_MAX))


@given(st.text(alphabet="#a1_é\u0301ß &/\u200c東", max_size=40))
def test_tags_are_of_words_unique_and_stable(caption):
    tags = hashtags(caption)
    assert len(set(tags)) == len(tags)
    assert all(tag and "#" not in tag and " " not in tag and not tag.isdigit() for tag in tags)
    for tag in tags:
        assert hashtags("#" + tag) == (tag,)
