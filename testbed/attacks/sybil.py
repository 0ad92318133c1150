"""`device.sybil`: a flood of access requests by identities that the attacker made up."""

from __future__ import annotations

from pydantic import Field

from testbed.attacker.equip import log_refusals
from testbed.campaign.injection import Injection, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.checks.trials import judge_recorded

__all__ = ["Sybil"]


class Sybil(Params):
    """Ask for access in the name of `batch` made-up identities per event, each with a new key and
    a voucher that nobody issued. What stops them is that a voucher is a right on the chain. One
    admitted identity is a success."""

    batch: int = Field(default=50, ge=1, le=500)


def _make(scene: Scene) -> Injection:
    from testbed.attacker.with_attacker import SybilAttack  # noqa: PLC0415 - only a run needs it

    return SybilAttack(scene)


register(
    Kind(
        "device.sybil",
        Sybil,
        category="attack",
        layer="identity",
        summary="many made-up identities ask for access with vouchers that nobody issued",
        mechanisms=(Mechanism("relay", _make, equip=log_refusals),),
        judge=judge_recorded,
        seen="the gateway logs each message",
    )
)
