"""Factory certificates (IEEE 802.1AR IDevID) as vouchers: does a chain lead to a root in genesis?

The signature by the certificate's key is checked in `operations`, where it needs no policy.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise

from cryptography import x509

from chain.keys import CERTIFICATE_FAULTS, digest
from chain.ledger.reasons import Reason

__all__ = ["factory_id", "factory_refusal"]

_CHAINS_KEPT_MAX = 4096
# Extensions that may be critical, because they are heeded here or say nothing about this use.
_UNDERSTOOD = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
)


def factory_id(spki: bytes) -> bytes:
    """Identifies a factory device for single use: SHA-256 of its IDevID key."""
    return digest(b"m2m/1/factory\0" + spki)


def factory_refusal(
    chain: tuple[bytes, ...], roots: tuple[bytes, ...], time_us: int
) -> Reason | None:
    """Why the chain does not vouch at `time_us`, as a short stable word; None if it does."""
    span = _validity(chain, roots)
    if span is None:
        return "factory-chain"
    if time_us < span[0]:
        return "factory-early"
    return None if time_us <= span[1] else "factory-expired"


@lru_cache(maxsize=_CHAINS_KEPT_MAX)
def _validity(chain: tuple[bytes, ...], roots: tuple[bytes, ...]) -> tuple[int, int] | None:
    """When all certificates up to a root are valid, in microseconds; None for a bad chain."""
    try:
        links = [_strict(each) for each in chain]
        anchors = [x509.load_der_x509_certificate(each) for each in roots]
        anchor = next((each for each in anchors if _issued(links[-1], each)), None)
        if anchor is None:
            return None
        links.append(anchor)
        sound = all(_issued(child, parent) for child, parent in pairwise(links))
        if not sound or not _is_path(links):
            return None
    except CERTIFICATE_FAULTS:
        return None
    return (
        max(_microseconds(each.not_valid_before_utc) for each in links),
        min(_microseconds(each.not_valid_after_utc) for each in links),
    )


def _strict(der: bytes) -> x509.Certificate:
    """The library accepts unused bits in the signature's BIT STRING. DER signatures have none."""
    certificate = x509.load_der_x509_certificate(der)
    if der[-len(certificate.signature) - 1] != 0:
        raise ValueError("unused bits in a signature")
    return certificate


def _issued(child: x509.Certificate, parent: x509.Certificate) -> bool:
    try:
        child.verify_directly_issued_by(parent)
    except CERTIFICATE_FAULTS:
        return False
    return True


def _is_path(links: list[x509.Certificate]) -> bool:
    """RFC 5280, section 6.1.4: who may be where, from the device's certificate up to the root.

    IEEE 802.1AR, section 8: an IDevID is an end entity's. One that is a CA could make more.
    Raises one of CERTIFICATE_FAULTS for an extension that cannot be read.
    """
    if any(_is_unknown(extension) for each in links for extension in each.extensions):
        return False
    device, *authorities = links
    basic = _basic(device)
    return (basic is None or not basic.ca) and all(
        _may_issue(each, below) for below, each in enumerate(authorities)
    )


def _is_unknown(extension: x509.Extension[x509.ExtensionType]) -> bool:
    return extension.critical and not isinstance(extension.value, _UNDERSTOOD)


def _may_issue(certificate: x509.Certificate, below: int) -> bool:
    """With `below` authorities between it and the device."""
    basic = _basic(certificate)
    usage = [e.value for e in certificate.extensions if isinstance(e.value, x509.KeyUsage)]
    return (
        basic is not None
        and basic.ca
        and (basic.path_length is None or basic.path_length >= below)
        and all(each.key_cert_sign for each in usage)
    )


def _basic(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    found = (e.value for e in certificate.extensions if isinstance(e.value, x509.BasicConstraints))
    return next(found, None)


def _microseconds(moment: datetime) -> int:
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 1_000_000
