"""Photos, promised posts, albums, the grid, edits; and the bytes behind their URLs."""

import re

import trio
from blake3 import blake3

from node.http import media
from node.http.files import answer_directly
from tests.node.http.api.answers import problem
from tests.node.nodes import picture

POST = {
    *("id", "user", "caption", "location", "hashtags", "media", "photo_url", "upload_status", "failure"),
    *("like_count", "comment_count", "liked_by_me", "created_at", "published_at", "edited_at"),
}
VARIANTS = ("thumbnail", "small", "medium", "large")


async def promised(user, data, path="/v1/posts", content_type="image/jpeg", **more):
    body = {"content_type": content_type, "size": len(data), **more}
    return await user.call("POST", path, json=body)


async def finished(user, post_id):
    with trio.fail_after(10):
        while True:
            post = await user.call("GET", f"/v1/posts/{post_id}")
            if post["upload_status"] in ("complete", "failed"):
                return post
            await trio.sleep(0.02)


async def test_a_photo_is_answered_with_its_urls_and_they_work_at_once(node):
    ada = await node.sign_up("ada")
    data = picture(size=(1600, 900))
    form = {"caption": "Sun #Sun #été", "location": "Zürich", "alt": "red"}
    made = await ada.call("POST", "/v1/photos", files={"photo": ("x.txt", data, "text/plain")}, data=form)
    assert set(made) == {"photo_id", "urls", "post"}
    post = made["post"]
    assert set(post) == POST and post["id"] == made["photo_id"]
    assert set(post["user"]) == {"id", "username", "display_name", "avatar_url"}
    assert (post["caption"], post["location"], post["hashtags"]) == (
        "Sun #Sun #été",
        "Zürich",
        ["sun", "été"],
    )
    assert (post["upload_status"], post["failure"], post["edited_at"]) == ("complete", None, None)
    assert post["published_at"] >= post["created_at"]
    (media,) = post["media"]
    assert set(media) == {"id", "type", "width", "height", "alt", "placeholder", "urls"}
    assert (media["type"], media["width"], media["height"], media["alt"]) == ("image/jpeg", 1600, 900, "red")
    assert media["placeholder"] and media["urls"] == made["urls"]
    assert post["photo_url"] == made["urls"]["medium"]["jpeg"]
    for name in VARIANTS:
        for form in ("webp", "jpeg"):
            url = made["urls"][name][form]
            image = await node.http.get(url)
            assert image.status_code == 200 and "?" not in url
            assert image.headers["Content-Type"] == f"image/{form}"
            assert image.headers["Cache-Control"] == "public, max-age=86400, immutable"
            name_of = re.fullmatch(r"/media/([0-9a-f]{64})\.\w+", url)[1]
            assert blake3(image.content).hexdigest() == name_of
            assert image.headers["ETag"] == f'"{name_of}"'
    original = await node.http.get(made["urls"]["original"])
    assert original.content == data
    assert original.headers["Cache-Control"].startswith("private, max-age=")
    assert (await node.http.get(made["urls"]["original"].partition("?")[0])).status_code == 404
    seen = (await node.http.get(f"/v1/posts/{post['id']}")).json()
    assert seen["media"][0]["urls"] == {**made["urls"], "original": None}


