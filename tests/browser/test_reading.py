"""How it reads: on and on, back to one's place, by keyboard alone, without a network, on a narrow screen."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PHONE
from tests.browser.people import photographs, speck

PAGES = 5
PER_PAGE = 10


@pytest.fixture
def prolific(people):
    ada = people("ada")
    for number in range(PAGES * PER_PAGE + 5):
        ada.post(speck(number), caption=f"No. {number}")
    return ada


def test_the_feed_goes_on_and_back_keeps_the_place(visit, prolific, url):
    with visit(PHONE) as browser:
        page = browser.sign_in(prolific)
        posts = page.locator("photo-post")
        for number in range(1, PAGES):
            posts.nth(number * PER_PAGE - 1).scroll_into_view_if_needed()
            expect(posts.nth(number * PER_PAGE)).to_be_attached()
        there = posts.nth(PAGES * PER_PAGE - 4)
        there.scroll_into_view_if_needed()
        page.wait_for_load_state("networkidle")
        caption = there.locator(".caption").inner_text()
        before = there.bounding_box()["y"]
        there.locator(".when").click()
        page.wait_for_url(re.compile("/p/"))
        page.go_back()
        kept = page.locator("photo-post", has_text=re.compile(f"{re.escape(caption)}$"))
        expect(kept).to_be_in_viewport()
        assert abs(kept.bounding_box()["y"] - before) < 40
        ids = posts.evaluate_all("all => all.map(post => post.dataset.post)")
        assert len(ids) == len(set(ids)) >= PAGES * PER_PAGE
        # A like on the post's own page shows; what came in the meantime is told of.
        there.locator(".when").click()
        page.wait_for_url(re.compile("/p/"))
        page.get_by_role("button", name="Like").click()
        page.wait_for_load_state("networkidle")
        prolific.post(speck(999), caption="Meanwhile")
        page.go_back()
        expect(kept.get_by_role("button", name="Like")).to_have_attribute("aria-pressed", "true")
        # It is told of where the browser kept the page, and there where it did not.
        told = page.get_by_role("button", name="New posts").or_(page.get_by_text("Meanwhile"))
        expect(told).to_be_visible()


def test_back_misses_nothing_where_the_page_is_not_kept(visit, prolific, url):
    """A browser that has dropped the page from its cache gets a new one, whose posts are not the old ones."""
    with visit(PHONE, service_workers="block") as browser:
        page = browser.sign_in(prolific)
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        network.send("Network.setCacheDisabled", {"cacheDisabled": True})
        posts = page.locator("photo-post")
        for number in range(1, 4):
            posts.nth(number * PER_PAGE - 1).scroll_into_view_if_needed()
            expect(posts.nth(number * PER_PAGE)).to_be_attached()
        there = posts.nth(30)
        there.scroll_into_view_if_needed()
        caption = there.locator(".caption").inner_text()
        there.locator(".when").click()
        page.wait_for_url(re.compile("/p/"))
        prolific.post(speck(1000), caption="While you were away")
        page.go_back()
        kept = page.locator("photo-post", has_text=re.compile(f"{re.escape(caption)}$"))
        expect(kept).to_be_in_viewport()
        captions = page.locator("photo-post .caption").all_inner_texts()
        assert captions[0] == "While you were away"
        assert captions[1:] == [f"No. {54 - number}" for number in range(len(captions) - 1)]


def test_the_feed_ends_and_says_so(visit, people, url):
    ada = people("ada")
    for number in range(PER_PAGE + 2):
        ada.post(speck(number))
    with visit() as browser:
        page = browser.sign_in(ada)
        page.locator(".rest").scroll_into_view_if_needed()
        expect(page.get_by_text("That is all there is.")).to_be_visible()
        expect(page.locator("photo-post")).to_have_count(PER_PAGE + 2)


def test_what_could_not_be_loaded_can_be_tried_again(visit, people, url):
    ada = people("ada")
    for number in range(PER_PAGE + 2):
        ada.post(speck(number))
    with visit() as browser:
        browser.expected = ["ERR_FAILED"]
        page = browser.page()
        page.route("**/v1/feed?cursor=*", lambda route: route.abort())
        page.goto(f"{url}/sign-in")
        page.fill("#username", ada.name)
        page.fill("#password", ada.password)
        page.click("main form button")
        page.locator(".rest").scroll_into_view_if_needed()
        expect(page.get_by_text("Could not load more.")).to_be_visible()
        page.unroute_all()
        page.get_by_role("button", name="Try again").click()
        expect(page.get_by_text("That is all there is.")).to_be_visible()


def test_new_posts_are_told_of_and_come_when_asked(visit, people, url):
    ada, bob = people("ada"), people("bob")
    ada.follow(bob)
    bob.post(caption="Old")
    with visit() as browser:
        page = browser.sign_in(ada)
        pill = page.get_by_role("button", name="New posts")
        expect(pill).to_be_hidden()
        bob.post(photographs()[1], caption="New")
        # As when one comes back to the tab.
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(pill).to_be_visible()
        expect(page.get_by_text("New", exact=True)).to_have_count(0)
        pill.click()
        expect(page.locator("photo-post").first).to_contain_text("New")
        expect(page.locator("photo-post")).to_have_count(2)


PLAIN = """(node) => {
    const plain = (node) => {
        if (node.nodeType === Node.TEXT_NODE) return node.data.trim() || null;
        const pairs = [...node.attributes].map(({ name, value }) => [name, value.trim()]);
        const attributes = Object.fromEntries(pairs);
        delete attributes.fetchpriority;
        delete attributes.loading;
        return [node.localName, attributes, [...node.childNodes].map(plain).filter(Boolean)];
    };
    return plain(node);
}"""


def test_a_post_is_the_same_from_the_server_and_from_the_script(visit, people, url):
    ada = people("ada", "Ada <3")
    ada.post(caption="Line one\nline two", location="Here", alt='A "photo"')
    ada.album(3, caption=" ")
    ada.post(speck(7), caption="شمس")
    with visit() as browser, visit(java_script_enabled=True) as other:
        page = browser.sign_in(ada)
        script = page.evaluate(
            f"""async () => {{
                const base = document.querySelector('script[src$="app.js"]').src;
                const {{ postView }} = await import(new URL("post_view.js", base));
                const {{ posts }} = await (await fetch("/v1/feed")).json();
                return posts.map((post) => ({PLAIN})(postView(post)));
            }}"""
        )
        # The server's as they were sent, parsed on a page that has neither our scripts nor our policy.
        html = page.context.request.get(f"{url}/").text()
        server = other.page().evaluate(
            f"""(html) => {{
                const parsed = new DOMParser().parseFromString(html, "text/html");
                return [...parsed.querySelectorAll("photo-post")].map({PLAIN});
            }}""",
            html,
        )
        assert len(script) == len(server) == 3
        for ours, theirs in zip(script, server, strict=True):
            assert ours == theirs


def test_the_keyboard_alone(visit, people, url):
    ada = people("ada")
    ada.post(caption="First")
    ada.post(photographs()[1], caption="Second")
    with visit() as browser:
        page = browser.page()
        page.goto(f"{url}/sign-in")
        page.keyboard.type(ada.name)  # the name has the focus
        page.keyboard.press("Tab")
        page.keyboard.type(ada.password)
        page.keyboard.press("Enter")
        page.wait_for_url(f"{url}/")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        posts = page.locator("photo-post")
        page.keyboard.press("j")
        expect(posts.nth(0)).to_be_focused()
        page.keyboard.press("j")
        expect(posts.nth(1)).to_be_focused()
        page.keyboard.press("k")
        page.keyboard.press("l")
        expect(posts.nth(0).get_by_role("button", name="Like")).to_have_attribute("aria-pressed", "true")
        page.keyboard.press("?")
        dialog = page.get_by_role("dialog", name="Keyboard")
        expect(dialog).to_be_visible()
        for _ in range(6):  # the focus goes round within it (and through the browser's own frame)
            page.keyboard.press("Tab")
            inside = "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
            assert page.evaluate(inside)
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        expect(posts.nth(0)).to_be_focused()
        page.keyboard.press("n")
        page.wait_for_url(f"{url}/new")
        page.locator("#caption").focus()
        page.keyboard.type("jkln?")
        expect(page.locator("#caption")).to_have_value("jkln?")


def test_the_last_feed_stays_without_a_network_and_likes_wait(visit, people, url):
    ada, bob = people("ada"), people("bob")
    post = ada.post(caption="Kept on the device")
    bob.follow(ada)
    with visit(PHONE) as browser:
        browser.expected = ["ERR_INTERNET_DISCONNECTED", "Failed to fetch", "Failed to load"]
        page = browser.sign_in(bob)
        page.wait_for_function("navigator.serviceWorker.controller !== null")
        page.reload()
        expect(page.locator(".shot img")).to_be_visible()
        page.wait_for_load_state("networkidle")
        browser.context.set_offline(True)
        page.reload()
        expect(page.get_by_text("Kept on the device")).to_be_visible()
        expect(page.get_by_text("Offline: this is what was here last.")).to_be_visible()
        photo = page.locator(".shot img").first
        assert photo.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        like = page.get_by_role("button", name="Like")
        like.click()
        expect(like).to_have_attribute("aria-pressed", "true")
        expect(page.get_by_text("Will be saved when you are online.")).to_be_visible()
        page.goto(f"{url}/people")
        expect(page.get_by_role("heading", name="You are offline")).to_be_visible()
        page.goto(f"{url}/")
        expect(like).to_have_attribute("aria-pressed", "true")  # still, from what waits
        assert bob.call("GET", f"/v1/posts/{post['id']}")["liked_by_me"] is False
        browser.context.set_offline(False)
        expect(page.get_by_text("A like was saved.")).to_be_visible()
        assert bob.call("GET", f"/v1/posts/{post['id']}")["liked_by_me"] is True


def test_signing_out_leaves_nothing_on_the_device(visit, people, url):
    ada = people("ada")
    ada.post()
    with visit() as browser:
        page = browser.sign_in(ada)
        page.wait_for_function("navigator.serviceWorker.controller !== null")
        page.reload()
        page.wait_for_load_state("networkidle")
        page.goto(f"{url}/settings")
        assert page.evaluate("caches.keys()")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Photographs, among people you know.")).to_be_visible()
        kept = page.evaluate(
            """async () => {
                const feed = await (await caches.open("feed")).match("/");
                return feed ? feed.text() : "";
            }"""
        )
        assert ada.name not in kept


def test_reading_needs_no_script(visit, people, url):
    ada, bob = people("ada"), people("bob")
    for number in range(PER_PAGE + 1):
        ada.post(speck(number), caption=f"No. {number}")
    bob.follow(ada)
    with visit(java_script_enabled=False) as browser:
        page = browser.sign_in(bob)
        expect(page.locator("photo-post")).to_have_count(PER_PAGE)
        page.get_by_role("link", name="Older").click()
        expect(page.get_by_text("No. 0", exact=True)).to_be_visible()
        page.goto(f"{url}/@{ada.name}")
        page.locator(".tile").first.click()
        expect(page.get_by_text("No. 10", exact=True)).to_be_visible()
        page.goto(f"{url}/settings")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Photographs, among people you know.")).to_be_visible()


@pytest.mark.parametrize("width", [320, 768, 1920])
def test_no_page_is_wider_than_its_screen(visit, people, url, width):
    ada = people("ada", "A" * 60)
    post = ada.album(2, caption="w" * 200, location="l" * 100)
    ada.call("POST", f"/v1/posts/{post['id']}/comments", json={"text": "c" * 300})
    ada.call("PATCH", "/v1/users/me", json={"bio": "b" * 300})
    with visit({"viewport": {"width": width, "height": 700}}) as browser:
        page = browser.page()
        for path in ("/", "/sign-in", "/sign-up"):
            assert_narrow(page, url + path)
        page = browser.sign_in(ada)
        for path in ("/", f"/p/{post['id']}", f"/@{ada.name}", "/people", "/new", "/settings", "/requests"):
            assert_narrow(page, url + path)


def assert_narrow(page, address):
    page.goto(address)
    wide = page.evaluate(
        """() => [...document.querySelectorAll("body *")]
            .filter((one) => !one.closest(".album, .unseen, .sprite"))
            .filter((one) => one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
            .map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (address, wide)


def test_the_chosen_theme_is_there_from_the_first_frame(visit, people, url):
    ada = people("ada")
    with visit(color_scheme="light") as browser:
        page = browser.sign_in(ada)
        page.goto(f"{url}/settings")
        page.get_by_label("Dark").check()
        page.locator("form.looks").get_by_role("button", name="Save").click()
        page.wait_for_load_state()
        ground = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(ground) == "rgb(20, 18, 16)"
        # The document itself says it, so no frame is ever drawn in the other.
        assert 'data-theme="dark"' in page.context.request.get(f"{url}/people").text()
