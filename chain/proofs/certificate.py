"""The X.509 carrier: a certificate for TLS and brokers, with no CA key to steal.

The device signs its own certificate, and OpenSSL checks that: possession of the key. The proof
that the chain issued it stands in a non-critical extension, and `verify_carrier` checks that:
issuance. Neither says anything about revocation since; ask the chain. Proofs are in `proof`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from chain.errors import Misuse, PeerFault
from chain.genesis import Genesis
from chain.keys import CERTIFICATE_FAULTS, Scheme, node_id, spki_of
from chain.ledger.statement import Statement, decode_leaf
from chain.proofs.proof import PROOF_BYTES_MAX, Proof, ProofVerifier, decode_proof, encode_proof

__all__ = ["PROOF_OID", "carrier_certificate", "proof_of", "verify_carrier"]

# 2.25.<UUID as an integer>, ITU-T X.667: 3b1c3ea4-0f2e-4dd1-9c5e-6a1f0c52b7d8, drawn once.
PROOF_OID = x509.ObjectIdentifier(f"2.25.{0x3B1C3EA40F2E4DD19C5E6A1F0C52B7D8}")
CARRIER_BYTES_MAX = PROOF_BYTES_MAX + 4096
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _second(time_us: int) -> datetime:
    """X.509 knows whole seconds: rounded down."""
    return _EPOCH + timedelta(seconds=time_us // 1_000_000)


def _octets(data: bytes) -> bytes:
    """DER OCTET STRING: an extension's value must be DER (RFC 5280, section 4.1)."""
    size = len(data)
    if size < 0x80:
        return bytes((0x04, size)) + data
    width = (size.bit_length() + 7) // 8
    return bytes((0x04, 0x80 | width)) + size.to_bytes(width, "big") + data


def _contents(der: bytes) -> bytes:
    for header in (2, 3, 4, 5):
        if len(der) > header and _octets(der[header:]) == der:
            return der[header:]
    raise PeerFault("bad-certificate", "the proof is not a DER octet string")


def _subject(serial: int, node: bytes) -> x509.Name:
    """CN is the node id. The serial number tells a renewed carrier from its predecessor in trust
    stores that know certificates by subject, as OpenSSL's directories do."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{serial:x}"),
            x509.NameAttribute(NameOID.COMMON_NAME, node.hex()),
        ]
    )


def carrier_certificate(private_key: ec.EllipticCurvePrivateKey, proof: Proof) -> bytes:
    """PEM of the device's self-signed certificate. Raises Misuse if the proof is not its own."""
    statement = decode_leaf(proof.record.leaf)
    public = private_key.public_key()
    if not statement.issues_certificate or statement.key != spki_of(public):
        raise Misuse("the proof does not certify this key")
    assert statement.not_before_us is not None
    assert statement.not_after_us is not None
    assert statement.certificate is not None
    name = _subject(statement.certificate, statement.node)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(statement.certificate)
        .not_valid_before(_second(statement.not_before_us))
        .not_valid_after(_second(statement.not_after_us))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(
            x509.UnrecognizedExtension(PROOF_OID, _octets(encode_proof(proof))), critical=False
        )
    )
    certificate = builder.sign(private_key, hashes.SHA256(), ecdsa_deterministic=True)
    return certificate.public_bytes(serialization.Encoding.PEM)


def proof_of(certificate: x509.Certificate) -> Proof:
    """The proof that a carrier holds. Raises PeerFault("bad-certificate" | "bad-cbor")."""
    try:
        extension = certificate.extensions.get_extension_for_oid(PROOF_OID)
    except CERTIFICATE_FAULTS as error:
        raise PeerFault("bad-certificate", f"no proof inside: {error}") from error
    if extension.critical or not isinstance(extension.value, x509.UnrecognizedExtension):
        raise PeerFault("bad-certificate", "the proof's extension must not be critical")
    return decode_proof(_contents(extension.value.value))


def verify_carrier(
    pem: bytes, genesis: Genesis, at_us: int | None = None, scheme: Scheme | None = None
) -> Statement:
    """Possession, issuance and form; validity too if `at_us` is given.

    Raises PeerFault: "bad-certificate" (form, or a field unlike the statement's), "expired", or
    what `ProofVerifier.verify` raises.
    """
    if len(pem) > 2 * CARRIER_BYTES_MAX:
        raise PeerFault("oversize", f"{len(pem)} bytes")
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.verify_directly_issued_by(certificate)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        public = certificate.public_key()
    except CERTIFICATE_FAULTS as error:
        raise PeerFault("bad-certificate", f"not a self-signed carrier: {error}") from error
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise PeerFault("bad-certificate", "not an elliptic-curve key")
    statement = ProofVerifier(genesis, scheme).verify(proof_of(certificate))
    key = spki_of(public)
    wanted = {
        "statement": statement.issues_certificate,
        "key": statement.key == key and statement.node == node_id(key),
        "subject": certificate.subject == _subject(certificate.serial_number, statement.node),
        "CA": not constraints.ca,
        "extendedKeyUsage": list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH],
        "serial": certificate.serial_number == statement.certificate,
        "notBefore": certificate.not_valid_before_utc == _second(statement.not_before_us or 0),
        "notAfter": certificate.not_valid_after_utc == _second(statement.not_after_us or 0),
    }
    for field, holds in wanted.items():
        if not holds:
            raise PeerFault("bad-certificate", f"{field} is not what the chain certified")
    if at_us is not None:
        if at_us < (statement.not_before_us or 0):
            raise PeerFault("expired", "not yet valid")
        if at_us > (statement.not_after_us or 0):
            raise PeerFault("expired", "no longer valid")
    return statement
