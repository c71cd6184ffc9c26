"""Real nodes for the tests: everything that `heliograph node run` starts, in the test's own process.

    async with running(tmp_path / "node") as node:
        ada = await node.sign_up("ada")
        post = await ada.post_photo(picture())

The data directory is a real one, the listeners are on free ports of loopback, the limits on requests are out
of the way and nothing is set from the environment. Settings are written as for `heliograph node run --set`.
"""

from contextlib import asynccontextmanager
from io import BytesIO

import httpx
import msgspec
import trio
from PIL import Image

from node.app import run_node
from node.settings import load

PASSWORD = "correct horse battery"
SMALL = (
    "http.port=0",
    "admin.port=0",
    "cluster.port=0",
    "http.graceful_s=2",
    "storage.reserve_bytes=0",
    "storage.segment_bytes=1048576",
    "media.workers=1",
    "feed.cache_bytes=1048576",
    *(f"limits.{name}_count=1000000" for name in ("sign_up", "sign_in", "writes", "uploads", "reads")),
)
SETTLED_S = 10.0


class Node:
    """A node that runs: its addresses, its settings, and a client of each listener."""

    def __init__(self, data, settings, addresses, http, admin, stop):
        self.data, self.settings, self.addresses = data, settings, addresses
        self.http, self.admin = http, admin
        self.stop = stop  # set it, and the node ends

    @property
    def url(self):
        return self.addresses.http.url

    async def sign_up(self, name, password=PASSWORD):
        answer = await self.http.post("/v1/users", json={"username": name, "password": password})
        assert answer.status_code == 201, answer.text
        return User(self, answer.json(), answer.headers.get("Heliograph-Token", ""))

    async def sign_in(self, name, password=PASSWORD):
        answer = await self.http.post("/v1/sessions", json={"username": name, "password": password})
        assert answer.status_code == 201, answer.text
        return User(self, answer.json(), answer.headers.get("Heliograph-Token", ""))

    async def settled(self):
        """Return when nothing is under way: no command, message or media job."""
        with trio.fail_after(SETTLED_S):
            while True:
                found = (await self.admin.get("/v1/admin/status")).json()
                under_way = ("commands_under_way", "messages_under_way", "media_jobs_running")
                if not any(found[name] for name in under_way):
                    return
                await trio.sleep(0.02)


class User:
    """Somebody who is signed in, and what they do. Calls return the JSON of a success."""

    def __init__(self, node, signed_in, token=""):
        self.node = node
        self.id = signed_in["user"]["id"]
        self.name = signed_in["user"]["username"]
        self.access_token = signed_in["access_token"]
        self.refresh_token = signed_in["refresh_token"]

    async def ask(self, method, path, **request):
        """The response, whatever its status."""
        headers = {"Authorization": f"Bearer {self.access_token}", **request.pop("headers", {})}
        return await self.node.http.request(method, path, headers=headers, **request)

    async def call(self, method, path, **request):
        answer = await self.ask(method, path, **request)
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    async def post_photo(self, data=None, **form):
        """A published post: waits until it is complete."""
        files = {"photo": ("photo.jpg", data or picture(), "image/jpeg")}
        made = await self.call("POST", "/v1/photos", files=files, data=form)
        with trio.fail_after(SETTLED_S):
            while True:
                post = await self.call("GET", f"/v1/posts/{made['photo_id']}")
                assert post["upload_status"] != "failed", post["failure"]
                if post["upload_status"] == "complete":
                    return post
                await trio.sleep(0.02)

    async def follow(self, other):
        return await self.call("POST", "/v1/follows", json={"followed_id": other.id})

    async def feed(self):
        return (await self.call("GET", "/v1/feed"))["posts"]


@asynccontextmanager
async def running(data, *flags, token=None):
    """A node on the directory `data` (made if there is none), until the block ends; stopped in order then.
    With a token, one that joins a cluster."""
    settings = load(flags=[*SMALL, *flags], environment={})
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(run_node, data, settings, stop, token)
        token = (data / "keys" / "admin.token").read_text().strip()
        async with (
            httpx.AsyncClient(base_url=addresses.http.url, timeout=20, trust_env=False) as http,
            httpx.AsyncClient(
                base_url=addresses.admin.url,
                timeout=20,
                trust_env=False,
                headers={"Authorization": f"Bearer {token}"},
            ) as admin,
        ):
            yield Node(data, settings, addresses, http, admin, stop)
        stop.set()


def picture(colour=(200, 30, 60), size=(64, 48), form="JPEG"):
    """The bytes of a small picture; another colour makes another blob."""
    out = BytesIO()
    Image.new("RGB", size, colour).save(out, form)
    return out.getvalue()


def addresses_of(data):
    """Where the node on this directory said that it listens: {"http": url, "admin": url}."""
    return msgspec.json.decode((data / "keys" / "addresses.json").read_bytes())
