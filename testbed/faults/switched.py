"""Faults by the switch of replicas' processes (`switch`), except lies (`byzantine`)."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import Any

from inventory.model import Lab
from testbed.campaign.injection import Scene
from testbed.campaign.kinds import Mechanism
from testbed.faults.processes import ProcessFault
from testbed.faults.switch import Order, equip
from testbed.hosts.port import NodeCommand
from testbed.provision.layout import Node

__all__ = ["SwitchFault", "by_switch"]


def _only_replicas(lab: Lab, hosts: tuple[str, ...]) -> str | None:
    """Why the fault does not fit these hosts: only replicas have it. None if it fits."""
    if any(name in lab.replicas() for name in hosts):
        return None
    return f"{', '.join(hosts)}: no replica"


def by_switch(fault: type[SwitchFault]) -> Mechanism:
    """The mechanism of a fault of replicas."""
    return Mechanism("switch", fault, available=_only_replicas, equip=equip, systems=("chain",))


class SwitchFault(ProcessFault):
    """A fault by one order at `seam` for each hit process."""

    seam: str
    undo_name = "order"

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._seen: dict[str, int] = {}
        self._since_s = 0.0

    @abstractmethod
    def order(self, node: Node) -> dict[str, object]:
        """The order for one process."""

    def undo(self, node: Node) -> NodeCommand | None:
        """None: each order arms its own undo."""
        return None

    def arm(self) -> None:
        for node in self.scene.candidates("on"):
            Order(self.scene, node, self.seam).arm()

    def apply(self) -> None:
        watch = self.scene.watch
        self._seen = {view.name: view.counts.total() for view in watch.replicas}
        self._since_s = time.monotonic()
        super().apply()

    def strike(self, node: Node) -> None:
        Order(self.scene, node, self.seam).give(self.order(node))

    def repair(self, node: Node) -> None:
        Order(self.scene, node, self.seam).take_back()

    def close(self) -> None:
        for node in self.scene.candidates("on"):
            Order(self.scene, node, self.seam).let_go()

    def verify(self, within_s: float) -> bool:
        gone = all(Order(self.scene, node, self.seam).gone(within_s) for node in self.hit)
        return gone and super().verify(within_s)

    @property
    def since_s(self) -> float:
        """Seconds since the order."""
        return time.monotonic() - self._since_s

    @property
    def others(self) -> list[Node]:
        """The replicas that were not hit."""
        replicas = self.scene.deployment.with_role("replica")
        return [node for node in replicas if node not in self.hit]

    def events(self, node: Node, kind: str) -> list[dict[str, Any]]:
        """The newest events of a process."""
        return [each for each in list(self._view(node).events) if each["event"] == kind]

    def new_events(self, node: Node, kind: str) -> list[dict[str, Any]]:
        """The same, but only since the order."""
        new = self._view(node).counts.total() - self._seen[node.name]
        lines = list(self._view(node).events)[-new:] if new else []
        return [each for each in lines if each["event"] == kind]

    def _view(self, node: Node) -> Any:
        return self.scene.watch.nodes[node.name]
