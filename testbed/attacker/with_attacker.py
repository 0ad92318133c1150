"""What attacks that have an `Attacker` share, and those that send messages with a relay's login."""

from __future__ import annotations

from abc import abstractmethod

from testbed.attacker.attacker import Attacker
from testbed.attacker.forgery import ESCALATIONS, FORGERIES, Hand, Message, made_up
from testbed.campaign.injection import Attack, Scene
from testbed.checks.trials import trial_of

__all__ = ["EscalateAttack", "ImpersonateAttack", "RelayAttack", "SybilAttack", "WithAttacker"]


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


class HandAttack(RelayAttack):
    """With devices and a voucher of his own, from before the run."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._hand: Hand | None = None

    @property
    def hand(self) -> Hand:
        assert self._hand is not None, "arm was not called"
        return self._hand

    def arm(self) -> None:
        super().arm()
        self._hand = Hand.of(self.attacker, self.scene.rng)


class EscalateAttack(HandAttack):
    """With an admitted device's own key, and a voucher that is good for less."""

    def messages(self) -> list[Message]:
        return [self.hand.one_of(ESCALATIONS) for _ in range(self.batch)]


class ImpersonateAttack(HandAttack):
    """By what is not, or no longer, the right credential."""

    @property
    def material(self) -> list[str]:
        wanted = self.scene.event.params["material"]
        assert isinstance(wanted, list)
        return [str(each) for each in wanted]

    def messages(self) -> list[Message]:
        """In turn, and in the order of their counters: a late one would be refused for its
        counter."""
        return [
            self.hand.one_of(FORGERIES[material])
            for _ in range(self.batch)
            for material in self.material
        ]
