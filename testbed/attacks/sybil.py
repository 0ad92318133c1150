"""`device.sybil`: a flood of access requests by identities that the attacker made up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from testbed.attacker.equip import log_refusals
from testbed.campaign.injection import Attack, Injection, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.checks.trials import judge_recorded, trial_of

if TYPE_CHECKING:
    from testbed.attacker.attacker import Attacker

__all__ = ["Sybil"]


class Sybil(Params):
    """Ask for access in the name of `batch` made-up identities per event, each with a new key and
    a voucher that nobody issued. What stops them is that a voucher is a right on the chain. One
    admitted identity is a success."""

    batch: int = Field(default=50, ge=1, le=500)


class SybilAttack(Attack):
    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._attacker: Attacker | None = None

    def arm(self) -> None:
        from testbed.attacker.attacker import Attacker  # noqa: PLC0415 - only a run needs it

        self._attacker = Attacker(self.scene.deployment)
        self._attacker.become_relay()

    def apply(self) -> None:
        from testbed.attacker.forgery import made_up  # noqa: PLC0415 - only a run needs it

        attacker, batch = self._attacker, self.scene.event.params["batch"]
        assert attacker is not None, "arm was not called"
        assert isinstance(batch, int)
        sent = [made_up(attacker, self.scene.rng) for _ in range(batch)]
        attacker.up_each(sent)
        self.sent(*(trial_of(body, attacker.network) for _, _, body in sent))

    def close(self) -> None:
        if self._attacker is not None:
            self._attacker.close()


def _make(scene: Scene) -> Injection:
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
