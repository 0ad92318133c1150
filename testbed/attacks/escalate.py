"""`device.escalate`: an admitted device asks for rights that it does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from testbed.attacker.equip import log_refusals
from testbed.campaign.injection import Attack, Injection, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.checks.trials import judge_recorded, trial_of

if TYPE_CHECKING:
    from testbed.attacker.attacker import Attacker
    from testbed.attacker.puppet import Puppet
    from testbed.provision.material import Voucher

__all__ = ["Escalate"]


class Escalate(Params):
    """Ask for more, with an admitted device's own key: a higher privilege for itself, a voucher
    for a friend, the end of another device; and access with a privilege above the voucher's.
    `batch` of them per event, drawn by the seed. One record that takes effect is a success."""

    batch: int = Field(default=10, ge=1, le=500)


class EscalateAttack(Attack):
    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._attacker: Attacker | None = None
        self._device: Puppet | None = None
        self._voucher: Voucher | None = None

    def arm(self) -> None:
        from testbed.attacker.attacker import Attacker  # noqa: PLC0415 - only a run needs it

        attacker = self._attacker = Attacker(self.scene.deployment)
        attacker.become_relay()
        self._device, self._voucher = attacker.admitted(), attacker.voucher()

    def apply(self) -> None:
        from testbed.attacker.forgery import escalation  # noqa: PLC0415 - only a run needs it

        attacker, device, voucher = self._attacker, self._device, self._voucher
        assert attacker is not None, "arm was not called"
        assert device is not None, "arm was not called"
        assert voucher is not None, "arm was not called"
        batch = self.scene.event.params["batch"]
        assert isinstance(batch, int)
        sent = [escalation(device, voucher, attacker, self.scene.rng) for _ in range(batch)]
        attacker.up_each(sent)
        self.sent(*(trial_of(body, attacker.network) for _, _, body in sent))

    def close(self) -> None:
        if self._attacker is not None:
            self._attacker.close()


def _make(scene: Scene) -> Injection:
    return EscalateAttack(scene)


register(
    Kind(
        "device.escalate",
        Escalate,
        category="attack",
        layer="identity",
        summary="an admitted device asks for privileges, vouchers and ends that are not its right",
        mechanisms=(Mechanism("relay", _make, equip=log_refusals),),
        judge=judge_recorded,
        seen="the gateway logs each message",
    )
)
