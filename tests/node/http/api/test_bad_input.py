"""What clients send by mistake or malice: each gets a clear answer and changes nothing."""

import io
import zipfile

import pytest
import trio

from tests.node.http.api.answers import problem
from tests.node.http.api.conftest import CHEAP
from tests.node.media.pictures import FORMATS, encode, photo, png_chunk
from tests.node.nodes import picture, running

MOST = 8 * 2**20
BOUNDARY = "frontier"


def form(*parts, end=True):
    """A multipart body of (name, file name or None, bytes)."""
    body = b""
    for name, file_name, data in parts:
        file = f'; filename="{file_name}"' if file_name is not None else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        body += head.encode() + data + b"\r\n"
    return body + (f"--{BOUNDARY}--\r\n".encode() if end else b"")


async def send_form(user, body):
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return await user.ask("POST", "/v1/photos", content=body, headers=headers)


async def assert_nothing_was_made(node, user):
    await node.settled()
    assert (await user.call("GET", f"/v1/users/{user.id}/photos"))["photos"] == []
    assert list((node.data / "staging").iterdir()) == []


def bomb(side):
    """A PNG of `side` times `side` pixels that takes a few hundred bytes."""
    head = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")


def zipped():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x.jpg", picture())
    return out.getvalue()


async def test_what_is_no_picture_is_refused_whatever_it_is_called(node):
    ada = await node.sign_up("ada")
    others = (
        b"<html><script>alert(1)</script>",
        zipped(),
        b"GIF88a",
        b"\xff\xd8",
        b"x",
        b"%PDF-1.7",
        b"\0" * 99,
    )
    for data in others:
        answer = await send_form(ada, form(("photo", "holiday.jpg", data)))
        assert "JPEG" in problem(answer, 415, "unsupported_media")["detail"]
    problem(await send_form(ada, form(("photo", "holiday.jpg", b""))), 422, "invalid_field")
    await assert_nothing_was_made(node, ada)


