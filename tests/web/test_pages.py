"""What pages hold: posts and people as whoever asks may see them, and no more than our own files."""

import gzip
import re

import pytest

from tests.node.http.api.answers import problem
from tests.node.nodes import picture
from tests.web.visitors import HTML, Elements, Visitor

SCRIPT = "<script>alert('no')</script>"
ARABIC = "صباح الخير من الجبل"


async def test_a_feed_page_holds_what_the_api_gives(node):
    ada = await node.sign_up("ada")
    posts = [await ada.post_photo(picture((number, 40, 90)), caption=f"No. {number}") for number in range(12)]
    async with Visitor(node) as visitor:
        await visitor.sign_in("ada")
        page = Elements((await visitor.get("/")).text)
        assert [one["data-post"] for one in page.named("photo-post")] == [p["id"] for p in posts[:1:-1]]
        feed = page.named("photo-feed")[0]
        answer = await visitor.http.get("/v1/feed", params={"cursor": feed["data-cursor"]})
        assert [post["id"] for post in answer.json()["posts"]] == [posts[1]["id"], posts[0]["id"]]
        older = next(a["href"] for a in page.named("a") if "older" in a.get("class", ""))
        assert "No. 0" in (await visitor.get(older)).text


async def test_words_of_people_are_text(node):
    ada = await node.sign_up("ada")
    post = await ada.post_photo(caption=SCRIPT, location='"><img src=x>', alt='" onload="x')
    await ada.post_photo(picture((1, 2, 3)), caption=ARABIC)
    await ada.call("POST", f"/v1/posts/{post['id']}/comments", json={"text": SCRIPT})
    await ada.call("PATCH", "/v1/users/me", json={"display_name": "<i>Ada", "bio": SCRIPT})
    async with Visitor(node) as visitor:
        await visitor.sign_in("ada")
        for path in ("/", f"/p/{post['id']}", "/@ada", "/people", "/settings"):
            html = (await visitor.get(path)).text
            page = Elements(html)
            assert "<i>Ada" not in html and "&lt;i&gt;Ada" in html
            for attributes in page.named("script"):
                assert attributes["src"].startswith("/assets/")
            assert not [a for _, a in page.all if any(name.startswith("on") or name == "style" for name in a)]
        html = (await visitor.get("/")).text
        assert f'<p class="caption" dir="auto">{ARABIC}</p>' in html
        assert "&lt;script&gt;alert(&#39;no&#39;)&lt;/script&gt;" in html


async def test_permalinks_say_what_other_sites_may_show(node):
    ada = await node.sign_up("ada")
    post = await ada.post_photo(picture(size=(640, 480)), caption="Blue hour\n#dusk", alt="Hills")
    await ada.call("PATCH", "/v1/users/me", json={"bio": "Walks"})
    async with Visitor(node) as stranger:
        found = graph((await stranger.get(f"/p/{post['id']}")).text)
        assert found["og:description"] == "Blue hour #dusk" and found["og:image:alt"] == "Hills"
        assert found["og:url"] == f"{node.url}/p/{post['id']}"
        assert found["og:image"] == node.url + post["media"][0]["urls"]["large"]["jpeg"]
        assert (await node.http.get(found["og:image"])).status_code == 200
        found = graph((await stranger.get("/@ada")).text)
        assert (found["og:type"], found["og:title"], found["og:description"]) == ("profile", "ada", "Walks")


def graph(html):
    return {one["property"]: one["content"] for one in Elements(html).named("meta") if "property" in one}


