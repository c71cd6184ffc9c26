"""The page of the cluster before three real nodes: one is killed and comes back, then two are."""

import re
import time
from collections import namedtuple

import pytest
import trio
from playwright.sync_api import expect

from tests.browser.conftest import DESK, PHONE
from tests.browser.test_quality import judged
from tests.chaos.processes import CommandFailed, Node, free_port
from tests.node.http.test_admin import bench
from tests.web.test_cluster_page import leave_letters

PATH = "/admin/cluster"
ASKED = "**/v1/admin/cluster/overview"
WELL_S = 90.0  # for all replicas to be level, on a machine that has other work
SEEN_MS = 60_000  # for the page to show what happened
ALL = "All 3 nodes are heard; writes are taken."
Person = namedtuple("Person", "name password")
ADMIN = Person("operator", "correct horse battery")


def started(folder, number, *words):
    port = free_port()
    node = Node(number, folder / f"node{number}", port, port)
    node.start(*words)
    return node


def invited(node):
    until = time.monotonic() + WELL_S
    while True:
        try:
            return node.command("cluster", "invite").strip()
        except CommandFailed:  # groups choose leaders
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def make_admin(node):
    account = {"username": ADMIN.name, "password": ADMIN.password, "role": "admin"}
    node.ask("POST", "/v1/admin/accounts", json=account)


def wait_until_well(nodes):
    until = time.monotonic() + WELL_S
    while not all((found := node.status())["healthy"] and found["heard"] == len(nodes) for node in nodes):
        assert time.monotonic() < until, found["words"]
        time.sleep(0.2)


