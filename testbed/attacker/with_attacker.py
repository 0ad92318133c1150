"""The shared part of attacks with an `Attacker`, and of attacks with a relay's login."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from testbed.attacker.attacker import Attacker
from testbed.attacker.forgery import ESCALATIONS, FORGERIES, Hand, Message, made_up
from testbed.campaign.injection import Attack, Scene
from testbed.checks.trials import trial_of

__all__ = ["ATTACKS", "ImpersonateAttack", "WithAttacker"]


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
        """How many an event sends."""
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
    """Sends messages as a relay. Trials are distinguished by their bytes
    (`testbed.checks.trials`)."""

    @abstractmethod
    def messages(self) -> list[Message]:
        """The messages of one attempt, in order."""

    def apply(self) -> None:
        sent = self.messages()
        self.attacker.up_each(sent)
        self.sent(*(trial_of(body, self.attacker.network) for _, _, body in sent))


class SybilAttack(RelayAttack):
    def messages(self) -> list[Message]:
        return [made_up(self.attacker, self.scene.rng) for _ in range(self.batch)]


class HandAttack(RelayAttack):
    """Uses the attacker's own devices and voucher, which he gets before the run."""

    hand: Hand

    def arm(self) -> None:
        super().arm()
        self.hand = Hand.of(self.attacker, self.scene.rng)


class EscalateAttack(HandAttack):
    """Uses an admitted device's own key, and a voucher that does not grant as much."""

    def messages(self) -> list[Message]:
        return [self.hand.one_of(ESCALATIONS) for _ in range(self.batch)]


class ImpersonateAttack(HandAttack):
    """Uses a credential that is not, or no longer, the right one."""

    @property
    def material(self) -> list[str]:
        wanted = self.scene.event.params["material"]
        assert isinstance(wanted, list)
        return [str(each) for each in wanted]

    def messages(self) -> list[Message]:
        """Alternates the materials. The counters rise: a message with a lower one would be refused
        for that."""
        return [
            self.hand.one_of(FORGERIES[material])
            for _ in range(self.batch)
            for material in self.material
        ]


ATTACKS: Mapping[str, type[RelayAttack]] = {
    "device.impersonate": ImpersonateAttack,
    "device.escalate": EscalateAttack,
    "device.sybil": SybilAttack,
}
