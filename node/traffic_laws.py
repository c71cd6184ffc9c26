"""What must hold of the social state when all has come to rest, against what clients were told.

Nothing acknowledged is lost; names and profiles behaved as one copy would; every message between partitions
took effect once, so that both ends of each edge agree and counts are counts; feeds have all posts.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from cluster.simulation.linearizability import ILLEGAL, NEVER, Operation, is_linearizable
from node.feeds.merge import Merge, Timelines, authors_in, pack_keys
from node.social.keys import (
    CommentKey,
    CountsKey,
    FollowerKey,
    LikeKey,
    PostKey,
    TimelineHeadKey,
    UserKey,
)
from node.social.records import (
    COMMENTS,
    COMMENTS_MADE,
    COUNTS,
    FOLLOWER_LIST,
    FOLLOWERS,
    FOLLOWING,
    LIKE_LIST,
    LIKES,
    LIKES_GIVEN,
    NAMES,
    POSTS,
    TIMELINE_HEADS,
    TIMELINES,
    USERS,
)
from node.traffic import Ledger
from storage.ids import partition_of
from storage.rows import Reader

Broken = Iterator[tuple[str, str]]
FEED_MAX: Final = 100_000  # more than a history has posts
RESTING: Final = "resting"


def broken(ledger: Ledger, rows: Reader, partitions: int) -> Broken:
    yield from _names(ledger)
    yield from _acknowledged(ledger, rows)
    yield from _edges(ledger, rows)
    yield from _follows_agree(ledger, rows)
    yield from _likes_agree(ledger, rows)
    yield from _feeds(ledger, rows)
    yield from _names_agree(rows, partitions)


# --- linearizability ---------------------------------------------------------------------------------------
def name_model(state: Any, operation: Operation) -> Any:
    """None: free. A user's id; of whom only the operation is known, a tuple; RESTING, for good."""
    kind = operation.what[0]
    answered = operation.ended != NEVER
    if kind == "claim":
        if state is None:
            if not answered:
                return ("somebody", operation.begun)
            return operation.result if operation.result else ILLEGAL
        return state if not answered or not operation.result else ILLEGAL
    if kind == "release":
        return RESTING if state in (operation.what[1], RESTING) else ILLEGAL
    if isinstance(state, tuple):
        return operation.result or ILLEGAL
    return state if operation.result == (state if isinstance(state, int) else 0) else ILLEGAL


def profile_model(state: Any, operation: Operation) -> Any:
    if operation.what[0] == "write":
        return operation.what[1]
    return state if operation.result == state else ILLEGAL


def _names(ledger: Ledger) -> Broken:
    for name, history in ledger.names.items():
        if not is_linearizable(_told(history), None, name_model):
            yield "linearizable names", f"{name}: {sorted(history)}"
    for user, history in ledger.profiles.items():
        if not is_linearizable(_told(history), ledger.people[user].name, profile_model):
            yield "linearizable reads", f"profile of {user}: {sorted(history)}"


def _told(history: list[Operation]) -> list[Operation]:
    """A read that was not answered says nothing."""
    return [one for one in history if one.ended != NEVER or one.what[0] != "read"]


# --- nothing acknowledged is lost --------------------------------------------------------------------------
def _acknowledged(ledger: Ledger, rows: Reader) -> Broken:
    law = "nothing acknowledged is lost"
    for user, person in ledger.people.items():
        account = USERS.get(rows, UserKey(user))
        if not person.gone and (account is None or account.username != person.name):
            yield law, f"the account {person.name}, {user}"
    for post, author in ledger.posts.items():
        kept = POSTS.get(rows, PostKey(post))
        if kept is None and not (post in ledger.deleted or ledger.people[author].gone):
            yield law, f"post {post} of {author}"
    for comment, (post, author, text) in ledger.comments.items():
        if {comment, post} & ledger.deleted or _gone(ledger, author, post):
            continue
        found = COMMENTS.get(rows, CommentKey(post, comment))
        if found is None or (found.author, found.text) != (author, text):
            yield law, f"comment {comment} on {post}: {found}"


def _gone(ledger: Ledger, user: int, post: int) -> bool:
    author = ledger.posts.get(post)
    return ledger.people[user].gone or (author is not None and ledger.people[author].gone)


def _edges(ledger: Ledger, rows: Reader) -> Broken:
    law = "nothing acknowledged is lost"
    for (author, viewer), wanted in ledger.follows.items():
        if wanted is None or ledger.people[author].gone or ledger.people[viewer].gone:
            continue
        if FOLLOWERS.has(rows, FollowerKey(author, viewer)) != wanted:
            yield law, f"follow of {author} by {viewer}: should be {wanted}"
    for (post, viewer), wanted in ledger.likes.items():
        if wanted is None or post in ledger.deleted or _gone(ledger, viewer, post):
            continue
        if LIKES.has(rows, LikeKey(post, viewer)) != wanted:
            yield law, f"like of {post} by {viewer}: should be {wanted}"


