"""`device.escalate`: an admitted device asks for rights that it does not have."""

from __future__ import annotations

from pydantic import Field

from testbed.attacker.equip import log_refusals
from testbed.campaign.injection import Injection, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.checks.trials import judge_recorded

__all__ = ["Escalate"]


class Escalate(Params):
    """With an admitted device's own key, ask for a higher privilege for itself, a voucher for a
    friend, or the revocation of another device; also ask for access with a privilege above the
    voucher's. `batch` of them per event, drawn by the seed. One record that takes effect is a
    success."""

    batch: int = Field(default=10, ge=1, le=500)


def _make(scene: Scene) -> Injection:
    from testbed.attacker.with_attacker import EscalateAttack  # noqa: PLC0415 - only a run needs it

    return EscalateAttack(scene)


register(
    Kind(
        "device.escalate",
        Escalate,
        category="attack",
        layer="identity",
        summary="an admitted device asks for privileges, vouchers and revocations without a right",
        mechanisms=(Mechanism("relay", _make, equip=log_refusals),),
        judge=judge_recorded,
        seen="the gateway logs each message",
    )
)
