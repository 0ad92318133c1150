"""The voucher of a new device: an enrolment token, or a factory identity.

An enrolment token is a private key that somebody issued for one device. A factory identity
(IEEE 802.1AR IDevID) is a private key that the manufacturer put into the device, with the
certificates that lead to the manufacturer's root; the genesis lists the roots that count. Both sign
for the key that the device made itself. Both serve as its login at the broker until it is admitted.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from chain.errors import PeerFault
from chain.keys import Es256Signer, digest, spki_of
from chain.ledger.factory import factory_id
from chain.ledger.operations import Factory, Token
from chain.ledger.possession import factory_key
from gateway.broker.security import User, bootstrap_user
from nodes.keygen import load_key

__all__ = [
    "FACTORY_CHAIN",
    "FACTORY_KEY",
    "VoucherSigner",
    "factory_user",
    "load_voucher",
    "read_chain",
]

FACTORY_KEY = "key.pem"
FACTORY_CHAIN = "chain.pem"
CHAIN_CERTIFICATES_MAX = 3
CERTIFICATE_BYTES_MAX = 2048


class VoucherSigner(msgspec.Struct, frozen=True):
    """`user` is the login that it stands for. `chain` is empty for a token."""

    signer: Es256Signer
    user: User
    chain: tuple[bytes, ...] = ()

    def sign(self, statement: bytes) -> Token | Factory:
        """The voucher of the access request, signed."""
        signature = self.signer.sign(statement)
        if self.chain:
            return Factory(chain=self.chain, signature=signature)
        return Token(key=self.signer.public, signature=signature)


def load_voucher(key: Path, chain: Path | None) -> VoucherSigner:
    """Raises OSError, and ValueError naming the file and what is wrong with it."""
    private = load_key(key)
    signer = Es256Signer(private)
    if chain is None:
        return VoucherSigner(signer, bootstrap_user(digest(signer.public), key.read_bytes()))
    certificates = read_chain(chain.read_bytes(), str(chain))
    if factory_key(certificates[0]) != spki_of(private.public_key()):
        raise ValueError(f"{chain}: its first certificate is not of the key in {key}")
    return VoucherSigner(signer, factory_user(certificates[0]), certificates)


def read_chain(pem: bytes, where: str) -> tuple[bytes, ...]:
    """DER certificates of a PEM file: the device's first, then each one's issuer, without the
    root. Raises ValueError, telling `where`."""
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ValueError(f"{where}: no PEM certificates: {error}") from error
    if len(found) > CHAIN_CERTIFICATES_MAX:
        raise ValueError(
            f"{where}: {len(found)} certificates, at most {CHAIN_CERTIFICATES_MAX}; leave out the "
            "root, which the genesis has"
        )
    chain = tuple(each.public_bytes(Encoding.DER) for each in found)
    if max(map(len, chain)) > CERTIFICATE_BYTES_MAX:
        raise ValueError(f"{where}: a certificate of over {CERTIFICATE_BYTES_MAX} bytes")
    try:
        factory_key(chain[0])
    except PeerFault as fault:
        raise ValueError(f"{where}: {fault}") from fault
    return chain


def factory_user(certificate: bytes) -> User:
    """The login of a device with this factory certificate (DER).

    Anybody who knows the certificate can compute it, and can disturb the device until it is
    admitted. He cannot enrol in its place, because that takes the key.
    """
    return bootstrap_user(factory_id(factory_key(certificate)), certificate)
