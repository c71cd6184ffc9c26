"""People who do by the API what a test is not about."""

import itertools
import os
import time
from functools import cache
from io import BytesIO
from pathlib import Path

import httpx
from PIL import Image

from cli.drawings import landscape

COMPLETE_S = 30.0
_numbers = itertools.count(1)


@cache
def photographs():
    """JPEG files: those of the folder in HELIOGRAPH_PHOTOS, or drawn ones of a camera's size."""
    folder = os.environ.get("HELIOGRAPH_PHOTOS")
    if folder:
        return tuple(path.read_bytes() for path in sorted(Path(folder).glob("*.jpg")))
    return tuple(landscape(seed) for seed in range(4))


def speck(number):
    """A small picture, another for each number."""
    out = BytesIO()
    Image.new("RGB", (64, 48), (number * 37 % 256, number * 91 % 256, number % 256)).save(out, "JPEG")
    return out.getvalue()


class Newcomers:
    def __init__(self, url):
        self.url = url

    def __call__(self, name, display_name=""):
        return Person(self.url, f"{name}{next(_numbers)}", display_name)


class Person:
    password = "correct horse battery"

    def __init__(self, url, name, display_name):
        self.name = name
        self.http = httpx.Client(base_url=url, timeout=30, trust_env=False)
        body = {"username": name, "password": self.password, "display_name": display_name}
        made = self.call("POST", "/v1/users", json=body)
        self.id = made["user"]["id"]
        self.http.headers["Authorization"] = f"Bearer {made['access_token']}"

    def call(self, method, path, **request):
        answer = self.http.request(method, path, **request)
        assert answer.status_code < 300, (method, path, answer.text)
        token = answer.headers.get("Heliograph-Token")
        if token:
            self.http.headers["Heliograph-Token"] = token
        return answer.json() if answer.content else None

    def post(self, data=None, **fields):
        """A published post."""
        data = photographs()[0] if data is None else data
        files = {"photo": ("photo.jpg", data, "image/jpeg")}
        made = self.call("POST", "/v1/photos", files=files, data=fields)
        return self.published(made["photo_id"])

    def album(self, count, **fields):
        media = []
        for number in range(count):
            data = photographs()[number % len(photographs())]
            body = {"content_type": "image/jpeg", "size": len(data), "alt": f"Photo {number + 1}"}
            promise = self.call("POST", "/v1/media/upload", json=body)
            self.call("PUT", promise["upload_url"], content=data)
            media.append(promise["media_id"])
        return self.published(self.call("POST", "/v1/posts", json={"media_ids": media, **fields})["id"])

    def published(self, post_id):
        until = time.monotonic() + COMPLETE_S
        while time.monotonic() < until:
            post = self.call("GET", f"/v1/posts/{post_id}")
            assert post["upload_status"] != "failed", post
            if post["upload_status"] == "complete":
                return post
            time.sleep(0.05)
        raise AssertionError(f"post {post_id} is not complete after {COMPLETE_S} s")

    def follow(self, other):
        return self.call("POST", "/v1/follows", json={"followed_id": other.id})["status"]

    def feed(self):
        return self.call("GET", "/v1/feed")["posts"]
