"""Plays a story: people on a real node, told in lines of text.

    ada, bob sign up
    ada becomes private
    bob follows ada => requested
    ada accepts bob
    ada posts dawn
    bob's feed: dawn
    cem likes dawn => 404

A line is something that somebody does or something that holds. What is done succeeds unless the line ends
with `=>` and a status. `anyone` is a reader without a token. Before what holds is looked at, everything
settles.
"""

import re
from hashlib import sha256

from tests.node.nodes import PASSWORD, picture

ANYONE = "anyone"
COUNTS = {"followers": "follower_count", "following": "following_count"}


class Players:
    """The people of a story and what they posted, by name."""

    def __init__(self, node):
        self.node = node
        self.users, self.posts, self.urls, self.comments = {}, {}, {}, {}

    async def play(self, text):
        for number, line in enumerate(text.splitlines(), 1):
            line = line.partition("#")[0].strip()
            if line:
                try:
                    await self.line(line)
                except AssertionError as wrong:
                    raise AssertionError(f"line {number}: {line}: {wrong}") from wrong

    async def line(self, line):
        for pattern, method in HOLDS:
            if found := re.fullmatch(pattern, line):
                await self.node.settled()
                await method(self, *found.groups())
                return
        line, _, outcome = (part.strip() for part in line.partition("=>"))
        for pattern, method in DOES:
            if found := re.fullmatch(pattern, line):
                answer = await method(self, *found.groups())
                if answer is not None:
                    self.check(answer, outcome)
                return
        raise AssertionError("no such line can be played")

    def check(self, answer, outcome):
        if outcome == "requested":
            assert answer.json() == {"status": "REQUESTED"}, answer.text
        elif outcome:
            assert answer.status_code == int(outcome), f"{answer.status_code} {answer.text}"
        else:
            assert answer.status_code < 300, f"{answer.status_code} {answer.text}"

    async def ask(self, who, method, path, **request):
        if who == ANYONE:
            return await self.node.http.request(method, path, **request)
        return await self.users[who].ask(method, path, **request)

    async def seen(self, who, path):
        answer = await self.ask(who, "GET", path)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def id(self, name):
        return self.users[name].id

    def post_names(self, posts):
        names = {post_id: name for name, post_id in self.posts.items()}
        return [names[post["id"]] for post in posts]

    # --- what is done ----------------------------------------------------------------------------------
    async def sign_up(self, names):
        for name in names.split(", "):
            self.users[name] = await self.node.sign_up(name)

    async def become(self, who, state):
        return await self.ask(who, "PATCH", "/v1/users/me", json={"private": state == "private"})

    async def post(self, who, name):
        colour = tuple(sha256(name.encode()).digest()[:3])
        post = await self.users[who].post_photo(picture(colour), caption=name)
        self.posts[name], self.urls[name] = post["id"], post["photo_url"]

    async def follow(self, who, whom):
        return await self.ask(who, "POST", "/v1/follows", json={"followed_id": self.id(whom)})

    async def unfollow(self, who, whom):
        return await self.ask(who, "DELETE", f"/v1/users/{self.id(whom)}/follow")

    async def answer_request(self, who, verb, whom):
        return await self.ask(who, "POST", f"/v1/follow-requests/{self.id(whom)}/{verb}")

    async def remove_follower(self, who, whom):
        return await self.ask(who, "DELETE", f"/v1/followers/{self.id(whom)}")

    async def block(self, who, verb, whom):
        method = {"blocks": "POST", "unblocks": "DELETE"}[verb]
        return await self.ask(who, method, f"/v1/users/{self.id(whom)}/block")

    async def like(self, who, verb, name):
        method = {"likes": "POST", "unlikes": "DELETE"}[verb]
        return await self.ask(who, method, f"/v1/posts/{self.posts[name]}/like")

    async def comment(self, who, name, text):
        path = f"/v1/posts/{self.posts[name]}/comments"
        answer = await self.ask(who, "POST", path, json={"text": text})
        if answer.status_code == 201:
            self.comments[text] = answer.json()["id"]
        return answer

    async def delete_comment(self, who, text):
        return await self.ask(who, "DELETE", f"/v1/comments/{self.comments[text]}")

    async def delete_post(self, who, name):
        return await self.ask(who, "DELETE", f"/v1/posts/{self.posts[name]}")

    async def leave(self, who):
        return await self.ask(who, "POST", "/v1/users/me/delete", json={"password": PASSWORD})

    # --- what holds ------------------------------------------------------------------------------------
    async def sees(self, who, does_not, name):
        post_id = self.posts[name]
        expected = 404 if does_not else 200
        for path in ("", "/likes", "/comments"):
            answer = await self.ask(who, "GET", f"/v1/posts/{post_id}{path}")
            assert answer.status_code == expected, f"{path}: {answer.status_code} {answer.text}"
            if path == "" and not does_not:
                url = answer.json()["photo_url"]
                assert (await self.node.http.get(url)).status_code == 200, url

    async def picture_is(self, name, state):
        bare = self.urls[name].partition("?")[0]
        found = (await self.node.http.get(bare)).status_code
        assert found == {"public": 200, "hidden": 404}[state], found

    async def finds(self, who, does_not, whom):
        user = f"/v1/users/{self.id(whom)}"
        expected = 404 if does_not else 200
        assert (await self.ask(who, "GET", user)).status_code == expected
        assert (await self.ask(who, "GET", f"/v1/users/by-name/{whom}")).status_code == expected
        for path in ("/photos", "/followers", "/following"):  # 403 where the account is private
            found = (await self.ask(who, "GET", user + path)).status_code
            assert (found == 404) is bool(does_not), f"{path}: {found}"
        if does_not:
            assert whom not in [one["username"] for one in (await self.seen(who, "/v1/users"))["users"]]

    async def feed(self, who, names):
        assert self.post_names(await self.users[who].feed()) == listed(names)

    async def grid(self, whom, who, names):
        path = f"/v1/users/{self.id(whom)}/photos"
        if names == "forbidden":
            for forbidden in (path, path.replace("photos", "followers"), path.replace("photos", "following")):
                assert (await self.ask(who, "GET", forbidden)).status_code == 403
        else:
            assert self.post_names((await self.seen(who, path))["photos"]) == listed(names)

    async def people(self, whom, kind, who, names):
        path = {
            "followers": f"/v1/users/{self.id(whom)}/followers",
            "following": f"/v1/users/{self.id(whom)}/following",
            "requests": "/v1/follow-requests",
            "blocks": "/v1/blocks",
        }[kind]
        users = (await self.seen(who or whom, path))["users"]
        assert_names(users, names)
        if (count := COUNTS.get(kind)) and not who:
            assert (await self.seen(whom, "/v1/users/me"))[count] == len(users)

    async def directory(self, who, names):
        users = (await self.seen(who, "/v1/users"))["users"]
        assert_names(users, names)

    async def likes(self, name, who, names):
        users = (await self.seen(who, f"/v1/posts/{self.posts[name]}/likes"))["users"]
        assert_names(users, names)

    async def comments_are(self, name, who, lines):
        comments = (await self.seen(who, f"/v1/posts/{self.posts[name]}/comments"))["comments"]
        found = [f"{one['user']['username']} {one['text']}" for one in comments]
        assert found == listed(lines), f"found {found}"

    async def counts(self, name, likes, comments):
        post = await self.seen(ANYONE, f"/v1/posts/{self.posts[name]}")
        assert (post["like_count"], post["comment_count"]) == (int(likes), int(comments)), post

    async def relation(self, who, whom, words):
        user = await self.seen(who, f"/v1/users/{self.id(whom)}")
        found = [word for word in ("followed_by_me", "follows_me", "requested_by_me") if user[word]]
        assert found == listed(words), found


