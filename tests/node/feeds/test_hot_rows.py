"""Hot rows: what they hold is what a snapshot would say, whatever was written and forgotten meanwhile; and
feeds over them, over the real state machine, are the same byte for byte as feeds without."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cluster.commands import Refused
from node.feeds.hot_rows import ROW_BYTES, HotRows
from node.feeds.reader import Feeds
from node.feeds.rendering import Renderer
from node.settings import Feed
from node.social import accounts, blocks, follows, likes
from storage.memory import MemoryRows
from tests.node.social.gallery import Gallery

KEYS = [b"\0\0%d" % number for number in range(12)]


@given(
    st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from(KEYS), min_size=1)), max_size=60), st.data()
)
@settings(max_examples=200)
def test_reads_equal_those_of_the_rows(steps, data):
    rows = MemoryRows()
    hot = HotRows(data.draw(st.sampled_from([0, 3 * ROW_BYTES, 8 * ROW_BYTES, 1 << 20])))
    for writes, keys in steps:
        if writes:
            values = {key: data.draw(st.one_of(st.none(), st.binary(min_size=1, max_size=4))) for key in keys}
            rows.write(values)
            rows.commit()
            hot.changed(values)
        else:
            assert hot.over(rows).get_many(keys) == rows.get_many(keys)
    assert hot.statistics().bytes <= (1 << 20) + ROW_BYTES


def test_bytes_are_bounded_and_a_hit_needs_no_row():
    rows, hot = MemoryRows(), HotRows(100 * ROW_BYTES)
    rows.write({number.to_bytes(8, "big"): b"value" for number in range(1000)})
    for number in range(1000):
        hot.over(rows).get_many([number.to_bytes(8, "big")])
        assert hot.statistics().bytes <= 102 * ROW_BYTES
    last = (999).to_bytes(8, "big")
    assert hot.over(MemoryRows()).get_many([last]) == {last: b"value"}
    hot.changed([last])
    assert hot.over(MemoryRows()).get_many([last]) == {}
    assert hot.statistics().forgotten == 1


class Hot(RuleBasedStateMachine):
    """A village that posts, follows, blocks and likes; its feeds are read with hot rows and without."""

    @initialize()
    def begin(self):
        self.village = Gallery()
        small = 40 * ROW_BYTES  # so that rows are forgotten for room, too
        self.hot = Feeds(Feed(), Renderer(self.sign), shards=2, rows_bytes=small)
        self.plain = Feeds(Feed(cache_bytes=0), Renderer(self.sign), shards=2)
        self.village.on_rows = self.hot.hot.changed
        self.village.on_changes = lambda changes: self.hot.changed(changes, self.village.now)
        self.people = [self.village.sign_up(name) for name in ("ann", "bob", "cid", "dan")]
        self.posts = []

    @staticmethod
    def sign(viewer, name, until_s):
        return f"viewer={viewer}&until={until_s}"

    @rule(who=st.integers(0, 3))
    def post(self, who):
        self.posts.append(self.village.post(self.people[who], f"post {len(self.posts)}"))

    @rule(who=st.integers(0, 3), whom=st.integers(0, 3), end=st.booleans())
    def follow(self, who, whom, end):
        viewer, author = self.people[who], self.people[whom]
        command = follows.Unfollow(author, viewer) if end else follows.Follow(author, viewer)
        self.try_(author, command)

    @rule(who=st.integers(0, 3), whom=st.integers(0, 3), end=st.booleans())
    def block(self, who, whom, end):
        kind = blocks.UnblockUser if end else blocks.BlockUser
        self.try_(self.people[who], kind(self.people[who], self.people[whom]))

    @rule(who=st.integers(0, 3), which=st.integers(0, 30))
    def like(self, who, which):
        if which < len(self.posts):
            self.try_(self.posts[which], likes.Like(self.people[who], self.posts[which]))

    @rule(which=st.integers(0, 30))
    def delete(self, which):
        row = self.village.row(self.posts[which]) if which < len(self.posts) else None
        if row is not None and not row.deleting:
            self.village.delete(row.author, self.posts[which])

    @rule(who=st.integers(0, 3), private=st.booleans())
    def go_private(self, who, private):
        user = self.people[who]
        self.try_(user, accounts.UpdateProfile(user, private=private))

    @rule()
    def settle(self):
        self.village.settle()

    def try_(self, home, command):
        try:
            self.village.run(home, command)
        except Refused as refusal:
            self.refused = refusal

    @invariant()
    def feeds_are_equal(self):
        for viewer in getattr(self, "people", ()):
            for limit in (2, 20):
                rows, now = self.village.rows, self.village.now
                assert self.hot.page(rows, viewer, None, limit, now) == self.plain.page(
                    rows, viewer, None, limit, now
                )


TestHot = Hot.TestCase
TestHot.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
