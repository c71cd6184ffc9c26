"""Blocks: made at the blocker's home, known at both, so that whoever owns an object decides with one read.

A block ends follows and requests both ways: the edge to the blocker at once, the edge to the other when its
home takes `Blocked`; the blocker's own copy of that edge goes at once too, and a grant that is still under
way is answered `Left`. Either side's block hides both from each other.
"""

import msgspec

from cluster.commands import Refused
from cluster.partition import Apply
from node.social import changes, edges
from node.social.follows import acting
from node.social.keys import BlockKey, BlockListKey, CountsKey
from node.social.machine import encode
from node.social.records import BLOCK_LIST, BLOCKS, COUNTS, Block, EdgeEnd
from storage.ids import partition_of


class _Record(msgspec.Struct, array_like=True, frozen=True):
    pass


class BlockUser(_Record, frozen=True, tag=40):
    """For the user's partition. The caller has seen that there is a user `other`. → None.
    Refused: invalid_field, unauthenticated."""

    user: int
    other: int


class UnblockUser(_Record, frozen=True, tag=41):
    """→ None, also where there is no block."""

    user: int
    other: int


class Blocked(_Record, frozen=True, tag=40):
    user: int  # who is blocked: the receiver
    by: int


class Unblocked(_Record, frozen=True, tag=41):
    user: int
    by: int


class BlockGone(_Record, frozen=True, tag=42):
    """The other account is gone, and with it whatever was between the two."""

    user: int
    other: int


_NONE = Block(False, False, 0)


def block_user(apply: Apply, command: BlockUser) -> None:
    user, other = command.user, command.other
    if user == other:
        raise Refused("invalid_field", "one cannot block oneself")
    acting(apply, user)
    block = BLOCKS.get(apply, BlockKey(user, other)) or _NONE
    if block.by_user:
        return
    edges.revoke(apply, user, other)
    edges.forget_following(apply, user, other)
    version = apply.mint()
    BLOCKS.put(apply, BlockKey(user, other), Block(True, block.by_other, apply.now, version))
    BLOCK_LIST.put(apply, BlockListKey(user, version), EdgeEnd(other))
    _count(apply, user, 1)
    apply.publish(changes.encode(changes.Restricted(user)))
    apply.send(partition_of(other), encode(Blocked(other, user)))


def unblock_user(apply: Apply, command: UnblockUser) -> None:
    user, other = command.user, command.other
    acting(apply, user)
    block = BLOCKS.get(apply, BlockKey(user, other))
    if block is None or not block.by_user:
        return
    _put(apply, user, other, Block(False, block.by_other, block.since_ms))
    BLOCK_LIST.delete(apply, BlockListKey(user, block.version))
    _count(apply, user, -1)
    apply.send(partition_of(other), encode(Unblocked(other, user)))


def blocked(apply: Apply, source: int, message: Blocked) -> None:
    user, by = message.user, message.by
    if not COUNTS.has(apply, CountsKey(user)):
        apply.send(partition_of(by), encode(BlockGone(by, user)))
        return
    block = BLOCKS.get(apply, BlockKey(user, by)) or Block(False, False, apply.now)
    BLOCKS.put(apply, BlockKey(user, by), msgspec.structs.replace(block, by_other=True))
    edges.revoke(apply, user, by)
    apply.publish(changes.encode(changes.Restricted(user)))


def unblocked(apply: Apply, source: int, message: Unblocked) -> None:
    block = BLOCKS.get(apply, BlockKey(message.user, message.by))
    if block is not None:
        _put(apply, message.user, message.by, msgspec.structs.replace(block, by_other=False))


def block_gone(apply: Apply, source: int, message: BlockGone) -> None:
    user, other = message.user, message.other
    block = BLOCKS.get(apply, BlockKey(user, other))
    if block is None:
        return
    BLOCKS.delete(apply, BlockKey(user, other))
    if block.by_user:
        BLOCK_LIST.delete(apply, BlockListKey(user, block.version))
        _count(apply, user, -1)


def _put(apply: Apply, user: int, other: int, block: Block) -> None:
    """A row stands exactly while one of the two blocks."""
    if block.by_user or block.by_other:
        BLOCKS.put(apply, BlockKey(user, other), block)
    else:
        BLOCKS.delete(apply, BlockKey(user, other))


def _count(apply: Apply, user: int, more: int) -> None:
    counts = COUNTS.get(apply, CountsKey(user))
    if counts is not None:  # else the account is being deleted, and its counts are gone
        counts = msgspec.structs.replace(counts, blocks=counts.blocks + more)
        COUNTS.put(apply, CountsKey(user), counts)


COMMANDS = {BlockUser: block_user, UnblockUser: unblock_user}
MESSAGES = {Blocked: blocked, Unblocked: unblocked, BlockGone: block_gone}
