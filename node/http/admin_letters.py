"""What could not be done and waits for an admin: media jobs without tries left, messages that were refused.

Both are dead letters: listed, shown, retried, dropped. A medium's job is named by the medium's id, a message
by `partition:number`.
"""

from itertools import islice
from os import urandom
from typing import Any, Final

import msgspec
from quart import Response, request

from cluster import mailbox
from cluster.commands import FEATURE_LEVEL, Declined, DropDeadLetter, RetryDeadLetter
from cluster.keys import DEAD_LETTERS, DeadLetter, DeadLetterKey
from cluster.replicas import now_ms
from node.http.admin_routes import AdminRoutes, Guard
from node.http.admission import tell
from node.http.openapi import empty, parse_query, render
from node.http.pages import Limit
from node.http.problems import Body, Problem
from node.parts import Parts
from node.social import jobs
from node.social.application import MODULES
from node.social.keys import UserKey
from node.social.people import rfc3339
from node.social.records import USERS, FailedJob
from storage.ids import partition_of
from storage.rows import Reader

PAGE: Final = 50
BODY_TEXT_MAX: Final = 2000  # characters of a message as it is shown


class ListQuery(Body, frozen=True):
    after: str = ""  # the last one of the page before
    limit: Limit = PAGE


class FailedMedium(msgspec.Struct, frozen=True):
    media_id: str
    owner_id: str
    owner: str  # the username; empty where the account is gone
    attempts: int
    reason: str
    failed_at: str


class FailedMedia(msgspec.Struct, frozen=True):
    failed: list[FailedMedium]
    next: str | None  # the `after` of the next page


class Letter(msgspec.Struct, frozen=True):
    id: str  # partition:number
    source: int  # the partition that sent it
    sequence: int  # 0: not a message but a piece of work of the partition's own
    at: str
    code: str
    detail: str
    kind: str  # the message's name
    bytes: int


class LetterWhole(Letter, frozen=True):
    body: str


class Letters(msgspec.Struct, frozen=True):
    letters: list[Letter]
    next: str | None


_KINDS: Final = {
    (table, kind.__struct_config__.tag): kind
    for table in ("MESSAGES", "WORK")
    for module in MODULES
    for kind in getattr(module, table, {})
}


def list_failed(parts: Parts, query: ListQuery) -> FailedMedia:
    after = _number(query.after) if query.after else None
    with parts.service.read() as rows:
        found = _failed_after(rows, parts.partitions, after, query.limit + 1)
    following = found[query.limit - 1].media_id if len(found) > query.limit else None
    return FailedMedia(found[: query.limit], following)


def list_letters(parts: Parts, query: ListQuery) -> Letters:
    after = _after(query.after)
    partitions = [number for number in sorted(parts.replicas.dead_letters()) if number >= after[0]]
    found: list[Letter] = []
    with parts.service.read() as rows:
        for partition in partitions:
            beyond = DeadLetterKey(partition, after[1]) if partition == after[0] else None
            scan = DEAD_LETTERS.scan(rows, partition, beyond=beyond)
            found += [_letter(key, row) for key, row in islice(scan, query.limit + 1 - len(found))]
    following = found[query.limit - 1].id if len(found) > query.limit else None
    return Letters(found[: query.limit], following)


def make_routes(parts: Parts, guard: Guard) -> AdminRoutes:
    routes = AdminRoutes("admin_letters", guard)
    add_media(routes, parts)
    add_letters(routes, parts)
    return routes


def add_media(routes: AdminRoutes, parts: Parts) -> None:
    service = parts.service

    @routes.add(
        "GET", "/v1/admin/media/failed", "Media jobs whose tries are used up", query=ListQuery,
        answers={200: FailedMedia},
    )  # fmt: skip
    async def failed_media() -> Response:
        return render(list_failed(parts, parse_query(ListQuery, request.args)))

    @routes.add(
        "GET", "/v1/admin/media/failed/<id:media_id>", "One failed media job", answers={200: FailedMedium},
        problems=("not_found",),
    )  # fmt: skip
    async def failed_medium(media_id: int) -> Response:
        with service.read() as rows:
            letter = jobs.failed_job(rows, partition_of(media_id), media_id)
            if letter is None:
                raise Problem("not_found", f"no failed job of medium {media_id}")
            return render(_medium(rows, media_id, letter))

    @routes.add(
        "POST", "/v1/admin/media/failed/<id:media_id>/retry", "Give a failed media job its tries anew",
        answers={204: None}, problems=("not_found",),
    )  # fmt: skip
    async def retry_medium(media_id: int) -> Response:
        home = partition_of(media_id)
        tell(await service.do(home, jobs.RetryFailed(media_id), grows=False))
        await service.visible(home)
        parts.workshop.wake(media_id)
        return empty()

    @routes.add(
        "POST", "/v1/admin/media/failed/<id:media_id>/drop", "Forget a failed media job, not its medium",
        answers={204: None}, problems=("not_found",),
    )  # fmt: skip
    async def drop_medium(media_id: int) -> Response:
        tell(await service.do(partition_of(media_id), jobs.DropFailed(media_id), grows=False))
        return empty()


