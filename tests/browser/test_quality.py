"""What can be measured of it: accessibility by axe, layout shift, the largest paint, bytes on the wire."""

import json
from importlib.resources import files

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import DESK, PHONE
from tests.browser.people import photographs

SHIFT_MAX = 0.1
LARGEST_PAINT_MS_MAX = 1500
BEFORE_PHOTO_BYTES_MAX = 60 * 1024
# "Slow 4G" as performance audits emulate it: 1.6 Mbit/s down, 750 kbit/s up, 150 ms there and back.
SLOW_4G = {
    "offline": False,
    "latency": 150,
    "downloadThroughput": 1638.4 * 1024 / 8,
    "uploadThroughput": 750 * 1024 / 8,
}
SERIOUS = ("serious", "critical")


@pytest.fixture
def village(people):
    """Somebody with a feed of six, an album and comments, whom a friend follows and asks to follow."""
    ada, bob = people("ada", "Ada Lovelace"), people("bob", "Bob")
    post = ada.post(photographs()[0], caption="Morning light", alt="Hills in the morning", location="Gasteiz")
    ada.album(3, caption="Three from the weekend")
    for number in range(4):
        ada.post(photographs()[number % len(photographs())], caption=f"No. {number}", alt=f"Photo {number}")
    bob.follow(ada)
    ada.follow(bob)
    bob.call("POST", f"/v1/posts/{post['id']}/comments", json={"text": "Lovely"})
    bob.call("POST", f"/v1/posts/{post['id']}/like")
    ada.post_id = post["id"]
    return ada


def judged(page):
    """What axe finds serious on the page as it stands; run from the browser's own tools, past the policy."""
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        (one["id"], one["impact"], [node["html"][:120] for node in one["nodes"]])
        for one in found["violations"]
        if one["impact"] in SERIOUS
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [PHONE, DESK], ids=["phone", "desk"])
def test_axe_finds_nothing_serious(visit, village, url, device, scheme):
    with visit(device, color_scheme=scheme) as browser:
        page = browser.page()
        found = {}
        for path in ("/", "/sign-in", "/sign-up", f"/@{village.name}", "/nothing"):
            browser.expected = ["404"]
            page.goto(url + path)
            found[path] = judged(page)
        page = browser.sign_in(village)
        for path in (
            "/", f"/p/{village.post_id}", f"/@{village.name}", "/people", "/new", "/settings", "/requests",
            "/blocks",
        ):  # fmt: skip
            page.goto(url + path)
            page.wait_for_load_state("networkidle")
            found[path] = judged(page)
        page.goto(f"{url}/new")
        image = {"name": "one.jpg", "mimeType": "image/jpeg", "buffer": photographs()[0]}
        page.set_input_files("#files", [image])
        found["/new with a photo"] = judged(page)
        page.goto(url)
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        found["the keyboard dialog"] = judged(page)
        assert not {path: wrong for path, wrong in found.items() if wrong}


WATCH = """
    window.seen = { shift: 0, paint: 0, what: "" };
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.seen.shift += entry.value;
    }).observe({ type: "layout-shift", buffered: true });
    new PerformanceObserver((list) => {
        const last = list.getEntries().at(-1);
        window.seen.paint = last.startTime;
        window.seen.what = last.element?.outerHTML.slice(0, 300) ?? "";
    }).observe({ type: "largest-contentful-paint", buffered: true });
"""


@pytest.mark.parametrize("device", [PHONE, DESK], ids=["phone", "desk"])
def test_nothing_jumps_and_the_largest_paint_is_soon_on_slow_4g(visit, village, device, record_property):
    with visit(device) as browser:
        page = browser.sign_in(village)
        page.context.add_init_script(WATCH)
        state = page.context.storage_state()
    # A first visit: nothing is in a cache, but that one is signed in.
    with visit(device, storage_state=state) as browser:
        page = browser.page()
        page.add_init_script(WATCH)
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        network.send("Network.emulateNetworkConditions", SLOW_4G)
        page.goto(browser.url)
        page.wait_for_load_state("networkidle")
        paint = page.evaluate("window.seen")
        network.send("Network.emulateNetworkConditions", {**SLOW_4G, "downloadThroughput": -1, "latency": 0})
        for _ in range(8):
            page.mouse.wheel(0, 700)
            page.wait_for_load_state("networkidle")
        shift = page.evaluate("window.seen.shift")
        print(json.dumps({"largest_paint_ms": round(paint["paint"]), "shift": round(shift, 4), **paint}))
        assert "<img" in paint["what"], "the largest paint is not a photo"
        assert shift < SHIFT_MAX
        assert paint["paint"] < LARGEST_PAINT_MS_MAX


def test_little_comes_before_the_first_photo(visit, village):
    with visit(PHONE) as browser:
        state = browser.sign_in(village).context.storage_state()
    with visit(PHONE, storage_state=state, service_workers="block") as browser:
        page = browser.page()
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        urls, sizes = {}, {}
        network.on("Network.responseReceived", lambda e: urls.update({e["requestId"]: e["response"]["url"]}))
        network.on(
            "Network.loadingFinished", lambda e: sizes.update({e["requestId"]: e["encodedDataLength"]})
        )
        page.goto(browser.url)
        page.wait_for_load_state("networkidle")
        # All that the page is, though the photo does not wait for most of it.
        frame = {urls[one]: size for one, size in sizes.items() if "/media/" not in urls.get(one, "/media/")}
        print(json.dumps({"bytes": sum(frame.values()), "requests": len(frame)}), frame)
        assert len(frame) > 10
        assert sum(frame.values()) <= BEFORE_PHOTO_BYTES_MAX