# --- messages took effect exactly once ---------------------------------------------------------------------
def _follows_agree(ledger: Ledger, rows: Reader) -> Broken:
    law = "exactly once"
    at_author = {
        (k.author, k.viewer): e.version for user in ledger.people for k, e in FOLLOWERS.scan(rows, user)
    }
    at_viewer = {
        (k.author, k.viewer): e.version for user in ledger.people for k, e in FOLLOWING.scan(rows, user)
    }
    if at_author != at_viewer:
        yield law, f"both ends of follows differ: {sorted(set(at_author.items()) ^ set(at_viewer.items()))}"
    followers = Counter(author for author, _ in at_author)
    following = Counter(viewer for _, viewer in at_viewer)
    for user in ledger.people:
        counts = COUNTS.get(rows, CountsKey(user))
        if counts is None:
            if followers[user] or following[user]:
                yield law, f"{user} is gone and has edges"
            continue
        listed = sum(1 for _ in FOLLOWER_LIST.scan(rows, user))
        if not counts.followers == listed == followers[user]:
            yield law, f"{user} counts {counts.followers} followers, lists {listed}, has {followers[user]}"
        if counts.following != following[user]:
            yield law, f"{user} counts {counts.following} followed, has {following[user]}"


def _likes_agree(ledger: Ledger, rows: Reader) -> Broken:
    law = "exactly once"
    at_post: set[tuple[int, int]] = set()
    made: set[int] = set()
    for post in ledger.posts:
        found = POSTS.get(rows, PostKey(post))
        liked = {(post, key.user) for key, _ in LIKES.scan(rows, post)}
        written = [(key.comment, comment.author) for key, comment in COMMENTS.scan(rows, post)]
        listed = sum(1 for _ in LIKE_LIST.scan(rows, post))
        if found is not None and not found.likes == len(liked) == listed:
            yield law, f"post {post} counts {found.likes} likes, lists {listed}, has {len(liked)}"
        if found is not None and found.comments != len(written):
            yield law, f"post {post} counts {found.comments} comments, has {len(written)}"
        at_post |= liked
        made |= {comment for comment, _ in written}
    known = set(ledger.posts)
    at_liker = {(k.post, u) for u in ledger.people for k, _ in LIKES_GIVEN.scan(rows, u) if k.post in known}
    if at_post != at_liker:
        yield law, f"both ends of likes differ: {sorted(at_post ^ at_liker)}"
    told = {k.comment for u in ledger.people for k, of in COMMENTS_MADE.scan(rows, u) if of.post in known}
    if made != told:
        yield law, f"both ends of comments differ: {sorted(made ^ told)}"


# --- feeds -------------------------------------------------------------------------------------------------
def _feeds(ledger: Ledger, rows: Reader) -> Broken:
    """The merged feed of everybody has each published post of those whom they follow, once, in order."""
    law = "complete feeds"
    timelines = Timelines()
    for viewer in ledger.people:
        counts = COUNTS.get(rows, CountsKey(viewer))
        if counts is None:
            continue
        keys = pack_keys(viewer, counts.following)
        packs = rows.get_many(keys)
        authors = authors_in(packs)
        followed = {key.author for key, edge in FOLLOWING.scan(rows, viewer) if edge.granted}
        packed = {int.from_bytes(authors[at : at + 8], "big") for at in range(0, len(authors), 8)}
        if packed != followed:
            yield law, f"{viewer} follows {sorted(followed)}, by packs {sorted(packed)}"
        places = Merge(rows, timelines, authors).take(FEED_MAX)
        merged = [int.from_bytes(place[8:16], "big") for place in places]
        wanted = {entry.post for author in followed for _, entry in TIMELINES.scan(rows, author)}
        told = {
            post
            for post, author in ledger.posts.items()
            if author in followed and post not in ledger.deleted and _is_published(rows, post)
        }
        if len(merged) != len(set(merged)) or set(merged) != wanted or not told <= wanted:
            yield (
                law,
                f"{viewer}: {len(merged)} places, {len(wanted)} in timelines, lacks {sorted(told - wanted)}",
            )
        if places != sorted(places):
            yield law, f"{viewer}: out of order"


def _is_published(rows: Reader, post: int) -> bool:
    found = POSTS.get(rows, PostKey(post))
    return found is not None and found.published > 0 and not found.deleting


def _names_agree(rows: Reader, partitions: int) -> Broken:
    """Each name is one account's, and each account has its name."""
    law = "linearizable names"
    for partition in range(partitions):
        for key, name in NAMES.scan(rows, partition):
            if not name.user:
                continue
            account = USERS.get(rows, UserKey(name.user))
            if account is None or account.username != key.name or partition_of(name.user) != partition:
                yield law, f"{key.name} is of {name.user}, who is {account}"
            head = TIMELINE_HEADS.get(rows, TimelineHeadKey(name.user))
            listed = sum(1 for _ in TIMELINES.scan(rows, name.user))
            if (head.posts if head else 0) != listed:
                yield "complete feeds", f"{key.name}'s timeline has {listed} posts, its head counts {head}"
