"""Logs: structured lines on stderr, JSON for machines or columns for a person, with secrets taken out.

Everything goes through one processor chain, what libraries send to the standard logging module too, so that
no line can leave unredacted. Log an event and its facts as fields: `log.info("segment closed", bytes=…)`.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO

import structlog

HIDDEN = "[hidden]"
# Field names whose values never reach a log, whatever they hold; compared in lower case with - as _.
SECRET_NAMES = frozenset(
    {
        "authorization",
        "proxy_authorization",
        "cookie",
        "set_cookie",
        "password",
        "new_password",
        "passphrase",
        "token",
        "access_token",
        "refresh_token",
        "admin_token",
        "secret",
        "private_key",
        "signature",
        "credentials",
        "upload_url",
    }
)
# Secrets inside longer text (an exception's words, a URL): a bearer token, a JWT, a signed query argument.
SECRET_TEXT = re.compile(
    r"(?i:bearer)\s+[^\s'\"]+|eyJ[\w-]{8,}\.[\w-]+\.[\w-]+|(?i:(?<=[?&]sig=)|(?<=[?&]signature=))[^&\s'\"]+"
)
Format = Literal["json", "console"]


def set_up(*, form: Format = "json", level: str = "info", stream: TextIO | None = None) -> None:
    """Direct all logging of this process to `stream` (stderr by default). Called once, before the node
    starts."""
    out = stream if stream is not None else sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Exceptions become text before redaction, for their words may hold what a caller sent.
    tail: list[Any] = [structlog.processors.format_exc_info, redact]
    last: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    target = logging.StreamHandler(out)
    target.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail, last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [target]
    root.setLevel(number)
    # Below warning these two tell of every frame and every request of a client of ours.
    for chatty in ("httpx", "httpcore", "hpack"):
        logging.getLogger(chatty).setLevel(max(number, logging.WARNING))


def get_logger(part: str) -> structlog.stdlib.BoundLogger:
    """The logger of one part of the node, e.g. `http`, `journal`, `media`."""
    return structlog.stdlib.get_logger("heliograph." + part)


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The processor that hides secrets: by the field's name, and by their look inside any text."""
    for name in event:
        event[name] = hide(name, event[name])
    return event


def hide(name: str, value: Any) -> Any:
    """`value` as it may be logged under `name`; goes into dicts, lists and tuples, and knows bytes from
    text."""
    if name.lower().replace("-", "_") in SECRET_NAMES:
        return HIDDEN
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return SECRET_TEXT.sub(HIDDEN, value)
    if isinstance(value, dict):
        return {key: hide(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hide("", item) for item in value]
    return value
