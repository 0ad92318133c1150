"""Signatures and digests: the one file that knows which algorithm is in use.

ES256 (ECDSA P-256, SHA-256, FIPS 186-5) with RFC 6979 deterministic nonces: a seed reproduces a
run. A signature is 64 bytes, r || s, as in COSE (RFC 9053). It is malleable, so it is never an
identifier: identify by digest. Key files live with the processes in `nodes/`.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from chain.errors import PeerFault

__all__ = [
    "CERTIFICATE_FAULTS",
    "DIGEST_BYTES",
    "SIGNATURE_BYTES",
    "Es256",
    "Es256Signer",
    "Scheme",
    "Signer",
    "der_of",
    "digest",
    "node_id",
    "pem_of",
    "spki_of",
]

DIGEST_BYTES = 32
SIGNATURE_BYTES = 64
_HALF = SIGNATURE_BYTES // 2
_SIGN_ALGORITHM = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
_VERIFY_ALGORITHM = ec.ECDSA(hashes.SHA256())

# What the library raises when a certificate of a stranger is parsed or checked.
CERTIFICATE_FAULTS = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

# Parsing a SubjectPublicKeyInfo costs a fifth of verifying with it, so parsed keys are kept: 2.2 KB
# each. Whoever signs with new keys again and again fills this cache, not the memory.
_PARSED_KEYS_MAX = 2048


def digest(data: bytes) -> bytes:
    """SHA-256 of `data`, 32 bytes."""
    return hashlib.sha256(data).digest()


def node_id(spki: bytes) -> bytes:
    """The identity of a key's holder: SHA-256 over the DER SubjectPublicKeyInfo, 32 bytes."""
    return hashlib.sha256(spki).digest()


class Signer(Protocol):
    """Holds one private key. Pure: equal data give equal signatures."""

    @property
    def public(self) -> bytes:
        """DER SubjectPublicKeyInfo."""

    def sign(self, data: bytes) -> bytes:
        """64 bytes over `data`."""


class Scheme(Protocol):
    """Checks signatures; the simulator has a cheaper one that passes the same suite."""

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        """True if `signature` over `data` was made by the holder of `public`. Never raises."""


def spki_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """DER SubjectPublicKeyInfo of a public key."""
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def der_of(signature: bytes) -> bytes:
    """An ECDSA-Sig-Value (RFC 3279) from r || s, as openssl reads it."""
    r = int.from_bytes(signature[:_HALF], "big")
    s = int.from_bytes(signature[_HALF:], "big")
    return encode_dss_signature(r, s)


@lru_cache(maxsize=_PARSED_KEYS_MAX)
def _parsed(spki: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PeerFault("bad-key", "not a DER SubjectPublicKeyInfo") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PeerFault("bad-key", "not a P-256 key")
    if spki_of(key) != spki:
        raise PeerFault("bad-key", "not the canonical DER encoding")
    return key


def pem_of(spki: bytes) -> bytes:
    """PEM of a DER SubjectPublicKeyInfo, as the openssl command line reads it. Raises PeerFault."""
    return _parsed(spki).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


class Es256:
    """The product's scheme."""

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        if len(signature) != SIGNATURE_BYTES:
            return False
        try:
            _parsed(public).verify(der_of(signature), data, _VERIFY_ALGORITHM)
        except (InvalidSignature, PeerFault):
            return False
        return True


class Es256Signer:
    """A P-256 private key in memory."""

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        if not isinstance(private.curve, ec.SECP256R1):
            raise PeerFault("bad-key", "not a P-256 key")
        self._private = private
        self.public = spki_of(private.public_key())

    def sign(self, data: bytes) -> bytes:
        r, s = decode_dss_signature(self._private.sign(data, _SIGN_ALGORITHM))
        return r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")

    def __repr__(self) -> str:
        return f"Es256Signer({node_id(self.public).hex()[:16]})"
