"""Carrier certificates in a directory that OpenSSL searches at each handshake (`capath`).

Mosquitto reads a file of certificates only when it starts, and SIGHUP neither adds nor removes one
(tried with 2.0.11). OpenSSL searches a directory by the hash of the certificate's subject whenever
it does not know the certificate yet. So a certificate listed here is accepted from the next
handshake on. OpenSSL keeps a certificate that it has found once: `mosquitto` starts Mosquitto again
when one was removed.

Every file holds exactly one certificate, encoded again: OpenSSL would trust a second one too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chain.errors import PeerFault
from chain.keys import node_id, spki_of
from gateway.refusing import refusing

__all__ = ["certificate_of", "spread", "subject_hash"]

_UTF8_STRING, _SEQUENCE, _SET = 0x0C, 0x30, 0x31
_SHORT_MAX = 127  # the length is then one byte


def spread(carriers: Mapping[str, str], directory: Path) -> tuple[bool, list[str]]:
    """Makes the directory hold exactly these certificates (PEM, by node id).

    Returns whether one was removed or replaced, and the node ids whose certificate has another key.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    wanted: dict[str, str] = {}
    bad = []
    for name, pem in carriers.items():
        try:
            certificate = _read(name, pem.encode())
            with refusing():
                wanted[f"{subject_hash(certificate.subject)}.0"] = _pem(certificate)
        except PeerFault:
            bad.append(name)
    removed = False
    for path in directory.iterdir():
        if path.name not in wanted:
            path.unlink()
            removed = True
    for file, pem in wanted.items():
        path = directory / file
        if not path.exists() or path.read_text() != pem:
            removed |= path.exists()
            fresh = directory / "new"
            fresh.write_text(pem)
            fresh.replace(path)
    return removed, bad


def certificate_of(node: str, pem: bytes) -> str:
    """The first certificate in `pem`, encoded again, without any other content.

    Raises PeerFault unless it is a certificate of the key of `node`.
    """
    return _pem(_read(node, pem))


def _read(node: str, pem: bytes) -> x509.Certificate:
    with refusing():
        certificate = x509.load_pem_x509_certificate(pem)
        key = certificate.public_key()
        if isinstance(key, ec.EllipticCurvePublicKey) and node_id(spki_of(key)).hex() == node:
            return certificate
    raise PeerFault("bad-certificate", "of another key")


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def subject_hash(subject: x509.Name) -> str:
    """The hash by which OpenSSL finds a certificate (`openssl x509 -subject_hash`).

    The first four bytes, little-endian, of SHA-1 over the parts of the name. Each value is UTF-8,
    in lower case, with single spaces. SHA-1 protects nothing here, it only finds names. Raises
    ValueError for a name that is longer than those of carriers.
    """
    canonical = b"".join(_canonical(each) for each in subject)
    return hashlib.sha1(canonical).digest()[3::-1].hex()  # noqa: S324


def _canonical(part: x509.NameAttribute[str | bytes]) -> bytes:
    # SEQUENCE { SET { SEQUENCE { OID, value } } }, each with two bytes of tag and length.
    der = x509.Name([part]).public_bytes()
    oid = der[6 : 8 + der[7]]
    text = " ".join(str(part.value).lower().split()).encode()
    value = _der(_UTF8_STRING, text)
    return _der(_SET, _der(_SEQUENCE, oid + value))


def _der(tag: int, contents: bytes) -> bytes:
    if len(contents) > _SHORT_MAX:
        raise ValueError(f"{len(contents)} bytes in a name")
    return bytes((tag, len(contents))) + contents
