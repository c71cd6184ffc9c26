"""Random lives of posts, media, likes and comments, with messages and work arriving when they like."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from cluster.commands import Refused
from node.social import (
    accounts,
    blocks,
    comments,
    deletion,
    follows,
    jobs,
    likes,
    uploads,
)
from node.social import records as tables
from tests.node.social.gallery import Gallery, every

USERS = 4
NUMBERS = st.integers(min_value=0, max_value=1 << 16)
REFUSALS = {"not_found", "forbidden", "conflict", "invalid_field", "unauthenticated", "upload_expired"}


class Lives(RuleBasedStateMachine):
    """However messages wait: at rest all ends agree, and in the end nothing outlives its owner."""

    @initialize()
    def begin(self):
        self.world = Gallery()
        self.users = [self.world.sign_up(f"user{i}", partition=i * 60) for i in range(USERS)]
        self.posts = []
        self.comments = []
        self.refused = set()

    def attempt(self, run, *arguments, **named):
        try:
            return run(*arguments, **named)
        except Refused as refusal:
            assert refusal.code in REFUSALS, refusal
            return None

    def user(self, number):
        return self.users[number % USERS]

    def pick(self, things, number):
        return things[number % len(things)] if things else None

    def media_of(self, owner, state=None):
        scan = tables.MEDIA.scan(self.world.rows, owner)
        return [key.media for key, medium in scan if state is None or medium.state == state]

    def all_jobs(self):
        return [key.media for key, _ in every(self.world.rows, tables.JOBS)]

    # --- posts and media ---------------------------------------------------------------------------------
    @rule(who=NUMBERS)
    def post_photo(self, who):
        made = self.attempt(self.world.photo, self.user(who))
        if made:
            self.posts.append(made.post)

    @rule(who=NUMBERS)
    def post_whole(self, who):
        made = self.attempt(self.world.photo, self.user(who))
        if made:
            self.posts.append(made.post)
            self.world.make_ready(made.media[0])

    @rule(who=NUMBERS)
    def promise_post(self, who):
        made = self.attempt(self.world.promise_post, self.user(who))
        if made:
            self.posts.append(made.post)

    @rule(who=NUMBERS)
    def promise_medium(self, who):
        self.attempt(self.world.promise, self.user(who))

    @rule(who=NUMBERS, which=NUMBERS)
    def upload(self, who, which):
        media_id = self.pick(self.media_of(self.user(who), "awaiting"), which)
        if media_id:
            self.attempt(self.world.store, self.user(who), media_id)

    @rule(who=NUMBERS, which=st.lists(NUMBERS, min_size=1, max_size=4))
    def post_album(self, who, which):
        chosen = {self.pick(self.media_of(self.user(who)), n) for n in which} - {None}
        made = self.attempt(self.world.album, self.user(who), *sorted(chosen))
        if made:
            self.posts.append(made.post)

    @rule(which=NUMBERS)
    def claim(self, which):
        media_id = self.pick(self.all_jobs(), which)
        if media_id:
            self.attempt(self.world.claim, media_id)

    @rule(which=NUMBERS, end=st.sampled_from(["done", "alike", "failed", "permanent", "release"]))
    def end_attempt(self, which, end):
        media_id = self.pick(self.all_jobs(), which)
        if not media_id:
            return
        world, attempt = self.world, self.world.job(media_id).attempt
        if end in ("done", "alike"):
            self.attempt_stale(world.finish, media_id, end == "alike")
        elif end == "release":
            self.attempt_stale(world.run, media_id, jobs.ReleaseClaim(media_id, attempt))
        else:
            self.attempt_stale(world.fail, media_id, end == "permanent")

    def attempt_stale(self, run, *arguments):
        try:
            run(*arguments)
        except Refused as refusal:
            assert refusal.code == "stale_attempt", refusal

    @rule(which=NUMBERS)
    def use_up(self, which):
        media_id = self.pick(self.all_jobs(), which)
        while media_id and self.world.job(media_id):
            self.world.due(media_id)
            if self.world.claim(media_id):
                self.world.fail(media_id)

    @rule(which=NUMBERS, retry=st.booleans())
    def dead_letter(self, which, retry):
        letters = [key.media for key, _ in every(self.world.rows, tables.FAILED_JOBS)]
        media_id = self.pick(letters, which)
        if media_id:
            command = jobs.RetryFailed(media_id) if retry else jobs.DropFailed(media_id)
            self.world.run(media_id, command)

    @rule(which=NUMBERS)
    def delete_post(self, which):
        post_id = self.pick(self.posts, which)
        if post_id and self.world.row(post_id):
            self.attempt(self.world.delete, self.world.row(post_id).author, post_id)

    @rule(minutes=st.integers(1, 20))
    def time_passes(self, minutes):
        self.world.now += minutes * 60_000
        for user in self.users:
            self.world.run(user, uploads.ExpireUploads())

    # --- likes, comments, people -------------------------------------------------------------------------
    @rule(who=NUMBERS, which=NUMBERS, take_back=st.booleans())
    def like(self, who, which, take_back):
        post_id = self.pick(self.posts, which)
        if post_id:
            kind = likes.Unlike if take_back else likes.Like
            self.attempt(self.world.run, post_id, kind(self.user(who), post_id))

    @rule(who=NUMBERS, which=NUMBERS)
    def comment(self, who, which):
        post_id = self.pick(self.posts, which)
        if post_id:
            command = comments.AddComment(self.user(who), post_id, "well seen")
            made = self.attempt(self.world.run, post_id, command, comments.Added)
            if made:
                self.comments.append(made.comment)

    @rule(who=NUMBERS, which=NUMBERS)
    def delete_comment(self, who, which):
        comment_id = self.pick(self.comments, which)
        if comment_id:
            self.attempt(self.world.run, comment_id, comments.DeleteComment(self.user(who), comment_id))

    @rule(who=NUMBERS, private=st.booleans())
    def set_private(self, who, private):
        user = self.user(who)
        self.attempt(self.world.run, user, accounts.UpdateProfile(user, private=private))

    @rule(who=NUMBERS, which=NUMBERS)
    def set_avatar(self, who, which):
        user = self.user(who)
        media_id = self.pick([0, *self.media_of(user)], which)
        self.attempt(self.world.run, user, accounts.UpdateProfile(user, avatar_media=media_id))

    @rule(who=NUMBERS, suspended=st.booleans())
    def suspend(self, who, suspended):
        user = self.user(who)
        command = accounts.Suspend(user) if suspended else accounts.Unsuspend(user)
        self.attempt(self.world.run, user, command)

    @rule(who=NUMBERS, whom=NUMBERS, kind=st.sampled_from([blocks.BlockUser, blocks.UnblockUser]))
    def block(self, who, whom, kind):
        self.attempt(self.world.run, self.user(who), kind(self.user(who), self.user(whom)))

    @rule(who=NUMBERS, whom=NUMBERS)
    def follow(self, who, whom):
        author = self.user(whom)
        self.attempt(self.world.run, author, follows.Follow(author, self.user(who)))

    @rule(who=NUMBERS, sure=st.integers(0, 3))
    def delete_account(self, who, sure):
        if not sure:
            self.world.run(self.user(who), deletion.DeleteAccount(self.user(who)))

    # --- what is under way -------------------------------------------------------------------------------
    @precondition(lambda self: self.world.pairs())
    @rule(which=NUMBERS, times=st.integers(1, 2))
    def deliver(self, which, times):
        self.world.deliver(self.pick(self.world.pairs(), which), times)

    @precondition(lambda self: self.world.busy())
    @rule(which=NUMBERS)
    def proceed(self, which):
        self.world.proceed(self.pick(self.world.busy(), which))

    @rule()
    def settle(self):
        self.world.settle()
        self.world.check()

    def teardown(self):
        if not hasattr(self, "world"):
            return
        self.world.settle()
        self.world.check()
        for user in self.users:
            self.world.run(user, deletion.DeleteAccount(user))
        self.world.settle()
        assert self.world.dead_letters() == 0
        self.world.collect_all()
        assert self.world.leftovers() == set()


TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
