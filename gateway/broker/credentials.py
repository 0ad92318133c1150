"""How a device's broker password travels to the device: sealed for the device's own key.

Nobody else can read it, not even somebody who replays the device's access request. The password
follows from a secret that the gateways share (`security.device_password`).

Sealed: ephemeral P-256 point (65 bytes, uncompressed) | AES-128-GCM(password), with a zero nonce
and the key HKDF-SHA256(ECDH, salt empty, info "m2m/1 password" 0x00 | ephemeral point | SPKI).
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from chain.errors import Misuse, PeerFault
from chain.keys import spki_of

__all__ = ["open_password", "seal_password"]

_POINT_BYTES = 65
_KEY_BYTES = 16
_NONCE = bytes(12)  # each key is used once


def seal_password(password: str, spki: bytes) -> bytes:
    """Seals it for the holder of the P-256 key `spki` (DER)."""
    public = serialization.load_der_public_key(spki)
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise Misuse("the chain certifies P-256 keys only")
    ephemeral = ec.generate_private_key(ec.SECP256R1())
    point = ephemeral.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    key = _key(ephemeral.exchange(ec.ECDH(), public), point, spki)
    return point + AESGCM(key).encrypt(_NONCE, password.encode(), None)


def open_password(sealed: bytes, private: ec.EllipticCurvePrivateKey) -> str:
    """The reverse of `seal_password`. Raises PeerFault("bad-password")."""
    point = sealed[:_POINT_BYTES]
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        key = _key(private.exchange(ec.ECDH(), public), point, spki_of(private.public_key()))
        return AESGCM(key).decrypt(_NONCE, sealed[_POINT_BYTES:], None).decode()
    except (ValueError, InvalidTag) as error:
        raise PeerFault("bad-password", "not sealed for this key") from error


def _key(shared: bytes, point: bytes, spki: bytes) -> bytes:
    info = b"m2m/1 password\0" + point + spki
    return HKDF(hashes.SHA256(), _KEY_BYTES, salt=None, info=info).derive(shared)
