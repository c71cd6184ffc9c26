"""Hashtags of a caption, by one documented rule.

A hashtag is `#` (or the full-width `＃`), at the start or after a character that is neither of a word nor
`#`, `&` or `/`, followed by characters of a word: Unicode letters, marks and numbers, `_`, and inside also
the joiners that Persian and Indic scripts write with. At least one of them is not a number, so `#1` is none.
It is kept without the sign, in NFC and case-folded; each once, in order; the first HASHTAGS_MAX of a caption.
One of more than HASHTAG_MAX characters is none.

Which characters are letters depends on the interpreter's Unicode tables, so the proposer of a command calls
this and the command carries the result: replicas never parse.
"""

import unicodedata
from typing import Final

HASHTAG_MAX: Final = 100  # characters
HASHTAGS_MAX: Final = 30  # per caption

_SIGNS: Final = "#＃"
_NOT_BEFORE: Final = _SIGNS + "&/"
_JOINERS: Final = "\u200c\u200d"


def hashtags(caption: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    position, length = 0, len(caption)
    while position < length and len(found) < HASHTAGS_MAX:
        before = caption[position - 1] if position else " "
        if caption[position] not in _SIGNS or before in _NOT_BEFORE or _of_word(before):
            position += 1
            continue
        end = position + 1
        while end < length and (_of_word(caption[end]) or (caption[end] in _JOINERS and end > position + 1)):
            end += 1
        tag = caption[position + 1 : end].rstrip(_JOINERS)
        if len(tag) <= HASHTAG_MAX and any(unicodedata.category(c)[0] != "N" for c in tag):
            found[unicodedata.normalize("NFC", unicodedata.normalize("NFC", tag).casefold())] = None
        position = end
    return tuple(found)


def _of_word(character: str) -> bool:
    return character == "_" or unicodedata.category(character)[0] in "LMN"
