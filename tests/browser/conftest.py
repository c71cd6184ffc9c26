"""A real browser before a real node. `make test-web` runs these; without a browser they are not collected.

Every page is watched: an error on its console, an exception in its scripts or a request to another host fails
the test that caused it.
"""

import os
from contextlib import contextmanager

import pytest

BROWSER = os.environ.get("HELIOGRAPH_BROWSER", "")
collect_ignore_glob = [] if BROWSER else ["test_*.py"]

PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
DESK = {"viewport": {"width": 1280, "height": 800}}
# Whatever it would ask of its maker's hosts at the start only costs time.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_MS = 10_000


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def url(tmp_path_factory):
    from tests.cli.live import running
    from tests.node.http.api.conftest import CHEAP

    with running(tmp_path_factory.mktemp("node") / "data", *CHEAP) as url:
        yield url


@pytest.fixture
def people(url):
    """Makes people with names that no other test has: `ada = people("ada", "Ada L.")`."""
    from tests.browser.people import Newcomers

    return Newcomers(url)


class Watched:
    """A browser's context whose pages may not complain."""

    def __init__(self, context, url, scripts=True):
        self.context = context
        self.scripts = scripts
        self.url = url
        self.complaints = []
        self.expected = []  # words in complaints that the test provokes
        context.set_default_timeout(PATIENCE_MS)
        context.on("page", self._watch)
        context.on("request", self._look)

    def _watch(self, page):
        page.on("console", lambda message: message.type == "error" and self._complain(message.text))
        page.on("pageerror", lambda error: self._complain(str(error)))

    def _look(self, request):
        if not request.url.startswith((self.url, "blob:")):
            self._complain(f"asked of another host: {request.url}")

    def _complain(self, text):
        if not any(word in text for word in self.expected):
            self.complaints.append(text)

    def page(self):
        page = self.context.new_page()
        if self.scripts:
            page.goto = lambda address, goto=page.goto: self._ready(page, goto(address))
        return page

    def _ready(self, page, answer):
        """A page that was opened answers clicks once its scripts have their words."""
        page.wait_for_function("customElements.get('photo-post') !== undefined")
        return answer

    def sign_in(self, person):
        """A page that is signed in, on the feed."""
        page = self.page()
        page.goto(f"{self.url}/sign-in")
        page.fill("#username", person.name)
        page.fill("#password", person.password)
        page.click("main form button")
        page.wait_for_url(f"{self.url}/")
        if self.scripts:
            self._ready(page, None)
        return page


@pytest.fixture
def visit(chromium, url):
    """Opens browsers: `with visit(PHONE) as phone: page = phone.sign_in(ada)`."""

    @contextmanager
    def opened(device=DESK, at=url, **options):
        context = chromium.new_context(**{"reduced_motion": "reduce", **device, **options})
        watched = Watched(context, at, options.get("java_script_enabled", True))
        yield watched
        context.close()
        assert not watched.complaints, watched.complaints

    return opened
