"""Factory certificates (IEEE 802.1AR IDevID) as vouchers: does a chain lead to a known root?

The signature by the certificate's key is checked in `operations`, where it needs no policy.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from cryptography import x509

from chain.keys import CERTIFICATE_FAULTS, digest
from chain.ledger.reasons import Reason

__all__ = ["Path", "factory_id", "is_root", "path_of"]

_CHAINS_KEPT_MAX = 4096
# Extensions that may be critical: they are checked here, or do not matter for this use.
_UNDERSTOOD = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
)


def factory_id(spki: bytes) -> bytes:
    """Identifies a factory device for single use: SHA-256 of its IDevID key."""
    return digest(b"m2m/1/factory\0" + spki)


def is_root(certificate: bytes) -> bool:
    """Whether devices' chains could lead to this certificate: it may issue others."""
    try:
        return _may_issue(_parse_strictly(certificate), 0)
    except CERTIFICATE_FAULTS:
        return False


class Path(NamedTuple):
    """A sound chain to `root`: all its certificates are valid between these times."""

    root: bytes
    not_before_us: int
    not_after_us: int

    def refusal(self, time_us: int) -> Reason | None:
        """Why it does not vouch at this time; None if it does."""
        if time_us < self.not_before_us:
            return "factory-early"
        return None if time_us <= self.not_after_us else "factory-expired"


@lru_cache(maxsize=_CHAINS_KEPT_MAX)
def path_of(chain: tuple[bytes, ...], roots: tuple[bytes, ...]) -> Path | None:
    """The path from a device to one of these roots; None if the chain is not sound."""
    try:
        links = [_parse_strictly(each) for each in chain]
        anchors = {each: x509.load_der_x509_certificate(each) for each in roots}
        root = next((each for each, anchor in anchors.items() if _issued(links[-1], anchor)), None)
        if root is None:
            return None
        links.append(anchors[root])
        sound = all(_issued(child, parent) for child, parent in pairwise(links))
        if not sound or not _is_path(links):
            return None
        return Path(
            root,
            max(_microseconds(each.not_valid_before_utc) for each in links),
            min(_microseconds(each.not_valid_after_utc) for each in links),
        )
    except CERTIFICATE_FAULTS:  # also for a year that Python's datetime cannot hold
        return None


def _parse_strictly(der: bytes) -> x509.Certificate:
    """Parses more strictly than the library. The library accepts unused bits in the signature's BIT
    STRING; DER signatures have none. It accepts serial numbers below 1, which RFC 5280, section
    4.1.2.2, forbids; a later version will refuse them. Replicas must agree, with any version of the
    library."""
    certificate = x509.load_der_x509_certificate(der)
    if der[-len(certificate.signature) - 1] != 0:
        raise ValueError("unused bits in a signature")
    if certificate.serial_number < 1:
        raise ValueError("a serial number below 1")
    return certificate


def _issued(child: x509.Certificate, parent: x509.Certificate) -> bool:
    try:
        child.verify_directly_issued_by(parent)
    except CERTIFICATE_FAULTS:
        return False
    return True


def _is_path(links: list[x509.Certificate]) -> bool:
    """RFC 5280, section 6.1.4: the order of certificates, from the device's up to the root.

    IEEE 802.1AR, section 8: an IDevID belongs to an end entity. A CA could issue more.
    Raises one of CERTIFICATE_FAULTS for an extension that cannot be read.
    """
    if any(_is_unknown(extension) for each in links for extension in each.extensions):
        return False
    device, *authorities = links
    basic = _basic_constraints(device)
    return (basic is None or not basic.ca) and all(
        _may_issue(each, below) for below, each in enumerate(authorities)
    )


def _is_unknown(extension: x509.Extension[x509.ExtensionType]) -> bool:
    return extension.critical and not isinstance(extension.value, _UNDERSTOOD)


def _may_issue(certificate: x509.Certificate, below: int) -> bool:
    """Whether it may issue, with `below` authorities between it and the device."""
    basic = _basic_constraints(certificate)
    usage = [e.value for e in certificate.extensions if isinstance(e.value, x509.KeyUsage)]
    return (
        basic is not None
        and basic.ca
        and (basic.path_length is None or basic.path_length >= below)
        and all(each.key_cert_sign for each in usage)
    )


def _basic_constraints(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    found = (e.value for e in certificate.extensions if isinstance(e.value, x509.BasicConstraints))
    return next(found, None)


def _microseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000
