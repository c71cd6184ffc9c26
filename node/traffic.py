"""People of the simulation: what they do with the real social state machine, and a ledger of what they were
told.

Each is a generator that yields steps and is sent what became of them: an outcome, what a read saw, or
UNSETTLED. Names are few, so that they are fought for; profiles are written by everybody, as registers. What
`node.traffic_laws` holds against the end is kept in the `Ledger`.
"""

from collections.abc import Generator, Iterator, Sequence
from random import Random
from typing import Any, Final

import msgspec
from blake3 import blake3

from cluster.commands import Accepted, Declined, Outcome
from cluster.partition import StateMachine
from cluster.simulation.linearizability import NEVER, Operation
from cluster.simulation.traffic import Client, Read, Step, Write
from node.social import accounts, blobs, comments, deletion, follows, jobs, likes, people, posts
from node.social.application import social_machine
from node.social.keys import UserKey
from node.social.machine import encode
from node.social.records import USERS, VARIANTS, VariantPair
from storage.ids import SEQUENCE_BITS, compose, partition_of
from storage.rows import Reader

UNSETTLED: Final = object()
NAMES_PER_CLIENT: Final = 5
USERS_PER_CLIENT: Final = 3
REMEMBERED: Final = 0.8  # of the commands; the others are not asked again
FAR_MS: Final = 1_900_000_000_000  # Unix; beyond what any clock of a history shows
CLAIM_TRIES_MAX: Final = 4  # a clock that is behind makes a job look as if it were not due
_decode = msgspec.msgpack.Decoder
_decode_signed_up = _decode(accounts.SignedUp).decode
_decode_created = _decode(posts.Created).decode
_decode_added = _decode(comments.Added).decode
_decode_reserved = _decode(blobs.Reserved).decode

Life = Generator[Step, Any, None]


class Person(msgspec.Struct):
    """An account that its client knows to exist."""

    user: int
    name: str
    passing: bool  # it will be deleted
    gone: bool = False  # or is about to be
    media: list[int] = []  # ready ones


class Ledger:
    """What clients were told. A pair (follow, like) is changed by one client only, one step after the other,
    so that what it was told last holds; None where it was not told for certain."""

    def __init__(self) -> None:
        self.people: dict[int, Person] = {}
        self.posts: dict[int, int] = {}  # post: author
        self.comments: dict[int, tuple[int, int, str]] = {}  # comment: post, author, text
        self.deleted: set[int] = set()  # posts and comments that may be gone
        self.follows: dict[tuple[int, int], bool | None] = {}  # (author, viewer)
        self.likes: dict[tuple[int, int], bool | None] = {}  # (post, viewer)
        self.names: dict[str, list[Operation]] = {}
        self.profiles: dict[int, list[Operation]] = {}


class SocialApplication:
    """`cluster.simulation.traffic.Application`."""

    def machine(self) -> StateMachine:
        return social_machine()

    def traffic(self, random: Random, partitions: int, clients: int) -> "SocialTraffic":
        return SocialTraffic(random, partitions, clients)


class SocialTraffic:
    def __init__(self, random: Random, partitions: int, clients: int) -> None:
        self.random = random
        self.partitions = partitions
        self.ledger = Ledger()
        self.names = [f"name{number}" for number in range(NAMES_PER_CLIENT * clients)]
        self.clients: Sequence[Client] = [SocialClient(self, number) for number in range(clients)]

    def wrong(self, rows: Reader, partitions: int) -> Iterator[tuple[str, str]]:
        from node.traffic_laws import broken

        return broken(self.ledger, rows, partitions)

    def home_of(self, name: str) -> int:
        return int.from_bytes(blake3(name.encode()).digest(length=4), "big") % self.partitions


class SocialClient:
    """`cluster.simulation.traffic.Client`: drives the generator of its life."""

    def __init__(self, traffic: SocialTraffic, number: int) -> None:
        self.now = 0
        self._life = _Life(traffic, number, self).live()
        self._sent: Any = None

    def next(self, now: int) -> Step:
        self.now = now
        step = self._life.send(self._sent)
        self._sent = None
        return step

    def answered(self, step: Step, outcome: Outcome | Any, now: int) -> None:
        self._resume(outcome, now)

    def unsettled(self, step: Step, now: int) -> None:
        self._resume(UNSETTLED, now)

    def _resume(self, value: Any, now: int) -> None:
        """Note what came back when it came; the next step is asked for later."""
        self.now = now
        self._sent = value
        note, self.note = self.note, None
        if note is not None:
            note(value)

    note: Any = None  # called with what comes back, at that very moment


