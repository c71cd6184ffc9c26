"""The meta group: members and their starts, the cluster and who joins it, public keys, settings, levels."""

import msgspec
import pytest

from cluster.keys import META_PARTITION
from cluster.members import meta, meta_rows
from cluster.members.layout import Placed
from cluster.members.meta import (
    INVITATION_MS_MAX,
    INVITATIONS_OPEN_MAX,
    INVITATIONS_USED_MAX,
    KEYS_OUTLIVE_MS,
    KEYS_PER_MEMBER_MAX,
    WEIGHT_MAX,
    Admit,
    Boot,
    Found,
    Invite,
    PublishKeys,
    RaiseLevel,
    Revoke,
    SetSetting,
)
from cluster.members.meta_rows import (
    MEMBERS,
    SETTINGS,
    WEIGHT_DEFAULT,
    Member,
    MemberKey,
    SettingKey,
    Versions,
)
from cluster.raft.messages import MEMBERS_MAX
from storage.records import Codec
from tests.cluster.metas import NOW, Group

ADA, BOB, CAM, DAN = (letter * 16 for letter in (b"a", b"b", b"c", b"d"))
CLUSTER, OTHER_CLUSTER = b"C" * 16, b"D" * 16
ONE, TWO = b"1" * 8, b"2" * 8  # starts
HASH, OTHER_HASH = b"h" * 32, b"o" * 32
HOUR_MS = 3_600_000
FOUND = Found(CLUSTER, b"certificate", b"sealed", ADA, "ada:4400", "north")


@pytest.fixture
def group():
    return Group()


@pytest.fixture
def cluster(group):
    """Ada has started and made a cluster."""
    assert group.do(Boot(ADA, 1, start=ONE)) == "ok"
    assert group.do(FOUND) == "ok"
    return group


def invite(group, id=b"i" * 16, within_ms=HOUR_MS):
    return group.do(Invite(id, HASH, group.now + within_ms))


def admit(group, node, id=b"i" * 16, secret_hash=HASH, **more):
    return group.do(Admit(id, secret_hash, node, f"{chr(node[0])}:4400", "", **more))


def join(group, *nodes):
    for node in nodes:
        assert invite(group, node) == "ok"
        assert admit(group, node, node) == "ok"


# --- a lone node ----------------------------------------------------------------------------------------
def test_each_start_is_above_the_last_and_a_copy_is_refused(group):
    assert [group.do(Boot(ADA, boot)) for boot in (1, 2, 5)] == ["ok"] * 3
    assert [group.do(Boot(ADA, boot)) for boot in (5, 4, 1)] == ["stale_boot"] * 3
    assert group.do(Boot(BOB, 1)) == "ok"  # the name that this data has after it was restored from a backup
    assert group.do(Boot(ADA, 6)) == "ok"
    members = meta_rows.members(group.rows)
    assert (members[ADA].boot, members[ADA].joined_ms) == (6, NOW + 1)
    assert members[BOB].boot == 1


def test_a_start_that_is_said_twice_is_said_once(group):
    assert group.do(Boot(ADA, 1, start=ONE)) == "ok"
    before = group.digest()
    assert group.do(Boot(ADA, 1, start=ONE)) == "ok"
    assert group.digest() == before
    assert group.do(Boot(ADA, 1, start=TWO)) == "stale_boot"
    assert group.do(Boot(ADA, 1)) == "stale_boot"


def test_a_start_that_says_no_address_leaves_where_the_node_is(cluster):
    assert cluster.do(Boot(ADA, 2, start=TWO)) == "ok"
    told = meta_rows.member(cluster.rows, ADA)
    assert (told.boot, told.start, told.address, told.zone) == (2, TWO, "ada:4400", "north")
    assert cluster.do(Boot(ADA, 3, address="new:1", zone="south", weight=7)) == "ok"
    told = meta_rows.member(cluster.rows, ADA)
    assert (told.address, told.zone, told.weight) == ("new:1", "south", 7)


