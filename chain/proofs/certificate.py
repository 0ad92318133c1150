"""The X.509 carrier: a certificate for TLS and brokers, with no CA key to steal.

The device signs its own certificate; OpenSSL checks that, which proves possession of the key. A
non-critical extension has the proof that the chain issued the certificate; `verify_carrier` checks
that. Neither tells whether it was revoked since: ask the chain. Proofs are in `proof`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from chain.errors import Misuse, PeerFault
from chain.genesis import Genesis
from chain.keys import CERTIFICATE_FAULTS, spki_of
from chain.ledger.statement import Statement, decode_leaf
from chain.proofs.proof import PROOF_BYTES_MAX, Proof, ProofVerifier, decode_proof, encode_proof

__all__ = ["PROOF_OID", "carrier_certificate", "proof_of", "verify_carrier"]

# 2.25.<UUID as an integer>, ITU-T X.667: 3b1c3ea4-0f2e-4dd1-9c5e-6a1f0c52b7d8, drawn once.
PROOF_OID = x509.ObjectIdentifier(f"2.25.{0x3B1C3EA40F2E4DD19C5E6A1F0C52B7D8}")
CARRIER_BYTES_MAX = PROOF_BYTES_MAX + 4096
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ANY_KEY = ec.derive_private_key(1, ec.SECP256R1())


def _whole_second(time_us: int) -> datetime:
    """X.509 times are whole seconds: rounded down."""
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


def _template(statement: Statement, proof: Proof) -> x509.CertificateBuilder:
    """All of the carrier except its signature. Raises ValueError for what X.509 cannot hold."""
    assert statement.key is not None
    assert statement.certificate is not None
    assert statement.not_before_us is not None
    assert statement.not_after_us is not None
    public = serialization.load_der_public_key(statement.key)
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise PeerFault("bad-certificate", "not an elliptic-curve key")
    # CN is the node id. The serial number tells a renewed carrier from its predecessor in trust
    # stores that know certificates by subject, as OpenSSL's directories do.
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{statement.certificate:x}"),
            x509.NameAttribute(NameOID.COMMON_NAME, statement.node.hex()),
        ]
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(statement.certificate)
        .not_valid_before(_whole_second(statement.not_before_us))
        .not_valid_after(_whole_second(statement.not_after_us))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(
            x509.UnrecognizedExtension(PROOF_OID, _octets(encode_proof(proof))), critical=False
        )
    )


def _signed(template: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return template.sign(key, hashes.SHA256(), ecdsa_deterministic=True)


def carrier_certificate(private_key: ec.EllipticCurvePrivateKey, proof: Proof) -> bytes:
    """PEM of the device's self-signed certificate. Raises Misuse if the proof is not its own."""
    statement = decode_leaf(proof.record.leaf)
    if not statement.issues_certificate or statement.key != spki_of(private_key.public_key()):
        raise Misuse("the proof does not certify this key")
    certificate = _signed(_template(statement, proof), private_key)
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
    pem: bytes, trusted: Genesis | ProofVerifier, at_us: int | None = None
) -> Statement:
    """Checks possession, issuance and every field; also validity if `at_us` is given. A verifier
    that knows the memberships also takes a carrier without their proofs.

    Raises PeerFault: "bad-certificate", "expired", or what `ProofVerifier.verify` raises.
    """
    if len(pem) > 2 * CARRIER_BYTES_MAX:
        raise PeerFault("oversize", f"{len(pem)} bytes")
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.verify_directly_issued_by(certificate)
    except CERTIFICATE_FAULTS as error:
        raise PeerFault("bad-certificate", f"not a self-signed carrier: {error}") from error
    if certificate.public_bytes(serialization.Encoding.PEM) != pem:
        raise PeerFault("bad-certificate", "not exactly one certificate")
    proof = proof_of(certificate)
    verifier = ProofVerifier(trusted) if isinstance(trusted, Genesis) else trusted
    statement = verifier.verify(proof)
    if not statement.issues_certificate:
        raise PeerFault("bad-certificate", "the proven record issues no certificate")
    try:
        # Made again from the record, so that no field is left unchecked. Any key may sign it.
        wanted = _signed(_template(statement, proof), _ANY_KEY)
    except (*CERTIFICATE_FAULTS, OverflowError) as error:
        raise PeerFault("bad-certificate", f"no certificate can hold this: {error}") from error
    if certificate.tbs_certificate_bytes != wanted.tbs_certificate_bytes:
        raise PeerFault("bad-certificate", "a field is not what the chain certified")
    if at_us is not None:
        if at_us < (statement.not_before_us or 0):
            raise PeerFault("expired", "not yet valid")
        if at_us > (statement.not_after_us or 0):
            raise PeerFault("expired", "no longer valid")
    return statement
