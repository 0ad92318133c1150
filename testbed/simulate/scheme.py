"""The signatures of a run: a cheap scheme for simulation, or the product's ES256.

The cheap one is keyed SHA-256 instead of an elliptic curve.

It implements `chain.keys.Scheme` and `Signer` and passes the same conformance suite as ES256
(`tests/testbed/test_simulate_scheme.py`), malleability included: like (r, s) and (r, n-s), each
statement has two valid signatures. So the simulator finds code that uses a signature as an
identifier. Anybody who knows the public key could forge a signature, but the simulated adversaries
do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from chain.keys import SIGNATURE_BYTES, Es256, Es256Signer, Scheme, Signer

__all__ = [
    "CHEAP",
    "CLIENT_CHECKS",
    "REAL",
    "Meter",
    "MeteredSigner",
    "Signatures",
]

# The cost of checking a client's signature, in checks of replicas' signatures. It is so high
# because a run's batches are so much smaller than those of a loaded network.
CLIENT_CHECKS = 64

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
    """A key pair from any text: equal texts give equal keys."""

    def __init__(self, name: str) -> None:
        point = hashlib.sha512(b"simulated key\0" + name.encode()).digest()
        self.public = _SPKI_PREFIX + point

    def sign(self, data: bytes) -> bytes:
        return _mac(self.public, data) * 2


class Meter:
    """A scheme that counts its checks. `checks` is the work of a slow processor, in checks of a
    replica's signature. The product does not check again what it remembers."""

    def __init__(self, scheme: Scheme, replicas: frozenset[bytes]) -> None:
        """`replicas`: the public keys of every replica of the run, joiners included."""
        self.of_replicas = 0
        self.of_clients = 0
        self._scheme = scheme
        self._replicas = replicas

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        if public in self._replicas:
            self.of_replicas += 1
        else:
            self.of_clients += 1
        return self._scheme.verify(public, data, signature)

    @property
    def count(self) -> int:
        return self.of_replicas + self.of_clients

    @property
    def checks(self) -> int:
        return self.of_replicas + CLIENT_CHECKS * self.of_clients


class MeteredSigner:
    """A signer that counts its signatures."""

    def __init__(self, signer: Signer) -> None:
        self.signed = 0
        self.public = signer.public
        self._signer = signer

    def sign(self, data: bytes) -> bytes:
        self.signed += 1
        return self._signer.sign(data)


class Signatures(NamedTuple):
    """A scheme, with keys by name and the other form of a signature, for runs."""

    scheme: Scheme
    signer: Callable[[str], Signer]
    other_form: Callable[[bytes], bytes]


_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def _es256_signer(name: str) -> Signer:
    secret = int.from_bytes(hashlib.sha256(b"simulated key\0" + name.encode()).digest(), "big")
    return Es256Signer(ec.derive_private_key(secret % (_P256_ORDER - 1) + 1, ec.SECP256R1()))


def _negated(signature: bytes) -> bytes:
    """(r, n-s) is valid if (r, s) is."""
    s = int.from_bytes(signature[_HALF:], "big")
    return signature[:_HALF] + (_P256_ORDER - s).to_bytes(_HALF, "big")


CHEAP = Signatures(HashScheme(), HashSigner, malleated)
REAL = Signatures(Es256(), _es256_signer, _negated)