def test_a_member_of_before_there_were_clusters_is_read(group):
    class Old(msgspec.Struct, array_like=True, frozen=True):
        boot: int
        joined_ms: int
        level: int

    key = MemberKey(META_PARTITION, ADA)
    group.rows.put(key.encode(), Codec(Old).encode(key.encode(), Old(4, NOW, 1)))
    assert MEMBERS.get(group.rows, key) == Member(4, NOW, 1, b"", "", "", WEIGHT_DEFAULT)
    assert group.do(Boot(ADA, 5, start=ONE)) == "ok"
    assert group.do(FOUND) == "ok"
    assert meta_rows.member(group.rows, ADA).joined_ms == NOW


def test_commands_that_old_journals_hold_are_read():
    assert meta._decode(bytes.fromhex("9401c410" + "61" * 16 + "0501")) == Boot(ADA, 5, 1)
    assert meta._decode(bytes.fromhex("9301c410" + "61" * 16 + "05")) == Boot(ADA, 5)


# --- the cluster is made --------------------------------------------------------------------------------
def test_a_cluster_is_made_once_and_of_a_node_that_has_started(group):
    assert meta_rows.cluster(group.rows) is None
    assert group.do(FOUND) == "unknown_node"
    group.do(Boot(ADA, 1))
    assert group.do(FOUND) == "ok"
    made = meta_rows.cluster(group.rows)
    assert (made.id, made.ca, made.ca_key, made.founder) == (CLUSTER, b"certificate", b"sealed", ADA)
    assert made.founded_ms == group.now
    assert meta_rows.addresses(group.rows) == {ADA: "ada:4400"}
    assert group.do(Found(OTHER_CLUSTER, b"c", b"k", ADA, "ada:4400", "")) == "conflict"


@pytest.mark.parametrize(
    "wrong",
    [
        Found(b"short", b"c", b"k", ADA, "a:1", ""),
        Found(CLUSTER, b"", b"k", ADA, "a:1", ""),
        Found(CLUSTER, b"c" * meta.CERTIFICATE_BYTES_MAX, b"k", ADA, "a:1", ""),
        Found(CLUSTER, b"c", b"k", ADA, "no port", ""),
        Found(CLUSTER, b"c", b"k", ADA, ":1", ""),
        Found(CLUSTER, b"c", b"k", ADA, "a:1", "z" * (meta.ZONE_BYTES_MAX + 1)),
        Found(CLUSTER, b"c", b"k", ADA, "a:1", "", 0),
        Found(CLUSTER, b"c", b"k", ADA, "a:1", "", WEIGHT_MAX + 1),
    ],
)
def test_what_is_wrong_about_a_cluster_is_refused(group, wrong):
    group.do(Boot(ADA, 1))
    before = group.digest()
    assert group.do(wrong) == "invalid_field"
    assert group.digest() == before


def test_names_that_the_data_had_before_are_no_members_of_the_cluster(group):
    group.do(Boot(BOB, 9))
    group.do(PublishKeys(BOB, (("signs", b"1" * 32, 0), ("ending", b"2" * 32, NOW + 9))))
    group.do(Boot(ADA, 1))
    assert group.do(FOUND) == "ok"
    assert set(meta_rows.members(group.rows)) == {ADA}
    keys = meta_rows.public_keys(group.rows)
    assert (keys["signs"].until_ms, keys["ending"].until_ms) == (group.now + KEYS_OUTLIVE_MS, NOW + 9)
    group.now += KEYS_OUTLIVE_MS
    assert group.do(PublishKeys(ADA, (("mine", b"3" * 32, 0),))) == "ok"
    assert set(meta_rows.public_keys(group.rows)) == {"mine"}


@pytest.mark.parametrize(
    "command", [Invite(b"i" * 16, HASH, NOW + HOUR_MS), Admit(b"i" * 16, HASH, BOB, "b:1", ""), Revoke(ADA)]
)
def test_a_lone_node_has_nobody_to_invite_or_to_revoke(group, command):
    group.do(Boot(ADA, 1))
    assert group.do(command) == "conflict"


