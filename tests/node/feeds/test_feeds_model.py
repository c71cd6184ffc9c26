"""Whatever people do, a feed page from the cache, a merged one and a naive one are the same bytes."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from node.feeds.reader import Feeds
from node.feeds.rendering import PostView, Renderer
from tests.node.feeds.network import Network, sign
from tests.node.feeds.pages import ids_of

PEOPLE = 6
WHO = st.integers(0, PEOPLE - 1)


class Small:
    cache_bytes = 1 << 20
    pull_above = 2


class Off:
    cache_bytes = 0
    pull_above = 1


class FeedsMachine(RuleBasedStateMachine):
    kept = 4  # places in an entry: pages go beyond them
    settings = Small

    def __init__(self):
        super().__init__()
        self.network = Network(PEOPLE)
        self.cached = Feeds(self.settings, Renderer(sign), shards=2, kept=self.kept)
        self.merged = Feeds(Off, Renderer(sign), shards=2)
        self.late = False  # changes wait

    def pick(self, number):
        return self.network.people[number]

    def post(self, number):
        posts = sorted(self.network.posts)
        return posts[number % len(posts)]

    @rule(viewer=WHO, author=WHO)
    def follow(self, viewer, author):
        self.network.follow(self.pick(viewer), self.pick(author))

    @rule(viewer=WHO)
    def follow_everybody(self, viewer):
        for author in self.network.people:
            self.network.follow(self.pick(viewer), author)

    @rule(viewer=WHO, author=WHO)
    def unfollow(self, viewer, author):
        self.network.unfollow(self.pick(viewer), self.pick(author))

    @rule(viewer=WHO, author=WHO)
    def revoke(self, viewer, author):
        self.network.revoke(self.pick(viewer), self.pick(author))

    @rule(user=WHO, other=WHO)
    def block(self, user, other):
        if user != other:
            self.network.block(self.pick(user), self.pick(other))

    @rule(user=WHO, other=WHO)
    def unblock(self, user, other):
        self.network.unblock(self.pick(user), self.pick(other))

    @rule(author=WHO, count=st.integers(1, 6))
    def publish(self, author, count):
        for _ in range(count):
            self.network.publish(self.pick(author), caption="“å”\x00\n")

    @precondition(lambda self: self.network.posts)
    @rule(number=st.integers(0, 99), row_stays=st.booleans())
    def withdraw(self, number, row_stays):
        self.network.withdraw(self.post(number), row_stays=row_stays)

    @precondition(lambda self: self.network.posts)
    @rule(viewer=WHO, number=st.integers(0, 99))
    def like(self, viewer, number):
        self.network.like(self.pick(viewer), self.post(number))

    @precondition(lambda self: self.network.likes)
    @rule(number=st.integers(0, 99))
    def unlike(self, number):
        likes = sorted(self.network.likes)
        self.network.unlike(*likes[number % len(likes)])

    @rule(
        user=WHO, private=st.booleans(), state=st.sampled_from(["active", "active", "suspended", "deleted"])
    )
    def change_account(self, user, private, state):
        self.network.change_user(self.pick(user), private=private, state=state)

    @rule(user=WHO, name=st.text(max_size=5))
    def rename(self, user, name):
        self.network.change_user(self.pick(user), display_name=name)

    @rule(late=st.booleans())
    def delay_changes(self, late):
        self.late = late

    @rule(viewer=WHO, limit=st.integers(1, 7), times=st.integers(1, 3))
    def read(self, viewer, limit, times):
        """All pages of a feed, one after the other; more than once, so that an entry is made."""
        self.deliver()
        reader = self.pick(viewer)
        for _ in range(times):
            cursor, pages = None, 0
            while True:
                expected = self.network.feed(reader, cursor)[:limit]
                page = self.cached.page(self.network.rows, reader, cursor, limit, self.network.now)
                merged = self.merged.page(self.network.rows, reader, cursor, limit, self.network.now)
                assert page.posts == self.network.rendered(reader, expected)
                assert merged == page
                assert ids_of(page) == expected
                if page.next is None:
                    assert expected == self.network.feed(reader, cursor)
                    break
                assert page.next < (cursor or 1 << 64)
                cursor, pages = page.next, pages + 1
                assert pages <= 200

    @rule(viewer=WHO, limit=st.integers(1, 7))
    def read_late(self, viewer, limit):
        """While changes wait, a cached page may lack what is new, and shows nothing that it may not."""
        if not self.late:
            self.deliver()
        reader = self.pick(viewer)
        page = self.cached.page(self.network.rows, reader, None, limit, self.network.now)
        shown = ids_of(page)
        every = self.network.feed(reader)
        assert [post for post in every if post in shown] == shown

    def deliver(self):
        records = self.network.delivered()
        self.cached.changed(records, self.network.now)

    @invariant()
    def bounded(self):
        statistics = self.cached.statistics().cache
        assert statistics.bytes <= self.settings.cache_bytes
        assert statistics.resets == 0


class Evicting(Small):
    cache_bytes = 25_000


class EvictingMachine(FeedsMachine):
    """Room for one or two entries; each is an eighth of the whole at most, so entries are refused as well."""

    settings = Evicting


@pytest.mark.parametrize("machine", [FeedsMachine, EvictingMachine])
def test_cached_merged_and_naive_feeds_are_equal(machine):
    run_state_machine_as_test(
        machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )


def test_the_declared_shape_is_strict():
    assert PostView.__struct_config__.forbid_unknown_fields
