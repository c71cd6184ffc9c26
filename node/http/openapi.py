"""Routes that describe themselves: one registry from which come the URL map, the limits and the OpenAPI
document.

    routes = Routes("comments")

    @routes.add("POST", "/v1/posts/<id:post_id>/comments", "Comment on a post",
                body=NewComment, answers={201: Comment}, limit="writes", problems=("not_found",))
    async def comment(post_id: int) -> Response:
        wanted = await read_json(request, NewComment)                     # parse
        made = await social().comment(reader(), post_id, wanted.text)     # call
        return render(made, 201)                                          # render

What the description says is what happens: `signed_in` and `limit` are enforced by the application's `admit`
before the handler runs, and cannot be forgotten in it.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args

import msgspec
from quart import Blueprint, Response, current_app

from node.http.problems import CODES, MEDIA_TYPE, Problem, of_validation
from node.service import TOKEN_PATTERN

STATIC = Path(__file__).parent / "static"
PAGES = {"docs.html": "text/html; charset=utf-8", "docs.js": "text/javascript", "docs.css": "text/css"}
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
ID_PATTERN = "^[0-9]{1,19}$"
# What any route may answer beside what it lists.
PROBLEMS_OF_ALL = ("malformed_request", "headers_too_large", "internal", "unavailable")
PROBLEMS_OF_BODIES = ("unsupported_media", "too_large", "too_slow")
PROBLEMS_OF_RETRIES = ("request_in_progress", "idempotency_key_reused")
REFERENCES = "#/components/schemas/{name}"

Answering = Callable[..., Awaitable[Response]]
T = TypeVar("T")


class Route(msgspec.Struct, frozen=True):
    """The description of one route."""

    method: str
    path: str  # as Quart writes it: /v1/posts/<id:post_id>
    summary: str
    tag: str
    name: str
    body: Any = None  # a problems.Body, or None
    upload: str | None = None  # the media type of a body that is no JSON
    form: Mapping[str, Any] = {}  # JSON schemas of the fields of a form
    form_required: tuple[str, ...] = ()
    query: Any = None  # a problems.Body whose fields are the query's arguments
    answers: Mapping[int, Any] = {}  # status → type or union; None for no body; a media type for bytes
    signed_in: bool = True
    asks_who: bool = True  # False: the same for everybody, and an access token is not even looked at
    limit: str | None = None  # a name of limits.Limits; None: reads or writes, by the method; "none"
    problems: tuple[str, ...] = ()
    idempotent_by_key: bool = False  # takes Idempotency-Key

    @property
    def template(self) -> str:
        """The path as OpenAPI writes it."""
        return re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", self.path)


class Routes:
    """The routes of one resource. Register `blueprint` with the application, and give `described` to
    `document`."""

    def __init__(self, tag: str, name: str = "") -> None:
        """`name` tells several with one tag apart."""
        self.blueprint = Blueprint(name or tag, __name__)
        self.described: list[Route] = []
        self._tag = tag

    def add(
        self, method: str, path: str, summary: str, **description: Any
    ) -> Callable[[Answering], Answering]:
        """Describe and install the handler below. Raises KeyError for a problem code that is not in the
        table."""

        def install(handler: Answering) -> Answering:
            route = Route(method, path, summary, self._tag, handler.__name__, **description)
            for code in route.problems:
                CODES[code]
            self.described.append(route)

            @wraps(handler)
            async def admitted(**arguments: Any) -> Response:
                await current_app.admit(route)  # type: ignore[attr-defined]
                return await handler(**arguments)

            self.blueprint.add_url_rule(path, endpoint=handler.__name__, view_func=admitted, methods=[method])
            return handler

        return install


def render(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer from a msgspec type."""
    response = Response(msgspec.json.encode(value), status=status, content_type="application/json")
    for name, text in (headers or {}).items():
        response.headers[name] = text
    return response


def empty(status: int = 204) -> Response:
    """An answer without a body."""
    response = Response(b"", status=status)
    response.headers.pop("Content-Type", None)
    return response


def parse_query(kind: type[T], arguments: Mapping[str, str]) -> T:
    """The query's arguments as `kind` (a problems.Body). Raises Problem 422 unknown_field, invalid_field."""
    try:
        value = msgspec.convert(dict(arguments), kind, strict=False)
    except msgspec.ValidationError as error:
        raise of_validation(error) from None
    for name, text in arguments.items():
        if "\0" in text:
            raise Problem("invalid_field", f"{name} contains a NUL character; leave it out")
    return value


def document(routes: Iterable[Route], *, version: str, title: str = "Heliograph") -> dict[str, Any]:
    """The OpenAPI 3.1 document of the routes."""
    routes = list(routes)
    types = [
        kind
        for route in routes
        for answer in (route.body, route.query, *route.answers.values())
        for kind in _types_of(answer)
    ]
    schemas, components = msgspec.json.schema_components(types, ref_template=REFERENCES)
    by_type = {id(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route, by_type, components)
    components["Problem"] = _problem_schema()
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
        "x-problems": [
            {"code": code, "status": kind.status, "title": kind.title} for code, kind in CODES.items()
        ],
    }


