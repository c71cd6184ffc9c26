"""Certificates of a cluster: its CA, what it signs for nodes, and the TLS that two nodes speak with them.

ECDSA on P-256 throughout. A node is named in its certificate by one URI, `heliograph://<cluster>/<node>` in
hex, and by nothing else: the CA signs the key of a request and chooses the name itself. Times come in as
`now`, in ms since 1970; only a TLS handshake looks at the machine's clock.
"""

import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import blake3
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.peers.hello import Name, parse_name

AUTHORITY_DAYS: Final = 20 * 365  # it is never renewed: a cluster's life
NODE_DAYS: Final = 30
EARLIER: Final = timedelta(hours=1)  # valid from before now: for a peer whose clock lags
CSR_BYTES_MAX: Final = 8 << 10
NONCE_BYTES: Final = 12
FINGERPRINT_BYTES: Final = 32
_SEAL_PURPOSE: Final = "heliograph cluster authority"


class BadCertificate(Exception):
    """A certificate, or a request for one, that is not what it should be: its sender's fault."""


class Authority(msgspec.Struct, frozen=True):
    certificate: bytes  # PEM
    key: bytes  # PEM, PKCS #8, in the clear: to be kept sealed

    def __repr__(self) -> str:
        return f"Authority({fingerprint(self.certificate).hex()})"


class Credentials(msgspec.Struct, frozen=True):
    """What a node shows and believes. `chain` and `key` are files, which is where `ssl` wants them."""

    cluster: bytes
    node: bytes
    authority: bytes  # the CA's certificate, PEM
    chain: Path
    key: Path


# --- keys and requests -------------------------------------------------------------------------------
def new_key() -> bytes:
    """PEM, PKCS #8, in the clear."""
    return _key_pem(ec.generate_private_key(ec.SECP256R1()))


def request(key: bytes, name: Name) -> bytes:
    """A request, PEM, for a certificate of `key`; it proves that the sender has the key."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_subject(name.node.hex()))
        .add_extension(_uri(name), critical=False)
        .sign(_private(key), hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


# --- the authority -----------------------------------------------------------------------------------
def make_authority(cluster: bytes, now: int) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    start = _moment(now)
    subject = _subject(f"heliograph cluster {cluster.hex()}")
    public = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - EARLIER)
        .not_valid_after(start + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate.public_bytes(Encoding.PEM), _key_pem(key))


def issue(authority: Authority, csr: bytes, name: Name, now: int, *, days: int = NODE_DAYS) -> bytes:
    """A certificate, PEM, for the key of `csr`, which must have signed it. What the request says beside its
    key is not looked at. Raises BadCertificate."""
    public = _requested_key(csr)
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    start = _moment(now)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_subject(name.node.hex()))
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - EARLIER)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(_uri(name), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(_public_of(issuer)), critical=False)
        .sign(_private(authority.key), hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


def seal_key(authority: Authority, cluster_secret: bytes) -> bytes:
    """The CA's key as it may be kept and replicated: opened only with the cluster's secret."""
    nonce = os.urandom(NONCE_BYTES)
    sealed = _seal(cluster_secret).encrypt(nonce, authority.key, authority.certificate)
    return nonce + sealed


def open_key(certificate: bytes, sealed: bytes, cluster_secret: bytes) -> Authority:
    """Raises BadCertificate where secret, certificate and sealed key do not belong together."""
    try:
        key = _seal(cluster_secret).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], certificate)
    except (InvalidTag, ValueError):
        raise BadCertificate("the CA's key is not opened by this cluster's secret") from None
    return Authority(certificate, key)


# --- looking at certificates -------------------------------------------------------------------------
def fingerprint(certificate: bytes) -> bytes:
    """SHA-256 of the DER of a certificate in PEM. Raises BadCertificate."""
    return _loaded(certificate).fingerprint(hashes.SHA256())


def verify(certificate: bytes, authority: bytes, now: int) -> Name:
    """Whom a certificate names, both PEM, if this CA signed it and it is valid. Raises BadCertificate."""
    mine, issuer = _loaded(certificate), _loaded(authority)
    try:
        mine.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise BadCertificate(f"not signed by the cluster's CA: {error}") from None
    moment = _moment(now)
    if not mine.not_valid_before_utc <= moment <= mine.not_valid_after_utc:
        raise BadCertificate(
            f"valid from {mine.not_valid_before_utc.isoformat()} to {mine.not_valid_after_utc.isoformat()}"
        )
    try:
        names = mine.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise BadCertificate("it names nobody") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    name = parse_name(uris[0]) if len(uris) == 1 else None
    if name is None:
        raise BadCertificate("it names no node of a cluster")
    return name


def belongs(certificate: bytes, key: bytes) -> bool:
    """Is `key` the private key of `certificate`?"""
    return _public_of(_loaded(certificate)) == _private(key).public_key()


def expires_at(certificate: bytes) -> int:
    """ms since 1970. Raises BadCertificate."""
    return _milliseconds(_loaded(certificate).not_valid_after_utc)


def renew_at(certificate: bytes) -> int:
    """When a third of its life is left, in ms since 1970: early enough to try for days."""
    loaded = _loaded(certificate)
    begin, end = _milliseconds(loaded.not_valid_before_utc), _milliseconds(loaded.not_valid_after_utc)
    return end - (end - begin) // 3


# --- TLS ---------------------------------------------------------------------------------------------
def server_context(credentials: Credentials) -> ssl.SSLContext:
    """A peer may come without a certificate, for a joiner has none; one that it shows must be of the CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0  # links live long: resuming saves nothing
    return _with(context, credentials)


