"""The web app's side of HTTP: what each of its answers carries, whatever page it is.

Pages are HTML under a policy that lets nothing run or load but our own files; errors are pages, too; what is
the same for everybody (assets, manifest, service worker) is here. The pages are in `web_pages.py`, the forms
in `web_forms.py`, all templates and words in `node/web/`.
"""

import zlib
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec
from quart import Response, g, request

from cluster.commands import Refused
from cluster.copies.placement import NotEnoughCopies
from cluster.replicas import Overloaded, Stopped
from cluster.router import StorageFull, Unavailable
from node.http.admission import head, problem_of, tell_stale, viewer
from node.http.application import Application
from node.http.cookies import WEB, Cookies
from node.http.openapi import Routes, empty
from node.http.problems import Problem, answer
from node.logs import get_logger
from node.media.intake import TooLarge
from node.parts import Parts
from node.passwords import Busy
from node.social import people
from node.social.people import NOBODY, ShortUser, UserView
from node.web.assets import Asset
from node.web.catalogue import Words
from node.web.pages import Pages

FOREVER: Final = "public, max-age=31536000, immutable"
PAGE_CACHING: Final = "private, no-cache"  # a browser may keep it for its Back button, and asks otherwise
PERMISSIONS: Final = "camera=(), geolocation=(), microphone=(), payment=(), usb=(), browsing-topics=()"
THEME: Final = "heliograph-theme"
LANGUAGE: Final = "heliograph-language"
MARKS: Final = "heliograph-marks"  # the Heliograph-Token of the scripts' last write, for the next page
THEMES: Final = ("light", "dark")
PATH_CHARACTERS_MAX: Final = 500  # of an address to return to
GZIP_LEVEL: Final = 2  # of pages, made on the way: 20 KB in a quarter of a millisecond
GZIP_BITS: Final = 31  # zlib's word for a gzip frame
OF_PROGRAMS: Final = ("/v1/", "/media/", "/.well-known/", "/assets/", "/docs/", "/openapi.json")

log = get_logger("web")


