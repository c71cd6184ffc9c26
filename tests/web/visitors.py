"""Somebody with a browser that runs no scripts: cookies, pages and forms, over a real node."""

import re
from html.parser import HTMLParser

import httpx

from tests.node.nodes import PASSWORD

HTML = {"Accept": "text/html"}


class Visitor:
    """Keeps cookies as a browser does; `async with Visitor(node) as ada`."""

    def __init__(self, node, **headers):
        self.http = httpx.AsyncClient(
            base_url=node.url, timeout=20, trust_env=False, headers={**HTML, **headers}
        )

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        await self.http.aclose()

    async def get(self, path, status=200):
        answer = await self.http.get(path)
        assert answer.status_code == status, (path, answer.status_code, answer.text[:500])
        return answer

    async def send(self, page, action, headers=None, **fields):
        """Fill in the form of `page` that goes to `action`, and send it."""
        csrf = csrf_of((await self.get(page)).text, action)
        return await self.http.post(action, data={"csrf": csrf, **fields}, headers=headers)

    async def sign_up(self, name, **fields):
        answer = await self.send("/sign-up", "/sign-up", username=name, password=PASSWORD, **fields)
        assert answer.status_code == 303, answer.text
        return self

    async def sign_in(self, name, password=PASSWORD, **fields):
        return await self.send("/sign-in", "/sign-in", username=name, password=password, **fields)

    async def token(self):
        """What a script of this session's pages finds for its writes."""
        return re.search(r'name="csrf" content="([^"]+)"', (await self.get("/people")).text)[1]


def csrf_of(html, action):
    form = re.search(rf'<form[^>]*action="{action}".*?</form>', html, re.DOTALL)
    assert form, f"no form goes to {action}"
    return re.search(r'name="csrf" value="([^"]+)"', form[0])[1]


class Elements(HTMLParser):
    """Every element of a page with its attributes, in order: `Elements(html).all`."""

    def __init__(self, html):
        super().__init__()
        self.all = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.all.append((tag, dict(attributes)))

    def named(self, tag):
        return [attributes for name, attributes in self.all if name == tag]
