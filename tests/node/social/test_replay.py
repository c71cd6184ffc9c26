"""Recorded commands, replayed into an empty world, give the same state byte for byte."""

from node.social.accounts import SetRole, Suspend, UpdateProfile
from node.social.blocks import BlockUser, UnblockUser
from node.social.deletion import DeleteAccount
from node.social.follows import Accept, Follow, Reject, RemoveFollower, Unfollow
from node.social.sessions import EndSession, Opened, OpenSession, RefreshSession, ResetPassword
from tests.node.social.village import PARTITIONS, Village


def live(village):
    anna, ben, carl = (village.sign_up(name, private=name == "carl") for name in ("anna", "ben", "carl"))
    village.run(anna, ResetPassword(anna, "$new"), scope=anna)
    changed_ms = village.now
    opened = village.run(anna, OpenSession(anna, changed_ms, b"1" * 32, changed_ms + 10**9), Opened)
    village.run(anna, RefreshSession(anna, opened.session, b"1" * 32, b"2" * 32, changed_ms + 10**9))
    for author, viewer in ((anna, ben), (ben, anna), (carl, anna), (carl, ben), (anna, carl)):
        village.run(author, Follow(author, viewer), scope=viewer)
    village.run(carl, Accept(carl, anna))
    village.run(carl, Reject(carl, ben))
    village.settle()
    village.run(anna, BlockUser(anna, ben))
    village.run(ben, BlockUser(ben, anna))
    village.run(anna, UnblockUser(anna, ben))
    village.run(carl, UpdateProfile(carl, private=False, bio="open", display_name="C"))
    village.run(carl, Unfollow(carl, anna))
    village.run(anna, RemoveFollower(anna, carl))
    village.run(ben, SetRole(ben, "admin"))
    village.run(ben, Suspend(ben))
    village.run(anna, EndSession(anna, opened.session))
    village.run(anna, DeleteAccount(anna), scope=anna)
    village.settle()


def test_replay_gives_equal_digests():
    village, again = Village(), Village()
    live(village)
    for partition, command in village.log:
        again.replay(partition, command)
    digests = [village.digest(partition) for partition in range(PARTITIONS)]
    assert digests == [again.digest(partition) for partition in range(PARTITIONS)]
    assert len(set(digests)) > 1
    assert dict(village.rows.scan(b"", b"\xff" * 512)) == dict(again.rows.scan(b"", b"\xff" * 512))
