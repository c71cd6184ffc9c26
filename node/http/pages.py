"""Pages of lists as routes give them: the query's `cursor` and `limit`, sealed positions, `next_cursor`."""

from typing import Annotated, Any, Final, TypeVar

import msgspec
from quart import request

from node.http.admission import viewer
from node.http.openapi import parse_query
from node.http.problems import Body
from node.parts import Parts, now_s
from node.social.people import UserView

T = TypeVar("T")
FIRST_PAGES_MAX: Final = 256  # parsed queries kept: reading one costs 30 µs
Limit = Annotated[int, msgspec.Meta(ge=1, le=100)]


class PageQuery(Body, frozen=True):
    """`limit` is the list's own default where it is absent."""

    cursor: str | None = None
    limit: Limit | None = None


class Users(msgspec.Struct, frozen=True):
    users: tuple[UserView, ...]
    next_cursor: str | None


_first_pages: dict[bytes, PageQuery] = {}  # queries without a cursor, of which there are few


def asked() -> PageQuery:
    """The query of a list. Raises Problem invalid_field, unknown_field."""
    written = request.query_string
    query = _first_pages.get(written)
    if query is None:
        query = parse_query(PageQuery, request.args)
        if query.cursor is None and len(_first_pages) < FIRST_PAGES_MAX:
            _first_pages[written] = query
    return query


def opened(parts: Parts, query: PageQuery, name: str, kind: type[T]) -> T | None:
    """Where the page begins; None for the first. Raises Problem invalid_cursor."""
    if query.cursor is None:
        return None
    return parts.cursors.open(query.cursor, kind, reader=viewer(), name=name, now=now_s())


def sealed(parts: Parts, position: Any, name: str) -> str | None:
    """The `next_cursor` after `position`; None where that is None."""
    if position is None:
        return None
    return parts.cursors.seal(position, reader=viewer(), name=name, now=now_s())