def add_letters(routes: AdminRoutes, parts: Parts) -> None:
    service, replicas = parts.service, parts.replicas

    @routes.add(
        "GET", "/v1/admin/dead-letters", "Messages between partitions that were refused", query=ListQuery,
        answers={200: Letters},
    )  # fmt: skip
    async def letters() -> Response:
        return render(list_letters(parts, parse_query(ListQuery, request.args)))

    @routes.add(
        "GET", "/v1/admin/dead-letters/<name>", "One refused message", answers={200: LetterWhole},
        problems=("not_found",),
    )  # fmt: skip
    async def letter(name: str) -> Response:
        partition, number = _letter_id(name)
        with service.read() as rows:
            row = mailbox.dead_letter(rows, partition, number)
        if row is None:
            raise Problem("not_found", f"there is no dead letter {name[:40]}")
        return render(_whole(DeadLetterKey(partition, number), row))

    @routes.add(
        "POST", "/v1/admin/dead-letters/<name>/retry", "Let a refused message take effect after all",
        answers={204: None}, problems=("not_found", "conflict"),
    )  # fmt: skip
    async def retry_letter(name: str) -> Response:
        partition, number = _letter_id(name)
        command = RetryDeadLetter(now_ms(), FEATURE_LEVEL, urandom(16), number)
        return await asked_of(partition, command)

    @routes.add(
        "POST", "/v1/admin/dead-letters/<name>/drop", "Forget a refused message", answers={204: None},
        problems=("not_found",),
    )  # fmt: skip
    async def drop_letter(name: str) -> Response:
        partition, number = _letter_id(name)
        return await asked_of(partition, DropDeadLetter(number))

    async def asked_of(partition: int, command: RetryDeadLetter | DropDeadLetter) -> Response:
        if partition not in replicas.partitions:
            raise Problem("not_found", f"there is no partition {partition}")
        outcome = await parts.service.router.order(partition, command)
        if isinstance(outcome, Declined):
            if outcome.code == "not_found" and "dead letter" in outcome.detail:
                raise Problem("not_found", outcome.detail)
            raise Problem("conflict", f"refused again: {outcome.code}: {outcome.detail}")
        return empty()


def _failed_after(rows: Reader, partitions: int, after: int | None, most: int) -> list[FailedMedium]:
    """By partition and medium, beyond `after`."""
    start = 0 if after is None else partition_of(after)
    found: list[FailedMedium] = []
    for partition in range(start, partitions):
        beyond = after if after is not None and partition == start else 0
        for media_id, letter in jobs.failed_jobs(rows, partition, beyond, most - len(found)):
            found.append(_medium(rows, media_id, letter))
        if len(found) >= most:
            break
    return found


def _medium(rows: Reader, media_id: int, letter: FailedJob) -> FailedMedium:
    owner = USERS.get(rows, UserKey(letter.owner))
    return FailedMedium(
        media_id=str(media_id),
        owner_id=str(letter.owner),
        owner=owner.username if owner else "",
        attempts=letter.attempts,
        reason=letter.reason,
        failed_at=rfc3339(letter.failed_ms),
    )


def _letter(key: DeadLetterKey, row: DeadLetter) -> Letter:
    return Letter(
        id=f"{key.partition}:{key.number}",
        source=row.source,
        sequence=row.sequence,
        at=rfc3339(row.at_ms),
        code=row.code,
        detail=row.detail,
        kind=_decoded(row)[0],
        bytes=len(row.body),
    )


def _whole(key: DeadLetterKey, row: DeadLetter) -> LetterWhole:
    return LetterWhole(**msgspec.structs.asdict(_letter(key, row)), body=_decoded(row)[1])


def _decoded(row: DeadLetter) -> tuple[str, str]:
    """The name of what was refused and its fields, as text for a person. Messages of the meta group, or of a
    later version of the program, are shown as they are."""
    fields: Any = msgspec.msgpack.decode(row.body)
    table = "WORK" if row.sequence == mailbox.WORK_SEQUENCE else "MESSAGES"
    kind = _KINDS.get((table, fields[0])) if isinstance(fields, list) and fields else None
    if kind is None:
        return "unknown", _shown(fields)[:BODY_TEXT_MAX]
    named = zip(kind.__struct_fields__, fields[1:], strict=False)
    return kind.__name__, ", ".join(f"{name}={_shown(value)}" for name, value in named)[:BODY_TEXT_MAX]


def _shown(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)


def _letter_id(name: str) -> tuple[int, int]:
    """Raises Problem not_found for what is no name of a letter."""
    partition, colon, number = name.partition(":")
    if not colon or not all(
        part.isascii() and part.isdecimal() and len(part) < 20 for part in (partition, number)
    ):
        raise Problem("not_found", f"{name[:40]!r} names no dead letter: want partition:number")
    if int(partition) > 0xFFFF:
        raise Problem("not_found", f"there is no partition {partition}")
    return int(partition), int(number)


def _after(name: str) -> tuple[int, int]:
    """The place in the list of letters; before the first where there is no name."""
    try:
        return _letter_id(name) if name else (-1, 0)
    except Problem as problem:
        raise Problem("invalid_field", f"after: {problem.detail}") from None


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise Problem("invalid_field", f"after: {text[:40]!r} is no id")
    return int(text)