async def test_broken_pictures_become_failed_posts_with_a_reason(node):
    ada = await node.sign_up("ada")
    whole = {name: encode(photo(60, 44), name) for name in FORMATS}
    # A third of a file has a head that can be read and pixels that cannot.
    broken = [data[: len(data) // 3] for data in whole.values()] + [
        bomb(20_000),
        b"\xff\xd8\xff\xe0" + b"x" * 99,
    ]
    for data in broken:
        answer = await send_form(ada, form(("photo", "x.jpg", data)))
        assert answer.status_code == 201, answer.text
        await node.settled()
        post = await ada.call("GET", f"/v1/posts/{answer.json()['photo_id']}")
        assert post["upload_status"] == "failed" and len(post["failure"]) > 20, post
        assert (post["photo_url"], post["published_at"], post["media"][0]["urls"]) == (None, None, None)
        assert (await node.http.get(f"/v1/posts/{post['id']}")).status_code == 404
        assert (await ada.ask("DELETE", f"/v1/posts/{post['id']}")).status_code == 204
    await assert_nothing_was_made(node, ada)
    await ada.post_photo()  # and the workers still work


async def test_one_byte_too_many(node):
    ada = await node.sign_up("ada")
    data = picture()
    full = data + bytes(MOST - len(data))
    body = form(("photo", "x.jpg", full + b"\0"))
    problem(await send_form(ada, body), 413, "too_large")

    async def chunks(body):
        for at in range(0, len(body), 100_000):
            yield body[at : at + 100_000]

    problem(await send_form(ada, chunks(body)), 413, "too_large")
    problem(await send_form(ada, form(("photo", "x.jpg", full * 2))), 413, "too_large")
    await assert_nothing_was_made(node, ada)
    assert (await send_form(ada, form(("photo", "x.jpg", full)))).status_code == 201


async def test_odd_forms(node):
    ada = await node.sign_up("ada")
    shot = ("photo", "x.jpg", picture())
    for body, status, code in (
        (form(), 422, "invalid_field"),
        (b"", 400, "malformed_form"),
        (b"no form at all", 400, "malformed_form"),
        (form(shot, end=False), 400, "malformed_form"),
        (form(shot)[:300], 400, "malformed_form"),
        (form(("caption", None, b"x")), 422, "invalid_field"),
        (form(("photo", None, b"text instead of a file")), 422, "unknown_field"),
        (form(shot, shot), 422, "unknown_field"),
        (form(("picture", "x.jpg", picture())), 422, "unknown_field"),
        (form(shot, ("tags", None, b"x")), 422, "unknown_field"),
        (form(("caption", None, b"x"), ("caption", None, b"y"), shot), 422, "unknown_field"),
        (form(("caption", None, b"\xff\xfe"), shot), 422, "invalid_field"),
        (form(("caption", None, b"a\0b"), shot), 422, "invalid_field"),
        (form(("caption", None, b"x" * 2201), shot), 422, "invalid_field"),
        (form(shot, ("location", None, b"x" * 101)), 422, "invalid_field"),
        (form(shot, ("alt", None, b"x" * 5001)), 422, "invalid_field"),
        (form(shot, ("alt", None, b"x" * 70_000)), 413, "too_large"),
        (form(*[("caption", None, b"")] * 40), 422, "unknown_field"),
    ):
        answer = await send_form(ada, body)
        assert answer.status_code == status and answer.json()["code"] == code, (body[:200], answer.text)
    problem(await ada.ask("POST", "/v1/photos", json={}), 415, "unsupported_media")
    problem(await ada.ask("POST", "/v1/photos"), 415, "unsupported_media")
    odd = {"Content-Type": "multipart/form-data"}
    problem(await ada.ask("POST", "/v1/photos", content=b"x", headers=odd), 400, "malformed_form")
    await assert_nothing_was_made(node, ada)


async def test_texts_survive_byte_for_byte(node):
    ada = await node.sign_up("ada")
    texts = (
        "👩‍👩‍👧‍👦 🇨🇭 ✌🏽 e\u0301",
        "مرحبا بالعالم \u202eabc\u202c",
        "שלום עולם\n\tsecond line",
        "\ufeff\u200b\U0010ffff",
        "𝒜" * 2200,
        '"\\</script>&amp;\u2028',
    )
    for number, text in enumerate(texts):
        data = ("photo", "x.jpg", picture((number, 1, 1)))
        answer = await send_form(ada, form(("caption", None, text.encode()), data))
        assert answer.json()["post"]["caption"] == text
        post = answer.json()["photo_id"]
        edited = await ada.call("PATCH", f"/v1/posts/{post}", json={"caption": text, "location": text[:100]})
        assert (edited["caption"], edited["location"]) == (text, text[:100])
        comment = await ada.call("POST", f"/v1/posts/{post}/comments", json={"text": text})
        (found,) = (await ada.call("GET", f"/v1/posts/{post}/comments"))["comments"]
        assert comment["text"] == found["text"] == text
        await node.settled()
        assert (await ada.feed())[0]["caption"] == text


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_json"),
        (b"{", 400, "malformed_json"),
        (b"[" * 100_000, 422, "invalid_field"),
        (b'{"more": ' + b"[" * 100_000, 422, "unknown_field"),
        (b'{"text":', 400, "malformed_json"),
        (b'{"text": "a"} x', 400, "malformed_json"),
        (b'{"text": "\xff"}', 400, "malformed_json"),
        (b'{"text": "\\ud800"}', 400, "malformed_json"),
        (b'\xef\xbb\xbf{"text": "a"}', 400, "malformed_json"),
        ('{"text": "a"}'.encode("utf-16"), 400, "malformed_json"),
        (b'{"text": NaN}', 400, "malformed_json"),
        (b"null", 422, "invalid_field"),
        (b'"text"', 422, "invalid_field"),
        (b"[]", 422, "invalid_field"),
        (b"{}", 422, "invalid_field"),
        (b'{"text": 7}', 422, "invalid_field"),
        (b'{"text": null}', 422, "invalid_field"),
        (b'{"text": ""}', 422, "invalid_field"),
        (b'{"text": "a", "more": 1}', 422, "unknown_field"),
        (b'{"text": "a\\u0000b"}', 422, "invalid_field"),
        (b'{"text": "a\0b"}', 400, "malformed_json"),
        (b'{"text": "' + b"x" * 2201 + b'"}', 422, "invalid_field"),
        (b'{"text": "' + b"x" * 2**20 + b'"}', 413, "too_large"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else None,
)
async def test_odd_json(node, body, status, code):
    ada = await node.sign_up("ada")
    answer = await ada.ask("POST", f"/v1/posts/{ada.id}/comments", content=body)
    problem(answer, status, code)


async def test_json_of_another_type(node):
    ada = await node.sign_up("ada")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = await ada.ask("PATCH", "/v1/users/me", content=b"{}", headers={"Content-Type": kind})
        problem(answer, 415, "unsupported_media")


async def test_ids_that_are_none(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    numbers = (
        "0",
        "1",
        "-1",
        "01",
        "x",
        "1e3",
        "9" * 19,
        str(2**63 - 1),
        str(2**63),
        str(2**64),
        "9" * 60,
        "٣",
    )
    calls = (
        ("GET", "/v1/users/{}"),
        ("GET", "/v1/users/{}/photos"),
        ("GET", "/v1/users/{}/followers"),
        ("GET", "/v1/posts/{}"),
        ("GET", "/v1/posts/{}/likes"),
        ("GET", "/v1/posts/{}/comments"),
        ("POST", "/v1/users/{}/follow"),
        ("POST", "/v1/users/{}/block"),
        ("POST", "/v1/follow-requests/{}/accept"),
        ("POST", "/v1/posts/{}/like"),
        ("DELETE", "/v1/posts/{}/like"),
        ("DELETE", "/v1/posts/{}"),
        ("DELETE", "/v1/comments/{}"),
    )
    for method, path in calls:
        for number in numbers:
            answer = await ada.ask(method, path.format(number))
            assert answer.status_code == 404, (method, path, number, answer.text)
    for path in ("/v1/users/{}/follow", "/v1/follows/{}", "/v1/users/{}/block", "/v1/followers/{}"):
        for number in numbers:  # taking back what is not there succeeds, where there may be such an id
            assert (await ada.ask("DELETE", path.format(number))).status_code in (204, 404)
    for number in numbers:
        answer = await ada.ask("POST", "/v1/follows", json={"followed_id": number})
        assert answer.status_code in (404, 422), answer.text
    assert (await ada.call("GET", "/v1/users/me"))["following_count"] == 0
    await bob.follow(ada)  # all partitions still work


async def test_cursors_that_are_none_or_anothers(node):
    ada, bob = await node.sign_up("ada"), await node.sign_up("bob")
    for number in (1, 2):
        await ada.post_photo(picture((number, 0, 0)))
    page = await ada.call("GET", "/v1/feed", params={"limit": 1})
    cursor = page["next_cursor"]
    grid = f"/v1/users/{ada.id}/photos"
    assert len((await ada.call("GET", "/v1/feed", params={"cursor": cursor}))["posts"]) == 1
    problem(await bob.ask("GET", "/v1/feed", params={"cursor": cursor}), 400, "invalid_cursor")
    problem(await ada.ask("GET", grid, params={"cursor": cursor}), 400, "invalid_cursor")
    problem(await node.http.get(grid, params={"cursor": cursor}), 400, "invalid_cursor")
    for odd in ("", "x", cursor[:-2], cursor + "AA", cursor[::-1], "A" * 600, "é", "\0", "=" * 8):
        for path in ("/v1/feed", grid, "/v1/users", f"/v1/users/{ada.id}/followers", "/v1/blocks"):
            answer = await ada.ask("GET", path, params={"cursor": odd})
            assert answer.json()["code"] in ("invalid_cursor", "invalid_field"), (odd, answer.text)
            assert answer.status_code in (400, 422)
    for query in ("limit=0", "limit=101", "limit=x", "limit=1.5", "limit=-1", f"limit={2**80}"):
        problem(await ada.ask("GET", f"/v1/feed?{query}"), 422, "invalid_field")
    problem(await ada.ask("GET", "/v1/feed?limits=1"), 422, "unknown_field")


async def test_odd_tokens_of_reads(node):
    ada = await node.sign_up("ada")
    odd = (
        "x",
        "1",
        "1:",
        ":1",
        "1:2:3",
        "1>2",
        "1>2>3:4",
        "-1:2",
        "9999:1",
        "1:" + "9" * 30,
        ",",
        "1:2,",
        "²:1",
        "",
        "00001:2",
        "1:2 ,3:4",
    )
    for token in (*odd, ",".join(["1:2"] * 9)):
        headers = {"Heliograph-Token": token.encode("utf-8")}
        problem(await ada.ask("GET", "/v1/feed", headers=headers), 400, "invalid_token")
    fine = ("0:0", "255:18446744073709551615", "1>2:3", "8191:1,8000>8001:7", "1:2, 3:4")
    for token in fine:
        await ada.call("GET", "/v1/feed", headers={"Heliograph-Token": token})


async def test_a_client_that_stops_half_way_leaves_nothing(node):
    ada = await node.sign_up("ada")
    whole = form(("photo", "x.jpg", picture() + bytes(600_000)))
    head = (
        f"POST /v1/photos HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ada.access_token}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(whole)}\r\n\r\n"
    )
    data = picture()
    promise = await ada.call(
        "POST", "/v1/media/upload", json={"content_type": "image/jpeg", "size": len(data)}
    )
    put = f"PUT {promise['upload_url']} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    for request in (head.encode() + whole[:400_000], put.encode() + data[: len(data) // 2]):
        stream = await trio.open_tcp_stream("127.0.0.1", node.addresses.http.port)
        await stream.send_all(request)
        with trio.fail_after(5):
            while not list((node.data / "staging").iterdir()):
                await trio.sleep(0.01)
            await stream.aclose()
            while list((node.data / "staging").iterdir()):
                await trio.sleep(0.01)
    await assert_nothing_was_made(node, ada)
    assert (await node.http.put(promise["upload_url"], content=data)).status_code == 200


async def test_a_client_that_trickles_is_told_and_cut(tmp_path):
    async with running(tmp_path / "node", *CHEAP, "http.body_stall_s=0.4") as node:
        ada = await node.sign_up("ada")

        async def trickle(data):
            for at in range(len(data)):
                yield data[at : at + 1]
                await trio.sleep(0.05)

        answer = await send_form(ada, trickle(form(("photo", "x.jpg", picture()))))
        problem(answer, 408, "too_slow")
        await assert_nothing_was_made(node, ada)


async def test_odd_requests_lead_nowhere(node):
    ada = await node.sign_up("ada")
    for path in (
        "/v1",
        "/v1/",
        "/v1/users/",
        "//v1/users",
        "/v1/users//photos",
        "/%00",
        "/%ff",
        "/v1/nothing",
    ):
        problem(await ada.ask("GET", path), 404, "not_found")
    answer = await ada.ask("PUT", "/v1/feed")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"
