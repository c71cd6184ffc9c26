"""Blocks: what they end, whom they hide, and every order in which their messages meet those of a follow."""

import itertools

import pytest

from cluster.commands import Refused
from node.social.accounts import Suspend, UpdateProfile
from node.social.blocks import BlockUser, UnblockUser
from node.social.follows import Follow
from node.social.people import hidden_between
from node.social.records import BLOCKS, FOLLOWERS, FOLLOWING
from tests.node.social.village import Village, refused


@pytest.fixture
def village():
    return Village()


@pytest.fixture
def anna(village):
    return village.sign_up("anna", 1)


@pytest.fixture
def ben(village):
    return village.sign_up("ben", 2)


def no_edges(village, *users):
    return not any(list(table.scan(village.rows, user)) for table in (FOLLOWERS, FOLLOWING) for user in users)


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("settled", [False, True])
def test_a_block_ends_follows_and_requests_both_ways(village, anna, ben, private, settled):
    for user, other in ((anna, ben), (ben, anna)):
        village.run(user, UpdateProfile(user, private=private))
        village.run(user, Follow(user, other))
    if settled:
        village.settle()
    village.run(anna, BlockUser(anna, ben))
    assert not list(FOLLOWING.scan(village.rows, anna))  # at once, without waiting for the other's home
    village.settle()
    assert no_edges(village, anna, ben)
    village.check_graph([anna, ben])
    assert hidden_between(village.rows, anna, ben) and hidden_between(village.rows, ben, anna)
    refused("not_found", village.run, anna, Follow(anna, ben))
    refused("not_found", village.run, ben, Follow(ben, anna))


def test_a_grant_that_meets_a_block_is_not_taken(village, anna, ben):
    """The blocker's feed never shows the other again, not even until the other's home knows."""
    village.run(ben, Follow(ben, anna))
    village.run(anna, BlockUser(anna, ben))
    village.deliver((2, 1))
    assert not list(FOLLOWING.scan(village.rows, anna))
    village.settle()
    village.check_graph([anna, ben])


def test_blocks_of_both_are_two(village, anna, ben):
    village.run(anna, BlockUser(anna, ben))
    village.run(ben, BlockUser(ben, anna))
    village.settle()
    village.check_graph([anna, ben])
    village.run(anna, UnblockUser(anna, ben))
    village.settle()
    village.check_graph([anna, ben])
    assert hidden_between(village.rows, anna, ben)
    village.run(ben, UnblockUser(ben, anna))
    village.settle()
    assert not BLOCKS.has(village.rows, BLOCKS.key(anna, ben))
    assert not BLOCKS.has(village.rows, BLOCKS.key(ben, anna))
    village.run(anna, Follow(anna, ben))
    village.settle()
    village.check_graph([anna, ben])
    assert FOLLOWERS.has(village.rows, FOLLOWERS.key(anna, ben))


def test_block_and_unblock_are_idempotent(village, anna, ben):
    for _ in range(2):
        village.run(anna, BlockUser(anna, ben))
        village.settle()
        village.check_graph([anna, ben])
    for _ in range(2):
        village.run(anna, UnblockUser(anna, ben))
        village.settle()
        village.check_graph([anna, ben])


def test_who_may_block(village, anna):
    refused("invalid_field", village.run, anna, BlockUser(anna, anna))
    village.run(anna, Suspend(anna))
    refused("unauthenticated", village.run, anna, BlockUser(anna, 5))
    refused("unauthenticated", village.run, anna, UnblockUser(anna, 5))


def test_a_block_of_nobody_is_taken_back(village, anna):
    village.run(anna, BlockUser(anna, anna + 1024))  # an id of the next partition that nobody has
    village.settle()
    village.check_graph([anna])
    assert not list(BLOCKS.scan(village.rows, anna))


STEPS = {
    "anna follows": lambda a, b: (b, Follow(b, a)),
    "ben follows": lambda a, b: (a, Follow(a, b)),
    "anna blocks": lambda a, b: (a, BlockUser(a, b)),
    "anna unblocks": lambda a, b: (a, UnblockUser(a, b)),
    "ben blocks": lambda a, b: (b, BlockUser(b, a)),
}


@pytest.mark.parametrize("steps", [*itertools.permutations(STEPS, 4)], ids=" | ".join)
def test_every_order_of_steps_while_messages_are_under_way(steps):
    """For each order of the steps: nothing delivered in between, or one message after each step, of either
    direction."""
    for choice in itertools.product((None, (1, 2), (2, 1)), repeat=len(steps) - 1):
        village = Village()
        anna, ben = village.sign_up("anna", 1), village.sign_up("ben", 2)
        for step, arriving in zip(steps, (*choice, None), strict=True):
            home, command = STEPS[step](anna, ben)
            try:
                village.run(home, command)
            except Refused as refusal:
                assert refusal.code == "not_found"
            if arriving in village.pairs():
                village.deliver(arriving)
        village.settle()
        village.check_graph([anna, ben])