async def test_a_private_account_shows_strangers_only_that_it_is_there(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    post = await ada.post_photo(caption="for few")
    await ada.call("PATCH", "/v1/users/me", json={"private": True})
    async with Visitor(node) as stranger, Visitor(node) as follower:
        absent = (await stranger.get("/p/1", 404)).text
        assert (await stranger.get(f"/p/{post['id']}", 404)).text.replace(post["id"], "1") == absent
        page = (await stranger.get("/@ada")).text
        assert not graph(page) and "noindex" in page and post["id"] not in page and "tile" not in page
        assert (await stranger.get("/@ada/followers", 403)).text.count("for few") == 0
        await bob.follow(ada)
        await ada.call("POST", f"/v1/follow-requests/{bob.id}/accept")
        await follower.sign_in("bob")
        page = (await follower.get(f"/p/{post['id']}")).text
        assert "for few" in page and not graph(page)  # what a follower sees is not for other sites
        assert post["id"] in (await follower.get("/@ada")).text


async def test_an_unfinished_post_has_a_page_for_its_author_alone(node):
    ada = await node.sign_up("ada")
    body = {"content_type": "image/jpeg", "size": 10, "caption": "to come"}
    post = (await ada.call("POST", "/v1/posts", json=body))["post_id"]
    async with Visitor(node) as author, Visitor(node) as stranger:
        await author.sign_in("ada")
        page = (await author.get(f"/p/{post}")).text
        assert "Waiting for its photograph" in page and not graph(page)
        assert post in (await author.get("/@ada")).text
        await stranger.get(f"/p/{post}", 404)
        assert post not in (await stranger.get("/@ada")).text
        # Who is signed in stays so on a page that says there is nothing.
        assert 'href="/settings"' in (await author.get("/@nobody", 404)).text


async def test_who_is_blocked_finds_nothing(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    post = await ada.post_photo()
    await ada.call("POST", f"/v1/users/{bob.id}/block")
    async with Visitor(node) as visitor:
        await visitor.sign_in("bob")
        await visitor.get("/@ada", 404)
        await visitor.get(f"/p/{post['id']}", 404)
        assert "@ada" not in (await visitor.get("/people")).text


async def test_every_answer_carries_its_policy(node):
    await node.sign_up("ada")
    async with Visitor(node) as visitor:
        await visitor.sign_in("ada")
        for path in (
            "/",
            "/@ada",
            "/people",
            "/new",
            "/settings",
            "/requests",
            "/blocks",
            "/sign-in",
            "/offline",
        ):
            headers = (await visitor.get(path)).headers
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy and "data:" not in policy
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "same-origin"
            assert headers["Cache-Control"] == "private, no-cache"
            assert "Cookie" in headers["Vary"] and "Permissions-Policy" in headers


async def test_nothing_comes_from_elsewhere(node):
    ada = await node.sign_up("ada")
    await ada.post_photo()
    async with Visitor(node) as visitor:
        await visitor.sign_in("ada")
        for path in ("/", "/@ada", "/new", "/settings"):
            page = Elements((await visitor.get(path)).text)
            for tag, attributes in page.all:
                if attributes.get("rel") == "canonical":
                    continue  # it says where the page is, and loads nothing
                for name in ("src", "href", "action", "srcset"):
                    value = attributes.get(name, "/")
                    assert value[:1] in ("/", "#") and value[:2] != "//", (tag, value)


async def test_assets_may_be_kept_for_ever_and_come_compressed(node):
    page = await node.http.get("/")
    style = re.search(r'href="(/assets/[0-9a-f]{16}/style\.css)"', page.text)[1]
    answer = await node.http.get(style, headers={"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip" and "immutable" in answer.headers["Cache-Control"]
    plain = await node.http.get(style, headers={"Accept-Encoding": "identity"})
    assert plain.content == answer.content and "Content-Encoding" not in plain.headers
    for wrong in (style.replace("style", "styles"), re.sub("[0-9a-f]{16}", "0" * 16, style)):
        problem(await node.http.get(wrong, headers=HTML), 404, "not_found")


async def test_pages_are_compressed_where_that_is_wanted(node):
    async with node.http.stream("GET", "/", headers={"Accept-Encoding": "gzip"}) as answer:
        raw = b"".join([chunk async for chunk in answer.aiter_raw()])
    assert answer.headers["Content-Encoding"] == "gzip"
    plain = await node.http.get("/", headers={"Accept-Encoding": "identity"})
    assert gzip.decompress(raw) == plain.content


@pytest.mark.parametrize("path", ["/nothing", "/@nobody", "/p/12", "/p/x", "/@a%20b", "/@ada/x"])
async def test_what_is_not_there_is_a_page_to_a_person(node, path):
    async with Visitor(node) as visitor:
        assert "There is nothing here" in (await visitor.get(path, 404)).text
    if path == "/nothing":
        problem(await node.http.get(path, headers={"Accept": "*/*"}), 404, "not_found")


async def test_an_address_of_the_api_is_a_problem_to_everybody(node):
    problem(await node.http.get("/v1/nothing", headers=HTML), 404, "not_found")
    problem(await node.http.get("/media/nothing", headers=HTML), 404, "not_found")


async def test_a_page_shows_what_its_browser_wrote_last(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    post = await ada.post_photo()
    async with Visitor(node) as visitor:
        await visitor.sign_in("bob")
        for number in range(1, 6):
            path = f"/v1/posts/{post['id']}/comments"
            answer = await bob.ask("POST", path, json={"text": f"No. {number}"})
            visitor.http.cookies.set("heliograph-marks", answer.headers["Heliograph-Token"])
            assert f"No. {number}" in (await visitor.get(f"/p/{post['id']}")).text
        visitor.http.cookies.set("heliograph-marks", "garbage")
        await visitor.get(f"/p/{post['id']}")


async def test_looks_and_language_are_kept(node):
    async with Visitor(node) as ada:
        await ada.sign_up("ada")
        assert Elements((await ada.get("/settings")).text).named("html") == [{"lang": "en"}]
        answer = await ada.send("/settings", "/preferences", theme="dark", language="de")
        assert answer.status_code == 303
        page = await ada.get("/settings")
        assert Elements(page.text).named("html") == [{"lang": "de", "data-theme": "dark"}]
        assert "Einstellungen" in page.text
        await ada.send("/settings", "/preferences", theme="", language="en")
        assert Elements((await ada.get("/settings")).text).named("html") == [{"lang": "en"}]


async def test_the_language_is_what_the_browser_asks_for(node):
    for accepted, language in (("de-AT,en;q=0.5", "de"), ("fr, de;q=0.2, en;q=0.9", "en"), ("x;q=z,,", "en")):
        page = await node.http.get("/", headers={"Accept-Language": accepted})
        assert Elements(page.text).named("html")[0]["lang"] == language


async def test_the_manifest_and_the_worker(node):
    manifest = (await node.http.get("/manifest.webmanifest")).json()
    for one in manifest["icons"]:
        assert (await node.http.get(one["src"])).headers["Content-Type"] == "image/png"
    worker = await node.http.get("/sw.js")
    assert worker.headers["Cache-Control"] == "no-cache" and "javascript" in worker.headers["Content-Type"]
    for path in re.findall(r'"(/[^"]+)"', worker.text.split("\n")[1]):
        assert (await node.http.get(path)).status_code == 200
