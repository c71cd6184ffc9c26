"""The words of the web app: one catalogue per language, for the server's pages and for the scripts alike.

A text may name values, `{name}`, and may be a pair of forms, `one` and `other`, chosen by `count`. Both
languages so far have exactly these two (Unicode's plural rules); a third with more brings its own rule.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

FOLDER: Final = Path(__file__).parent / "words"
FALLBACK: Final = "en"
ACCEPTED_MAX: Final = 20  # entries of an Accept-Language header that are looked at

Text = str | dict[str, str]


class Words:
    """One language: `words("likes", count=3)`. KeyError for what is not in the catalogue: that is a bug."""

    def __init__(self, language: str, texts: Mapping[str, Text]) -> None:
        self.language = language
        self.texts = texts

    def __call__(self, key: str, **values: object) -> str:
        text = self.texts[key]
        if isinstance(text, dict):
            text = text["one" if values.get("count") == 1 else "other"]
        return text.format_map(values) if values else text


class Catalogue:
    """All languages. Raises OSError, msgspec.DecodeError where a file is broken."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.languages = {
            path.stem: Words(path.stem, msgspec.json.decode(path.read_bytes(), type=dict[str, Text]))
            for path in sorted(folder.glob("*.json"))
        }

    def choose(self, chosen: str | None, accepted: str | None) -> Words:
        """The language that somebody chose, else the best that their browser accepts (RFC 9110 §12.5.4)."""
        if chosen in self.languages:
            return self.languages[chosen]
        for tag in preferred(accepted or ""):
            known = self.languages.get(tag.partition("-")[0])
            if known is not None:
                return known
        return self.languages[FALLBACK]


def preferred(accepted: str) -> list[str]:
    """The language tags of an Accept-Language header, in lower case, the most wanted first."""
    found: list[tuple[float, str]] = []
    for entry in accepted.split(",")[:ACCEPTED_MAX]:
        tag, _, quality = entry.strip().lower().partition(";q=")
        try:
            wanted = float(quality or 1)
        except ValueError:
            wanted = 0.0
        if tag and 0 < wanted <= 1:
            found.append((wanted, tag))
    return [tag for _, tag in sorted(found, key=lambda pair: -pair[0])]