def assert_names(users, names):
    found = [user["username"] for user in users]
    assert found == listed(names), f"found {found}"


def listed(text):
    return [] if text.strip() == "none" else [part.strip() for part in text.split(",")]


DOES = (
    (r"(.+) sign up", Players.sign_up),
    (r"(\w+) signs up", Players.sign_up),
    (r"(\w+) becomes (private|public)", Players.become),
    (r"(\w+) posts (\w+)", Players.post),
    (r"(\w+) follows (\w+)", Players.follow),
    (r"(\w+) unfollows (\w+)", Players.unfollow),
    (r"(\w+) (accept|reject)s (\w+)", Players.answer_request),
    (r"(\w+) removes (\w+)", Players.remove_follower),
    (r"(\w+) (blocks|unblocks) (\w+)", Players.block),
    (r"(\w+) (likes|unlikes) (\w+)", Players.like),
    (r"(\w+) comments on (\w+): (.+)", Players.comment),
    (r"(\w+) takes back (.+)", Players.delete_comment),
    (r"(\w+) deletes (\w+)", Players.delete_post),
    (r"(\w+) leaves", Players.leave),
)
HOLDS = (
    (r"(\w+) (?:sees|does (not) see) (\w+)", Players.sees),
    (r"the picture of (\w+) is (public|hidden)", Players.picture_is),
    (r"(\w+) (?:finds|does (not) find) (\w+)", Players.finds),
    (r"(\w+)'s feed: (.+)", Players.feed),
    (r"(\w+)'s grid for (\w+): (.+)", Players.grid),
    (r"(\w+)'s (followers|following|requests|blocks)(?: for (\w+))?: (.+)", Players.people),
    (r"the directory for (\w+): (.+)", Players.directory),
    (r"likes of (\w+) for (\w+): (.+)", Players.likes),
    (r"comments on (\w+) for (\w+): (.+)", Players.comments_are),
    (r"(\w+) has (\d+) likes and (\d+) comments", Players.counts),
    (r"to (\w+), (\w+) is (.+)", Players.relation),
)
