"""Access tokens, key rotation and signed URLs."""

import os
import stat

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cluster.members.meta_rows import PublicKey
from node.http.cursors import Cursors
from node.http.problems import Problem
from node.http.tokens import (
    CLOCK_SKEW_S,
    LOOKS_PER_S_MAX,
    Expired,
    Keyring,
    Signer,
    TokenError,
    derive,
    key_set_of,
    load_secret,
)

NOW = 1_800_000_000
A, B = "aa" * 16, "bb" * 16  # node ids


def make_keyring(folder, now=NOW, **changes):
    return Keyring(
        folder / "keys", **{"node_id": "node-1", "token_s": 900, "cache_entries": 3, "now": now, **changes}
    )


def test_a_token_says_who_until_it_expires(tmp_path):
    keyring = make_keyring(tmp_path)
    token = keyring.issue(2**62, 7, NOW)
    for _ in range(2):  # the second answer comes from memory
        claims = keyring.verify(token, NOW + 899)
        assert (claims.user_id, claims.session_id, claims.node_id) == (2**62, 7, "node-1")
    with pytest.raises(Expired):
        keyring.verify(token, NOW + 900)
    with pytest.raises(Expired):
        make_keyring(tmp_path).verify(token, NOW + 900)
    with pytest.raises(TokenError, match="future"):
        keyring.verify(token, NOW - CLOCK_SKEW_S - 1)


def test_keys_outlive_the_process_and_are_private(tmp_path):
    token = make_keyring(tmp_path).issue(1, 2, NOW)
    assert make_keyring(tmp_path).verify(token, NOW).user_id == 1
    (file,) = (tmp_path / "keys").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_rotation_lets_old_tokens_live_out_their_time(tmp_path):
    keyring = make_keyring(tmp_path)
    old = keyring.issue(1, 2, NOW)
    first = jwt.get_unverified_header(old)["kid"]
    second = keyring.rotate(NOW + 10)
    new = keyring.issue(1, 2, NOW + 10)
    assert jwt.get_unverified_header(new)["kid"] == second != first
    reloaded = make_keyring(tmp_path)
    for ring in (keyring, reloaded):
        assert ring.verify(old, NOW + 10).user_id == ring.verify(new, NOW + 10).user_id == 1
        assert {kid for kid, _, _ in ring.public_keys()} == {first, second}
    assert '"private":null' in (tmp_path / "keys" / f"{first}.json").read_text()
    keyring.forget_dead(NOW + 10 + 900 + CLOCK_SKEW_S)
    assert len(keyring.public_keys()) == 2
    keyring.forget_dead(NOW + 11 + 900 + CLOCK_SKEW_S)
    assert [kid for kid, _, _ in keyring.public_keys()] == [second]
    with pytest.raises(TokenError, match="does not know"):
        make_keyring(tmp_path).verify(old, NOW)


def test_the_published_key_verifies(tmp_path):
    keyring = make_keyring(tmp_path)
    (entry,) = key_set_of({kid: raw for kid, raw, _ in keyring.public_keys()})["keys"]
    key = jwt.PyJWK(entry).key
    claims = jwt.decode(
        keyring.issue(5, 6, NOW),
        key,
        algorithms=["EdDSA"],
        options={"verify_exp": False, "verify_iat": False},
    )
    assert claims == {"iss": "node-1", "sub": "5", "sid": "6", "iat": NOW, "exp": NOW + 900}


def test_forgeries_grant_nothing(tmp_path):
    keyring = make_keyring(tmp_path)
    good = keyring.issue(1, 2, NOW)
    kid = jwt.get_unverified_header(good)["kid"]
    claims = jwt.decode(good, options={"verify_signature": False})
    head, body, signature = good.split(".")
    other = Ed25519PrivateKey.generate()
    forged = [
        "",
        "x",
        "a.b.c",
        "\x00" * 10,
        "é.é.é",
        "x" * 100_000,
        f"{head}.{body}.",
        f"{head}.{body}.{signature[:-4]}AAAA",
        jwt.encode({**claims, "sub": "2"}, other, algorithm="EdDSA", headers={"kid": kid}),
        jwt.encode(claims, None, algorithm="none", headers={"kid": kid}),
        jwt.encode(claims, b"x" * 32, algorithm="HS256", headers={"kid": kid}),
        jwt.encode(claims, other, algorithm="EdDSA", headers={"kid": "../../etc/passwd"}),
        jwt.encode({**claims, "iss": "node-2"}, keyring._private, algorithm="EdDSA", headers={"kid": kid}),
        jwt.encode({"sub": "1"}, keyring._private, algorithm="EdDSA", headers={"kid": kid}),
        jwt.encode({**claims, "sub": "me"}, keyring._private, algorithm="EdDSA", headers={"kid": kid}),
    ]
    for token in forged:
        with pytest.raises(TokenError):
            keyring.verify(token, NOW)
    assert keyring.verify(good, NOW).user_id == 1


def as_published(rings):
    """What the meta group has of the keyrings' keys: node id → keyring."""
    return {
        kid: PublicKey(bytes.fromhex(node), public, 0, until)
        for node, ring in rings.items()
        for kid, public, until in ring.public_keys()
    }


@pytest.fixture
def two(tmp_path):
    """Two members' keyrings, and the rows in which both look for keys."""
    rows, rings = {}, {}
    for node in (A, B):
        rings[node] = make_keyring(tmp_path / node, node_id=node, others=lambda: rows)
    rows.update(as_published(rings))
    return rings[A], rings[B], rows


