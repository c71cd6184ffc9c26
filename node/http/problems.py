"""Problem answers: the one table of error codes, and how every error becomes RFC 9457 JSON.

Below this edge nobody knows status codes: the state machine refuses with a word, and the word is looked up
here. A client may rely on `code`; `title` and `detail` are for people.
"""

from functools import cache
from typing import Any, TypeVar, cast

import msgspec
from quart import Quart, Response, has_request_context, request
from werkzeug.exceptions import HTTPException

from node.logs import get_logger

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = "1"  # what is refused for load, for a leader or at the end of a node may come again then
TYPE_PREFIX = "/docs#problem-"  # `type` of RFC 9457 §3.1.1: a reference a person can follow on the same node

log = get_logger("http")


class Kind(msgspec.Struct, frozen=True):
    """What a code means to HTTP: its status and its one-line title."""

    status: int
    title: str


CODES: dict[str, Kind] = {
    "malformed_request": Kind(400, "The request could not be understood"),
    "malformed_json": Kind(400, "The body is not valid JSON"),
    "malformed_form": Kind(400, "The body is not a valid multipart form"),
    "invalid_cursor": Kind(400, "The cursor does not belong to this reader and list"),
    "invalid_token": Kind(400, "The Heliograph-Token header could not be understood"),
    "unauthenticated": Kind(401, "A valid access token is needed"),
    "wrong_credentials": Kind(401, "The name or the password is wrong"),
    "forbidden": Kind(403, "Not allowed"),
    "suspended": Kind(403, "This account is suspended"),
    "invalid_signature": Kind(403, "The signature of this URL is wrong"),
    "session_too_old": Kind(403, "This needs a session opened within the last hour"),
    "not_found": Kind(404, "There is no such thing"),
    "method_not_allowed": Kind(405, "This method is not offered here"),
    "too_slow": Kind(408, "The body came too slowly"),
    "conflict": Kind(409, "This conflicts with what is there"),
    "username_taken": Kind(409, "This username is taken"),
    "request_in_progress": Kind(409, "A request with this Idempotency-Key is still running"),
    "upload_mismatch": Kind(409, "This upload already has other bytes"),
    "upload_expired": Kind(410, "The upload URL has expired"),
    "length_required": Kind(411, "The request must say how long its body is"),
    "too_large": Kind(413, "The body is too large"),
    "unsupported_media": Kind(415, "Not a kind of content taken here"),
    "range_not_satisfiable": Kind(416, "The range lies outside the file"),
    "unknown_field": Kind(422, "The body has a field that is not known"),
    "invalid_field": Kind(422, "A field has a value that is not allowed"),
    "invalid_username": Kind(422, "The username is not allowed"),
    "invalid_password": Kind(422, "The password is not allowed"),
    "invalid_media": Kind(422, "The media cannot be used"),
    "size_mismatch": Kind(422, "The bytes are not as many as were announced"),
    "type_mismatch": Kind(422, "The content is not of the announced type"),
    "too_many_follows": Kind(422, "No more accounts can be followed"),
    "idempotency_key_reused": Kind(422, "This Idempotency-Key was used with another body"),
    "rate_limited": Kind(429, "Too many requests"),
    "headers_too_large": Kind(431, "The header block is too large"),
    "internal": Kind(500, "The node made a mistake"),
    "unavailable": Kind(503, "The node cannot serve this now"),
    "outcome_unknown": Kind(503, "It is not known whether this took effect"),
    "storage_full": Kind(507, "No room is left for writes"),
}

# What the web framework raises itself, by status; anything else it raises is reported as malformed_request.
FRAMEWORK_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    411: "length_required",
    413: "too_large",
    415: "unsupported_media",
    416: "range_not_satisfiable",
    431: "headers_too_large",
    500: "internal",
    503: "unavailable",
}
DETAILS = {
    "not_found": "nothing is at this address, or it is not yours to see",
    "method_not_allowed": "the Allow header lists what is offered",
    "too_large": "send a smaller body",
    "internal": "this is our fault; the log has the cause under this X-Request-Id",
}


