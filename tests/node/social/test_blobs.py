"""Blob references, visibility, reservations, sweeps and collection."""

import pytest

from cluster.commands import Deliver, Delivery
from node.social import blobs
from node.social.blobs import (
    PROVISIONAL,
    Collect,
    Collected,
    Drop,
    ExpireReservations,
    Keep,
    Reference,
    Reserve,
    Reserved,
    SweepReferences,
    Swept,
    blob_partition,
)
from node.social.machine import encode
from node.social.records import BLOB_REFERENCES, BLOBS, IDLE_BLOBS, RESERVATIONS, UNCONFIRMED_REFERENCES
from tests.node.social.gallery import JPEG, Gallery
from tests.node.social.village import DAY_MS, refused

OWNER = 77
MEDIUM = 5


class Store(Gallery):
    """One blob and its partition."""

    def __init__(self):
        super().__init__()
        self.blob = self.picture()
        self.home = blob_partition(self.blob)

    def reserve(self, lives_ms=60_000):
        return self.run_in(self.home, Reserve(self.blob, self.now + lives_ms), Reserved).index

    def refer(self, reservation, medium=MEDIUM):
        self.run_in(self.home, Reference(self.blob, reservation, medium, OWNER, 1000, JPEG))

    def tell(self, message):
        """A message arrives from some partition."""
        number = len(self.log) + 1
        last = getattr(self, "_told", 0)
        self._told = number
        delivery = Delivery(3, last, number, encode(message))
        self.apply(self.home, Deliver(self.now, 1, bytes(16), (delivery,)))

    def row(self):
        return BLOBS.get(self.rows, BLOBS.key(self.home, self.blob))

    def collectable(self):
        return blobs.collectable(self.rows, self.home, self.now)

    def count(self, table):
        return len(list(table.scan(self.rows, self.home)))


@pytest.fixture
def store():
    return Store()


def test_partitions_of_hashes():
    assert blob_partition(b"\x00\x00" + bytes(30)) == 0
    assert blob_partition(b"\x01\x02" + bytes(30)) == 2
    assert {blob_partition(n.to_bytes(2, "big") + bytes(30)) for n in range(1 << 16)} == set(range(256))


def test_a_blob_from_reservation_to_collection(store):
    reservation = store.reserve()
    assert blobs.served(store.rows, store.blob) is None
    assert (store.row().references, store.row().reservations) == (0, 1)
    store.refer(reservation)
    assert (store.row().references, store.row().reservations) == (1, 0)
    store.tell(Keep(store.blob, MEDIUM, OWNER, False))
    served = blobs.served(store.rows, store.blob)
    assert (served.size, served.type, served.public) == (1000, JPEG, 0)
    store.tell(Keep(store.blob, MEDIUM, OWNER, True))
    assert blobs.served(store.rows, store.blob).public == 1
    store.tell(Keep(store.blob, MEDIUM, OWNER, False))
    assert blobs.served(store.rows, store.blob).public == 0
    store.tell(Drop(store.blob, MEDIUM))
    assert blobs.served(store.rows, store.blob) is None
    dropped = store.now
    assert store.collectable() == []
    store.now = dropped + DAY_MS
    assert store.collectable() == [store.blob]
    index = len([1 for partition, _ in store.log if partition == store.home]) + 1
    assert store.run_in(store.home, Collect(store.blob), Collected) == Collected(index)
    for table in (BLOBS, IDLE_BLOBS, RESERVATIONS, BLOB_REFERENCES, UNCONFIRMED_REFERENCES):
        assert store.count(table) == 0


def test_each_reservation_has_its_own_index(store):
    first, second = store.reserve(), store.reserve()
    assert first < second
    assert store.row().reservations == 2
    store.refer(second)
    assert store.row().reservations == 1


def test_a_reference_needs_its_reservation(store):
    refused("reservation_expired", store.refer, 1)
    reservation = store.reserve(lives_ms=10)
    store.now += 100
    expired = blobs.expired_reservations(store.rows, store.home, store.now)
    assert expired == [(store.blob, reservation)]
    store.run_in(store.home, ExpireReservations(tuple(expired)))
    refused("reservation_expired", store.refer, reservation)


