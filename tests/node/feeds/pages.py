"""Pages read back as a strict client would."""

import msgspec

from node.feeds.rendering import PostView

decode = msgspec.json.Decoder(list[PostView]).decode


def posts_of(page):
    posts = decode(page.posts)
    assert len(posts) == page.count
    return posts


def ids_of(page):
    return [int(post.id) for post in posts_of(page)]
