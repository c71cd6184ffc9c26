"""A few people in a world of partitions, with messages in any order that keeps each pair's own."""

import msgspec

from cluster import commands
from cluster.commands import Deliver, Refused
from node.social import (
    accounts,
    blobs,
    blocks,
    comments,
    deletion,
    follows,
    jobs,
    likes,
    media,
    posts,
    sessions,
    uploads,
)
from node.social import records as tables
from node.social.accounts import SignUp
from node.social.machine import SocialMachine, encode
from node.social.packs import PACK_AUTHORS_MAX, read
from storage.ids import ID_MAX, partition_of
from tests.world import START_MS, World

MODULES = (
    accounts,
    blobs,
    blocks,
    comments,
    deletion,
    follows,
    jobs,
    likes,
    media,
    posts,
    sessions,
    uploads,
)
PARTITIONS = 8
DAY_MS = 24 * 3600 * 1000


def avatar_url(user, avatar):
    return f"/media/{avatar.webp.hex()}.webp"


class Village(World):
    def __init__(self, partitions=PARTITIONS):
        super().__init__(SocialMachine(MODULES), partitions)

    def run(self, home, command, result=None, *, scope=0):
        """Apply a command at the partition of the id `home`; its result as `result`, if one is named."""
        return self.run_in(partition_of(home), command, result, scope=scope)

    def run_in(self, partition, command, result=None, *, scope=0):
        self.now += 1
        data = self.execute(partition, encode(command), scope=scope)
        return msgspec.msgpack.decode(data, type=result) if result else msgspec.msgpack.decode(data)

    def sign_up(self, username, partition=None, *, private=False):
        if partition is None:
            partition = sum(username.encode()) % PARTITIONS
        command = SignUp(username, username.title(), "$argon2id$", b"", 0)
        user = self.run_in(partition, command, accounts.SignedUp).user
        if private:
            self.run(user, accounts.UpdateProfile(user, private=True))
            self.settle()
        return user

    # --- messages by hand --------------------------------------------------------------------------------
    def pairs(self):
        """Pairs of partitions with a message on the way, in the order of their oldest."""
        return list(dict.fromkeys((source, message.destination) for source, message in self._mail))

    def deliver(self, pair, times=1):
        """The oldest message of a pair arrives, `times` times."""
        at = next(i for i, (source, m) in enumerate(self._mail) if (source, m.destination) == pair)
        source, (destination, delivery) = self._mail[at]
        del self._mail[at]
        for _ in range(times):
            self.apply(destination, Deliver(self.now, 1, bytes(16), (delivery,)))
        self.apply(source, commands.Trim(((destination, delivery.sequence),)))

    def busy(self):
        return [number for number, partition in self._partitions.items() if partition.head.work_rows]

    def proceed(self, partition):
        self.apply(partition, commands.Continue(self.now, 1, bytes(16)))

    # --- what must hold once all has settled -------------------------------------------------------------
    def check_graph(self, users, gone=()):
        rows = self.rows
        assert self.dead_letters() == 0
        for user in users:
            self._check_edges(user)
            self._check_blocks(user)
        data = [key + value for key, value in _social(rows)]
        for user in gone:
            marks = user.to_bytes(8, "big"), (ID_MAX - user).to_bytes(8, "big")
            assert not [row for row in data if any(mark in row for mark in marks)], f"rows of {user} are left"

    def _check_edges(self, user):
        rows, t = self.rows, tables
        granted = {k.viewer: e.version for k, e in t.FOLLOWERS.scan(rows, user)}
        requested = {k.viewer: e.version for k, e in t.FOLLOW_REQUESTS.scan(rows, user)}
        copies = {k.author: e for k, e in t.FOLLOWING.scan(rows, user)}
        assert not granted.keys() & requested.keys()
        assert _listed(t.FOLLOWER_LIST, rows, user) == granted
        assert _listed(t.FOLLOW_REQUEST_LIST, rows, user) == requested
        follows_ = {author: e.version for author, e in copies.items() if e.granted}
        assert _listed(t.FOLLOWING_LIST, rows, user) == follows_
        counts = t.COUNTS.get(rows, t.COUNTS.key(user))
        assert counts.followers == len(granted)
        assert counts.following == len(follows_)
        assert counts.requested == len(copies) - len(follows_)
        assert sorted(read(rows, user)) == sorted(follows_)
        sizes = [len(pack) // 8 for _, pack in t.FOLLOWING_PACKS.scan(rows, user)]
        assert all(size == PACK_AUTHORS_MAX for size in sizes[:-1])
        for viewer, version in granted.items():
            copy = t.FOLLOWING.get(rows, t.FOLLOWING.key(viewer, user))
            assert copy is not None and copy.granted and copy.version == version
        for viewer, version in requested.items():
            copy = t.FOLLOWING.get(rows, t.FOLLOWING.key(viewer, user))
            assert copy is not None and not copy.granted and copy.version == version
        for author, copy in copies.items():
            table = t.FOLLOWERS if copy.granted else t.FOLLOW_REQUESTS
            edge = table.get(rows, table.key(author, user))
            assert edge is not None and edge.version == copy.version
            assert not t.BLOCKS.has(rows, t.BLOCKS.key(author, user))

    def _check_blocks(self, user):
        rows, t = self.rows, tables
        own = {}
        for key, block in t.BLOCKS.scan(rows, user):
            mirror = t.BLOCKS.get(rows, t.BLOCKS.key(key.other, user))
            assert block.by_user or block.by_other
            assert (mirror.by_user, mirror.by_other) == (block.by_other, block.by_user)
            assert bool(block.version) == block.by_user
            if block.by_user:
                own[key.other] = block.version
        assert _listed(t.BLOCK_LIST, rows, user) == own
        assert t.COUNTS.get(rows, t.COUNTS.key(user)).blocks == len(own)


def _listed(table, rows, owner):
    entries = [(end.user, key.version) for key, end in table.scan(rows, owner)]
    assert len(entries) == len(dict(entries)), "a list names a user twice"
    return dict(entries)


def _social(rows):
    """The rows of the application: those of the partitions' own machinery lie outside these kinds."""
    for key, value in rows.scan(b"", b"\xff" * 512):
        if 0x20 <= key[2] < 0x50:
            yield key, value


def refused(code, run, *arguments, **named):
    """Run what must be refused with this code; returns the detail."""
    try:
        run(*arguments, **named)
    except Refused as refusal:
        assert refusal.code == code, refusal
        return refusal.detail
    raise AssertionError(f"not refused; want {code}")


__all__ = ["DAY_MS", "PARTITIONS", "START_MS", "Village", "avatar_url", "refused"]
