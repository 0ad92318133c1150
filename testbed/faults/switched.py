"""Faults by the switch of a process (`switch`)."""

from __future__ import annotations

from abc import abstractmethod

from inventory.model import Lab
from testbed.campaign.kinds import Mechanism
from testbed.faults.processes import ProcessFault
from testbed.faults.switch import SwitchOrder, equip
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

    @abstractmethod
    def order(self, node: Node) -> dict[str, object]:
        """The order for one process."""

    def undo(self, node: Node) -> NodeCommand | None:
        """None: each order arms its own undo."""
        return None

    def arm(self) -> None:
        for node in self.candidates():
            self._order_to(node).arm()

    def strike(self, node: Node) -> None:
        self._order_to(node).give(self.order(node))

    def repair(self, node: Node) -> None:
        self._order_to(node).take_back()

    def close(self) -> None:
        for node in self.candidates():
            self._order_to(node).let_go()

    def verify(self, within_s: float) -> bool:
        gone = all(self._order_to(node).gone(within_s) for node in self.hit)
        return gone and super().verify(within_s)

    def _order_to(self, node: Node) -> SwitchOrder:
        return SwitchOrder(self.scene, node, self.seam)
