"""Impersonation: somebody acts as a device with what is not, or no longer, the right credential.

He has a relay's login, so nothing at the broker stops him. One record that takes effect is a
success. Judged by the very bytes that he sent: `testbed.checks.trials`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from testbed.attacker.equip import log_refusals
from testbed.campaign.injection import Attack, Injection, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.checks.trials import judge_recorded, trial_of

if TYPE_CHECKING:
    from testbed.attacker.attacker import Attacker
    from testbed.attacker.puppet import Puppet

__all__ = ["Impersonate"]

Means = Literal["self-made", "stolen-id", "expired", "revoked", "wrong-purpose"]
EXPIRED_AFTER_S = 1


class Impersonate(Params):
    """Act as a device that one is not. `material` is what the attacker has: `self-made` keys and
    vouchers that nobody issued; `stolen-id`, the id of an admitted device, signed for with a key
    of his own; the key of an `expired` or of a `revoked` device; or an admitted device's key used
    for the `wrong-purpose`: another service, board, or administration. Each message differs in
    key, counter or content, by the seed. An event sends `batch` of each material."""

    material: tuple[Means, ...] = Field(
        default=("self-made", "stolen-id", "expired", "revoked", "wrong-purpose"),
        min_length=1,
        json_schema_extra={"uniqueItems": True},
    )
    batch: int = Field(default=10, ge=1, le=500)


class ImpersonateAttack(Attack):
    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._attacker: Attacker | None = None
        self._has: dict[str, Puppet] = {}

    def arm(self) -> None:
        """He comes by what he has: before the run, since time must pass until it is worthless."""
        from testbed.attacker.attacker import Attacker  # noqa: PLC0415 - only a run needs it

        attacker = self._attacker = Attacker(self.scene.deployment)
        attacker.become_relay()
        wanted = self._wanted()
        self._has["victim"] = attacker.admitted()
        if "expired" in wanted:
            self._has["expired"] = attacker.admitted(validity_s=EXPIRED_AFTER_S)
        if "revoked" in wanted:
            self._has["revoked"] = attacker.revoked()

    def apply(self) -> None:
        attacker = self._attacker
        assert attacker is not None, "arm was not called"
        count = self.scene.event.params["batch"]
        assert isinstance(count, int)
        # In turn, and in the order of their counters: a late one would be refused for its counter.
        sent = [self._make(material) for _ in range(count) for material in self._wanted()]
        attacker.up_each(sent)
        self.sent(*(trial_of(body, attacker.network) for _, _, body in sent))

    def close(self) -> None:
        if self._attacker is not None:
            self._attacker.close()

    def _wanted(self) -> list[str]:
        wanted = self.scene.event.params["material"]
        assert isinstance(wanted, list)
        return [str(each) for each in wanted]

    def _make(self, material: str) -> tuple[str, str, bytes]:
        """(device, kind, body) of one message."""
        from testbed.attacker.forgery import forged  # noqa: PLC0415 - only a run needs it

        assert self._attacker is not None
        return forged(material, self._has, self._attacker, self.scene.rng)


def _make(scene: Scene) -> Injection:
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
