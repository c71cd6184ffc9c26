"""Posts: three ways to make one, publication, edits, deletion; every state against every event."""

import pytest

from cluster.partition import ROWS_PER_APPLY_MAX
from node.social import changes, comments, deletion, likes, media, posts, publication
from node.social import records as tables
from node.social.accounts import Suspend, Unsuspend, UpdateProfile
from node.social.blocks import BlockUser
from node.social.changes import Published, Withdrawn
from node.social.hashtags import hashtags
from node.social.likes import Like
from node.social.media import POSTS_PER_MEDIUM_MAX, UNFINISHED_POSTS_PER_MEDIUM_MAX
from node.social.posts import CreatePost, EditPost
from storage.ids import partition_of
from storage.rows import Overlay
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


def stream(world):
    """Changes of timelines so far, in order."""
    found = [changes.decode(change.body) for change in world.changes]
    return [change for change in found if not isinstance(change, changes.Restricted)]


def edit(actor, post, caption=None, location=None, alts=()):
    return EditPost(actor, post, caption, hashtags(caption or ""), location, alts)


# --- making --------------------------------------------------------------------------------------------
def test_a_promised_post_from_pending_to_complete(world, ann):
    promised = world.promise_post(ann)
    assert world.row(promised.post).status == "pending"
    assert world.row(promised.post).media[0].original == b""
    stored = world.store(ann, promised.media)
    assert world.row(promised.post).status == "processing"
    assert world.row(promised.post).media[0].original == stored.hash
    world.make_ready(promised.media)
    post = world.row(promised.post)
    assert post.status == "complete"
    assert len(post.media[0].variants) == len(tables.VARIANTS)
    assert (post.media[0].width, post.media[0].height) == (40, 30)
    assert post.published > promised.post
    assert stream(world) == [Published(ann, promised.post, post.published)]
    world.settle()
    world.check()


def test_a_photo_in_one_command(world, ann):
    made = world.photo(ann, "by the #Sea", alt="waves")
    post = world.row(made.post)
    assert (made.status, post.status) == ("processing", "processing")
    assert (post.caption, post.hashtags, post.media[0].alt) == ("by the #Sea", ("sea",), "waves")
    world.settle()
    world.check()  # the provisional reference has become the medium's
    world.make_ready(made.media[0])
    world.settle()
    world.check()


def test_an_album_of_ready_media_is_complete_at_once(world, ann):
    media_ids = [world.ready_medium(ann) for _ in range(3)]
    made = world.album(ann, *media_ids)
    assert made.status == "complete"
    assert [entry.media for entry in world.row(made.post).media] == media_ids
    assert stream(world) == [Published(ann, made.post, world.row(made.post).published)]
    world.settle()
    world.check()


def test_an_album_waits_for_all(world, ann):
    ready = world.ready_medium(ann)
    awaiting, stored = world.promise(ann).media, world.promise(ann).media
    world.store(ann, stored)
    made = world.album(ann, awaiting, ready, stored)
    assert made.status == "pending"
    world.store(ann, awaiting)
    assert world.row(made.post).status == "processing"
    world.make_ready(stored)
    assert world.row(made.post).status == "processing"
    assert not stream(world)
    world.make_ready(awaiting)
    assert world.row(made.post).status == "complete"
    world.settle()
    world.check()


def test_one_failed_medium_fails_the_album_until_it_is_retried(world, ann):
    ready, bad = world.ready_medium(ann), world.promise(ann).media
    world.store(ann, bad)
    made = world.album(ann, ready, bad)
    world.use_up(bad)
    assert world.row(made.post).failure == f"medium {bad}: it broke"
    assert world.row(made.post).status == "failed"


def test_order_is_by_publication_not_by_beginning(world, ann):
    slow, quick = world.photo(ann), world.photo(ann)
    world.make_ready(quick.media[0])
    world.make_ready(slow.media[0])
    timeline = [entry.post for _, entry in tables.TIMELINES.scan(world.rows, ann)]
    assert timeline == [slow.post, quick.post]
    head = tables.TIMELINE_HEADS.get(world.rows, tables.TIMELINE_HEADS.key(ann))
    assert (head.post, head.posts) == (slow.post, 2)


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (["ready"], "complete"),
        (["ready", "ready"], "complete"),
        (["stored"], "processing"),
        (["ready", "stored"], "processing"),
        (["awaiting"], "pending"),
        (["awaiting", "stored", "ready"], "pending"),
        (["failed"], "failed"),
        (["awaiting", "failed"], "failed"),
        (["failed", "ready", "stored"], "failed"),
    ],
)
def test_status_is_a_function_of_the_media(states, status):
    assert publication.status_of(states) == status
    assert publication.status_of(states[::-1]) == status