# --- invitations ----------------------------------------------------------------------------------------
def test_an_invitation_lets_one_node_in_and_the_same_again(cluster):
    assert invite(cluster) == "ok"
    assert admit(cluster, BOB) == "ok"
    joined = cluster.now
    assert admit(cluster, BOB) == "ok"
    assert admit(cluster, CAM) == "invitation_used"
    row = meta_rows.invitations(cluster.rows)[b"i" * 16]
    assert (row.used_by, row.used_ms) == (BOB, joined)
    told = meta_rows.member(cluster.rows, BOB)
    assert (told.boot, told.joined_ms, told.address) == (0, joined, "b:4400")
    assert cluster.do(Boot(BOB, 1, start=ONE)) == "ok"
    assert admit(cluster, BOB) == "ok"  # its answer was lost
    assert meta_rows.member(cluster.rows, BOB).boot == 1


def test_invitations_that_let_nobody_in(cluster):
    assert admit(cluster, BOB) == "invitation_unknown"
    invite(cluster)
    assert admit(cluster, BOB, secret_hash=OTHER_HASH) == "invitation_unknown"
    assert admit(cluster, ADA) == "conflict"
    cluster.now += HOUR_MS
    assert admit(cluster, BOB) == "invitation_expired"
    assert set(meta_rows.members(cluster.rows)) == {ADA}


def test_a_joiner_whose_invitation_has_expired_does_not_join_again(cluster):
    invite(cluster)
    assert admit(cluster, BOB) == "ok"
    cluster.now += HOUR_MS
    assert admit(cluster, BOB) == "invitation_expired"
    assert BOB in meta_rows.members(cluster.rows)


@pytest.mark.parametrize(
    "wrong",
    [
        Invite(b"short", HASH, NOW + HOUR_MS),
        Invite(b"i" * 16, b"short", NOW + HOUR_MS),
        Invite(b"i" * 16, HASH, NOW),
        Invite(b"i" * 16, HASH, NOW + 2 * INVITATION_MS_MAX),
    ],
)
def test_what_is_wrong_about_an_invitation_is_refused(cluster, wrong):
    assert cluster.do(wrong) == "invalid_field"
    assert not meta_rows.invitations(cluster.rows)


def test_open_invitations_are_bounded_and_expired_ones_are_swept(cluster):
    ids = [bytes([number]) * 16 for number in range(INVITATIONS_OPEN_MAX + 1)]
    assert [invite(cluster, id) for id in ids[:-1]] == ["ok"] * INVITATIONS_OPEN_MAX
    assert invite(cluster, ids[0]) == "conflict"
    assert invite(cluster, ids[-1]) == "rate_limited"
    cluster.now += HOUR_MS
    assert invite(cluster, ids[-1]) == "ok"
    assert set(meta_rows.invitations(cluster.rows)) == {ids[-1]}


def test_used_invitations_are_bounded(cluster):
    for number in range(INVITATIONS_USED_MAX + 5):
        node = bytes([number]) * 16
        join(cluster, node)
        assert cluster.do(Revoke(node)) == "ok"
    kept = meta_rows.invitations(cluster.rows)
    assert len(kept) == INVITATIONS_USED_MAX + 1
    assert (INVITATIONS_USED_MAX + 4).to_bytes(1, "big") * 16 in kept


def test_members_are_bounded(cluster):
    join(cluster, *(bytes([number]) * 16 for number in range(1, MEMBERS_MAX)))
    invite(cluster)
    assert admit(cluster, b"\xff" * 16) == "conflict"


# --- members of a cluster -------------------------------------------------------------------------------
def test_who_is_no_member_neither_starts_nor_signs(cluster):
    assert cluster.do(Boot(BOB, 1)) == "unknown_node"
    assert cluster.do(PublishKeys(BOB, (("k", b"1" * 32, 0),))) == "unknown_node"
    join(cluster, BOB)
    assert cluster.do(Boot(BOB, 1)) == "ok"
    assert cluster.do(PublishKeys(BOB, (("k", b"1" * 32, 0),))) == "ok"


