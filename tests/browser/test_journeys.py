"""What a person does: sign up, follow, post, like, comment, edit, block, and go."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import DESK, PHONE
from tests.browser.people import photographs

SCRIPT = "<script>document.title = 'taken over'</script>"
ARABIC = "صباح الخير من الجبل"


def jpeg(number, name=None):
    data = photographs()[number % len(photographs())]
    return {"name": name or f"photo{number}.jpg", "mimeType": "image/jpeg", "buffer": data}


@pytest.mark.parametrize("device", [PHONE, DESK], ids=["phone", "desk"])
def test_from_sign_up_to_the_feed(visit, people, url, device):
    name = people("host").name + "_new"
    with visit(device) as browser:
        page = browser.page()
        page.goto(url)
        page.locator("main").get_by_role("link", name="Sign up").click()
        page.fill("#username", name)
        page.fill("#display_name", "A Newcomer")
        page.fill("#password", "correct horse battery")
        page.get_by_role("button", name="Sign up").click()
        expect(page.get_by_text("Nothing here yet")).to_be_visible()
        page.get_by_role("navigation").get_by_role("link", name="New post").click()
        page.set_input_files("#files", [jpeg(0)])
        page.get_by_label("Description (alt text)").fill("Hills")
        page.fill("#caption", "My first")
        page.get_by_role("button", name="Post", exact=True).click()
        page.wait_for_url(f"{url}/")
        post = page.locator("photo-post")
        expect(post).to_have_count(1)
        expect(post.get_by_text("My first")).to_be_visible()
        photo = post.get_by_role("img", name="Hills")
        expect(photo).to_be_visible()
        assert photo.evaluate("image => image.decode().then(() => image.naturalWidth > 300)")


def test_two_people_follow_each_other(visit, people, url):
    ada, bob = people("ada"), people("bob")
    ada.post(caption="By Ada")
    bob.post(caption="By Bob")
    with visit() as first, visit(PHONE) as second:
        for browser, who, whom in ((first, ada, bob), (second, bob, ada)):
            page = browser.sign_in(who)
            page.goto(f"{url}/people")
            row = page.locator(".person", has_text=f"@{whom.name}")
            row.get_by_role("button", name="Follow").click()
            expect(row.get_by_role("button", name="Following")).to_be_enabled()
            page.goto(url)
            expect(page.locator("photo-post")).to_have_count(2)
        page.goto(f"{url}/@{ada.name}")
        expect(page.get_by_text("follows you")).to_be_visible()
        expect(page.locator("[data-followers]")).to_have_text("1")
        page.get_by_role("button", name="Following").click()
        expect(page.locator("[data-followers]")).to_have_text("0")
        page.goto(url)
        expect(page.locator("photo-post")).to_have_count(1)


def test_three_photos_in_another_order_each_described(visit, people, url):
    ada = people("ada")
    with visit() as browser:
        page = browser.sign_in(ada)
        page.goto(f"{url}/new")
        page.set_input_files("#files", [jpeg(0, "one.jpg"), jpeg(1, "two.jpg")])
        page.set_input_files("#files", [jpeg(2, "three.jpg")])
        rows = page.locator(".piece")
        for name in ("one", "two", "three"):
            rows.filter(has_text=f"{name}.jpg").get_by_label("Description (alt text)").fill(f"alt {name}")
        page.get_by_role("button", name="Earlier: three.jpg").click()
        expect(rows.nth(1)).to_contain_text("three.jpg")
        rows.filter(has_text="two.jpg").drag_to(rows.nth(0), target_position={"x": 5, "y": 5})
        expect(rows.nth(0)).to_contain_text("two.jpg")
        page.fill("#caption", "Three")
        page.fill("#location", "Gasteiz")
        page.get_by_role("button", name="Post", exact=True).click()
        page.wait_for_url(f"{url}/")
        post = ada.feed()[0]
        assert [medium["alt"] for medium in post["media"]] == ["alt two", "alt one", "alt three"]
        assert (post["caption"], post["location"]) == ("Three", "Gasteiz")
        album = page.locator(".album")
        page.get_by_role("button", name="Next photo").click()
        page.wait_for_function("() => document.querySelector('.album').scrollLeft > 100")
        album.focus()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("button", name="Next photo")).to_be_hidden()


def test_a_failed_upload_keeps_the_words_and_says_why(visit, people, url):
    ada = people("ada")
    with visit() as browser:
        browser.expected = ["Failed to load resource", "ERR_FAILED"]
        page = browser.sign_in(ada)
        page.goto(f"{url}/new")
        broken = {"name": "no.jpg", "mimeType": "image/jpeg", "buffer": b"no picture at all"}
        page.set_input_files("#files", [broken, {**broken, "name": "a.txt", "mimeType": "text/plain"}])
        expect(page.locator(".piece")).to_have_count(1)
        expect(page.get_by_text("a.txt is not a picture that can be taken here.")).to_be_visible()
        page.fill("#caption", "Kept")
        page.get_by_role("button", name="Post", exact=True).click()
        alert = page.locator("new-post form > [role=alert]")
        expect(alert).to_contain_text("no.jpg could not be uploaded: want a picture")
        expect(page.locator("#caption")).to_have_value("Kept")
        page.get_by_role("button", name="Remove: no.jpg").click()
        page.set_input_files("#files", [jpeg(0), jpeg(1)])
        # The network goes after the first photo; what has arrived is not sent again.
        sent = []
        page.route("**/v1/uploads/*", lambda route: cut_second(route, sent))
        page.get_by_role("button", name="Post", exact=True).click()
        expect(alert).to_contain_text("There is no connection.")
        expect(page.locator("#caption")).to_have_value("Kept")
        page.unroute("**/v1/uploads/*")
        page.on("request", lambda request: sent.append(request.url) if request.method == "PUT" else None)
        page.get_by_role("button", name="Post", exact=True).click()
        page.wait_for_url(f"{url}/")
        assert len(sent) == 3, "one that arrived, one that was cut, and that one again"
        assert len(ada.feed()[0]["media"]) == 2 and ada.feed()[0]["caption"] == "Kept"


def cut_second(route, sent):
    sent.append(route.request.url)
    if len(sent) == 2:
        route.abort()
    else:
        route.continue_()


def test_an_upload_can_be_stopped(visit, people, url):
    ada = people("ada")
    with visit() as browser:
        page = browser.sign_in(ada)
        page.goto(f"{url}/new")
        page.set_input_files("#files", [jpeg(0)])
        held = []
        page.route("**/v1/uploads/*", lambda route: held.append(route))
        page.get_by_role("button", name="Post", exact=True).click()
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_text("Stopped.")).to_be_visible()
        expect(page.locator(".piece")).to_have_count(1)
        page.unroute_all(behavior="ignoreErrors")
        page.get_by_role("button", name="Post", exact=True).click()
        page.wait_for_url(f"{url}/")
        assert len(ada.feed()) == 1


def test_words_of_people_are_shown_as_text(visit, people, url):
    ada = people("ada", "<b>Ada</b>")
    ada.post(caption=SCRIPT)
    post = ada.post(photographs()[1], caption=ARABIC)
    ada.call("POST", f"/v1/posts/{post['id']}/comments", json={"text": SCRIPT})
    with visit() as browser:
        page = browser.sign_in(ada)
        expect(page.get_by_text(SCRIPT)).to_be_visible()
        expect(page.get_by_text("<b>Ada</b>").first).to_be_visible()
        arabic = page.get_by_text(ARABIC)
        assert arabic.evaluate("element => getComputedStyle(element).direction") == "rtl"
        page.goto(f"{url}/p/{post['id']}")
        expect(page.get_by_text(SCRIPT)).to_be_visible()
        page.locator("#say").fill(SCRIPT)
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_text(SCRIPT)).to_have_count(2)
        assert page.title() != "taken over"


def test_an_unfinished_post_is_shown_to_its_author_and_shows_itself(visit, people, url):
    ada = people("ada")
    data = photographs()[0]
    body = {"content_type": "image/jpeg", "size": len(data), "caption": "To come", "alt": "Hills"}
    promise = ada.call("POST", "/v1/posts", json=body)
    with visit() as browser:
        page = browser.sign_in(ada)
        page.goto(f"{url}/@{ada.name}")
        page.locator(".tile").click()
        expect(page.get_by_text("Waiting for its photograph")).to_be_visible()
        ada.call("PUT", promise["upload_url"], content=data)
        expect(page.get_by_role("img", name="Hills")).to_be_visible(timeout=20_000)
        expect(page.get_by_text("Waiting for its photograph")).to_have_count(0)


def test_likes_by_tap_and_button_and_what_is_refused_goes_back(visit, people, url):
    ada, bob = people("ada"), people("bob")
    post, gone = ada.post(), ada.post(photographs()[1])
    bob.follow(ada)
    with visit(PHONE) as browser:
        browser.expected = ["404"]
        page = browser.sign_in(bob)
        first = page.locator(f"#post-{post['id']}")
        first.locator(".frame").scroll_into_view_if_needed()
        first.locator(".frame").dblclick()
        like = first.get_by_role("button", name="Like")
        expect(like).to_have_attribute("aria-pressed", "true")
        expect(like).to_have_text("1")
        first.locator(".frame").dblclick()  # once more changes nothing
        expect(like).to_have_text("1")
        page.wait_for_function("() => true")
        ada.call("DELETE", f"/v1/posts/{gone['id']}")
        refused = page.locator(f"#post-{gone['id']}").get_by_role("button", name="Like")
        refused.click()
        expect(page.get_by_text("The like could not be saved.")).to_be_visible()
        expect(refused).to_have_attribute("aria-pressed", "false")
        expect(refused).to_have_text("0")
        page.reload()
        expect(like).to_have_text("1")
        like.click()
        expect(like).to_have_text("0")
        like.click()
        like.click()  # the last wish counts
        like.click()
        expect(like).to_have_attribute("aria-pressed", "true")
        page.wait_for_load_state("networkidle")
        assert bob.call("GET", f"/v1/posts/{post['id']}")["liked_by_me"] is True


def test_comments_come_and_go(visit, people, url):
    ada, bob = people("ada"), people("bob")
    post = ada.post()
    with visit() as browser:
        page = browser.sign_in(bob)
        page.goto(f"{url}/p/{post['id']}")
        expect(page.get_by_text("No comments yet.")).to_be_visible()
        page.locator("#say").fill("Lovely")
        page.keyboard.press("Control+Enter")
        comment = page.locator(".comment", has_text="Lovely")
        expect(comment.get_by_role("button", name="Delete")).to_be_visible()
        expect(page.locator(".talk .count")).to_have_text("1")
        page.reload()
        comment.get_by_role("button", name="Delete").click()
        expect(page.get_by_text("No comments yet.")).to_be_visible()
        assert bob.call("GET", f"/v1/posts/{post['id']}")["comment_count"] == 0


def test_a_post_is_edited_and_deleted(visit, people, url):
    ada = people("ada")
    post = ada.post(caption="Befor", alt="Hils")
    with visit() as browser:
        page = browser.sign_in(ada)
        page.goto(f"{url}/p/{post['id']}")
        page.get_by_role("button", name="Edit").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Caption").fill("Before")
        dialog.get_by_label("Description (alt text)").fill("Hills")
        dialog.get_by_role("button", name="Save").click()
        expect(page.get_by_text("Before")).to_be_visible()
        expect(page.get_by_role("img", name="Hills")).to_be_visible()
        page.get_by_role("button", name="Delete").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        page.wait_for_url(f"{url}/@{ada.name}")
        expect(page.get_by_text("No photographs yet")).to_be_visible()


def test_a_private_account_grants_and_refuses(visit, people, url):
    ada, bob, eve = people("ada"), people("bob"), people("eve")
    post = ada.post(caption="for few")
    with visit() as hers, visit() as his:
        page = hers.sign_in(ada)
        page.goto(f"{url}/settings")
        page.get_by_label("Private account").check()
        page.locator("profile-form").get_by_role("button", name="Save").click()
        expect(page.get_by_text("Saved.")).to_be_visible()
        other = his.sign_in(bob)
        other.goto(f"{url}/@{ada.name}")
        expect(other.get_by_text("Only people whom this account has accepted")).to_be_visible()
        other.get_by_role("button", name="Follow").click()
        expect(other.get_by_role("button", name="Requested")).to_be_enabled()
        assert eve.follow(ada) == "REQUESTED"
        page.goto(f"{url}/requests")
        page.locator(".person", has_text=bob.name).get_by_role("button", name="Accept").click()
        page.locator(".person", has_text=eve.name).get_by_role("button", name="Decline").click()
        expect(page.get_by_text("Nobody here yet")).to_be_visible()
        other.goto(f"{url}/p/{post['id']}")
        expect(other.get_by_text("for few")).to_be_visible()


def test_blocking_and_letting_go(visit, people, url):
    ada, bob = people("ada"), people("bob")
    with visit() as browser:
        browser.expected = ["404"]
        page = browser.sign_in(ada)
        page.goto(f"{url}/@{bob.name}")
        page.get_by_role("button", name="Block").click()
        page.get_by_role("dialog").get_by_role("button", name="Block").click()
        page.wait_for_url(f"{url}/blocks")
        assert page.goto(f"{url}/@{bob.name}").status in (200, 404)
        page.goto(f"{url}/blocks")
        page.locator(".person", has_text=bob.name).get_by_role("button", name="Unblock").click()
        expect(page.get_by_text("Nobody here yet")).to_be_visible()


def test_a_profile_with_a_face(visit, people, url):
    ada = people("ada")
    with visit(PHONE) as browser:
        browser.expected = ["409"]  # while the picture is still being processed
        page = browser.sign_in(ada)
        page.goto(f"{url}/settings")
        page.get_by_label("Name, as others see it").fill("Ada Lovelace")
        page.get_by_label("About you").fill("Engines")
        page.locator("profile-form").get_by_role("button", name="Save").click()
        expect(page.get_by_text("Saved.")).to_be_visible()
        with page.expect_navigation():
            page.set_input_files("#face", [jpeg(0)])
        page.goto(f"{url}/@{ada.name}")
        expect(page.get_by_role("heading", name="Ada Lovelace")).to_be_visible()
        expect(page.get_by_text("Engines")).to_be_visible()
        expect(page.locator("img.avatar.huge")).to_be_visible()


def test_password_and_goodbye(visit, people, url):
    ada = people("ada")
    with visit() as browser:
        browser.expected = ["401"]
        page = browser.sign_in(ada)
        page.goto(f"{url}/settings")
        page.get_by_label("Current password").fill(ada.password)
        page.get_by_label("New password").fill("another good one")
        page.get_by_role("button", name="Change password").click()
        expect(page.get_by_text("The password is changed.")).to_be_visible()
        page.get_by_role("button", name="Delete account").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Password").fill("another good one")
        dialog.get_by_role("button", name="Delete account").click()
        page.wait_for_url(f"{url}/sign-in?next=%2F")
        page.goto(f"{url}/people")
        expect(page.get_by_text(f"@{ada.name}")).to_have_count(0)
