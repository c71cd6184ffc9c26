"""Pages of posts, grids, likes and comments: who sees what, and cursors that neither repeat nor skip."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.social import pages
from node.social import records as tables
from node.social.accounts import Suspend, Unsuspend, UpdateProfile
from node.social.blocks import BlockUser
from node.social.comments import AddComment
from node.social.follows import Follow
from node.social.likes import Like
from tests.node.social.gallery import Gallery
from tests.node.social.village import avatar_url, refused

NOBODY = 0


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
    return world.sign_up("cat", partition=40)


def grid(world, author, viewer, limit=100, after=None):
    page = pages.grid_page(world.rows, author, viewer, after, limit)
    return [post.id for post in page.posts]


def walk(world, author, viewer, limit, between=lambda: None):
    """All pages of a grid, one after the other."""
    seen, after = [], None
    while True:
        page = pages.grid_page(world.rows, author, viewer, after, limit)
        seen += [post.id for post in page.posts]
        if page.after is None:
            return seen
        after = page.after
        between()


# --- posts ---------------------------------------------------------------------------------------------
def test_a_post_and_what_the_viewer_is_to_it(world, ann, bob):
    post = world.post(ann)
    world.run(post, Like(bob, post))
    assert pages.post_page(world.rows, post, bob) == (post, world.row(post), True)
    assert not pages.post_page(world.rows, post, ann).liked
    assert not pages.post_page(world.rows, post, NOBODY).liked
    refused("not_found", pages.post_page, world.rows, post + 1, NOBODY)


@pytest.mark.parametrize("state", ["pending", "processing", "failed"])
def test_an_unfinished_post_is_for_its_author(world, ann, bob, state):
    made = world.promise_post(ann) if state == "pending" else world.photo(ann)
    if state == "failed":
        world.use_up(made.media[0])
    assert pages.post_page(world.rows, made.post, ann).post.status == state
    assert grid(world, ann, ann) == [made.post]
    for viewer in (bob, NOBODY):
        refused("not_found", pages.post_page, world.rows, made.post, viewer)
        assert grid(world, ann, viewer) == []


def test_a_post_that_is_being_deleted_is_hidden_at_once(world, ann):
    post = world.post(ann)
    world.delete(ann, post)
    refused("not_found", pages.post_page, world.rows, post, ann)
    assert grid(world, ann, ann) == []
    assert pages.hydrated(world.rows, [post], ann) == ()


def test_who_sees_a_private_account(world, ann, bob, cat):
    world.run(ann, Follow(ann, bob))
    world.settle()
    post = world.post(ann)
    world.run(ann, UpdateProfile(ann, private=True))
    for viewer in (ann, bob):
        assert pages.post_page(world.rows, post, viewer).id == post
        assert grid(world, ann, viewer) == [post]
    for viewer in (cat, NOBODY):
        refused("not_found", pages.post_page, world.rows, post, viewer)
        refused("forbidden", grid, world, ann, viewer)


def test_blocks_and_suspension_hide(world, ann, bob, cat):
    post = world.post(ann)
    world.run(ann, BlockUser(ann, bob))
    world.run(cat, BlockUser(cat, ann))
    world.settle()
    for viewer in (bob, cat):
        refused("not_found", pages.post_page, world.rows, post, viewer)
        refused("not_found", grid, world, ann, viewer)
    world.run(ann, Suspend(ann))
    refused("not_found", grid, world, ann, NOBODY)
    world.run(ann, Unsuspend(ann))
    assert grid(world, ann, NOBODY) == [post]


# --- grids ---------------------------------------------------------------------------------------------
def test_a_grid_is_newest_first_in_pages(world, ann, bob):
    made = [world.post(ann) for _ in range(7)]
    for limit in (1, 2, 3, 7, 10):
        assert walk(world, ann, bob, limit) == made[::-1]
    assert grid(world, ann, bob, limit=3) == made[:3:-1]
    full = pages.grid_page(world.rows, ann, bob, None, 7)
    assert full.after is None


def test_limits_are_bounded(world, ann, monkeypatch):
    monkeypatch.setattr(pages, "LIMIT_MAX", 2)
    for _ in range(3):
        world.post(ann)
    assert len(grid(world, ann, ann, limit=0)) == 1
    assert len(grid(world, ann, ann, limit=10**9)) == 2


def test_new_posts_do_not_move_the_pages(world, ann, bob):
    made = [world.post(ann) for _ in range(5)]
    for viewer in (ann, bob):
        before = made[::-1]
        assert walk(world, ann, viewer, 2, between=lambda: made.append(world.post(ann))) == before


def test_what_is_published_between_pages_neither_repeats_nor_skips(world, ann):
    """To its author an unfinished post is visible throughout: it is seen once, at one of its places."""
    early = world.photo(ann)
    between = [world.post(ann) for _ in range(3)]
    late = world.photo(ann)
    waiting = [early, late]

    def publish():
        if waiting:
            world.make_ready(waiting.pop(0).media[0])

    assert walk(world, ann, ann, 1, between=publish) == [late.post, *between[::-1], early.post]
    newest = [late.post, early.post, *between[::-1]]
    assert walk(world, ann, ann, 2) == newest


@settings(max_examples=60, deadline=None)
@given(
    begun=st.lists(st.booleans(), min_size=1, max_size=10),
    limit=st.integers(1, 4),
    events=st.lists(st.tuples(st.sampled_from(["publish", "fail", "begin", "post"]), st.integers(0, 9))),
)
def test_an_authors_grid_shows_each_post_once(begun, limit, events):
    world = Gallery()
    ann = world.sign_up("ann", partition=3)
    unfinished, there = [], []
    for complete in begun:
        made = world.photo(ann)
        there.append(made.post)
        if complete:
            world.make_ready(made.media[0])
        else:
            unfinished.append(made)
    waiting = list(events)

    def happen():
        for event, which in waiting[:2]:
            if event in ("publish", "fail") and unfinished:
                medium = unfinished.pop(which % len(unfinished)).media[0]
                world.make_ready(medium) if event == "publish" else world.use_up(medium)
            elif event == "begin":
                unfinished.append(world.photo(ann))
            elif event == "post":
                world.post(ann)
        del waiting[:2]

    seen = walk(world, ann, ann, limit, between=happen)
    assert sorted(seen) == sorted(there)


# --- likes and comments --------------------------------------------------------------------------------
def liking(world, post, viewer, limit=100):
    names, after = [], None
    while True:
        page = pages.likes_page(world.rows, post, viewer, after, limit, avatar_url)
        assert len(page.users) <= limit
        names += [user.username for user in page.users]
        after = page.after
        if after is None:
            return names


def texts(world, post, viewer, limit=100):
    found, after = [], None
    while True:
        page = pages.comments_page(world.rows, post, viewer, after, limit, avatar_url)
        assert len(page.comments) <= limit
        found += [comment.text for comment in page.comments]
        after = page.after
        if after is None:
            return found


@pytest.fixture
def crowd(world):
    return {name: world.sign_up(name, partition=20 + i) for i, name in enumerate("defghij")}


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_what_a_block_or_suspension_hides_is_left_out(world, ann, bob, crowd, limit):
    post = world.post(ann)
    for name, user in crowd.items():
        world.run(post, Like(user, post))
        world.run(post, AddComment(user, post, name))
    world.settle()
    everybody = list(crowd)[::-1]
    assert liking(world, post, bob, limit) == texts(world, post, bob, limit) == everybody
    world.run(bob, BlockUser(bob, crowd["e"]))
    world.run(crowd["h"], BlockUser(crowd["h"], bob))
    world.run(crowd["j"], Suspend(crowd["j"]))
    world.settle()
    shown = [name for name in everybody if name not in "ehj"]
    assert liking(world, post, bob, limit) == texts(world, post, bob, limit) == shown
    others = [name for name in everybody if name != "j"]
    for viewer in (ann, NOBODY):
        assert liking(world, post, viewer, limit) == texts(world, post, viewer, limit) == others
    assert world.row(post).likes == len(crowd)


def test_lists_of_a_hidden_post_are_hidden(world, ann, bob):
    post = world.post(ann)
    world.run(ann, BlockUser(ann, bob))
    refused("not_found", liking, world, post, bob)
    refused("not_found", texts, world, post, bob)


def test_a_comment_as_the_api_shows_it(world, ann, bob):
    post = world.post(ann)
    world.now = 1_800_000_000_000 + 86_400_000
    world.run(post, AddComment(bob, post, "hello"))
    [comment] = pages.comments_page(world.rows, post, ann, None, 10, avatar_url).comments
    [(key, _)] = tables.COMMENTS.scan(world.rows, post)
    assert (comment.id, comment.post_id) == (str(key.comment), str(post))
    assert (comment.user.id, comment.user.username, comment.text) == (str(bob), "bob", "hello")
    assert comment.created_at == "2027-01-16T08:00:00.001Z"


def test_a_page_of_hidden_entries_ends_short_with_a_cursor(world, ann, bob, monkeypatch):
    monkeypatch.setattr(pages, "PASSED_OVER_MAX", 4)
    post = world.post(ann)
    world.run(post, AddComment(ann, post, "first"))
    for number in range(12):
        world.run(post, AddComment(bob, post, f"{number}"))
    world.run(bob, Suspend(bob))
    page = pages.comments_page(world.rows, post, ann, None, 2, avatar_url)
    assert page.comments == ()
    assert page.after is not None
    assert texts(world, post, ann, 2) == ["first"]