def test_a_token_of_another_member_is_taken(two):
    a, b, _ = two
    token = a.issue(7, 8, NOW)
    for _ in range(2):  # the second answer comes from memory
        claims = b.verify(token, NOW)
        assert (claims.user_id, claims.session_id, claims.node_id) == (7, 8, A)
    with pytest.raises(Expired):
        b.verify(token, NOW + 900)


def test_a_member_signs_for_itself_alone(two):
    a, b, _ = two
    good = a.issue(1, 2, NOW)
    kid = jwt.get_unverified_header(good)["kid"]
    claims = jwt.decode(good, options={"verify_signature": False})
    with pytest.raises(TokenError, match="issuer"):
        b.verify(jwt.encode({**claims, "iss": B}, a._private, algorithm="EdDSA", headers={"kid": kid}), NOW)
    with pytest.raises(TokenError, match="Signature"):
        b.verify(jwt.encode(claims, b._private, algorithm="EdDSA", headers={"kid": kid}), NOW)


def test_a_revoked_members_tokens_die_a_second_later(two):
    a, b, rows = two
    old = a.issue(1, 2, NOW)
    assert b.verify(old, NOW).user_id == 1
    own = b.issue(3, 4, NOW)
    b.verify(own, NOW)
    for kid, row in list(rows.items()):
        if row.node.hex() == A:
            del rows[kid]
    b.verify(old, NOW)  # within the second in which its rows were looked at
    with pytest.raises(TokenError, match="does not know"):
        b.verify(old, NOW + 1)
    with pytest.raises(TokenError, match="does not know"):
        b.verify(old, NOW + 1)
    assert list(b._verified) == [own] and b.verify(own, NOW + 1).user_id == 3


def test_a_key_that_was_published_a_moment_ago_is_found(two):
    a, b, rows = two
    b.verify(a.issue(1, 2, NOW), NOW)
    a.rotate(NOW)
    fresh = a.issue(5, 6, NOW)
    with pytest.raises(TokenError, match="does not know"):
        b.verify(fresh, NOW)
    rows.update(as_published({A: a, B: b}))
    assert b.verify(fresh, NOW).user_id == 5


def test_unknown_keys_make_no_work(tmp_path):
    looks = []
    ring = make_keyring(tmp_path, node_id=A, others=lambda: looks.append(1) or {})
    stranger = make_keyring(tmp_path / "stranger", node_id=B)
    token = stranger.issue(1, 2, NOW)
    for now in (NOW, NOW + 1):
        for _ in range(100):
            with pytest.raises(TokenError, match="does not know"):
                ring.verify(token, now)
    assert len(looks) == 2 * LOOKS_PER_S_MAX
    many = [ring.issue(1, 2, NOW) for _ in range(3)]
    for one in many:
        ring.verify(one, NOW + 2)
    assert len(looks) == 2 * LOOKS_PER_S_MAX  # one's own need no look


def test_what_one_node_sealed_another_opens(tmp_path):
    """Cursors, signed URLs and keyed names come from the cluster's secret, which all members have."""
    secret = load_secret(tmp_path / "a" / "cluster.secret")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "cluster.secret").write_bytes(secret)
    a, b = (load_secret(tmp_path / node / "cluster.secret") for node in "ab")
    cursor = Cursors(derive(a, "cursors")).seal(77, reader=1, name="feed", now=NOW)
    assert Cursors(derive(b, "cursors")).open(cursor, int, reader=1, name="feed", now=NOW) == 77
    signature = Signer(derive(a, "urls")).sign("media", ("x", "1"), NOW + 1)
    Signer(derive(b, "urls")).verify("media", ("x", "1"), NOW + 1, signature, NOW)
    with pytest.raises(Problem):
        Cursors(derive(os.urandom(32), "cursors")).open(cursor, int, reader=1, name="feed", now=NOW)


def test_the_memory_of_verified_tokens_is_bounded(tmp_path):
    keyring = make_keyring(tmp_path)
    tokens = [keyring.issue(user, 1, NOW) for user in range(5)]
    for token in tokens:
        keyring.verify(token, NOW)
    assert list(keyring._verified) == tokens[2:]
    assert keyring.verify(tokens[0], NOW).user_id == 0


def test_a_signature_fits_one_url_until_it_expires():
    signer = Signer(derive(b"s" * 32, "urls"))
    signature = signer.sign("upload", ("12", "3"), NOW)
    signer.verify("upload", ("12", "3"), NOW, signature, NOW - 1)
    with pytest.raises(Expired):
        signer.verify("upload", ("12", "3"), NOW, signature, NOW)
    for purpose, fields, expires in [
        ("media", ("12", "3"), NOW),
        ("upload", ("1", "23"), NOW),
        ("upload", ("123",), NOW),
        ("upload", ("12", "3"), NOW + 1),
    ]:
        with pytest.raises(TokenError, match="does not fit"):
            signer.verify(purpose, fields, expires, signature, NOW - 1)
    for forged in ("", "x", signature[:-1], signature + "A", "é" * 22, "\ud800"):
        with pytest.raises(TokenError, match="does not fit"):
            signer.verify("upload", ("12", "3"), NOW, forged, NOW + 1)
    with pytest.raises(TokenError, match="does not fit"):
        Signer(derive(b"s" * 32, "other")).verify("upload", ("12", "3"), NOW, signature, NOW - 1)
    with pytest.raises(ValueError):
        Signer(b"short")


def test_a_secret_is_made_once_and_damage_is_seen(tmp_path):
    path = tmp_path / "keys" / "secret"
    secret = load_secret(path)
    assert load_secret(path) == secret and len(secret) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="damaged"):
        load_secret(path)
