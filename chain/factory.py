"""Factory certificates (IEEE 802.1AR IDevID) as vouchers: does a chain lead to a root in genesis?

The signature by the certificate's key is checked in `operations`, where it needs no policy.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise

from cryptography import x509

from chain.keys import CERTIFICATE_FAULTS, digest

__all__ = ["factory_id", "factory_refusal"]

_CHAINS_KEPT_MAX = 4096


def factory_id(spki: bytes) -> bytes:
    """Identifies a factory device for single use: SHA-256 of its IDevID key."""
    return digest(b"m2m/1/factory\0" + spki)


def factory_refusal(chain: tuple[bytes, ...], roots: tuple[bytes, ...], time_us: int) -> str | None:
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
        links = [x509.load_der_x509_certificate(each) for each in chain]
        anchors = [x509.load_der_x509_certificate(each) for each in roots]
    except CERTIFICATE_FAULTS:
        return None
    anchor = next((each for each in anchors if _issued(links[-1], each)), None)
    if anchor is None:
        return None
    links.append(anchor)
    if not all(_issued(child, parent) for child, parent in pairwise(links)):
        return None
    return (
        max(_microseconds(each.not_valid_before_utc) for each in links),
        min(_microseconds(each.not_valid_after_utc) for each in links),
    )


def _issued(child: x509.Certificate, parent: x509.Certificate) -> bool:
    try:
        constraints = parent.extensions.get_extension_for_class(x509.BasicConstraints).value
        child.verify_directly_issued_by(parent)
    except CERTIFICATE_FAULTS:
        return False
    return constraints.ca


def _microseconds(moment: datetime) -> int:
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 1_000_000
