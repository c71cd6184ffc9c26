"""Media jobs: every state against every event, tries and backoff, dead letters, and their posts."""

import pytest

from node.social import jobs
from node.social.jobs import BACKOFF_MS, TRIES_MAX, Claim, Done, DropFailed, Failed, ReleaseClaim, RetryFailed
from tests.node.social.gallery import Gallery
from tests.node.social.village import refused


@pytest.fixture
def world():
    return Gallery()


@pytest.fixture
def ann(world):
    return world.sign_up("ann")


def state_of(world, owner, media_id):
    job = world.job(media_id)
    if job is None:
        if jobs.failed_job(world.rows, media_id >> 10 & 0x1FFF, media_id):
            return "dead"
        return world.medium(owner, media_id).state
    if not job.worker:
        return "waiting" if job.due_ms <= world.now else "backoff"
    last = "_last" if job.attempt - job.free == TRIES_MAX else ""
    return ("claimed" if job.until_ms > world.now else "ran_out") + last


def bring_to(world, owner, state):
    """A photo's medium whose job is in the state."""
    media_id = world.photo(owner).media[0]
    last = state.endswith("_last") or state == "dead"
    for _ in range(TRIES_MAX - 1 if last else 0):
        world.due(media_id)
        world.claim(media_id)
        world.fail(media_id)
    if state != "waiting":
        world.due(media_id)
        world.claim(media_id)
    if state.startswith("ran_out"):
        world.now = world.job(media_id).until_ms
    elif state in ("backoff", "dead"):
        world.fail(media_id)
    elif state == "failed":
        world.fail(media_id, permanent=True)
    elif state == "ready":
        world.finish(media_id)
    assert state_of(world, owner, media_id) == state
    return media_id


def commands_for(world, owner, media_id):
    job = world.job(media_id)
    attempt = job.attempt if job else 1
    variants = world.variants(media_id, owner, world.medium(owner, media_id).original)
    until = world.now + 60_000
    return {
        "claim": Claim(media_id, attempt + 1, "w2", until),
        "claim_stale": Claim(media_id, attempt, "w2", until),
        "done": Done(media_id, attempt, 4, 3, "L", variants),
        "done_stale": Done(media_id, attempt + 1, 4, 3, "L", variants),
        "failed": Failed(media_id, attempt, "broke", False),
        "permanent": Failed(media_id, attempt, "not a picture", True),
        "fail_stale": Failed(media_id, attempt + 1, "broke", True),
        "release": ReleaseClaim(media_id, attempt),
        "retry": RetryFailed(media_id),
        "drop": DropFailed(media_id),
    }


STATES = (
    "waiting",
    "backoff",
    "claimed",
    "ran_out",
    "claimed_last",
    "ran_out_last",
    "dead",
    "ready",
    "failed",
)
S, C, N = "stale_attempt", "conflict", "not_found"
# Event → what it makes of each state, in the order of STATES: the next state, or the code of a refusal.
TABLE = {
    "claim": ("claimed", C, C, "claimed", C, "dead", N, N, N),
    "claim_stale": (S, S, S, S, S, S, N, N, N),
    "done": (S, S, "ready", "ready", "ready", "ready", N, N, N),
    "done_stale": (S, S, S, S, S, S, N, N, N),
    "failed": (S, S, "backoff", "backoff", "dead", "dead", N, N, N),
    "permanent": (S, S, "failed", "failed", "failed", "failed", N, N, N),
    "fail_stale": (S, S, S, S, S, S, N, N, N),
    "release": (S, S, "waiting", "waiting", "waiting", "waiting", N, N, N),
    "retry": (N, N, N, N, N, N, "waiting", N, N),
    "drop": (N, N, N, N, N, N, "failed", N, N),
}


@pytest.mark.parametrize("event", TABLE)
@pytest.mark.parametrize("state", STATES)
def test_every_state_and_event(world, ann, state, event):
    media_id = bring_to(world, ann, state)
    command = commands_for(world, ann, media_id)[event]
    if state in ("claimed", "claimed_last"):  # what the table says holds while the claim runs
        assert world.job(media_id).until_ms > world.now
    if state == "backoff":
        assert world.job(media_id).due_ms > world.now
    want = TABLE[event][STATES.index(state)]
    if want in (S, C, N):
        before = world.everything()
        refused(want, world.run, media_id, command)
        assert world.everything() == before
    else:
        world.run(media_id, command)
        assert state_of(world, ann, media_id) == want
    world.settle()
    world.check()