def test_a_revoked_node_is_out_for_ever_and_its_keys_at_once(cluster):
    join(cluster, BOB)
    cluster.do(Boot(BOB, 3, start=ONE))
    cluster.do(PublishKeys(BOB, (("k", b"1" * 32, 0),)))
    assert cluster.do(Revoke(BOB)) == "ok"
    assert set(meta_rows.members(cluster.rows)) == {ADA}
    assert not meta_rows.public_keys(cluster.rows)
    assert meta_rows.revoked(cluster.rows)[BOB].boot == 3
    assert cluster.do(Boot(BOB, 4)) == "revoked"
    assert cluster.do(PublishKeys(BOB, ())) == "revoked"
    assert admit(cluster, BOB, BOB) == "revoked"
    invite(cluster)
    assert admit(cluster, BOB) == "revoked"
    assert cluster.do(Revoke(BOB)) == "ok"  # its answer was lost
    assert cluster.do(Revoke(CAM)) == "unknown_node"


def test_a_cluster_that_was_restored_begins_with_who_starts_on_its_data(cluster):
    MEMBERS.delete(cluster.rows, MemberKey(META_PARTITION, ADA))
    assert cluster.do(Boot(BOB, 1, address="bob:1")) == "ok"
    assert cluster.do(Boot(CAM, 1, address="cam:1")) == "unknown_node"
    assert set(meta_rows.members(cluster.rows)) == {BOB}


def test_the_last_member_stays(cluster):
    assert cluster.do(Revoke(ADA)) == "conflict"
    assert set(meta_rows.members(cluster.rows)) == {ADA}


# --- who may speak --------------------------------------------------------------------------------------
REFUSALS = [
    ("the registered start", ADA, 3, ONE, CLUSTER, None),
    ("a later start, before its Boot is applied here", ADA, 4, TWO, CLUSTER, None),
    ("an earlier start", ADA, 2, ONE, CLUSTER, "stale_boot"),
    ("a copy that started as often", ADA, 3, TWO, CLUSTER, "stale_boot"),
    ("a member that has not started yet", BOB, 1, TWO, CLUSTER, None),
    ("a stranger", DAN, 1, ONE, CLUSTER, "unknown_node"),
    ("one that was revoked", CAM, 9, ONE, CLUSTER, "revoked"),
    ("a member, as of another cluster", ADA, 3, ONE, OTHER_CLUSTER, "foreign_cluster"),
]


@pytest.mark.parametrize(("node", "boot", "start", "of", "code"), [row[1:] for row in REFUSALS])
def test_whose_hello_is_refused(cluster, node, boot, start, of, code):
    join(cluster, BOB, CAM)
    cluster.do(Revoke(CAM))
    assert cluster.do(Boot(ADA, 3, start=ONE)) == "ok"
    refusal = meta_rows.refuses(cluster.rows, node, boot, start, of)
    assert (refusal and refusal.code) == code


def test_where_nothing_is_known_the_certificate_decides(group):
    assert meta_rows.refuses(group.rows, ADA, 1, ONE, CLUSTER) is None


# --- keys -----------------------------------------------------------------------------------------------
def test_the_keys_of_a_member_are_those_it_published_last(group):
    assert group.do(PublishKeys(ADA, (("one", b"1" * 32, 0),))) == "ok"
    assert group.do(PublishKeys(BOB, (("other", b"3" * 32, 0),))) == "ok"
    assert group.do(PublishKeys(ADA, (("one", b"1" * 32, 9), ("two", b"2" * 32, 0)))) == "ok"
    keys = meta_rows.public_keys(group.rows)
    assert {kid: (key.public[:1], key.since_ms - NOW, key.until_ms) for kid, key in keys.items()} == {
        "one": (b"1", 1, 9),
        "two": (b"2", 3, 0),
        "other": (b"3", 2, 0),
    }
    assert group.do(PublishKeys(ADA, (("two", b"2" * 32, 0),))) == "ok"
    assert set(meta_rows.public_keys(group.rows)) == {"two", "other"}


def test_keys_that_are_refused_change_nothing(group):
    group.do(PublishKeys(ADA, (("one", b"1" * 32, 0),)))
    many = tuple((str(number), b"x" * 32, 0) for number in range(KEYS_PER_MEMBER_MAX + 1))
    assert group.do(PublishKeys(ADA, many)) == "invalid_field"
    assert group.do(PublishKeys(BOB, (("mine", b"2" * 32, 0), ("one", b"2" * 32, 0)))) == "conflict"
    assert set(meta_rows.public_keys(group.rows)) == {"one"}