class Web:
    """What pages and forms share. One per public listener."""

    def __init__(self, parts: Parts, cookies: Cookies, pages: Pages) -> None:
        self.parts = parts
        self.cookies = cookies
        self.pages = pages
        public = urlsplit(parts.settings.http.public_url)
        # Where there is a public URL the addresses of media begin with it, however the page was reached.
        origin = f" {public.scheme}://{public.netloc}" if public.netloc else ""
        self._policy = (
            f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:{origin}; "
            f"connect-src 'self'{origin}; manifest-src 'self'; worker-src 'self'; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
            "trusted-types heliograph"
        )

    # --- who looks, and how ----------------------------------------------------------------------------
    @property
    def words(self) -> Words:
        return self.pages.catalogue.choose(request.cookies.get(LANGUAGE), head(b"accept-language"))

    @property
    def theme(self) -> str | None:
        chosen = request.cookies.get(THEME)
        return chosen if chosen in THEMES else None

    @property
    def base(self) -> str:
        """Where this node is, for addresses that other sites are told."""
        public = self.parts.settings.http.public_url.rstrip("/")
        return public or f"{request.scheme}://{request.host}"

    def me(self) -> ShortUser | None:
        user = viewer()
        if user == NOBODY:
            return None
        with self.parts.service.read() as rows:
            return people.short_users(rows, [user], self.parts.feeds.renderer.avatar_url)[user]

    async def caught_up(self) -> None:
        """Wait for what this browser's scripts wrote last, so that the page shows it."""
        marks = request.cookies.get(MARKS)
        if marks:
            try:
                if not await self.parts.service.caught_up(marks):
                    tell_stale()
            except ValueError:
                log.debug("marks of a browser that are none")

    # --- answers ---------------------------------------------------------------------------------------
    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page for whoever asks; `me` is given where they may be signed in."""
        me: ShortUser | UserView | None = values.setdefault("me", None)
        if me is not None and "csrf" not in values:
            values["csrf"] = self.cookies.token(f"session:{g.signed.session}")
        path = quote(request.path, safe="/@")
        body = self.pages.page(template, self.words, {"theme": self.theme, "path": path, **values})
        return self._html(body.encode(), status)

    def _html(self, body: bytes, status: int) -> Response:
        response = Response(b"", status=status, content_type="text/html; charset=utf-8")
        headers = response.headers
        if "gzip" in (head(b"accept-encoding") or ""):
            packer = zlib.compressobj(GZIP_LEVEL, wbits=GZIP_BITS)
            body = packer.compress(body) + packer.flush()
            headers["Content-Encoding"] = "gzip"
        response.set_data(body)
        headers["Content-Security-Policy"] = self._policy
        # With none at all, forms would be sent without their origin.
        headers["Referrer-Policy"] = "same-origin"
        headers["Permissions-Policy"] = PERMISSIONS
        headers["Cross-Origin-Opener-Policy"] = "same-origin"
        headers["Cache-Control"] = PAGE_CACHING
        headers["Vary"] = "Cookie, Accept-Language, Accept-Encoding"
        return response

    def asset(self, asset: Asset, caching: str) -> Response:
        packed = asset.packed is not None and "gzip" in (head(b"accept-encoding") or "")
        body = asset.packed if packed and asset.packed is not None else asset.plain
        response = Response(body, content_type=asset.content_type)
        response.headers["Cache-Control"] = caching
        if asset.packed is not None:
            response.headers["Vary"] = "Accept-Encoding"
        if packed:
            response.headers["Content-Encoding"] = "gzip"
        return response

    def problem(self, problem: Problem) -> Response:
        """An error as a page; who must sign in is led there, and whose session is over loses the cookie."""
        if problem.code in ("unauthenticated", "suspended"):
            response = see_other(f"/sign-in?next={quote(here(), safe='')}")
            response.headers["Set-Cookie"] = self.cookies.signed_out()
            return response
        t = self.words
        match problem.code:
            case "not_found":
                heading, detail = t("not_found"), t("not_found_more")
            case "forbidden":
                heading, detail = t("forbidden"), problem.detail
            case "rate_limited":
                heading, detail = t("rate_limited"), ""
            case _:
                heading, detail = t("problem"), t("problem_more")
        # Where the trouble is ours, reading who asks might only meet it again.
        me = self.me() if problem.status < 500 and g.get("signed") else None
        response = self.page("problem.html", problem.status, me=me, heading=heading, detail=detail, back="/")
        for name, value in problem.headers.items():
            response.headers[name] = value
        return response

    def problem_for(self, error: Exception) -> Problem | None:
        """What went wrong, if it is not a bug of ours."""
        return error if isinstance(error, Problem) else problem_of(error)

    def install(self, routes: Routes) -> None:
        """Make errors of these routes pages."""

        async def of_problem(error: Problem) -> Response:
            return self.problem(error)

        async def of_below(error: Exception) -> Response:
            problem = problem_of(error)
            assert problem is not None
            return self.problem(problem)

        async def of_bug(error: Exception) -> Response:
            log.error("a page failed", request_id=getattr(request, "request_id", None), exc_info=error)
            return self.problem(Problem("internal"))

        register = routes.blueprint.register_error_handler
        register(Problem, of_problem)
        for kind in (Refused, Overloaded, NotEnoughCopies, Stopped, StorageFull, TooLarge, Busy, Unavailable):
            register(kind, of_below)
        register(Exception, of_bug)

    def install_unknown(self, app: Application) -> None:
        """An address that leads nowhere is a page to a person and a problem document to a program."""

        async def unknown(_error: Exception) -> Response:
            problem = Problem("not_found")
            person = request.method in ("GET", "HEAD") and "text/html" in (head(b"accept") or "")
            if person and not request.path.startswith(OF_PROGRAMS):
                return self.problem(problem)
            return answer(problem)

        app.register_error_handler(404, unknown)


def see_other(path: str) -> Response:
    response = empty(303)
    response.headers["Location"] = path
    return response


def here() -> str:
    """The path and query that were asked for, to return to."""
    if request.method not in ("GET", "HEAD"):
        return "/"
    query = request.query_string.decode("latin-1")
    return quote(request.path, safe="/@") + (f"?{query}" if query else "")


def safe_path(written: str) -> str:
    """A path on this node to go on to; the home page for anything else (another site's address above all)."""
    plain = written.startswith("/") and written.isascii() and written.isprintable()
    if not plain or written[1:2] in ("/", "\\") or len(written) > PATH_CHARACTERS_MAX:
        return "/"
    return written


def make_shell(web: Web) -> Routes:
    """What the web app is beside its pages."""
    routes = Routes(WEB, "web_shell")
    assets = web.pages.assets
    common: dict[str, Any] = {"signed_in": False, "asks_who": False, "limit": "none"}
    worker = assets["sw.js"]
    shell = [assets.url(name) for name in assets.names() if name.endswith((".css", ".js"))]
    constants = {"VERSION": assets.version, "SHELL": [*shell, "/offline"]}
    lines = [f"const {name} = {msgspec.json.encode(value).decode()};\n" for name, value in constants.items()]
    worker_file = Asset(worker.content_type, "".join(lines).encode() + worker.plain, None)

    @routes.add("GET", "/assets/<version>/<path:name>", "A file of the web app", **common)
    async def asset(version: str, name: str) -> Response:
        found = assets.find(version, name)
        if found is None:
            return answer(Problem("not_found"))
        return web.asset(found, FOREVER)

    @routes.add("GET", "/sw.js", "The service worker", **common)
    async def service_worker() -> Response:
        return web.asset(worker_file, "no-cache")

    @routes.add("GET", "/favicon.ico", "The icon, where browsers look for it unasked", **common)
    async def favicon() -> Response:
        return web.asset(assets["icons/icon-192.png"], "public, max-age=86400")

    @routes.add("GET", "/manifest.webmanifest", "What a device shows of the installed app", **common)
    async def manifest() -> Response:
        response = Response(msgspec.json.encode(_manifest(web)), content_type="application/manifest+json")
        response.headers["Cache-Control"] = "no-cache"
        return response

    @routes.add("GET", "/offline", "What the service worker shows where it has nothing", **common)
    async def offline() -> Response:
        t = web.words
        return web.page("problem.html", heading=t("offline"), detail=t("offline_more"), back="/")

    return routes


def _manifest(web: Web) -> dict[str, Any]:
    assets, t = web.pages.assets, web.words
    icons = [
        {"src": assets.url(f"icons/icon-{size}.png"), "sizes": f"{size}x{size}", "type": "image/png"}
        for size in (192, 512)
    ]
    maskable = {**icons[1], "src": assets.url("icons/maskable-512.png"), "purpose": "maskable"}
    return {
        "name": t("name"),
        "short_name": t("name"),
        "lang": t.language,
        "id": "/",
        "start_url": "/",
        "scope": "/",
        "display": "standalone",
        "background_color": "#faf8f4",
        "theme_color": "#faf8f4",
        "icons": [*icons, maskable],
        "shortcuts": [{"name": t("new_post"), "url": "/new"}],
    }
