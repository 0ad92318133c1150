"""A manufacturer of devices for the refusals: a root that the lab's genesis lists, and certificates
that he or a thief may issue (IEEE 802.1AR)."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Made", "Manufacturer", "issue"]

_DAY = datetime.timedelta(days=1)


class Made:
    """A certificate (DER in `der`) with its private key."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self.key = key
        self.certificate = certificate
        self.der = certificate.public_bytes(serialization.Encoding.DER)


def issue(name: str, by: Made | None, *, ca: bool = False, days: int = 365) -> Made:
    """A certificate of `name`, self-signed without `by`; with `days` below 0 it has expired."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if by is None else by.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 1000 * _DAY)
        .not_valid_after(now + days * _DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    return Made(key, builder.sign(key if by is None else by.key, hashes.SHA256()))


class Manufacturer:
    def __init__(self) -> None:
        self.root = issue("manufacturer", None, ca=True)

    @property
    def root_pem(self) -> bytes:
        return self.root.certificate.public_bytes(serialization.Encoding.PEM)