class _Life:
    def __init__(self, traffic: SocialTraffic, number: int, client: SocialClient) -> None:
        self._traffic = traffic
        self._random = traffic.random
        self._ledger = traffic.ledger
        self._client = client
        self._number = number
        self._mine: list[Person] = []
        self._made = 0

    def live(self) -> Life:
        random = self._random
        while True:
            if not self._mine or (len(self._mine) < USERS_PER_CLIENT and random.random() < 0.15):
                yield from self._sign_up()
                continue
            me = random.choice(self._mine)
            kinds = (self._follow, self._follow, self._like, self._like, self._comment, self._post,
                     self._post, self._profile, self._profile, self._look_up, self._end)  # fmt: skip
            yield from random.choice(kinds)(me)

    # --- what is common ------------------------------------------------------------------------------------
    def _write(
        self, name: str, partition: int, command: msgspec.Struct, me: int = 0, *, sure: bool = False
    ) -> Write:
        remembered = sure or self._random.random() < REMEMBERED
        scope = 0
        if remembered:
            others = ~(((1 << 13) - 1) << SEQUENCE_BITS)
            scope = me & others | partition << SEQUENCE_BITS
        return Write(partition, encode(command), scope, name)

    def _somebody(self, but: int = 0) -> int | None:
        known = [user for user, person in self._ledger.people.items() if user != but and not person.gone]
        return self._random.choice(known) if known else None

    def _record(self, history: list[Operation], what: tuple[Any, ...]) -> Any:
        """Note an operation when its result comes; one that is not settled never ends."""
        begun = self._client.now

        def note(value: Any) -> None:
            ended = NEVER if value is UNSETTLED else self._client.now
            history.append(Operation(begun, ended, what, value))

        return note

    # --- accounts ------------------------------------------------------------------------------------------
    def _sign_up(self) -> Life:
        traffic, random = self._traffic, self._random
        name = random.choice(traffic.names)
        home = traffic.home_of(name)
        command = accounts.SignUp(name, name, "hash", b"", 0)
        self._made += 1
        scope = compose(self._number * 10_000 + self._made, home, 0) if random.random() < REMEMBERED else 0
        history = self._ledger.names.setdefault(name, [])
        begun = self._client.now
        passing = random.random() < 0.3

        def note(value: Any) -> None:
            if value is UNSETTLED:
                history.append(Operation(begun, NEVER, ("claim",), None))
            elif isinstance(value, Accepted):
                user = _decode_signed_up(value.result).user
                history.append(Operation(begun, self._client.now, ("claim",), user))
                person = self._ledger.people[user] = Person(user, name, passing)
                self._mine.append(person)
            else:
                history.append(Operation(begun, self._client.now, ("claim",), 0))

        self._client.note = note
        yield Write(home, encode(command), scope, f"sign up {name}")

    def _look_up(self, _: Person) -> Life:
        name = self._random.choice(self._traffic.names)
        home = self._traffic.home_of(name)
        history = self._ledger.names.setdefault(name, [])
        self._client.note = self._record(history, ("read",))
        yield Read(home, lambda rows: people.user_named(rows, home, name) or 0, f"look up {name}")

    def _profile(self, _: Person) -> Life:
        known = [person.user for person in self._ledger.people.values() if not person.passing]
        if not known:
            return
        user = self._random.choice(known)
        history = self._ledger.profiles.setdefault(user, [])
        home = partition_of(user)
        if self._random.random() < 0.5:
            self._client.note = self._record(history, ("read",))
            yield Read(home, lambda rows: _display_name(rows, user), f"profile of {user}")
            return
        self._made += 1
        text = f"{self._number}-{self._made}"
        self._client.note = self._record(history, ("write", text))
        command = accounts.UpdateProfile(user, display_name=text)
        yield self._write("write profile", home, command, self._mine[0].user)

    def _end(self, me: Person) -> Life:
        if not me.passing or self._random.random() < 0.6:
            return
        me.gone = True
        self._mine.remove(me)
        history = self._ledger.names[me.name]
        self._client.note = self._record(history, ("release", me.user))
        yield self._write("delete account", partition_of(me.user), deletion.DeleteAccount(me.user), me.user)

    # --- follows, likes, comments --------------------------------------------------------------------------
    def _follow(self, me: Person) -> Life:
        author = self._somebody(me.user)
        if author is None:
            return
        pair = (author, me.user)
        known = self._ledger.follows.get(pair)
        wanted = not known or self._random.random() < 0.3
        kind = follows.Follow if wanted else follows.Unfollow
        self._client.note = self._settles(self._ledger.follows, pair, wanted)
        yield self._write(
            "follow" if wanted else "unfollow", partition_of(author), kind(author, me.user), me.user
        )

    def _like(self, me: Person) -> Life:
        if not self._ledger.posts:
            return
        post = self._random.choice(list(self._ledger.posts))
        pair = (post, me.user)
        wanted = not self._ledger.likes.get(pair) or self._random.random() < 0.3
        kind = likes.Like if wanted else likes.Unlike
        self._client.note = self._settles(self._ledger.likes, pair, wanted)
        yield self._write("like" if wanted else "unlike", partition_of(post), kind(me.user, post), me.user)

    def _settles(self, pairs: dict[tuple[int, int], bool | None], pair: tuple[int, int], wanted: bool) -> Any:
        def note(value: Any) -> None:
            if value is UNSETTLED:
                pairs[pair] = None
            elif isinstance(value, Accepted) and pairs.get(pair, False) is not None:
                pairs[pair] = wanted

        return note

    def _comment(self, me: Person) -> Life:
        if not self._ledger.posts:
            return
        post = self._random.choice(list(self._ledger.posts))
        mine = [c for c, (_, author, _) in self._ledger.comments.items() if author == me.user]
        if mine and self._random.random() < 0.3:
            comment = self._random.choice(mine)
            self._ledger.deleted.add(comment)
            command = comments.DeleteComment(me.user, comment)
            yield self._write("delete comment", partition_of(comment), command, me.user)
            return
        self._made += 1
        text = f"{self._number}-{self._made}"
        outcome = yield self._write(
            "comment", partition_of(post), comments.AddComment(me.user, post, text), me.user
        )
        if isinstance(outcome, Accepted):
            self._ledger.comments[_decode_added(outcome.result).comment] = (post, me.user, text)

    # --- posts ---------------------------------------------------------------------------------------------
    def _post(self, me: Person) -> Life:
        mine = [post for post, author in self._ledger.posts.items() if author == me.user]
        if len(mine) > 2 and self._random.random() < 0.2:
            post = self._random.choice(mine)
            self._ledger.deleted.add(post)
            yield self._write("delete post", partition_of(post), posts.DeletePost(me.user, post), me.user)
            return
        if not me.media or self._random.random() < 0.15:
            yield from self._photo(me)
            return
        command = posts.CreatePost(me.user, f"by {me.name}", "", (), (self._random.choice(me.media),))
        outcome = yield self._write("post", partition_of(me.user), command, me.user)
        if isinstance(outcome, Accepted):
            self._ledger.posts[_decode_created(outcome.result).post] = me.user

    def _photo(self, me: Person) -> Life:
        """All the way of a photo: its bytes (of one blob, whatever the variant), the post, the worker."""
        home, blob_home = partition_of(me.user), self._random.randrange(self._traffic.partitions)
        blob = blob_home.to_bytes(2, "big") + self._random.randbytes(30)
        provisional = blobs.PROVISIONAL | self._random.getrandbits(60)
        outcome = yield self._write("reserve", blob_home, blobs.Reserve(blob, FAR_MS), me.user)
        if not isinstance(outcome, Accepted):
            return
        reservation = _decode_reserved(outcome.result).index
        command = blobs.Reference(blob, reservation, provisional, me.user, 1000, "image/jpeg")
        outcome = yield self._write("reference", blob_home, command, me.user, sure=True)
        if not isinstance(outcome, Accepted):
            return
        photo = posts.CreatePhoto(me.user, "photo", "", (), "", blob, "image/jpeg", 1000, provisional)
        outcome = yield self._write("photo", home, photo, me.user, sure=True)
        if not isinstance(outcome, Accepted):
            return
        created = _decode_created(outcome.result)
        self._ledger.posts[created.post] = me.user
        yield from self._make_ready(me, home, created.media[0], blob)

    def _make_ready(self, me: Person, home: int, medium: int, blob: bytes) -> Life:
        for _ in range(CLAIM_TRIES_MAX):
            claim = jobs.Claim(medium, 1, f"worker {self._number}", FAR_MS)
            outcome = yield self._write("claim", home, claim, me.user, sure=True)
            if isinstance(outcome, Accepted):
                variants = tuple(VariantPair(blob, blob, 10, 10) for _ in VARIANTS)
                done = jobs.Done(medium, 1, 100, 100, "", variants)
                outcome = yield self._write("done", home, done, me.user, sure=True)
                if isinstance(outcome, Accepted):
                    me.media.append(medium)
                return
            if isinstance(outcome, Declined) and outcome.code != "conflict":
                return


def _display_name(rows: Reader, user: int) -> str:
    account = USERS.get(rows, UserKey(user))
    return account.display_name if account is not None else ""
