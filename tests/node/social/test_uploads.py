"""Upload sessions: every state of a medium against every event."""

import pytest

from node.social import uploads
from node.social.accounts import UpdateProfile
from node.social.media import ALT_MAX
from node.social.uploads import UPLOAD_PROMISE_MS, ExpireUploads, PromiseUpload, StoreUpload
from storage.ids import partition_of
from tests.node.social.gallery import JPEG, Gallery
from tests.node.social.village import refused

FIRST, OTHER = b"\x01" * 32, b"\x02" * 32


@pytest.fixture
def world():
    world = Gallery()
    world.hold(FIRST, 1 << 40, 1)
    return world


@pytest.fixture
def ann(world):
    return world.sign_up("ann")


def bring_to(world, ann, state):
    """A medium in the state; its bytes, if they came, are FIRST."""
    if state == "absent":
        return ann
    if state == "lapsed":
        media_id = world.promise_post(ann).media
    else:
        media_id = world.promise(ann).media
    if state in ("over", "lapsed"):
        world.now += UPLOAD_PROMISE_MS
    if state == "lapsed":
        world.run(ann, ExpireUploads())
    if state in ("stored", "ready", "failed"):
        world.store(ann, media_id, FIRST)
    if state == "ready":
        world.make_ready(media_id)
    if state == "failed":
        world.use_up(media_id)
    return media_id


def events(ann, media_id):
    return {
        "bytes": StoreUpload(ann, media_id, FIRST, 1000, JPEG),
        "other bytes": StoreUpload(ann, media_id, OTHER, 1000, JPEG),
        "other size": StoreUpload(ann, media_id, FIRST, 999, JPEG),
        "other type": StoreUpload(ann, media_id, FIRST, 1000, "image/png"),
    }


STATES = ("absent", "awaiting", "over", "lapsed", "stored", "ready", "failed")
N, E, M, C = "not_found", "upload_expired", "upload_mismatch", "conflict"
SIZE, TYPE = "size_mismatch", "type_mismatch"
# What each event answers in each state: None is success.
TABLE = {
    "bytes": (N, None, E, E, None, None, None),
    "other bytes": (N, None, E, E, M, M, M),
    "other size": (N, SIZE, E, E, None, None, None),  # the same bytes have the same size, whatever is said
    "other type": (N, TYPE, E, E, None, None, None),
    "in an album": ("invalid_field", None, None, C, None, None, C),
    "as avatar": ("invalid_field", C, C, C, C, None, C),
}


@pytest.mark.parametrize("event", TABLE)
@pytest.mark.parametrize("state", STATES)
def test_every_state_and_event(world, ann, state, event):
    media_id = bring_to(world, ann, state)
    if event == "in an album":
        run, arguments = world.album, (ann, media_id)
    elif event == "as avatar":
        run, arguments = world.run, (ann, UpdateProfile(ann, avatar_media=media_id))
    else:
        run, arguments = world.run, (ann, events(ann, media_id)[event])
    before = world.everything()
    want = TABLE[event][STATES.index(state)]
    if want:
        refused(want, run, *arguments)
        assert world.everything() == before
    else:
        run(*arguments)


@pytest.mark.parametrize("state", ["stored", "ready", "failed"])
def test_the_same_bytes_again_change_nothing(world, ann, state):
    media_id = bring_to(world, ann, state)
    before = world.everything()
    answer = world.run(ann, events(ann, media_id)["bytes"], uploads.Stored)
    assert answer == uploads.Stored(media_id, 1000, FIRST)
    assert world.everything() == before


def test_a_promise_says_until_when(world, ann):
    promised = world.promise(ann)
    assert promised.expires_ms == world.now + UPLOAD_PROMISE_MS
    assert partition_of(promised.media) == partition_of(ann)
    assert uploads.next_expiry_ms(world.rows, partition_of(ann)) == promised.expires_ms


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"mime": "text/html"}, "unsupported_media"),
        ({"size": 0}, "invalid_field"),
        ({"size": -5}, "invalid_field"),
        ({"alt": "a" * (ALT_MAX + 1)}, "invalid_field"),
        ({"alt": "a\0"}, "invalid_field"),
    ],
)
def test_bad_promises(world, ann, change, code):
    fields = {"owner": ann, "mime": JPEG, "size": 10, "alt": ""} | change
    refused(code, world.run, ann, PromiseUpload(**fields))


def test_only_active_accounts_promise(world, ann):
    refused("unauthenticated", world.run, ann, PromiseUpload(ann + 1, JPEG, 1, ""))


def test_expired_promises_go_or_fail_their_post(world, ann):
    alone = world.promise(ann).media
    promised = world.promise_post(ann)
    world.now += UPLOAD_PROMISE_MS - 10
    late = world.promise(ann).media
    assert world.run(ann, ExpireUploads(), uploads.Expired).count == 0
    world.now += 10
    assert world.run(ann, ExpireUploads(), uploads.Expired).count == 2
    assert world.medium(ann, alone) is None
    assert world.medium(ann, late).state == "awaiting"
    post = world.row(promised.post)
    assert (post.status, post.failure) == (
        "failed",
        f"medium {promised.media}: its bytes did not come in time",
    )
    world.settle()
    world.check()
    world.delete(ann, promised.post)
    world.settle()
    assert world.medium(ann, promised.media) is None


def test_expiry_is_bounded(world, ann):
    for _ in range(uploads.EXPIRED_AT_ONCE_MAX + 1):
        world.promise_post(ann)
    world.now += UPLOAD_PROMISE_MS
    assert world.run(ann, ExpireUploads(), uploads.Expired).count == uploads.EXPIRED_AT_ONCE_MAX
    assert world.run(ann, ExpireUploads(), uploads.Expired).count == 1


def test_stored_bytes_are_counted_and_given_back(world, ann):
    made = world.photo(ann)
    world.store(ann, world.promise(ann, size=500).media, size=500)
    world.settle()
    world.check()  # counts say 1500
    world.delete(ann, made.post)
    world.settle()
    world.check()