def test_a_job_of_nothing(world, ann):
    for command in (
        Claim(ann, 1, "w", world.now),
        Done(ann, 1, 1, 1, "", ()),
        Failed(ann, 1, "", False),
        ReleaseClaim(ann, 1),
        RetryFailed(ann),
        DropFailed(ann),
    ):
        refused("not_found", world.run, ann, command)


def test_backoff_doubles_by_the_commands_time(world, ann):
    media_id = world.photo(ann).media[0]
    for number in range(TRIES_MAX - 1):
        world.due(media_id)
        world.claim(media_id)
        world.fail(media_id)
        assert world.job(media_id).due_ms == world.now + (BACKOFF_MS << number)
        assert world.job(media_id).reason == "it broke"
        home = media_id >> 10 & 0x1FFF
        assert jobs.jobs_due(world.rows, home, world.now, 10) == []
        assert jobs.next_due_ms(world.rows, home) == world.job(media_id).due_ms
        due = jobs.jobs_due(world.rows, home, world.job(media_id).due_ms, 10)
        assert [found.media for found in due] == [media_id]


def test_jobs_due_are_in_order_and_bounded(world, ann):
    made = [world.photo(ann).media[0] for _ in range(5)]
    home = ann >> 10 & 0x1FFF
    assert [found.media for found in jobs.jobs_due(world.rows, home, world.now, 3)] == made[:3]
    world.claim(made[0])
    assert [found.media for found in jobs.jobs_due(world.rows, home, world.now, 9)] == made[1:]
    late = jobs.jobs_due(world.rows, home, world.now + 61_000, 9)
    assert [found.media for found in late] == [*made[1:], made[0]]


def test_claimed_says_what_to_fetch(world, ann):
    made = world.photo(ann)
    claimed = world.claim(made.media[0])
    medium = world.medium(ann, made.media[0])
    assert claimed == jobs.Claimed(ann, medium.original, 1000, "image/jpeg")


def test_released_claims_cost_no_try(world, ann):
    media_id = world.photo(ann).media[0]
    for _ in range(TRIES_MAX + 2):
        world.claim(media_id)
        world.run(media_id, ReleaseClaim(media_id, world.job(media_id).attempt))
    for _ in range(TRIES_MAX - 1):
        world.due(media_id)
        world.claim(media_id)
        world.fail(media_id)
    assert state_of(world, ann, media_id) == "backoff"
    world.due(media_id)
    world.claim(media_id)
    world.fail(media_id)
    assert state_of(world, ann, media_id) == "dead"


def test_a_dead_letter_fails_the_post_and_a_retry_brings_it_back(world, ann):
    made = world.photo(ann)
    media_id = made.media[0]
    world.use_up(media_id)
    post = world.row(made.post)
    assert (post.status, post.failure) == ("failed", f"medium {media_id}: it broke")
    home = ann >> 10 & 0x1FFF
    [(listed, letter)] = jobs.failed_jobs(world.rows, home, 0, 10)
    assert (listed, letter.owner, letter.attempts, letter.reason) == (media_id, ann, TRIES_MAX, "it broke")
    assert jobs.failed_jobs(world.rows, home, media_id, 10) == []
    world.run(media_id, RetryFailed(media_id))
    assert (world.row(made.post).status, world.row(made.post).failure) == ("processing", "")
    stale = Done(media_id, TRIES_MAX, 1, 1, "", world.variants(media_id, ann, b"x"))
    refused("stale_attempt", world.run, media_id, stale)  # from a worker of before the retry
    world.make_ready(media_id)
    assert world.row(made.post).status == "complete"
    assert jobs.failed_jobs(world.rows, home, 0, 10) == []
    world.settle()
    world.check()


def test_a_refused_picture_fails_at_once_without_a_dead_letter(world, ann):
    made = world.photo(ann)
    world.claim(made.media[0])
    world.fail(made.media[0], permanent=True, reason="not a picture")
    assert world.row(made.post).failure == f"medium {made.media[0]}: not a picture"
    assert jobs.failed_jobs(world.rows, ann >> 10 & 0x1FFF, 0, 10) == []


def test_done_needs_all_variants(world, ann):
    media_id = world.photo(ann).media[0]
    world.claim(media_id)
    refused("invalid_field", world.run, media_id, Done(media_id, 1, 1, 1, "", ()))


@pytest.mark.parametrize("permanent", [False, True])
def test_a_long_reason_is_cut(world, ann, permanent):
    made = world.photo(ann)
    for _ in range(1 if permanent else TRIES_MAX):
        world.due(made.media[0])
        world.claim(made.media[0])
        world.fail(made.media[0], permanent, reason="x" * 9999)
    assert world.medium(ann, made.media[0]).failure == "x" * jobs.REASON_MAX
