"""The CA and what it signs: issued, verified, renewed in time, and refused where anything is wrong."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cluster.peers import certificates
from cluster.peers.certificates import BadCertificate, Credentials
from cluster.peers.hello import Name
from tests.cluster.peers.cluster import CLUSTER, DAY_MS, OTHER_CLUSTER, A, B, authority, credentials

NOW = 1_790_000_000_000
NAME = Name(CLUSTER, A)
CA = certificates.make_authority(CLUSTER, NOW)
KEY = certificates.new_key()
CHAIN = certificates.issue(CA, certificates.request(KEY, NAME), NAME, NOW)


def request_of(key):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_what_is_issued_verifies_and_names_its_node():
    assert certificates.verify(CHAIN, CA.certificate, NOW) == NAME
    assert certificates.belongs(CHAIN, KEY)
    assert not certificates.belongs(CHAIN, certificates.new_key())


def test_the_signer_chooses_the_name_not_the_request():
    asked = certificates.request(KEY, Name(OTHER_CLUSTER, B))
    chain = certificates.issue(CA, asked, NAME, NOW)
    assert certificates.verify(chain, CA.certificate, NOW) == NAME


@pytest.mark.parametrize(
    ("now", "valid"),
    [
        (NOW - 3_600_000, True),
        (NOW - 3_601_000, False),
        (NOW, True),
        (NOW + 30 * DAY_MS, True),
        (NOW + 30 * DAY_MS + 1000, False),
    ],
)
def test_a_certificate_is_valid_for_its_days(now, valid):
    if valid:
        certificates.verify(CHAIN, CA.certificate, now)
    else:
        with pytest.raises(BadCertificate, match="valid from"):
            certificates.verify(CHAIN, CA.certificate, now)


def test_it_is_renewed_when_a_third_of_its_life_is_left():
    begin, end = NOW - 3_600_000, certificates.expires_at(CHAIN)
    assert end == NOW + 30 * DAY_MS
    assert end - certificates.renew_at(CHAIN) == (end - begin) // 3
    assert NOW + 19 * DAY_MS < certificates.renew_at(CHAIN) < NOW + 21 * DAY_MS


def test_another_authority_signed_nothing_here():
    other = certificates.make_authority(CLUSTER, NOW)
    with pytest.raises(BadCertificate, match="not signed"):
        certificates.verify(CHAIN, other.certificate, NOW)
    assert certificates.fingerprint(other.certificate) != certificates.fingerprint(CA.certificate)


def test_the_authority_itself_is_no_node():
    with pytest.raises(BadCertificate, match="names nobody"):
        certificates.verify(CA.certificate, CA.certificate, NOW)


@pytest.mark.parametrize("pem", [b"", b"hello", CHAIN[:200], CHAIN.replace(b"M", b"!", 5), KEY])
def test_what_is_no_certificate(pem):
    with pytest.raises(BadCertificate):
        certificates.verify(pem, CA.certificate, NOW)
    with pytest.raises(BadCertificate):
        certificates.fingerprint(pem)


def test_a_fingerprint_is_the_sha256_of_the_der():
    der = x509.load_pem_x509_certificate(CA.certificate).public_bytes(Encoding.DER)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    assert certificates.fingerprint(CA.certificate) == digest.finalize()
    assert len(certificates.fingerprint(CA.certificate)) == certificates.FINGERPRINT_BYTES


def swapped(csr):
    """A request with another key than the one that signed it."""
    other = certificates.request(certificates.new_key(), NAME)
    ours, theirs = (x509.load_pem_x509_csr(pem) for pem in (csr, other))
    der = ours.public_bytes(Encoding.DER)
    changed = der.replace(_point(ours), _point(theirs))
    assert changed != der
    return x509.load_der_x509_csr(changed).public_bytes(Encoding.PEM)


def _point(csr):
    numbers = csr.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


@pytest.mark.parametrize(
    ("csr", "complaint"),
    [
        (b"", "not a request"),
        (CHAIN, "not a request"),
        (bytes(20_000), "at most"),
        (request_of(rsa.generate_private_key(65537, 2048)), "P-256"),
        (request_of(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (swapped(certificates.request(KEY, NAME)), "not signed by its key"),
    ],
    ids=["empty", "certificate", "large", "rsa", "p384", "another key"],
)
def test_requests_that_are_not_signed(csr, complaint):
    with pytest.raises(BadCertificate, match=complaint):
        certificates.issue(CA, csr, NAME, NOW)


def test_the_key_of_the_authority_is_sealed_with_the_secret_of_the_cluster():
    sealed = certificates.seal_key(CA, b"s" * 32)
    assert certificates.open_key(CA.certificate, sealed, b"s" * 32) == CA
    assert CA.key[30:60] not in sealed
    assert certificates.seal_key(CA, b"s" * 32) != sealed
    other = certificates.make_authority(CLUSTER, NOW)
    for certificate, box, secret in (
        (CA.certificate, sealed, b"t" * 32),
        (other.certificate, sealed, b"s" * 32),
        (CA.certificate, sealed[:-1] + b"x", b"s" * 32),
        (CA.certificate, b"", b"s" * 32),
    ):
        with pytest.raises(BadCertificate, match="not opened"):
            certificates.open_key(certificate, box, secret)


def test_no_key_in_a_repr():
    assert "PRIVATE" not in repr(CA) and certificates.fingerprint(CA.certificate).hex() in repr(CA)


def test_files_that_do_not_fit_are_named(tmp_path):
    mine, other = credentials(tmp_path, A), credentials(tmp_path, B)
    mixed = Credentials(CLUSTER, A, mine.authority, mine.chain, other.key)
    with pytest.raises(BadCertificate, match=mine.chain.name):
        certificates.server_context(mixed)
    with pytest.raises(BadCertificate, match="CA"):
        certificates.client_context(Credentials(CLUSTER, A, b"none", mine.chain, mine.key))
    assert certificates.client_context(mine).get_ca_certs() and authority()
