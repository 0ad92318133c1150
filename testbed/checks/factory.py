"""Judges factory certificates a second time, to check that nobody was admitted wrongly.

It is written apart from `chain.ledger.factory` on purpose, so that a mistake there cannot hide
here.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from hashlib import sha256
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chain.genesis import Policy
from chain.ledger.operations import Enrol, Factory

__all__ = ["FactoryRules"]


class FactoryRules:
    """Remembers which identities have been used, and which roots count."""

    def __init__(self, policy: Policy) -> None:
        self._enrolments_max = policy.factory_enrolments_max
        self._roots: dict[bytes, _Root] = {}
        for each in policy.factory_roots:
            self.add_root(each.certificate, each.kinds, each.privilege_max, each.services)
        self._uses: Counter[bytes] = Counter()
        self._barred: set[bytes] = set()

    def add_root(
        self, der: bytes, kinds: tuple[str, ...], privilege_max: int, services: tuple[str, ...]
    ) -> None:
        certificate = x509.load_der_x509_certificate(der)
        name = sha256(der).digest()
        self._roots[name] = _Root(certificate, kinds, privilege_max, services)

    def withdraw_root(self, name: bytes) -> None:
        """`name` is the SHA-256 of the certificate."""
        self._roots.pop(name, None)

    def bar(self, factory: bytes) -> None:
        """`factory` names a factory identity by its key."""
        self._barred.add(factory)

    def wrong(self, operation: Enrol, voucher: Factory, time_us: int) -> str | None:
        """Why this admission should not have happened. Call it for each admission, in order."""
        try:
            links = [x509.load_der_x509_certificate(der) for der in voucher.chain]
            made = (
                links[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            )
            self._uses[made] += 1
            if self._uses[made] > self._enrolments_max:
                return "its factory identity had been used"
            if sha256(b"m2m/1/factory\0" + made).digest() in self._barred:
                return "its factory identity was barred"
            return self._broken(links, operation, datetime.fromtimestamp(time_us // 10**6, UTC))
        except (ValueError, TypeError) as error:
            return f"its factory certificates cannot be read: {error}"

    def _broken(self, links: list[x509.Certificate], operation: Enrol, now: datetime) -> str | None:
        if _is_ca(links[0]):
            return "its factory certificate is a CA's"
        known = next((r for r in self._roots.values() if _signed(links[-1], r.certificate)), None)
        if known is None:
            return "no known manufacturer issued its factory certificate"
        if (
            operation.kind not in known.kinds
            or operation.privilege > known.privilege_max
            or operation.service not in known.services
        ):
            return "factory identities do not grant this"
        root = known.certificate
        for child, parent in zip(links, [*links[1:], root], strict=True):
            if not _is_ca(parent) or not _signed(child, parent):
                return "its factory certificates do not follow from each other"
        for each in (*links, root):
            if not each.not_valid_before_utc <= now <= each.not_valid_after_utc:
                return "a factory certificate was not valid at that time"
        return None


class _Root(NamedTuple):
    certificate: x509.Certificate
    kinds: tuple[str, ...]
    privilege_max: int
    services: tuple[str, ...]


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
