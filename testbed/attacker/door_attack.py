"""The shared part of attacks at the broker's door: the attacker's admitted device, and knocks."""

from __future__ import annotations

from abc import abstractmethod
from random import Random
from typing import NamedTuple

from gateway.broker.security import User
from testbed.attacker.door import Act, knock
from testbed.attacker.with_attacker import WithAttacker
from testbed.campaign.injection import Scene

__all__ = ["DoorAttack", "DoorTarget", "Knock"]

ANSWER_S_MAX = 5.0


class Knock(NamedTuple):
    """What is tried, with which login and client id. `act` is done once he is connected."""

    what: str
    user: User
    client_id: str
    act: Act | None


class DoorTarget(NamedTuple):
    """Where he knocks. `login` is that of his own admitted device, `victim` the node id of a lab's
    device."""

    net: str
    login: User
    victim: str
    rng: Random


class DoorAttack(WithAttacker):
    """Each knock is one of `ways`, against one of the lab's devices."""

    _login: User

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._tried = 0

    @staticmethod
    @abstractmethod
    def ways(at: DoorTarget) -> list[Knock]:
        """What can be tried."""

    def arm(self) -> None:
        super().arm()
        self._login = self.attacker.login_of(self.attacker.admitted())

    def apply(self) -> None:
        rng = self.scene.rng
        for _ in range(self.batch):
            if self.scene.stop.is_set():
                return
            at = DoorTarget(self.attacker.net, self._login, rng.choice(self._victims), rng)
            what, user, client_id, act = rng.choice(self.ways(at))
            knocked = knock(self.scene.deployment, user, client_id, act, ANSWER_S_MAX)
            self._tried += 1
            self.sent(knocked.trial(what, self._tried))

    @property
    def _victims(self) -> list[str]:
        """The node ids of the lab's devices."""
        return [
            str(event["id"])
            for view in self.scene.watch.devices
            for event in view.logged("started")
        ]
