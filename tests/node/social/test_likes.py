"""Likes and comments: counts, both ends, refusals, and people who go while messages are under way."""

import pytest

from node.social import comments, deletion
from node.social import records as tables
from node.social.accounts import Suspend, UpdateProfile
from node.social.blocks import BlockUser
from node.social.comments import AddComment, Added, DeleteComment
from node.social.follows import Follow, Unfollow
from node.social.likes import Like, Likes, Unlike
from tests.node.social.gallery import Gallery
from tests.node.social.village import refused


@pytest.fixture
def world():
    return Gallery()


@pytest.fixture
def ann(world):
    return world.sign_up("ann", partition=3)


@pytest.fixture
def bob(world):
    return world.sign_up("bob", partition=200)


@pytest.fixture
def cat(world):
    return world.sign_up("cat", partition=3)  # a neighbour of ann's: messages to one's own partition


@pytest.fixture
def post(world, ann):
    return world.post(ann)


def given(world, viewer):
    return [key.post for key, _ in tables.LIKES_GIVEN.scan(world.rows, viewer)]


def made(world, author):
    return [key.comment for key, _ in tables.COMMENTS_MADE.scan(world.rows, author)]


# --- likes ---------------------------------------------------------------------------------------------
def test_likes_are_idempotent_and_counted(world, post, ann, bob, cat):
    assert world.run(post, Unlike(bob, post), Likes) == Likes(0, False)
    assert world.run(post, Like(bob, post), Likes) == Likes(1, True)
    assert world.run(post, Like(bob, post), Likes) == Likes(1, True)
    assert world.run(post, Like(cat, post), Likes) == Likes(2, True)
    assert world.run(post, Like(ann, post), Likes) == Likes(3, True)
    world.settle()
    assert [given(world, user) for user in (ann, bob, cat)] == [[post]] * 3
    assert world.run(post, Unlike(bob, post), Likes) == Likes(2, False)
    assert world.run(post, Unlike(bob, post), Likes) == Likes(2, False)
    world.settle()
    assert given(world, bob) == []
    world.check()


def test_the_list_is_newest_first_and_a_like_again_is_new(world, post, bob, cat):
    for command in (Like(bob, post), Like(cat, post), Unlike(bob, post), Like(bob, post)):
        world.run(post, command)
    assert [end.user for _, end in tables.LIKE_LIST.scan(world.rows, post)] == [bob, cat]


def test_a_liker_who_is_gone_takes_the_like_back(world, post, bob, cat):
    world.run(post, Like(cat, post))
    world.run(post, Like(bob, post))
    world.run(bob, deletion.DeleteAccount(bob))
    world.settle()
    assert world.row(post).likes == 1
    world.check()


def test_a_like_of_nobody_is_taken_back(world, post):
    world.run(post, Like(12345 << 23, post))
    world.settle()
    assert world.row(post).likes == 0
    world.check()


def test_an_old_take_back_does_not_end_a_newer_like(world, post, bob):
    world.run(post, Like(bob, post))
    old = tables.LIKES.get(world.rows, tables.LIKES.key(post, bob)).version
    world.run(post, Unlike(bob, post))
    world.run(post, Like(bob, post))
    world.settle()
    new = tables.LIKES.get(world.rows, tables.LIKES.key(post, bob)).version
    assert new > old
    given_row = tables.LIKES_GIVEN.get(world.rows, tables.LIKES_GIVEN.key(bob, post))
    assert given_row.version == new
    world.check()


def test_deleting_a_post_under_way(world, post, ann, bob):
    """Like, deletion of the post and of the liker all meet."""
    world.run(post, Like(bob, post))
    world.delete(ann, post)
    world.run(bob, deletion.DeleteAccount(bob))
    world.settle()
    world.check()
    assert world.row(post) is None


def test_a_liker_of_much_goes_piece_by_piece(world, ann, bob):
    liked = [world.post(ann) for _ in range(deletion.OBJECTS_PER_PIECE + 10)]
    for post in liked:
        world.run(post, Like(bob, post))
    world.settle()
    world.run(bob, deletion.DeleteAccount(bob))
    world.settle()
    assert all(world.row(post).likes == 0 for post in liked)
    world.check()