def client_context(credentials: Credentials) -> ssl.SSLContext:
    return _with(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), credentials)


def joiner_context(authority: bytes | None) -> ssl.SSLContext:
    """For who has no certificate. Without `authority` anybody's server is talked to: nothing may be told it,
    and nothing it says believed, but the CA's certificate, whose fingerprint is known."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    if authority is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        _trust(context, authority)
    return context


def _with(context: ssl.SSLContext, credentials: Credentials) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # nodes are named by their ids, wherever they are
    _trust(context, credentials.authority)
    try:
        context.load_cert_chain(credentials.chain, credentials.key)
    except ssl.SSLError as error:
        raise BadCertificate(f"{credentials.chain} and {credentials.key}: {error.reason or error}") from None
    return context


def _trust(context: ssl.SSLContext, authority: bytes) -> None:
    try:
        context.load_verify_locations(cadata=authority.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise BadCertificate("the CA's certificate is none") from None


# --- of cryptography ---------------------------------------------------------------------------------
def _requested_key(csr: bytes) -> ec.EllipticCurvePublicKey:
    if len(csr) > CSR_BYTES_MAX:
        raise BadCertificate(f"a request of {len(csr)} bytes; at most {CSR_BYTES_MAX}")
    try:
        loaded = x509.load_pem_x509_csr(csr)
        public = loaded.public_key()
        signed = loaded.is_signature_valid
    except (ValueError, TypeError) as error:
        raise BadCertificate(f"not a request for a certificate: {error}") from None
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise BadCertificate("the key of a request is one on the curve P-256")
    if not signed:
        raise BadCertificate("the request is not signed by its key")
    return public


def _loaded(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate)
    except ValueError:
        raise BadCertificate("not a certificate in PEM") from None


def _public_of(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    public = certificate.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise BadCertificate("the key of a certificate is one on the curve P-256")
    return public


def _private(key: bytes) -> ec.EllipticCurvePrivateKey:
    loaded = load_pem_private_key(key, password=None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise BadCertificate("a node's key is one on the curve P-256")
    return loaded


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _seal(cluster_secret: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(blake3.blake3(cluster_secret, derive_key_context=_SEAL_PURPOSE).digest())


def _subject(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _uri(name: Name) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name.uri)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _moment(now: int) -> datetime:
    return datetime.fromtimestamp(now // 1000, UTC)


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp()) * 1000