def pages(routes: Callable[[], Iterable[Route]], *, version: str) -> Blueprint:
    """`/openapi.json`, and `/docs` to browse it: our own files, nothing from elsewhere, under a strict
    policy."""
    blueprint = Blueprint("docs", __name__)
    made: list[bytes] = []
    files = {name: (STATIC / name).read_bytes() for name in PAGES}

    @blueprint.get("/openapi.json")
    async def openapi() -> Response:
        if not made:
            made.append(msgspec.json.encode(document(routes(), version=version)))
        return Response(made[0], content_type="application/json")

    def page(name: str) -> Response:
        response = Response(files[name], content_type=PAGES[name])
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @blueprint.get("/docs")
    async def docs() -> Response:
        return page("docs.html")

    @blueprint.get("/docs/<name>")
    async def asset(name: str) -> Response:
        if name not in files:
            raise Problem("not_found")
        return page(name)

    return blueprint


def _types_of(answer: Any) -> tuple[Any, ...]:
    """The types that JSON of this answer may have: none for no body and for bytes of a media type."""
    if answer is None or isinstance(answer, str):
        return ()
    return get_args(answer) if isinstance(answer, UnionType) else (answer,)


def _operation(route: Route, by_type: Mapping[int, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": _parameters(route, by_type, components),
        "responses": _responses(route, by_type),
    }
    if route.signed_in:
        operation["security"] = [{"bearer": []}]
    elif route.asks_who:
        operation["security"] = [{}, {"bearer": []}]
    if route.body is not None:
        content = {"application/json": {"schema": by_type[id(route.body)]}}
        operation["requestBody"] = {"required": True, "content": content}
    elif route.upload is not None:
        schema: dict[str, Any] = {"type": "string", "format": "binary"}
        if route.form:
            schema = {"type": "object", "properties": dict(route.form), "required": list(route.form_required)}
            schema["additionalProperties"] = False
        content = {route.upload: {"schema": schema}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameters(
    route: Route, by_type: Mapping[int, Any], components: Mapping[str, Any]
) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    for converter, name in re.findall(r"<(?:([^:<>]+):)?([^<>]+)>", route.path):
        schema = {"type": "string", "pattern": ID_PATTERN} if converter == "id" else {"type": "string"}
        parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
    if route.query is not None:
        described = components[by_type[id(route.query)]["$ref"].rpartition("/")[2]]
        required = described.get("required", [])
        for name, schema in described["properties"].items():
            parameters.append({"name": name, "in": "query", "required": name in required, "schema": schema})
    if route.idempotent_by_key:
        key = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]*$"}
        parameters.append({"name": "Idempotency-Key", "in": "header", "schema": key})
    if route.asks_who:
        token = {"type": "string", "pattern": f"^{TOKEN_PATTERN}$"}
        parameters.append({"name": "Heliograph-Token", "in": "header", "schema": token})
    return parameters


def _responses(route: Route, by_type: Mapping[int, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, kind in route.answers.items():
        responses[str(status)] = {"description": "Done"}
        if isinstance(kind, str):
            responses[str(status)]["content"] = {kind: {"schema": {"type": "string", "format": "binary"}}}
        elif kind is not None:
            either = [by_type[id(one)] for one in _types_of(kind)]
            schema = either[0] if len(either) == 1 else {"anyOf": either}
            responses[str(status)]["content"] = {"application/json": {"schema": schema}}
        if route.asks_who:
            responses[str(status)]["headers"] = _headers(route)
    for code in sorted(_codes(route), key=lambda code: (CODES[code].status, code)):
        answer = responses.setdefault(
            str(CODES[code].status),
            {
                "description": "",
                "content": {MEDIA_TYPE: {"schema": {"$ref": REFERENCES.format(name="Problem")}}},
            },
        )
        answer["description"] = ", ".join(filter(None, [answer["description"], f"`{code}`"]))
    return responses


def _headers(route: Route) -> dict[str, Any]:
    if route.method == "GET":
        stale = "Present where no leader confirmed that this is the newest: it may be older"
        return {"Heliograph-Stale": {"description": stale, "schema": {"const": "true"}}}
    marks = {"type": "string", "pattern": f"^{TOKEN_PATTERN}$"}
    return {"Heliograph-Token": {"description": "For reads that must see this write", "schema": marks}}


def _codes(route: Route) -> set[str]:
    """The problems that the route may answer with: those it lists, and those that follow from what it is."""
    codes = {*route.problems, *PROBLEMS_OF_ALL}
    if route.asks_who:
        codes |= {"unauthenticated", "suspended", "invalid_token"}
    if route.limit != "none":
        codes.add("rate_limited")
    if "<id:" in route.path:
        codes.add("not_found")  # for what is no id of ours
    if route.body is not None:
        codes |= {"malformed_json", "unknown_field", "invalid_field", *PROBLEMS_OF_BODIES}
    elif route.upload is not None:
        codes |= set(PROBLEMS_OF_BODIES)
    if route.query is not None:
        codes |= {"unknown_field", "invalid_field"}
    if route.idempotent_by_key:
        codes |= set(PROBLEMS_OF_RETRIES)
    if route.method != "GET":
        codes.add("outcome_unknown")
    if route.method in ("POST", "PUT", "PATCH"):
        codes.add("storage_full")
    return codes


def _problem_schema() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": text,
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "code": {"type": "string", "enum": list(CODES)},
        },
    }