# --- who may -------------------------------------------------------------------------------------------
def commands(post, user):
    return Like(user, post), Unlike(user, post), AddComment(user, post, "oh")


def test_a_private_account_is_for_its_followers(world, post, ann, bob):
    world.run(ann, Follow(ann, bob))
    world.settle()
    world.run(ann, UpdateProfile(ann, private=True))
    for command in commands(post, bob):
        world.run(post, command)
    world.run(ann, Unfollow(ann, bob))
    for command in commands(post, bob):
        refused("not_found", world.run, post, command)
    world.settle()
    world.check()


@pytest.mark.parametrize("turned", [False, True])
def test_a_block_hides_both_ways(world, post, ann, bob, turned):
    one, other = (bob, ann) if turned else (ann, bob)
    world.run(one, BlockUser(one, other))
    world.settle()
    for command in commands(post, bob):
        refused("not_found", world.run, post, command)


def test_a_suspended_accounts_posts_are_hidden(world, post, ann, bob):
    world.run(ann, Suspend(ann))
    for command in commands(post, bob):
        refused("not_found", world.run, post, command)


def test_what_does_not_exist(world, ann, bob):
    for command in commands(ann + 7, bob):
        refused("not_found", world.run, ann, command)
    refused("not_found", world.run, ann, DeleteComment(bob, ann + 7))


# --- comments ------------------------------------------------------------------------------------------
def test_comments_are_counted_and_remembered_by_their_author(world, post, bob):
    first = world.run(post, AddComment(bob, post, "one"), Added)
    second = world.run(post, AddComment(bob, post, "two"), Added)
    assert first.created_ms == world.now - 1
    world.settle()
    assert world.row(post).comments == 2
    assert made(world, bob) == [first.comment, second.comment]
    texts = [row.text for _, row in tables.COMMENTS.scan(world.rows, post)]
    assert texts == ["two", "one"]
    world.run(post, DeleteComment(bob, first.comment))
    world.settle()
    assert made(world, bob) == [second.comment]
    refused("not_found", world.run, post, DeleteComment(bob, first.comment))
    world.check()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_field"),
        ("a", None),
        ("\U0001f30a" * comments.COMMENT_MAX, None),
        ("a" * (comments.COMMENT_MAX + 1), "invalid_field"),
        ("a\0", "invalid_field"),
        ("שלום \u202e abc", None),
    ],
)
def test_texts(world, post, bob, text, code):
    if code:
        refused(code, world.run, post, AddComment(bob, post, text))
    else:
        world.run(post, AddComment(bob, post, text))


def test_who_may_delete_a_comment(world, post, ann, bob, cat):
    def comment():
        return world.run(post, AddComment(bob, post, "oh"), Added).comment

    world.run(post, DeleteComment(bob, comment()))
    world.run(post, DeleteComment(ann, comment()))
    last = comment()
    refused("forbidden", world.run, post, DeleteComment(cat, last))
    world.run(ann, BlockUser(ann, cat))
    refused("not_found", world.run, post, DeleteComment(cat, last))
    world.run(ann, BlockUser(ann, bob))
    world.run(post, DeleteComment(bob, last))  # one's own, under a post that is hidden by now
    world.settle()
    world.check()


def test_a_commenter_who_is_gone_takes_the_comments_back(world, post, bob, cat):
    world.run(post, AddComment(bob, post, "before"))
    world.settle()
    world.run(post, AddComment(bob, post, "under way"))
    world.run(post, AddComment(cat, post, "stays"))
    world.run(bob, deletion.DeleteAccount(bob))
    world.settle()
    assert world.row(post).comments == 1
    world.check()


def test_a_comment_deleted_while_its_author_goes(world, post, ann, bob):
    comment = world.run(post, AddComment(bob, post, "oh"), Added).comment
    world.run(bob, deletion.DeleteAccount(bob))
    world.run(post, DeleteComment(ann, comment))
    world.settle()
    assert world.row(post).comments == 0
    world.check()
