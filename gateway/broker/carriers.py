"""Carrier certificates as a directory that OpenSSL searches at each handshake (`capath`).

For Mosquitto, which reads a file of certificates only when it starts: SIGHUP neither adds nor
removes one (tried with 2.0.11). A directory is searched by the hash of a certificate's subject
whenever one is not known yet, so what is listed here counts from the next handshake on. What was
found once stays known until Mosquitto is started again: a login that was removed is refused by the
password, not by the certificate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from chain.errors import PeerFault
from chain.keys import CERTIFICATE_FAULTS, node_id, spki_of

__all__ = ["spread", "subject_hash"]

_UTF8_STRING, _SEQUENCE, _SET = 0x0C, 0x30, 0x31
_SHORT_MAX = 127  # the length is then one byte


def spread(carriers: Mapping[str, str], directory: Path) -> list[str]:
    """Make the directory hold exactly these (PEM, by node id); answers whose were left out, for
    not being that node's certificate."""
    directory.mkdir(mode=0o700, exist_ok=True)
    wanted: dict[str, str] = {}
    bad = []
    for name, pem in carriers.items():
        try:
            wanted[_file_name(name, pem)] = pem
        except PeerFault:
            bad.append(name)
    for path in directory.iterdir():
        if path.name not in wanted:
            path.unlink()
    for file, pem in wanted.items():
        path = directory / file
        if not path.exists() or path.read_text() != pem:
            fresh = directory / "new"
            fresh.write_text(pem)
            fresh.replace(path)
    return bad


def _file_name(name: str, pem: str) -> str:
    """Raises PeerFault("bad-certificate") unless this is a certificate of the key `name`."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        public = certificate.public_key()
        hashed = subject_hash(certificate.subject)
    except CERTIFICATE_FAULTS as error:
        raise PeerFault("bad-certificate", str(error)) from error
    if not isinstance(public, ec.EllipticCurvePublicKey) or node_id(spki_of(public)).hex() != name:
        raise PeerFault("bad-certificate", "of another key")
    return f"{hashed}.0"


def subject_hash(subject: x509.Name) -> str:
    """What OpenSSL (X509_NAME_hash, `openssl x509 -subject_hash`) looks a certificate up by.

    SHA-1 over the parts of the name, each value as UTF-8, in lower case and with single spaces;
    the first four bytes, little-endian. SHA-1 protects nothing here: names are only found by it.
    Raises ValueError for a name that is longer than carriers have.
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
