"""Blobs and media jobs on several nodes: stored with a majority, served by all, brought back where lost."""

from tests.node.nodes import User, picture
from tests.node.together import together


def elsewhere(user, member):
    """The same session at another node."""
    signed_in = {
        "user": {"id": user.id, "username": user.name},
        "access_token": user.access_token,
        "refresh_token": user.refresh_token,
    }
    return User(member.node, signed_in)


def hash_of(url):
    return url.rpartition("/")[2].partition(".")[0]


async def test_photos_lie_with_all_nodes_and_each_serves_them(tmp_path):
    async with together(tmp_path, "abc") as (a, b, c):
        ada = await a.node.sign_up("ada")
        posts = [await ada.post_photo(picture((9, 9, 9)))]
        for number, member in enumerate((b, c)):
            posts.append(await elsewhere(ada, member).post_photo(picture((number, 200, 7))))
        shown = {hash_of(post["photo_url"]) for post in posts}
        for member in (a, b, c):
            await member.until(lambda member=member: shown <= member.blobs())
            for post in posts:
                answer = await member.node.http.get(post["photo_url"])
                assert answer.status_code == 200 and answer.content[:3] == b"\xff\xd8\xff"
        lost = hash_of(posts[0]["photo_url"])
        for path in c.files_of(lost):
            path.unlink()
        answer = await c.node.http.get(posts[0]["photo_url"])
        assert answer.status_code == 200 and len(c.files_of(lost)) == 1
