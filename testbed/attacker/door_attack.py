"""What attacks at the broker's door share: an admitted device of the attacker's, and knocks."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.broker.security import User
from testbed.attacker.door import Act, knock
from testbed.attacker.with_attacker import WithAttacker
from testbed.campaign.injection import Scene

__all__ = ["DoorAttack", "Knock"]

ANSWER_S_MAX = 5.0

Knock = tuple[str, User, str, Act | None]
"""What is tried, with which login, under which client id, and what is done once inside."""


class DoorAttack(WithAttacker):
    """`knocks` says what is tried in one attempt."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._login: User | None = None
        self._tried = 0

    @property
    def login(self) -> User:
        """Of an admitted device of his."""
        assert self._login is not None, "arm was not called"
        return self._login

    @property
    def victims(self) -> list[str]:
        """The node ids of the lab's devices."""
        return [
            str(event["id"])
            for view in self.scene.watch.devices
            for event in list(view.events)
            if event["event"] == "started"
        ]

    def arm(self) -> None:
        super().arm()
        self._login = self.attacker.login_of(self.attacker.admitted())

    def knocks(self) -> Iterable[Knock]:
        raise NotImplementedError

    def apply(self) -> None:
        for what, user, client_id, act in self.knocks():
            if self.scene.stop.is_set():
                return
            knocked = knock(self.scene.deployment, user, client_id, act, ANSWER_S_MAX)
            self._tried += 1
            self.sent(knocked.trial(what, self._tried))
