"""The statements that the key of a voucher, a renewal or a board signs: proof of possession.

The operations that carry these signatures are in `operations`.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from chain.errors import PeerFault
from chain.keys import CERTIFICATE_FAULTS, digest, spki_of

__all__ = [
    "board_node",
    "board_statement",
    "factory_key",
    "renewal_statement",
    "voucher_statement",
]


def voucher_statement(network: bytes, spki: bytes, head: bytes) -> bytes:
    """A voucher's key signs this. It vouches for this device key, network and head only."""
    return b"m2m/1/voucher\0" + network + digest(spki) + head


def renewal_statement(network: bytes, node: bytes, spki: bytes) -> bytes:
    """The bytes that the new key of `node` signs: proof of possession."""
    return b"m2m/1/renewal\0" + network + node + digest(spki)


def board_node(network: bytes, spki: bytes) -> bytes:
    """The node id of a sensor board, from its key: so nobody can take another board's id."""
    return digest(b"m2m/1/board\0" + network + spki)


def board_statement(network: bytes, sponsor: bytes, board: bytes, head: bytes) -> bytes:
    """The bytes that a board's key signs: possession, for this sponsor, name, network and head."""
    return b"m2m/1/sponsored\0" + network + sponsor + digest(board) + head


def factory_key(certificate: bytes) -> bytes:
    """SPKI of a DER certificate. Raises PeerFault("bad-voucher") unless it is a P-256 key."""
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except CERTIFICATE_FAULTS as error:
        raise PeerFault("bad-voucher", f"not a certificate: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PeerFault("bad-voucher", "the factory certificate's key is not P-256")
    return spki_of(key)
