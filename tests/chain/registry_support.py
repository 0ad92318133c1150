"""What several tests of the registry share."""

from __future__ import annotations

import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from chain.ledger.operations import Operation, Renew
from chain.ledger.possession import renewal_statement
from chain.pbft.state_machine import Screening, VerifiedRequest
from tests.chain.world import Device, World

RIGHTS: dict[str, Any] = {"privilege": 1, "services": ("telemetry",)}
VOUCHER = {"voucher": bytes(32), "kind": "mobile", "not_after_us": 2**60, **RIGHTS}


def renewal(world: World, old: Device, new: Device, validity_s: int = 3600) -> Renew:
    statement = renewal_statement(world.network, old.node, new.signer.public)
    result: Renew = world.signed(
        Renew,
        old,
        key=new.signer.public,
        validity_s=validity_s,
        possession=new.signer.sign(statement),
    )
    return result


def judged(world: World, request: VerifiedRequest) -> tuple[str | None, Screening]:
    return world.ledger.registry.judge(request), world.ledger.screen(request)


def certificate(subject: str, issuer: str, key: Any, by: Any, ca: bool) -> bytes:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    return builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def by_admins(world: World, kind: type[Operation], /, **fields: Any) -> str:
    """Two administrators order it; the status of the second record."""
    for admin in world.admins[:2]:
        status = world.run(world.signed(kind, admin, **fields), admin).status
    return status
