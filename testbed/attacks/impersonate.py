"""Impersonation: somebody acts as a device with a credential that is not, or no longer, the right
one.

He has a relay's login, so nothing at the broker stops him. One record that takes effect is a
success. The judge looks for exactly the bytes that he sent: `testbed.checks.trials`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from testbed.attacker.equip import log_refusals
from testbed.campaign.injection import Injection, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.checks.trials import judge_recorded

__all__ = ["Impersonate"]

Means = Literal["self-made", "stolen-id", "expired", "revoked", "wrong-purpose"]


class Impersonate(Params):
    """Act as another device. `material` is what the attacker has: `self-made` keys and vouchers
    that nobody issued; `stolen-id`, the id of an admitted device, with a signature by his own key;
    the key of an `expired` or of a `revoked` device; or an admitted device's key used for the
    `wrong-purpose`: another service, board, or administration. Each message differs in key, counter
    or content, drawn by the seed. An event sends `batch` of each material."""

    material: tuple[Means, ...] = Field(
        default=("self-made", "stolen-id", "expired", "revoked", "wrong-purpose"),
        min_length=1,
        json_schema_extra={"uniqueItems": True},
    )
    batch: int = Field(default=10, ge=1, le=500)


def _make(scene: Scene) -> Injection:
    from testbed.attacker.with_attacker import ImpersonateAttack  # noqa: PLC0415 - only a run needs it

    return ImpersonateAttack(scene)


register(
    Kind(
        "device.impersonate",
        Impersonate,
        category="attack",
        layer="identity",
        summary="acts as a device with a made-up, stolen, expired, revoked or misused credential",
        mechanisms=(Mechanism("relay", _make, equip=log_refusals),),
        judge=judge_recorded,
        seen="the gateway logs each message",
    )
)
