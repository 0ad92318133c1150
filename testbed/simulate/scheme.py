"""A cheap signature scheme for simulation: keyed SHA-256 instead of an elliptic curve.

It stands behind `chain.keys.Scheme` and `Signer` and passes the same conformance suite as ES256
(`tests/testbed/test_simulate_scheme.py`), malleability included: like (r, s) and (r, n-s), each
statement has two valid signatures, so that code which takes a signature for an identifier is
found. Whoever knows the public key could forge; the simulated adversaries do not.
"""

from __future__ import annotations

import hashlib

from chain.keys import SIGNATURE_BYTES

__all__ = ["HashScheme", "HashSigner", "malleated"]

_HALF = SIGNATURE_BYTES // 2
# SubjectPublicKeyInfo of a P-256 key up to the point itself, so that a cheap key has the length
# and the first bytes of a real one.
_SPKI_PREFIX = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_FLIP = int.from_bytes(b"\xff" * _HALF, "big")


def _mac(public: bytes, data: bytes) -> bytes:
    return hashlib.sha256(public + data).digest()


def malleated(signature: bytes) -> bytes:
    """The other valid signature over the same data."""
    second = int.from_bytes(signature[_HALF:], "big") ^ _FLIP
    return signature[:_HALF] + second.to_bytes(_HALF, "big")


class HashScheme:
    """Checks what `HashSigner` made."""

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        if len(signature) != SIGNATURE_BYTES:
            return False
        mac = _mac(public, data)
        if signature[:_HALF] != mac:
            return False
        return signature[_HALF:] == mac or malleated(signature)[_HALF:] == mac


class HashSigner:
    """A key pair named by any text: equal names are equal keys."""

    def __init__(self, name: str) -> None:
        point = hashlib.sha512(b"simulated key\0" + name.encode()).digest()
        self._public = _SPKI_PREFIX + point

    @property
    def public(self) -> bytes:
        return self._public

    def sign(self, data: bytes) -> bytes:
        return _mac(self._public, data) * 2
