"""Logs: one line per event, and no secret in any of them."""

import io
import json
import logging

import pytest
import structlog

from node import logs


@pytest.fixture
def restored():
    root = logging.getLogger()
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    yield
    root.handlers[:], root.level = handlers, level
    structlog.configure(**config)


def lines(out):
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_json_lines_hide_secrets(restored):
    out = io.StringIO()
    logs.set_up(form="json", level="info", stream=out)
    log = logs.get_logger("http")
    token = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
    log.debug("unseen")
    log.info(
        "request",
        bytes=12,
        password="hunter2",
        passphrase="hunter2",
        headers={"Authorization": "Bearer abc", "Accept": "x"},
        words=f"got {token} and bearer abc123",
        url="/media/a.webp?exp=1&sig=c2lnbmF0dXJl",
        raw=b"refresh " + token.encode(),
        pairs=[("access-token", token)],
    )
    try:
        raise ValueError(f"cannot read {token}")
    except ValueError as error:
        log.error("failed", exc_info=error)
    logging.getLogger("some.library").warning("Authorization: Bearer %s", "abc123")
    written = out.getvalue()
    for secret in ("hunter2", token, "abc123", "c2lnbmF0dXJl", "Bearer abc", "unseen"):
        assert secret not in written
    request, failed, library = lines(out)
    assert request["event"] == "request" and request["bytes"] == 12 and request["level"] == "info"
    assert request["logger"] == "heliograph.http" and request["timestamp"].endswith("Z")
    assert request["headers"] == {"Authorization": logs.HIDDEN, "Accept": "x"}
    assert request["url"] == "/media/a.webp?exp=1&sig=" + logs.HIDDEN
    assert "ValueError" in failed["exception"]
    assert library["level"] == "warning"


def test_the_console_form_is_for_people(restored):
    out = io.StringIO()
    logs.set_up(form="console", level="debug", stream=out)
    logs.get_logger("journal").debug("segment closed", bytes=5, secret="s3")
    assert "segment closed" in out.getvalue() and "bytes=5" in out.getvalue() and "s3" not in out.getvalue()
    assert "\x1b[" not in out.getvalue()