async def test_a_promised_post_goes_through_its_steps(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    await bob.follow(ada)
    data = picture()
    promise = await promised(ada, data, caption="soon", alt="dots")
    assert set(promise) == {"post_id", "upload_url", "expires_at", "upload_status"}
    assert promise["upload_status"] == "pending"
    pending = await ada.call("GET", f"/v1/posts/{promise['post_id']}")
    assert pending["upload_status"] == "pending" and pending["published_at"] is None
    assert (pending["photo_url"], pending["media"][0]["urls"]) == (None, None)
    grid = await ada.call("GET", f"/v1/users/{ada.id}/photos")
    assert [post["id"] for post in grid["photos"]] == [promise["post_id"]]
    assert await ada.feed() == [] and await bob.feed() == []
    for method, path in (("GET", ""), ("POST", "/like"), ("GET", "/comments")):
        problem(await bob.ask(method, f"/v1/posts/{promise['post_id']}{path}"), 404, "not_found")
    problem(await ada.ask("POST", f"/v1/posts/{promise['post_id']}/like"), 409, "conflict")
    first = await node.http.put(promise["upload_url"], content=data)
    assert first.status_code == 200, first.text
    assert set(first.json()) == {"media_id", "size", "blake3"}
    post = await finished(ada, promise["post_id"])
    assert post["upload_status"] == "complete" and post["media"][0]["alt"] == "dots"
    assert [entry["id"] for entry in await bob.feed()] == [post["id"]]
    again = await node.http.put(promise["upload_url"], content=data)
    assert (again.status_code, again.json()) == (200, first.json())
    other = data[:-3] + b"abc"
    problem(await node.http.put(promise["upload_url"], content=other), 409, "upload_mismatch")


async def test_an_album_waits_for_all_and_its_author_sees_what_is_ready(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    datas = [picture((number, 9, 9)) for number in (1, 2)]
    promises = [await promised(ada, data, "/v1/media/upload", alt=f"n{len(data)}") for data in datas]
    ids = [promise["media_id"] for promise in promises]
    album = await ada.call("POST", "/v1/posts", json={"caption": "two", "media_ids": ids})
    assert set(album) == POST
    assert album["upload_status"] == "pending" and [one["id"] for one in album["media"]] == ids
    await node.http.put(promises[0]["upload_url"], content=datas[0])
    await node.settled()
    waiting = await ada.call("GET", f"/v1/posts/{album['id']}")
    assert waiting["upload_status"] == "pending" and waiting["media"][1]["urls"] is None
    url = waiting["media"][0]["urls"]["small"]["webp"]
    shown = await node.http.get(url)  # not published yet, so it is signed for the author
    assert shown.status_code == 200 and shown.headers["Cache-Control"].startswith("private")
    assert (await node.http.get(url.partition("?")[0])).status_code == 404
    grid = await ada.call("GET", f"/v1/users/{ada.id}/photos")
    assert grid["photos"] == [waiting]
    await node.http.put(promises[1]["upload_url"], content=datas[1])
    done = await finished(ada, album["id"])
    assert done["upload_status"] == "complete" and [one["id"] for one in done["media"]] == ids
    await node.settled()
    assert (await node.http.get(url.partition("?")[0])).status_code == 200
    problem(await bob.ask("POST", "/v1/posts", json={"media_ids": ids}), 422, "invalid_field")
    twice = await ada.ask("POST", "/v1/posts", json={"media_ids": [ids[0], ids[0]]})
    problem(twice, 422, "invalid_field")
    for odd in ([], ["x"], ["0"], [str(2**63)], ids * 6):
        problem(await ada.ask("POST", "/v1/posts", json={"media_ids": odd}), 422, "invalid_field")
    mixed = {"media_ids": ids, "content_type": "image/jpeg", "size": 1}
    problem(await ada.ask("POST", "/v1/posts", json=mixed), 422, "invalid_field")
    problem(await ada.ask("POST", "/v1/posts", json={"caption": "x"}), 422, "invalid_field")


async def test_a_post_is_edited_and_deleted_by_its_author_alone(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    post = await ada.post_photo(caption="first #one")
    path = f"/v1/posts/{post['id']}"
    media = post["media"][0]["id"]
    edited = await ada.call("PATCH", path, json={"caption": "second #two", "alts": {media: "new"}})
    assert (edited["caption"], edited["hashtags"], edited["media"][0]["alt"]) == (
        "second #two",
        ["two"],
        "new",
    )
    assert edited["edited_at"] is not None and edited["location"] == post["location"]
    problem(await bob.ask("PATCH", path, json={"caption": "mine"}), 403, "forbidden")
    problem(await bob.ask("DELETE", path), 403, "forbidden")
    for body in ({"alts": {"x": "y"}}, {"alts": {"77": "y"}}, {"caption": "x" * 2201}, {"location": 7}):
        problem(await ada.ask("PATCH", path, json=body), 422, "invalid_field")
    assert (await ada.ask("DELETE", path)).status_code == 204
    problem(await ada.ask("GET", path), 404, "not_found")
    problem(await ada.ask("DELETE", path), 404, "not_found")
    await node.settled()
    assert (await node.http.get(post["photo_url"])).status_code == 404
    assert (await ada.call("GET", "/v1/users/me"))["post_count"] == 0


async def test_a_private_accounts_media_need_the_viewers_signature(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    await bob.follow(ada)
    post = await ada.post_photo()
    await ada.call("PATCH", "/v1/users/me", json={"private": True})
    await node.settled()
    assert (await node.http.get(post["photo_url"])).status_code == 404
    (seen,) = await bob.feed()
    url = seen["photo_url"]
    image = await node.http.get(url)
    assert image.status_code == 200 and image.headers["Cache-Control"].startswith("private, max-age=")
    bare, _, query = url.partition("?")
    other = seen["media"][0]["urls"]["small"]["jpeg"].partition("?")[0]
    fields = dict(field.split("=") for field in query.split("&"))
    forged = [
        bare,
        f"{other}?{query}" if other != bare else bare,
        f"{bare}?{query.replace(bob.id, ada.id)}",
        f"{bare}?viewer={bob.id}&expires={int(fields['expires']) + 1}&signature={fields['signature']}",
        f"{bare}?viewer={bob.id}&expires=1&signature={fields['signature']}",
        f"{bare}?viewer=x&expires=y&signature=z",
        f"{bare}?{query}&more=1",
        f"{bare}?signature=%00",
    ]
    for attempt in forged:
        assert problem(await node.http.get(attempt), 404, "not_found")
    await ada.call("PATCH", "/v1/users/me", json={"private": False})
    await node.settled()
    for once_signed in (post["photo_url"], url):
        assert (await node.http.get(once_signed)).status_code == 200
    problem(await node.http.get(f"{post['photo_url']}?expires=x"), 404, "not_found")


async def test_media_are_cached_by_etag_in_ranges_and_by_head(node):
    ada = await node.sign_up("ada")
    url = (await ada.post_photo())["photo_url"]
    whole = await node.http.get(url)
    head = await node.http.head(url)
    assert head.status_code == 200 and head.content == b""
    assert head.headers["Content-Length"] == whole.headers["Content-Length"]
    etag = whole.headers["ETag"]
    assert (await node.http.get(url, headers={"If-None-Match": etag})).status_code == 304
    part = await node.http.get(url, headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, whole.content[2:6])
    last = await node.http.get(url, headers={"Range": "bytes=-3"})
    assert (last.status_code, last.content) == (206, whole.content[-3:])
    beyond = await node.http.get(url, headers={"Range": "bytes=9999999-"})
    problem(beyond, 416, "range_not_satisfiable")


async def test_media_are_the_same_directly_and_by_the_route(node, monkeypatch):
    direct = []

    def seen(*asked, **given):
        direct.append(answer_directly(*asked, **given))
        return direct[-1]

    monkeypatch.setattr(media, "answer_directly", seen)
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    await bob.follow(ada)
    public = (await ada.post_photo())["photo_url"]
    await node.settled()
    await same_both_ways(node, public)
    assert len(direct) == 2
    await ada.call("PATCH", "/v1/users/me", json={"private": True})
    await node.settled()
    (post,) = await bob.feed()
    assert post["photo_url"].partition("?")[0] == public
    await same_both_ways(node, post["photo_url"])
    assert len(direct) == 4
    problem(await node.http.get(public), 404, "not_found")
    # Bytes that this process has not verified yet leave by the route, which reads them whole in a thread.
    thumbnail = post["media"][0]["urls"]["thumbnail"]["webp"]
    by_route, directly = await node.http.get(thumbnail), await node.http.get(thumbnail)
    assert by_route.content == directly.content and len(direct) == 5


async def same_both_ways(node, url):
    for lines in ({}, {"Range": "bytes=10-99"}):
        route = await node.http.get(url, headers={**lines, "Origin": "https://elsewhere"})
        directly = await node.http.get(url, headers=lines)
        assert (directly.status_code, directly.content) == (route.status_code, route.content)
        named = set(directly.headers) | set(route.headers)
        # The clock may tick between the two.
        differ = {name for name in named if directly.headers.get(name) != route.headers.get(name)}
        assert differ <= {"x-request-id", "date", "cache-control"}
        ours, theirs = directly.headers["Cache-Control"], route.headers["Cache-Control"]
        assert re.sub(r"\d+", "", ours) == re.sub(r"\d+", "", theirs)


async def test_path_tricks_in_names_of_media_lead_nowhere(node):
    ada = await node.sign_up("ada")
    url = (await ada.post_photo())["photo_url"]
    name = url.removeprefix("/media/")
    stem = name.partition(".")[0]
    names = (
        "../keys/admin.token",
        "%2e%2e/keys/admin.token",
        "..%2f..%2fetc%2fpasswd",
        "%00",
        f"{stem}.jpeg%00.png",
        f"{stem}.png",
        f"{stem}",
        f"{stem}.",
        f"{stem.upper()}.jpeg",
        f"{stem[:-1]}.jpeg",
        f"{'0' * 64}.jpeg",
        f"{stem[:2]}/{stem[2:4]}/{stem}.jpeg",
        f"./{name}",
        f"/{name}",
        f"{name}/",
        "%ff.jpeg",
        "x" * 3000,
    )
    async with await trio.open_tcp_stream("127.0.0.1", node.addresses.http.port) as stream:
        for odd in names:
            # By hand: clients tidy up paths before they send them.
            await stream.send_all(f"GET /media/{odd} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = b""
            while b'"code":' not in answer:
                answer += await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 404 ") and b'"not_found"' in answer, odd
            assert b"nothing is at this address" in answer
    assert (await node.http.get(f"/media/{stem}.jpg")).status_code == 200


async def test_upload_urls_that_were_tampered_with_or_have_expired(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    data = picture()
    url = (await promised(ada, data))["upload_url"]
    for old, new in (
        (f"owner={ada.id}", f"owner={bob.id}"),
        (f"size={len(data)}", f"size={len(data) + 1}"),
        ("type=image%2Fjpeg", "type=image%2Fpng"),
        ("signature=", "signature=A"),
        ("expires=", "expires=9"),
        ("/v1/uploads/", "/v1/uploads/1"),
    ):
        assert old in url
        problem(await node.http.put(url.replace(old, new), content=data), 403, "invalid_signature")
    for query in ("", "?owner=1", "?owner=x&size=1&type=a&expires=1&signature=b", "?more=1"):
        answer = await node.http.put(url.partition("?")[0] + query, content=data)
        assert answer.status_code == 422, answer.text
    assert (await node.http.put(url, content=data)).status_code == 200


async def test_bytes_that_are_not_as_announced(node):
    ada = await node.sign_up("ada")
    data = picture()
    path = "/v1/media/upload"

    async def chunks(data, size=7):
        for at in range(0, len(data), size):
            yield data[at : at + size]

    url = (await promised(ada, data, path))["upload_url"]
    problem(await node.http.put(url, content=data + b"x"), 422, "size_mismatch")
    problem(await node.http.put(url, content=data[:-1]), 422, "size_mismatch")
    problem(await node.http.put(url, content=b""), 422, "size_mismatch")
    problem(await node.http.put(url, content=chunks(data[:-1])), 422, "size_mismatch")
    problem(await node.http.put(url, content=chunks(data + b"x")), 422, "size_mismatch")
    assert (await node.http.put(url, content=chunks(data))).status_code == 200
    url = (await promised(ada, data, path, content_type="image/png"))["upload_url"]
    problem(await node.http.put(url, content=data), 422, "type_mismatch")
    html = b"<html>" + b" " * 100
    url = (await promised(ada, html, path))["upload_url"]
    problem(await node.http.put(url, content=html), 415, "unsupported_media")
    most = 8 * 2**20
    for body, status, code in (
        ({"content_type": "image/jpeg", "size": most + 1}, 413, "too_large"),
        ({"content_type": "image/jpeg", "size": 0}, 422, "invalid_field"),
        ({"content_type": "image/jpeg", "size": -5}, 422, "invalid_field"),
        ({"content_type": "image/jpeg", "size": 2**70}, 413, "too_large"),
        ({"content_type": "image/jpeg", "size": "7"}, 422, "invalid_field"),
        ({"content_type": "text/html", "size": 7}, 415, "unsupported_media"),
        ({"content_type": "image/jpeg", "size": 7, "alt": "x" * 5001}, 422, "invalid_field"),
    ):
        problem(await ada.ask("POST", path, json=body), status, code)
    await node.settled()
    assert list((node.data / "staging").iterdir()) == []


async def test_the_same_upload_twice_at_once(node):
    ada = await node.sign_up("ada")
    data = picture()
    promise = await promised(ada, data)
    answers = []

    async def put():
        answers.append(await node.http.put(promise["upload_url"], content=data))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(put)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({answer.text for answer in answers}) == 1
    assert (await finished(ada, promise["post_id"]))["upload_status"] == "complete"


async def test_an_upload_after_its_post_was_deleted(node):
    ada = await node.sign_up("ada")
    data = picture()
    promise = await promised(ada, data)
    assert (await ada.ask("DELETE", f"/v1/posts/{promise['post_id']}")).status_code == 204
    problem(await node.http.put(promise["upload_url"], content=data), 404, "not_found")


async def test_the_grid_pages_without_repeating_or_skipping(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    made = [(await ada.post_photo(picture((number, 0, 0))))["id"] for number in range(5)]
    found, cursor = [], None
    while True:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = await bob.call("GET", f"/v1/users/{ada.id}/photos", params=query)
        assert set(page) == {"photos", "next_cursor"}
        found += [post["id"] for post in page["photos"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        if len(found) == 2:
            await ada.post_photo(picture((0, 77, 0)))
    assert found == made[::-1]
