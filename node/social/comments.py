"""Comments: kept and counted at the post's home; their author's home remembers that they were made.

A comment's id is minted there, so it also says where the comment lives. Its author's home is told with
`CommentMade` and `CommentGone`; an author who is gone answers `TakeBackComment`.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from cluster.commands import Refused
from cluster.partition import Apply
from node.social.keys import CommentKey, CommentMadeKey, CommentPostKey, CountsKey, PostKey
from node.social.machine import encode
from node.social.media import check_text
from node.social.records import COMMENT_POSTS, COMMENTS, COMMENTS_MADE, COUNTS, POSTS, Comment, PostOf
from node.social.sight import find, published
from storage.ids import partition_of

COMMENT_MAX: Final = 2200  # characters


class AddComment(msgspec.Struct, array_like=True, frozen=True, tag=170):
    """For the post's partition; answers `Added`. Refused `not_found`, `conflict`, `invalid_field`."""

    author: int
    post: int
    text: str


class Added(msgspec.Struct, array_like=True, frozen=True):
    comment: int
    created_ms: int


class DeleteComment(msgspec.Struct, array_like=True, frozen=True, tag=171):
    """For the comment's partition, by its author or the post's. Refused `not_found`, `forbidden`."""

    actor: int
    comment: int


class CommentMade(msgspec.Struct, array_like=True, frozen=True, tag=170):
    author: int
    comment: int
    post: int


class CommentGone(msgspec.Struct, array_like=True, frozen=True, tag=171):
    author: int
    comment: int


class TakeBackComment(msgspec.Struct, array_like=True, frozen=True, tag=172):
    """From the home of an author who is gone."""

    post: int
    comment: int


def add_comment(apply: Apply, command: AddComment) -> Added:
    author, post_id = command.author, command.post
    post = published(apply, post_id, author)
    if not command.text:
        raise Refused("invalid_field", f"text: empty, want 1 to {COMMENT_MAX} characters")
    check_text("text", command.text, COMMENT_MAX)
    comment_id = apply.mint()
    COMMENTS.put(apply, CommentKey(post_id, comment_id), Comment(author, command.text, apply.now))
    COMMENT_POSTS.put(apply, CommentPostKey(comment_id), PostOf(post_id))
    POSTS.put(apply, PostKey(post_id), msgspec.structs.replace(post, comments=post.comments + 1))
    apply.send(partition_of(author), encode(CommentMade(author, comment_id, post_id)))
    return Added(comment_id, apply.now)


def delete_comment(apply: Apply, command: DeleteComment) -> None:
    """Its author may take a comment away even from a post that is hidden from them by now."""
    absent = Refused("not_found", f"there is no comment {command.comment}")
    of = COMMENT_POSTS.get(apply, CommentPostKey(command.comment))
    if of is None:
        raise absent
    comment = COMMENTS.get(apply, CommentKey(of.post, command.comment))
    post = POSTS.get(apply, PostKey(of.post))
    if comment is None or post is None or post.deleting:
        raise absent
    if command.actor not in (comment.author, post.author):
        if find(apply, of.post, command.actor) is None:
            raise absent
        raise Refused("forbidden", f"comment {command.comment} is neither yours nor under a post of yours")
    _remove(apply, of.post, command.comment)
    POSTS.put(apply, PostKey(of.post), msgspec.structs.replace(post, comments=post.comments - 1))
    apply.send(partition_of(comment.author), encode(CommentGone(comment.author, command.comment)))


def _remove(apply: Apply, post_id: int, comment_id: int) -> None:
    COMMENTS.delete(apply, CommentKey(post_id, comment_id))
    COMMENT_POSTS.delete(apply, CommentPostKey(comment_id))


# --- the author's end ----------------------------------------------------------------------------------
def comment_made(apply: Apply, _: int, message: CommentMade) -> None:
    author = message.author
    if COUNTS.has(apply, CountsKey(author)):
        COMMENTS_MADE.put(apply, CommentMadeKey(author, message.comment), PostOf(message.post))
    else:
        take_back = TakeBackComment(message.post, message.comment)
        apply.send(partition_of(message.post), encode(take_back))


def comment_gone(apply: Apply, _: int, message: CommentGone) -> None:
    COMMENTS_MADE.delete(apply, CommentMadeKey(message.author, message.comment))


def take_back_comment(apply: Apply, _: int, message: TakeBackComment) -> None:
    post = POSTS.get(apply, PostKey(message.post))
    if post is not None and COMMENTS.has(apply, CommentKey(message.post, message.comment)):
        _remove(apply, message.post, message.comment)
        post = msgspec.structs.replace(post, comments=post.comments - 1)
        POSTS.put(apply, PostKey(message.post), post)


# --- the end of a post, and of an account --------------------------------------------------------------
def end_comments(apply: Apply, post_id: int, most: int) -> bool:
    """Take up to `most` comments from a post that is being deleted; True when none is left."""
    found = [row for _, row in zip(range(most), COMMENTS.scan(apply, post_id), strict=False)]
    for key, comment in found:
        _remove(apply, post_id, key.comment)
        apply.send(partition_of(comment.author), encode(CommentGone(comment.author, key.comment)))
    return len(found) < most


def delete_comments_piece(apply: Apply, author: int, most: int) -> bool:
    """Take back up to `most` comments of an account that is gone; True when none is left."""
    found = [row for _, row in zip(range(most), COMMENTS_MADE.scan(apply, author), strict=False)]
    for key, of in found:
        COMMENTS_MADE.delete(apply, key)
        apply.send(partition_of(of.post), encode(TakeBackComment(of.post, key.comment)))
    return len(found) < most


_Functions = dict[type, Callable[..., Any]]
COMMANDS: Final[_Functions] = {AddComment: add_comment, DeleteComment: delete_comment}
MESSAGES: Final[_Functions] = {
    CommentMade: comment_made,
    CommentGone: comment_gone,
    TakeBackComment: take_back_comment,
}