def test_time_alone_takes_no_reservation(store):
    reservation = store.reserve(lives_ms=10)
    store.now += 10 * DAY_MS
    refused("conflict", store.run_in, store.home, Collect(store.blob))
    store.refer(reservation)
    assert store.row().references == 1


def test_a_live_reservation_does_not_expire(store):
    reservation = store.reserve()
    assert blobs.expired_reservations(store.rows, store.home, store.now) == []
    store.run_in(store.home, ExpireReservations(((store.blob, reservation),)))
    store.run_in(store.home, ExpireReservations(((store.blob, reservation + 9), (bytes(32), 1))))
    assert store.row().reservations == 1


def test_referring_twice_is_once(store):
    store.refer(store.reserve())
    store.refer(store.reserve())
    assert store.row().references == 1
    assert store.count(UNCONFIRMED_REFERENCES) == 1
    store.tell(Keep(store.blob, MEDIUM, OWNER, True))
    store.refer(store.reserve())
    assert store.row().public == 1
    assert store.count(UNCONFIRMED_REFERENCES) == 0
    store.refer(0)  # the client's retry: the reservation is gone, the reference is there
    assert store.row().references == 1


def test_public_while_anybody_shows_it(store):
    for medium in (1, 2):
        store.refer(store.reserve(), medium)
        store.tell(Keep(store.blob, medium, OWNER, True))
    assert store.row().public == 2
    store.tell(Drop(store.blob, 1))
    assert store.row().public == 1
    store.tell(Keep(store.blob, 2, OWNER, False))
    assert (store.row().public, store.row().references) == (0, 1)


def test_a_provisional_reference_becomes_the_mediums(store):
    store.refer(store.reserve(), PROVISIONAL | 9)
    store.tell(Keep(store.blob, MEDIUM, OWNER, True, PROVISIONAL | 9))
    held = [key.media for key, _ in BLOB_REFERENCES.scan(store.rows, store.home)]
    assert held == [MEDIUM]
    assert (store.row().references, store.row().public) == (1, 1)
    assert store.count(UNCONFIRMED_REFERENCES) == 0


def test_references_that_nobody_confirms_are_swept_after_a_day(store):
    store.refer(store.reserve(), 1)
    store.refer(store.reserve(), 2)
    store.tell(Keep(store.blob, 2, OWNER, False))
    since = blobs.unconfirmed_since(store.rows, store.home)
    store.now = since + DAY_MS - 2
    assert store.run_in(store.home, SweepReferences(), Swept).count == 0
    assert store.run_in(store.home, SweepReferences(), Swept).count == 1
    assert store.row().references == 1
    assert blobs.unconfirmed_since(store.rows, store.home) is None


def test_keep_of_swept_bytes_is_a_dead_letter(store):
    store.tell(Keep(store.blob, MEDIUM, OWNER, True))
    assert store.dead_letters() == 1
    assert store.row() is None


def test_drop_of_nothing_changes_nothing(store):
    store.tell(Drop(store.blob, MEDIUM))
    assert store.dead_letters() == 0
    assert store.row() is None


def test_collect_waits_a_day_from_the_last_hold(store):
    store.refer(store.reserve())
    store.tell(Drop(store.blob, MEDIUM))
    store.now += DAY_MS
    reservation = store.reserve()
    refused("conflict", store.run_in, store.home, Collect(store.blob))
    assert store.collectable() == []
    store.now += DAY_MS
    store.run_in(store.home, ExpireReservations(((store.blob, reservation),)))
    refused("conflict", store.run_in, store.home, Collect(store.blob))
    store.now += DAY_MS
    store.run_in(store.home, Collect(store.blob))
    store.run_in(store.home, Collect(store.blob))  # again, as a retry: nothing to do, a higher index
    assert store.row() is None


def test_a_hash_has_32_bytes(store):
    refused("invalid_field", store.run_in, 0, Reserve(b"short", store.now))
