"""A manufacturer in a test's hand: makes device certificates, right ones and wrong ones."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from chain.ledger.factory import path_of
from tests.chain.world import private_key

__all__ = ["DAY_S", "EPOCH_S", "Certified", "certify", "factory_refusal", "key_usage"]

DAY_S = 86_400
EPOCH_S = 1_600_000_000  # before every test's chain begins


@dataclass(frozen=True)
class Certified:
    """A certificate with its key, which is made from a text: by default from the name."""

    name: str
    key_of: str
    certificate: x509.Certificate

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        return private_key(self.key_of)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def certify(
    name: str,
    by: Certified | None = None,
    *,
    key_of: str | None = None,
    ca: bool | None = False,
    path_length: int | None = None,
    begins_s: int = EPOCH_S,
    ends_s: int = EPOCH_S + 36_500 * DAY_S,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
) -> Certified:
    """A certificate of `name`, self-signed without `by`. `ca=None`: it does not say."""
    key_of = key_of or name
    issuer, issuer_key = (name, private_key(key_of)) if by is None else (by.name, by.key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(private_key(key_of).public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime.fromtimestamp(begins_s, datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(ends_s, datetime.UTC))
    )
    if ca is not None:
        basic = x509.BasicConstraints(ca=ca, path_length=path_length)
        builder = builder.add_extension(basic, critical=True)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return Certified(name, key_of, builder.sign(issuer_key, hashes.SHA256()))


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def factory_refusal(chain: tuple[bytes, ...], roots: tuple[bytes, ...], time_us: int) -> str | None:
    """Why the chain does not vouch at `time_us`; None if it does."""
    path = path_of(chain, roots)
    return "factory-chain" if path is None else path.refusal(time_us)
