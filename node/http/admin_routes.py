"""Admin routes: the same functions for the CLI and for the web app of an admin.

The admin listener mounts them behind its token; the public listener behind a user's session, which must be an
admin's and young (an open browser in a café is no admin). What is only for the machine's operator (backups to
a path, metrics) is not among them.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from quart import Response

from cluster.replicas import now_ms
from node.http.admission import signed
from node.http.openapi import Answering, Routes
from node.http.problems import Problem
from node.parts import Parts
from node.social.people import Signed

Guard = Callable[[], None]  # raises Problem


class AdminRoutes(Routes):
    """Routes with one more question before each handler, asked when the listener has admitted the request."""

    def __init__(self, tag: str, guard: Guard) -> None:
        super().__init__(tag)
        self._guard = guard

    def add(
        self, method: str, path: str, summary: str, **description: Any
    ) -> Callable[[Answering], Answering]:
        problems = ("forbidden", "session_too_old", *description.pop("problems", ()))
        install = super().add(method, path, summary, problems=problems, **description)

        def guarded(handler: Answering) -> Answering:
            @wraps(handler)
            async def asked_first(**arguments: Any) -> Response:
                self._guard()
                return await handler(**arguments)

            return install(asked_first)

        return guarded


def operator() -> None:
    """The guard of the admin listener: its token has said all."""


def is_admin(who: Signed | None) -> bool:
    return who is not None and who.role == "admin"


def young_admin(parts: Parts) -> Guard:
    """The guard of the public listener. Raises Problem forbidden, session_too_old."""

    def guard() -> None:
        who = signed()
        if not is_admin(who):
            raise Problem("forbidden", "this needs an account with the role admin")
        age_s = (now_ms() - who.opened_ms) / 1000
        most_s = parts.settings.accounts.admin_session_s
        if age_s > most_s:
            raise Problem(
                "session_too_old",
                f"this session was opened {age_s:.0f} s ago, over {most_s:.0f} s: sign in again",
            )

    return guard
