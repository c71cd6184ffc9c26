"""Who may see a post: asked at its author's home, where the facts are.

A post that is hidden answers like one that does not exist, whatever the reason: unfinished, being deleted,
its author private, suspended or gone, a block between the two.
"""

from cluster.commands import Refused
from node.social.keys import PostKey
from node.social.people import may_see
from node.social.records import POSTS, Post
from storage.rows import Reader


def find(rows: Reader, post_id: int, viewer: int) -> Post | None:
    """The post if the viewer (0: nobody signed in) may see it; an unfinished one is for its author alone."""
    post = POSTS.get(rows, PostKey(post_id))
    if post is None or post.deleting or not (post.published or post.author == viewer):
        return None
    return post if may_see(rows, post.author, viewer).allowed else None


def seen(rows: Reader, post_id: int, viewer: int) -> Post:
    """The same; raises Refused `not_found` where `find` has None."""
    post = find(rows, post_id, viewer)
    if post is None:
        raise Refused("not_found", f"there is no post {post_id}")
    return post


def published(rows: Reader, post_id: int, viewer: int) -> Post:
    """A post that the viewer may like or comment on; Refused `not_found`, or `conflict` to its author while
    it is unfinished."""
    post = seen(rows, post_id, viewer)
    if not post.published:
        raise Refused("conflict", f"post {post_id} is {post.status}, not complete")
    return post


def own(rows: Reader, post_id: int, actor: int) -> Post:
    """The actor's own post; Refused `forbidden` for another's that the actor sees, else `not_found`."""
    post = seen(rows, post_id, actor)
    if post.author != actor:
        raise Refused("forbidden", f"post {post_id} is not yours")
    return post