class Problem(Exception):
    """An error answer. Raised by routes and by what the routes alone use; nothing below HTTP raises it.

    `code` is a key of CODES (KeyError otherwise: a code that is not published is a bug), `detail` says what
    was wrong and what would be right, `headers` go out with the answer (Retry-After, RateLimit-*, …).
    """

    def __init__(self, code: str, detail: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(code, detail)
        self.kind = CODES[code]
        self.code = code
        self.detail = detail or DETAILS.get(code, self.kind.title)
        self.headers = headers or {}

    @property
    def status(self) -> int:
        return self.kind.status


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every JSON request body derives from: fields that nobody knows are refused."""


T = TypeVar("T")


def document(problem: Problem) -> bytes:
    """The problem as RFC 9457 JSON."""
    return msgspec.json.encode(
        {
            "type": TYPE_PREFIX + problem.code,
            "title": problem.kind.title,
            "status": problem.status,
            "detail": problem.detail,
            "code": problem.code,
        }
    )


def answer(problem: Problem) -> Response:
    """The problem as a response."""
    response = Response(document(problem), status=problem.status, content_type=MEDIA_TYPE)
    for name, value in problem.headers.items():
        response.headers[name] = value
    if problem.status == 503:
        response.headers.setdefault("Retry-After", RETRY_AFTER_S)
    if problem.status == 401:
        response.headers.setdefault(
            "WWW-Authenticate", "Bearer"
        )  # RFC 9110 §11.6.1: a 401 must name a scheme
    return response


def refusal(code: str, detail: str = "") -> Problem:
    """The problem for a refusal of the state machine; a code that is not in the table is our mistake."""
    if code not in CODES:
        log.error("refusal without a code", code=code)
        return Problem("internal")
    return Problem(code, detail)


def of_validation(error: msgspec.ValidationError) -> Problem:
    """The problem for what does not fit a type; the field comes first, as in `text: want ...`."""
    words, _, path = str(error).partition(" - at `$")
    code = "unknown_field" if "unknown field" in words else "invalid_field"
    field = path.removesuffix("`").removeprefix(".")
    words = words.replace("Expected ", "want ", 1)
    return Problem(code, f"{field}: {words}" if field else words)


def parse(kind: type[T], raw: bytes) -> T:
    """Decode a JSON body strictly.

    Raises Problem: 400 malformed_json for what is not JSON or not UTF-8, 422 unknown_field, 422 invalid_field
    for wrong types, missing fields, values out of bounds, NUL characters.
    """
    if not raw:
        raise Problem(
            "malformed_json", "the body is empty; send a JSON object with Content-Type: application/json"
        )
    try:
        value: T = _decoder(cast(Any, kind)).decode(raw)
    except msgspec.ValidationError as error:
        raise of_validation(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem("malformed_json", str(error)) from None
    except RecursionError:
        raise Problem("malformed_json", "the JSON is nested too deeply") from None
    if (
        b"\\u0000" in raw
    ):  # the only way JSON can spell NUL; a literal backslash before u0000 is looked at closer
        _refuse_nul(value)
    return value


def text(value: str, name: str, most: int, least: int = 0) -> str:
    """A text that did not come in JSON (a form field, a query argument), held to the same rules as those that
    did.

    Lengths are in code points. Raises Problem 422 invalid_field.
    """
    if "\0" in value:
        raise Problem("invalid_field", f"{name} contains a NUL character; leave it out")
    if not least <= len(value) <= most:
        raise Problem("invalid_field", f"{name} has {len(value)} characters; {least} to {most} are allowed")
    return value


def table() -> str:
    """The published table of codes, as Markdown, for the docs."""
    rows = [f"| {kind.status} | `{code}` | {kind.title} |" for code, kind in CODES.items()]
    return "\n".join(["| status | code | meaning |", "|---|---|---|", *rows])


def install(app: Quart) -> None:
    """Make every error of `app` a problem answer."""

    async def of_problem(error: Problem) -> Response:
        return answer(error)

    async def of_framework(error: HTTPException) -> Any:
        if error.code is None or error.code < 400:
            return error.get_response()  # a redirect is not an error
        problem = Problem(FRAMEWORK_CODES.get(error.code, "malformed_request"))
        response = answer(problem)
        allowed = getattr(error, "valid_methods", None)
        if allowed:
            response.headers["Allow"] = ", ".join(sorted(allowed))
        return response

    async def of_bug(error: Exception) -> Response:
        number = getattr(request, "request_id", None) if has_request_context() else None
        log.error("a request failed", request_id=number, exc_info=error)
        return answer(Problem("internal"))

    app.register_error_handler(Problem, of_problem)
    app.register_error_handler(HTTPException, of_framework)
    app.register_error_handler(Exception, of_bug)


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """One decoder per type; a struct that would let unknown fields pass is a mistake found at its first
    use."""
    if issubclass(kind, msgspec.Struct) and not kind.__struct_config__.forbid_unknown_fields:
        raise TypeError(f"{kind.__name__} must derive from problems.Body, or unknown fields would pass")
    return msgspec.json.Decoder(kind, strict=True)


def _refuse_nul(value: object) -> None:
    pending = [msgspec.to_builtins(value)]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            text(item, "a text", len(item))
        elif isinstance(item, dict):
            pending.extend([*item.keys(), *item.values()])
        elif isinstance(item, list | tuple):
            pending.extend(item)
