"""What attacks that have an `Attacker` share, and those that send messages with a relay's login."""

from __future__ import annotations

from abc import abstractmethod

from testbed.attacker.attacker import Attacker
from testbed.attacker.forgery import escalation, forged, made_up
from testbed.attacker.puppet import Puppet
from testbed.campaign.injection import Attack, Scene
from testbed.checks.trials import trial_of
from testbed.provision.material import Voucher

__all__ = ["EscalateAttack", "ImpersonateAttack", "RelayAttack", "SybilAttack", "WithAttacker"]

EXPIRED_AFTER_S = 1
Message = tuple[str, str, bytes]
"""(device, kind, body)"""


class WithAttacker(Attack):
    """He has a relay's login, from `arm` to `close`."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._attacker: Attacker | None = None

    @property
    def attacker(self) -> Attacker:
        assert self._attacker is not None, "arm was not called"
        return self._attacker

    @property
    def batch(self) -> int:
        """So many per event."""
        batch = self.scene.event.params["batch"]
        assert isinstance(batch, int)
        return batch

    def arm(self) -> None:
        self._attacker = Attacker(self.scene.deployment)
        self.attacker.become_relay()

    def close(self) -> None:
        if self._attacker is not None:
            self._attacker.close()


class RelayAttack(WithAttacker):
    """Sends messages as a relay. A trial is told apart by its bytes (`testbed.checks.trials`)."""

    @abstractmethod
    def messages(self) -> list[Message]:
        """Those of one attempt, in order."""

    def apply(self) -> None:
        sent = self.messages()
        self.attacker.up_each(sent)
        self.sent(*(trial_of(body, self.attacker.network) for _, _, body in sent))


class SybilAttack(RelayAttack):
    def messages(self) -> list[Message]:
        return [made_up(self.attacker, self.scene.rng) for _ in range(self.batch)]


class EscalateAttack(RelayAttack):
    """With an admitted device's own key, and a voucher that is good for less."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._has: tuple[Puppet, Voucher] | None = None

    def arm(self) -> None:
        super().arm()
        self._has = self.attacker.admitted(), self.attacker.voucher()

    def messages(self) -> list[Message]:
        assert self._has is not None, "arm was not called"
        device, voucher = self._has
        rng = self.scene.rng
        return [escalation(device, voucher, self.attacker, rng) for _ in range(self.batch)]


class ImpersonateAttack(RelayAttack):
    """By what is not, or no longer, the right credential."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._has: dict[str, Puppet] = {}

    @property
    def material(self) -> list[str]:
        wanted = self.scene.event.params["material"]
        assert isinstance(wanted, list)
        return [str(each) for each in wanted]

    def arm(self) -> None:
        """He comes by what he has: before the run, since time must pass until it is worthless."""
        super().arm()
        attacker, wanted = self.attacker, self.material
        self._has["victim"] = attacker.admitted()
        if "expired" in wanted:
            self._has["expired"] = attacker.admitted(validity_s=EXPIRED_AFTER_S)
        if "revoked" in wanted:
            self._has["revoked"] = attacker.revoked()

    def messages(self) -> list[Message]:
        """In turn, and in the order of their counters: a late one would be refused for its
        counter."""
        return [
            forged(material, self._has, self.attacker, self.scene.rng)
            for _ in range(self.batch)
            for material in self.material
        ]
