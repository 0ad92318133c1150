"""Factory certificates judged a second time, to check that nobody was admitted wrongly.

Written apart from `chain.ledger.factory` on purpose: a mistake there must not hide itself here.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chain.genesis import Policy
from chain.ledger.operations import Enrol, Factory

__all__ = ["FactoryRules"]


class FactoryRules:
    """Remembers which identities have been used."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._roots = [x509.load_der_x509_certificate(root) for root in policy.factory_roots]
        self._uses: Counter[bytes] = Counter()

    def wrong(self, operation: Enrol, voucher: Factory, time_us: int) -> str | None:
        """Why this admission should not have been. Call it for each, in order."""
        try:
            links = [x509.load_der_x509_certificate(der) for der in voucher.chain]
            made = (
                links[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            )
            self._uses[made] += 1
            if self._uses[made] > self._policy.factory_enrolments_max:
                return "its factory identity had been used"
            if operation.privilege > self._policy.factory_privilege_max:
                return "factory identities do not grant this"
            return self._broken(links, datetime.fromtimestamp(time_us // 10**6, UTC))
        except (ValueError, TypeError) as error:
            return f"its factory certificates cannot be read: {error}"

    def _broken(self, links: list[x509.Certificate], now: datetime) -> str | None:
        if _is_ca(links[0]):
            return "its factory certificate is a CA's"
        root = next((each for each in self._roots if _signed(links[-1], each)), None)
        if root is None:
            return "no known manufacturer issued its factory certificate"
        for child, parent in zip(links, [*links[1:], root], strict=True):
            if not _is_ca(parent) or not _signed(child, parent):
                return "its factory certificates do not follow from each other"
        for each in (*links, root):
            if not each.not_valid_before_utc <= now <= each.not_valid_after_utc:
                return "a factory certificate was out of its time"
        return None


def _is_ca(certificate: x509.Certificate) -> bool:
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.BasicConstraints):
            return extension.value.ca
    return False


def _signed(child: x509.Certificate, parent: x509.Certificate) -> bool:
    try:
        child.verify_directly_issued_by(parent)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