@pytest.mark.parametrize(
    ("caption", "location", "code"),
    [
        ("a" * 2200, "b" * 100, None),
        ("\U0001f30a" * 2200, "", None),
        ("a" * 2201, "", "invalid_field"),
        ("", "b" * 101, "invalid_field"),
        ("nul \0", "", "invalid_field"),
    ],
)
def test_lengths_are_characters(world, ann, caption, location, code):
    medium = world.ready_medium(ann)
    made = CreatePost(ann, caption, location, (), (medium,))
    if code:
        refused(code, world.run, ann, made)
    else:
        world.run(ann, made)
    post = world.album(ann, medium).post
    changed = EditPost(ann, post, caption, (), location, ())
    if code:
        refused(code, world.run, ann, changed)
    else:
        world.run(ann, changed)


def test_an_album_is_of_one_to_ten_media_of_ones_own_each_once(world, ann, bob):
    own = [world.ready_medium(ann) for _ in range(11)]
    refused("invalid_field", world.album, ann)
    refused("invalid_field", world.album, ann, *own)
    refused("invalid_field", world.album, ann, own[0], own[0])
    refused("invalid_field", world.album, ann, own[0], world.ready_medium(bob))
    refused("invalid_field", world.album, ann, 12345)
    assert world.album(ann, *own[:10]).status == "complete"


def test_a_medium_is_in_a_bounded_number_of_posts(world, ann):
    waiting, ready = world.promise(ann).media, world.ready_medium(ann)
    for _ in range(UNFINISHED_POSTS_PER_MEDIUM_MAX):
        world.album(ann, waiting)
    refused("conflict", world.album, ann, waiting)
    for _ in range(POSTS_PER_MEDIUM_MAX):
        world.album(ann, ready)
    refused("conflict", world.album, ann, ready)


def test_only_active_accounts_post(world, ann):
    medium = world.ready_medium(ann)
    world.run(ann, Suspend(ann))
    refused("unauthenticated", world.album, ann, medium)
    refused("unauthenticated", world.promise_post, ann)
    refused("unauthenticated", world.photo, ann)


# --- every state against every event -------------------------------------------------------------------
def bring_to(world, ann, state):
    if state == "pending":
        return world.promise_post(ann).post
    made = world.photo(ann)
    if state == "failed":
        world.use_up(made.media[0])
    if state in ("complete", "deleting", "deleted"):
        world.make_ready(made.media[0])
    if state in ("deleting", "deleted"):
        world.delete(ann, made.post)
    if state == "deleted":
        world.settle()
    return made.post


STATES = ("pending", "processing", "failed", "complete", "deleting", "deleted")
N, F, C = "not_found", "forbidden", "conflict"
TABLE = {
    ("like", "ann"): (C, C, C, None, N, N),
    ("like", "bob"): (N, N, N, None, N, N),
    ("unlike", "ann"): (None, None, None, None, N, N),
    ("unlike", "bob"): (N, N, N, None, N, N),
    ("comment", "ann"): (C, C, C, None, N, N),
    ("comment", "bob"): (N, N, N, None, N, N),
    ("edit", "ann"): (None, None, None, None, N, N),
    ("edit", "bob"): (N, N, N, F, N, N),
    ("delete", "ann"): (None, None, None, None, N, N),
    ("delete", "bob"): (N, N, N, F, N, N),
}


@pytest.mark.parametrize(("event", "who"), TABLE)
@pytest.mark.parametrize("state", STATES)
def test_every_state_and_event(world, ann, bob, state, event, who):
    post = bring_to(world, ann, state)
    actor = ann if who == "ann" else bob
    command = {
        "like": Like(actor, post),
        "unlike": likes.Unlike(actor, post),
        "comment": comments.AddComment(actor, post, "fine"),
        "edit": edit(actor, post, caption="new"),
        "delete": posts.DeletePost(actor, post),
    }[event]
    want = TABLE[event, who][STATES.index(state)]
    before = world.everything()
    if want:
        refused(want, world.run, post, command)
        assert world.everything() == before
    else:
        world.run(post, command)
    world.settle()
    world.check()


