"""The forms that work without any script: signing up, in and out, and how the pages look."""

from typing import Final
from urllib.parse import parse_qsl

from quart import Response, request

from node.http.accounts import NewUser, Sessions, SignIn
from node.http.admission import signed
from node.http.bodies import STRANGERS_BYTES_MAX, read_whole
from node.http.cookies import WEB
from node.http.openapi import Routes
from node.http.problems import Problem
from node.http.web import LANGUAGE, THEME, THEMES, Web, safe_path, see_other

FIELDS_MAX: Final = 16
FORM: Final = "application/x-www-form-urlencoded"
# What a person who signs in or up can mend, or must know: these have words in the catalogue.
TOLD: Final = (
    "wrong_credentials", "username_taken", "invalid_password", "invalid_field", "rate_limited", "suspended",
)  # fmt: skip
YEAR_S: Final = 365 * 86400
FORGET: Final = '"storage"'  # Clear-Site-Data: what the service worker kept is not for who comes next


def make_forms(web: Web, sessions: Sessions) -> Routes:
    routes = Routes(WEB, "web_forms")
    cookies = web.cookies

    def door(new: bool, fields: dict[str, str], wrong: str = "", status: int = 200) -> Response:
        """The page of signing in or up; `wrong` is a key of the catalogue."""
        subject, set_cookie = cookies.visit()
        response = web.page(
            "door.html", status, new=new, csrf=cookies.token(subject),
            next=safe_path(fields.get("next", "/")),
            wrong=web.words(wrong) if wrong else "", username=fields.get("username", ""),
            display_name=fields.get("display_name", ""),
        )  # fmt: skip
        if set_cookie:
            response.headers["Set-Cookie"] = set_cookie
        return response

    async def enter(new: bool) -> Response:
        fields = await form_fields()
        try:
            subject, first = cookies.visit()
            if first is not None:
                raise Problem("forbidden")
            cookies.check(subject, fields.get("csrf", ""))
        except Problem as stale:
            return door(new, fields, "stale_form", stale.status)
        name, password = fields.get("username", ""), fields.get("password", "")
        try:
            if new:
                wanted = NewUser(name, password, fields.get("display_name", "").strip())
                token = await sessions.sign_up(wanted, await sessions.welcome(wanted), None)
            else:
                token = await sessions.sign_in(SignIn(name, password))
        except Exception as error:
            problem = web.problem_for(error)
            if problem is None or problem.code not in TOLD:
                raise
            return door(new, fields, problem.code, problem.status)
        response = see_other(safe_path(fields.get("next", "/")))
        response.headers["Set-Cookie"] = cookies.signed_in(token)
        return response

    async def checked_fields() -> dict[str, str]:
        """The form of somebody who is signed in. Raises Problem forbidden."""
        fields = await form_fields()
        cookies.check(f"session:{signed().session}", fields.get("csrf", ""))
        return fields

    @routes.add("GET", "/sign-in", "The form of signing in", signed_in=False, asks_who=False)
    async def sign_in_page() -> Response:
        return door(False, {"next": request.args.get("next", "/")})

    @routes.add("POST", "/sign-in", "Sign in", signed_in=False, asks_who=False, limit="sign_in")
    async def sign_in_form() -> Response:
        return await enter(False)

    @routes.add("GET", "/sign-up", "The form of signing up", signed_in=False, asks_who=False)
    async def sign_up_page() -> Response:
        return door(True, {"next": request.args.get("next", "/")})

    @routes.add("POST", "/sign-up", "Sign up", signed_in=False, asks_who=False, limit="sign_up")
    async def sign_up_form() -> Response:
        return await enter(True)

    @routes.add("POST", "/sign-out", "End this session")
    async def sign_out() -> Response:
        await checked_fields()
        await sessions.end()
        response = see_other("/")
        response.headers["Set-Cookie"] = cookies.signed_out()
        response.headers["Clear-Site-Data"] = FORGET
        return response

    @routes.add("POST", "/preferences", "How pages look on this device")
    async def preferences() -> Response:
        fields = await checked_fields()
        response = see_other("/settings")
        theme, language = fields.get("theme", ""), fields.get("language", "")
        lives = YEAR_S if theme in THEMES else 0
        response.headers.add("Set-Cookie", f"{THEME}={theme if lives else ''}; {_kept(lives)}")
        if language in web.pages.catalogue.languages:
            response.headers.add("Set-Cookie", f"{LANGUAGE}={language}; {_kept(YEAR_S)}")
        return response

    web.install(routes)
    return routes


async def form_fields() -> dict[str, str]:
    """The fields of an urlencoded form, which is small. Raises Problem."""
    if request.mimetype != FORM:
        raise Problem("unsupported_media", f"send {FORM}")
    raw = await read_whole(request, STRANGERS_BYTES_MAX)
    try:
        pairs = parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
    except ValueError:
        raise Problem("malformed_form", "the form cannot be read") from None
    return dict(pairs)


def _kept(lives_s: int) -> str:
    return f"Path=/; SameSite=Lax; Max-Age={lives_s}"
