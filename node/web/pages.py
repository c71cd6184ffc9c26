"""Pages as HTML: templates, and posts that are rendered once for all who see them alike.

A post comes as the JSON that the API gives (`feeds/rendering.py`) and its HTML is kept under these very
bytes, the language and the place it is for. So what is kept is never stale: a like, a new name or another
reader's signature makes other bytes. A feed page is then little more than a join.

Everything in a template is escaped but what was rendered here (`Markup`).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from node.feeds.memo import Memo
from node.feeds.rendering import PostView
from node.web import pictures
from node.web.assets import Assets
from node.web.catalogue import Catalogue, Words

FOLDER: Final = Path(__file__).parent / "templates"
KEPT_BYTES_MAX: Final = 32 << 20  # of rendered posts: about 5,000
ENTRY_BYTES: Final = 250  # objects of one, beside its texts
HUES: Final = 6  # colours of faces without a picture
# How wide a photo is drawn; `style.css` says the same.
COLUMN_SIZES: Final = "(min-width: 40rem) 37.5rem, 100vw"
STAGE_SIZES: Final = "(min-width: 72rem) 45rem, (min-width: 40rem) 37.5rem, 100vw"
TILE_SIZES: Final = "(min-width: 60rem) 19rem, 33vw"
DESCRIPTION_MAX: Final = 200  # characters, for OpenGraph
# What nearly every page loads, so that the browser asks for all at once.
MODULES: Final = (
    "announce.js", "api.js", "comments.js", "dom.js", "follow.js", "keys.js", "likes.js", "lists.js",
    "pager.js", "photo_feed.js", "photo_post.js", "pictures.js", "post_view.js", "times.js", "words.js",
)  # fmt: skip


class OpenGraph(msgspec.Struct, frozen=True):
    """What other sites show of a page (ogp.me); of public things only."""

    type: str
    title: str
    description: str
    url: str
    image: str | None = None
    width: int = 0
    height: int = 0
    alt: str = ""


class Pages:
    """Renders everything that is HTML. One task owns it. Raises jinja2.TemplateError for a bug of ours."""

    def __init__(self, assets: Assets, catalogue: Catalogue) -> None:
        self.assets = assets
        self.catalogue = catalogue
        self._kept: Memo[Markup] = Memo(KEPT_BYTES_MAX)
        self.view = msgspec.json.Decoder(PostView).decode  # the bytes of a post's JSON as a struct
        environment = Environment(
            loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True, auto_reload=False,
        )  # fmt: skip
        environment.filters.update(
            srcset=pictures.srcset, placeholder=pictures.placeholder, is_tall=pictures.is_tall,
            hue=lambda user_id: int(user_id) % HUES, initial=lambda name: name[:1].upper(),
            date=lambda written: written[:10],
        )  # fmt: skip
        environment.globals.update(
            asset=assets.url, modules=MODULES, tile_sizes=TILE_SIZES,
            column_sizes=COLUMN_SIZES, stage_sizes=STAGE_SIZES,
        )  # fmt: skip
        self._environment = environment
        # What all pages of a language share is rendered once: it is half of a template's work.
        self._links = {
            words.language: Markup(environment.get_template("links.html").render(t=words))
            for words in catalogue.languages.values()
        }
        environment.globals["sprite"] = Markup(environment.get_template("icons.svg").render())
        self._post = environment.get_template("macros.html").module.post  # type: ignore[attr-defined]

    def page(self, template: str, words: Words, values: dict[str, Any]) -> str:
        links = self._links[words.language]
        return self._environment.get_template(template).render(values, t=words, links=links)

    def post(self, raw: bytes, words: Words, *, first: bool = False, whole: bool = False) -> Markup:
        """A post (the bytes of its JSON) as HTML: the `first` of a page is fetched before others, a `whole`
        one is on its own page."""
        place = b"%d%d" % (first, whole) + words.language.encode() + b"\0" + raw
        kept = self._kept.find(place)
        if kept is None:
            sizes = STAGE_SIZES if whole else COLUMN_SIZES
            kept = self._post(self.view(raw), first, sizes, whole, words)
            self._kept.keep(place, kept, ENTRY_BYTES + len(place) + len(kept))
        return kept

    def posts(self, raws: Iterable[bytes], words: Words) -> Markup:
        return Markup("").join([self.post(raw, words, first=number == 0) for number, raw in enumerate(raws)])


def split_posts(array: bytes) -> list[bytes]:
    """The posts of a JSON array, each as it stands there."""
    return [bytes(raw) for raw in msgspec.json.decode(array, type=list[msgspec.Raw])]


def shortened(text: str) -> str:
    """A text in one line, as long as other sites show."""
    line = " ".join(text.split())
    return line if len(line) <= DESCRIPTION_MAX else line[: DESCRIPTION_MAX - 1].rstrip() + "…"
