"""Access tokens, key rotation and signed URLs."""

import stat

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.http.tokens import (
    CLOCK_SKEW_S,
    Expired,
    Keyring,
    Signer,
    TokenError,
    derive,
    key_set_of,
    load_secret,
)

NOW = 1_800_000_000


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


def test_tokens_of_the_other_nodes_count_while_their_keys_are_published(tmp_path):
    mine, other = make_keyring(tmp_path / "a"), make_keyring(tmp_path / "b", node_id="node-2")
    token = other.issue(5, 6, NOW)
    with pytest.raises(TokenError, match="does not know"):
        mine.verify(token, NOW)
    published = {kid: ("node-2", public) for kid, public, _ in other.public_keys()}
    mine.learn(published)
    assert mine.verify(token, NOW).node_id == "node-2"
    (kid,) = published
    mine.learn({kid: ("node-3", published[kid][1])})  # who signs must be whose key it is
    with pytest.raises(TokenError):
        make_learned(tmp_path / "c", {kid: ("node-3", published[kid][1])}).verify(token, NOW)
    own = mine.issue(7, 8, NOW)
    mine.learn({})  # the node was revoked: what was verified before is forgotten, too
    with pytest.raises(TokenError, match="does not know"):
        mine.verify(token, NOW)
    assert mine.verify(own, NOW).user_id == 7


def make_learned(folder, keys):
    keyring = make_keyring(folder)
    keyring.learn(keys)
    return keyring


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