@pytest.fixture(scope="module")
def plain():
    """An environment without what is meant for these tests: a node knows no such settings."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HELIOGRAPH_BROWSER", "HELIOGRAPH_PHOTOS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def nodes(tmp_path_factory, plain):
    """Three of one cluster, with an admin."""
    folder = tmp_path_factory.mktemp("cluster")
    running = []
    try:
        running.append(started(folder, 1))
        running[0].command("cluster", "init")
        for number in (2, 3):
            running.append(started(folder, number, "--join", invited(running[0])))
        wait_until_well(running)
        make_admin(running[0])
        yield running
    finally:
        for node in running:
            node.kill()


def watching(browser):
    page = browser.sign_in(ADMIN)
    page.goto(browser.url + PATH)
    expect(page.locator(".sentence")).to_have_text(ALL, timeout=SEEN_MS)
    return page


def segments_of(page, hue):
    return page.locator(f".segments .{hue}")


def test_one_node_is_killed_and_comes_back(visit, nodes):
    first, _, third = nodes
    with visit(at=first.url) as browser:
        page = watching(browser)
        sentence, spoken = page.locator(".sentence"), page.locator("[data-spoken]")
        card = page.locator(".node").nth(2)
        expect(segments_of(page, "node-3")).not_to_have_count(0, timeout=SEEN_MS)
        page.evaluate("() => { window.same = document.querySelectorAll('.segments use')[7]; }")
        third.kill()
        expect(sentence).to_have_text(
            re.compile(r"Node C has not been heard for \d+ s; writes are taken\."), timeout=SEEN_MS
        )
        expect(spoken).to_have_text(re.compile("Node C has not been heard"))
        said = spoken.text_content()
        expect(card).to_have_class(re.compile("away"))
        expect(segments_of(page, "node-3")).to_have_count(0, timeout=SEEN_MS)
        expect(segments_of(page, "hue-none")).to_have_count(0)
        expect(page.locator(".ring")).to_have_attribute("aria-label", re.compile("Without a leader: 0"))
        seconds = int(re.search(r"(\d+) s;", sentence.text_content())[1])
        expect(sentence).not_to_have_text(re.compile(rf"\b{seconds} s;"), timeout=SEEN_MS)
        assert spoken.text_content() == said  # the seconds go on, and are not read out
        third.start()
        expect(sentence).to_have_text(ALL, timeout=SEEN_MS)
        expect(spoken).to_have_text(ALL)
        expect(card).not_to_have_class(re.compile("away"))
        expect(segments_of(page, "node-3")).not_to_have_count(0, timeout=SEEN_MS)
        assert page.evaluate("() => window.same === document.querySelectorAll('.segments use')[7]")
        expect(card.locator("[data-fact=cluster_load]")).to_have_text(
            re.compile(r"\d+ commands/s, \d+ % CPU")
        )


def test_without_a_majority_it_says_that_writes_are_stopped(visit, nodes):
    first, *others = nodes
    wait_until_well(nodes)
    with visit(at=first.url) as browser:
        page = watching(browser)
        page.get_by_text("The same as a table").click()
        row = page.locator("tbody tr").nth(1)
        expect(row).to_have_text(re.compile(r"^0[ABC]A B C–$"))
        browser.expected = ["503"]
        for node in others:
            node.kill()
        expect(page.locator(".sentence")).to_have_text(
            "No majority: writes are stopped, reads go on. Not heard: B, C.", timeout=SEEN_MS
        )
        expect(segments_of(page, "hue-none")).to_have_count(256)
        expect(row).to_contain_text("none")
        door = browser.page()
        door.goto(f"{browser.url}/sign-in")
        door.fill("#username", ADMIN.name)
        door.fill("#password", ADMIN.password)
        with door.expect_response("**/sign-in") as answer:
            door.click("main form button")
        assert answer.value.status == 503
        expect(door.get_by_text("The node could not answer")).to_be_visible()
        for node in others:
            node.start()
        expect(page.locator(".sentence")).to_have_text(ALL, timeout=SEEN_MS)
        expect(segments_of(page, "hue-none")).to_have_count(0)
        expect(row).to_have_text(re.compile(r"^0[ABC]A B C"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [PHONE, DESK], ids=["phone", "desk"])
def test_it_can_be_read_by_everybody(visit, nodes, device, scheme):
    with visit(device, at=nodes[0].url, color_scheme=scheme) as browser:
        page = watching(browser)
        page.get_by_text("The same as a table").click()
        assert judged(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_page_that_nobody_sees_asks_for_nothing(visit, nodes):
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true})"
    with visit(at=nodes[1].url) as browser:
        page = browser.sign_in(ADMIN)
        page.clock.install()
        with page.expect_response(ASKED):
            page.goto(browser.url + PATH)
        with page.expect_response(ASKED):
            page.clock.run_for(2500)
        page.evaluate(hide % "true")
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.clock.run_for(60_000)
        assert asked == []
        page.evaluate(hide % "false")
        with page.expect_response(ASKED):
            page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def test_a_lone_node_and_its_dead_letters(visit, tmp_path, plain):
    trio.run(bench, tmp_path / "node1", leave_letters)
    node = started(tmp_path, 1)
    try:
        make_admin(node)
        with visit(PHONE, at=node.url) as browser:
            page = browser.sign_in(ADMIN)
            page.goto(f"{browser.url}/settings")
            page.get_by_role("link", name="Cluster").click()
            expect(page.locator(".sentence")).to_have_text("This node is alone; writes are taken.")
            expect(page.get_by_text("heliograph cluster init")).to_be_visible()
            letters = page.locator(".waiting li")
            expect(letters).to_have_count(2)
            assert judged(page) == []
            message = letters.filter(has_text="Keep, from partition 3")
            browser.expected = ["409"]
            message.get_by_role("button", name="Try again").click()
            expect(page.get_by_text("refused again")).to_be_visible()
            letters.filter(has_text="A photograph of bob").get_by_role("button", name="Try again").click()
            expect(letters).to_have_count(1)
            message.get_by_role("button", name="Drop").click()
            dialog = page.get_by_role("dialog")
            dialog.get_by_role("button", name="Cancel").click()
            expect(message.get_by_role("button", name="Drop")).to_be_focused()
            message.get_by_role("button", name="Drop").click()
            dialog.get_by_role("button", name="Drop").click()
            expect(page.get_by_text("There are none.")).to_be_visible()
            page.get_by_role("button", name="Scrub now").click()
            expect(page.get_by_text("Begun on all nodes that are heard.")).to_be_visible()
            browser.expected = ["ERR_CONNECTION_REFUSED"]
            node.kill()
            expect(page.locator(".sentence")).to_contain_text("This node does not answer", timeout=SEEN_MS)
    finally:
        node.kill()


def test_who_is_an_admin_no_more_sees_no_more(visit, nodes):
    with visit(at=nodes[0].url) as browser:
        page = watching(browser)
        browser.expected = ["403", "404"]
        found = nodes[0].ask("GET", f"/v1/admin/accounts/by-name/{ADMIN.name}")
        role = f"/v1/admin/accounts/{found['id']}/role"
        nodes[0].ask("POST", role, json={"role": "user"})
        try:
            expect(page.get_by_text("There is nothing here")).to_be_visible()
        finally:
            nodes[0].ask("POST", role, json={"role": "admin"})