# --- settings, levels, the layout's version -------------------------------------------------------------
def test_a_setting_is_kept_until_it_is_emptied(group):
    key = SettingKey(META_PARTITION, "limits.reads_count")
    assert group.do(SetSetting(key.name, "5")) == "ok"
    assert SETTINGS.get(group.rows, key).value == "5"
    assert group.do(SetSetting(key.name, "x" * meta.SETTING_BYTES_MAX)) == "invalid_field"
    assert SETTINGS.get(group.rows, key).value == "5"
    assert group.do(SetSetting(key.name, "")) == "ok"
    assert not SETTINGS.has(group.rows, key)


def test_the_replication_factor_is_odd_and_has_a_default(group):
    assert meta_rows.replication_factor(group.rows) == 3
    for wrong in ("0", "2", "8", "9", "-1", " 3", "03", "three", "3.0"):
        assert group.do(SetSetting("replication_factor", wrong)) == "invalid_field"
    for right in (1, 3, 5, 7):
        assert group.do(SetSetting("replication_factor", str(right))) == "ok"
        assert meta_rows.replication_factor(group.rows) == right
    assert group.do(SetSetting("replication_factor", "")) == "ok"
    assert meta_rows.replication_factor(group.rows) == 3


def test_the_level_rises_when_all_members_speak_it(cluster):
    join(cluster, BOB)
    assert cluster.do(Boot(ADA, 2, 3)) == "ok"
    assert (meta_rows.level(cluster.rows), meta_rows.level_spoken(cluster.rows)) == (1, 1)
    assert cluster.do(RaiseLevel(2)) == "level_too_low"
    assert cluster.do(Boot(BOB, 1, 2)) == "ok"
    assert meta_rows.level_spoken(cluster.rows) == 2
    assert [cluster.do(RaiseLevel(level)) for level in (3, 2, 2, 1)] == [
        *("level_too_low", "ok", "ok", "conflict")
    ]
    assert meta_rows.level(cluster.rows) == 2
    assert cluster.do(Boot(BOB, 2, 1)) == "level_too_low"
    invite(cluster)
    assert admit(cluster, CAM, level=1) == "level_too_low"
    assert admit(cluster, CAM, level=2) == "ok"


def test_the_layouts_version_counts_what_changes_the_layout(cluster):
    def changed(command):
        before = meta_rows.layout_version(cluster.rows)
        assert cluster.do(command) == "ok"
        return meta_rows.layout_version(cluster.rows) - before

    assert meta_rows.versions(Group().rows) == Versions(0, 1)
    assert changed(Invite(b"i" * 16, HASH, cluster.now + HOUR_MS)) == 0
    assert changed(Admit(b"i" * 16, HASH, BOB, "b:1", "")) == 1
    assert changed(Admit(b"i" * 16, HASH, BOB, "b:1", "")) == 0
    assert changed(Boot(BOB, 1)) == 0
    assert changed(Boot(BOB, 2, address="b:2")) == 0
    assert changed(Boot(BOB, 3, address="b:2", zone="south")) == 1
    assert changed(Boot(BOB, 4, address="b:2", zone="south", weight=5)) == 1
    assert changed(SetSetting("replication_factor", "3")) == 0  # the default, said aloud
    assert changed(SetSetting("replication_factor", "5")) == 1
    assert changed(SetSetting("replication_factor", "")) == 1
    assert changed(SetSetting("anything", "5")) == 0
    assert changed(Revoke(BOB)) == 1
    assert changed(Revoke(BOB)) == 0


def test_the_layout_is_that_of_the_members(cluster):
    join(cluster, BOB, CAM)
    layout = meta_rows.layout(cluster.rows, 8)
    assert layout.version == meta_rows.layout_version(cluster.rows)
    assert set(layout.members) == {ADA, BOB, CAM}
    assert all(len(layout.of(partition).voters) == 3 for partition in range(8))
    joined = meta_rows.member(cluster.rows, ADA).joined_ms
    assert meta_rows.placed(cluster.rows)[ADA] == Placed("north", WEIGHT_DEFAULT, joined)