# --- editing -------------------------------------------------------------------------------------------
def test_an_edit_changes_what_it_names(world, ann):
    post = world.post(ann, "a #b")
    medium = world.row(post).media[0].media
    world.run(post, edit(ann, post, location="Nice"))
    row = world.row(post)
    assert (row.caption, row.hashtags, row.location) == ("a #b", ("b",), "Nice")
    assert row.edited_ms == world.now
    world.run(post, edit(ann, post, caption="#c", alts=((medium, "waves"),)))
    row = world.row(post)
    assert (row.caption, row.hashtags, row.location, row.media[0].alt) == ("#c", ("c",), "Nice", "waves")
    refused("invalid_field", world.run, post, edit(ann, post, alts=((1, "x"),)))
    refused("invalid_field", world.run, post, edit(ann, post, alts=((medium, "x" * 5001),)))


def test_an_edit_without_a_change_is_none(world, ann):
    post = world.post(ann, "a")
    world.run(post, edit(ann, post, caption="a"))
    world.run(post, edit(ann, post))
    assert world.row(post).edited_ms == 0


def test_an_alt_edited_while_processing_stays(world, ann):
    made = world.photo(ann, alt="first")
    world.run(made.post, edit(ann, made.post, alts=((made.media[0], "second"),)))
    world.make_ready(made.media[0])
    assert world.row(made.post).media[0].alt == "second"


# --- deletion ------------------------------------------------------------------------------------------
def test_a_deleted_post_takes_everything_with_it(world, ann, bob):
    post = world.post(ann)
    published = world.row(post).published
    world.run(post, Like(bob, post))
    world.run(post, comments.AddComment(bob, post, "oh"))
    world.settle()
    world.delete(ann, post)
    assert world.row(post).deleting
    assert stream(world)[-1] == Withdrawn(ann, post, published)
    world.settle()
    assert world.row(post) is None
    world.check()
    gone = ("PostKey", "LikeKey", "LikeGivenKey", "CommentKey", "CommentMadeKey", "MediaKey", "TimelineKey")
    assert not world.leftovers() & set(gone)


def test_the_head_moves_to_the_next_newest(world, ann):
    first, second, third = world.post(ann), world.post(ann), world.post(ann)

    def head():
        row = tables.TIMELINE_HEADS.get(world.rows, tables.TIMELINE_HEADS.key(ann))
        return row and (row.published, row.post, row.posts)

    world.delete(ann, second)
    assert head() == (world.row(third).published, third, 2)
    world.delete(ann, third)
    assert head() == (world.row(first).published, first, 1)
    world.delete(ann, first)
    assert head() is None


def test_a_medium_that_is_shown_elsewhere_stays(world, ann):
    medium = world.ready_medium(ann)
    one, two = world.album(ann, medium).post, world.album(ann, medium).post
    world.delete(ann, one)
    world.settle()
    world.check()
    assert world.medium(ann, medium).posts == (two,)
    assert world.medium(ann, medium).shown
    world.run(ann, UpdateProfile(ann, avatar_media=medium))
    world.delete(ann, two)
    world.settle()
    world.check()
    kept = world.medium(ann, medium)
    assert (kept.shown, kept.face, kept.avatar) == (False, True, True)
    world.run(ann, UpdateProfile(ann, avatar_media=0))
    world.settle()
    world.check()
    assert world.medium(ann, medium) is None


@pytest.mark.parametrize("state", ["pending", "processing", "failed", "claimed"])
def test_an_unfinished_post_can_be_deleted(world, ann, state):
    post = bring_to(world, ann, "processing" if state == "claimed" else state)
    if state == "claimed":
        world.claim(world.row(post).media[0].media)
    world.delete(ann, post)
    world.settle()
    world.check()
    assert (
        not world.leftovers()
        - {"UserKey", "CountsKey", "CredentialKey", "DirectoryKey"}
        - {
            "BlobKey",
            "IdleBlobKey",
        }
    )
    assert not stream(world)


def test_a_popular_post_goes_piece_by_piece(world, ann, bob):
    post = world.post(ann)
    for number in range(posts.OBJECTS_PER_PIECE + 50):
        world.run(post, comments.AddComment(bob, post, f"{number}"))
    world.run(post, Like(bob, post))
    world.settle()
    world.delete(ann, post)
    home = partition_of(post)
    pieces = 0
    while world.head(home).work_rows:
        world.proceed(home)
        pieces += 1
    assert pieces == 2
    world.settle()
    world.check()
    assert world.row(post) is None


# --- what everybody sees -------------------------------------------------------------------------------
def public(world, post):
    """Which blobs of a post's medium everybody may have: the original, the variants."""
    entry = world.row(post).media[0]

    def everybody(blob):
        home = tables.BLOBS.key(int.from_bytes(blob[:2], "big") % 256, blob)
        return tables.BLOBS.get(world.rows, home).public > 0

    return everybody(entry.original), [everybody(pair.webp) for pair in entry.variants]


NONE, ALL, FACE = [False] * 4, [True] * 4, [True, False, False, False]


def test_variants_are_public_with_their_account_and_originals_never(world, ann):
    post = world.post(ann)
    world.settle()
    assert public(world, post) == (False, ALL)
    for command, want in (
        (UpdateProfile(ann, private=True), NONE),
        (UpdateProfile(ann, avatar_media=world.row(post).media[0].media), FACE),
        (Suspend(ann), NONE),
        (Unsuspend(ann), FACE),
        (UpdateProfile(ann, private=False), ALL),
        (UpdateProfile(ann, avatar_media=0), ALL),
    ):
        world.run(ann, command)
        world.settle()
        world.check()
        assert public(world, post) == (False, want), command


def test_a_private_accounts_post_is_published_privately(world, ann):
    world.run(ann, UpdateProfile(ann, private=True))
    post = world.post(ann)
    world.settle()
    assert public(world, post) == (False, NONE)
    world.check()


def test_variants_of_the_same_bytes_are_one_blob(world, ann):
    made = world.photo(ann)
    world.make_ready(made.media[0], alike=True)
    world.settle()
    world.check()
    assert public(world, made.post) == (False, ALL)
    world.delete(ann, made.post)
    world.settle()
    world.check()


def test_many_media_change_sight_piece_by_piece(world, ann):
    for _ in range(media.MEDIA_PER_PIECE + 3):
        world.post(ann)
    world.settle()
    world.run(ann, UpdateProfile(ann, private=True))
    world.settle()
    world.check()


# --- bounds --------------------------------------------------------------------------------------------
def test_the_largest_applies_stay_in_bounds(world, ann, monkeypatch):
    """The last medium of four full albums publishes them; then the account goes."""
    most = 0
    flush = Overlay.flush

    def watch(self):
        nonlocal most
        most = max(most, self.changed)
        flush(self)

    monkeypatch.setattr(Overlay, "flush", watch)
    last = world.promise(ann).media
    for _ in range(UNFINISHED_POSTS_PER_MEDIUM_MAX):
        world.album(ann, *[world.ready_medium(ann) for _ in range(9)], last)
    world.store(ann, last)
    home = partition_of(ann)
    sent = world.head(home).sent
    world.make_ready(last)
    assert world.head(home).sent - sent == (36 + 1) * 8
    for _ in range(60):
        world.post(ann)
    world.settle()
    world.check()
    world.run(ann, deletion.DeleteAccount(ann))
    world.settle()
    assert not world.dead_letters()
    world.collect_all()
    assert world.leftovers() == set()
    assert ROWS_PER_APPLY_MAX / 3 < most <= ROWS_PER_APPLY_MAX, most


def test_a_block_hides_and_its_end_shows(world, ann, bob):
    post = world.post(ann)
    world.run(post, Like(bob, post))
    world.run(ann, BlockUser(ann, bob))
    world.settle()
    refused("not_found", world.run, post, Like(bob, post))
    refused("not_found", world.run, post, likes.Unlike(bob, post))
    refused("not_found", world.run, post, edit(bob, post))


def test_recorded_commands_replay_to_equal_digests(world, ann, bob):
    post = world.post(ann, "x #y")
    album = world.album(ann, world.ready_medium(ann), world.promise(ann).media).post
    world.run(post, Like(bob, post))
    world.run(post, comments.AddComment(bob, post, "oh"))
    world.settle()
    world.run(ann, UpdateProfile(ann, private=True))
    world.run(album, edit(ann, album, caption="z"))
    world.settle()
    world.delete(ann, post)
    world.run(bob, deletion.DeleteAccount(bob))
    world.settle()
    again = Gallery()
    for partition, data in world.log:
        again.replay(partition, data)
    assert [again.digest(n) for n in range(256)] == [world.digest(n) for n in range(256)]
