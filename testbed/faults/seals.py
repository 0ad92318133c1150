"""`byzantine.false-seal`: a replica that lies only to gateways."""

from __future__ import annotations

from collections import Counter

from nodes.switch.seals import SEAM
from testbed.campaign.injection import Seen
from testbed.campaign.kinds import Kind, Mechanism, register, those
from testbed.faults.byzantine import Lie
from testbed.faults.switch import equip
from testbed.faults.switched import SwitchFault
from testbed.provision.layout import Node

__all__ = ["FalseSealFault"]


class FalseSeal(Lie):
    """Sends gateways well-signed seals of blocks that do not exist. A gateway believes only what
    f+1 replicas say, so f liars deceive no gateway."""


class FalseSealFault(SwitchFault):
    """Seen when a gateway has two heads of one height from the liar, or one that contradicts a
    final block."""

    seam = SEAM

    def order(self, node: Node) -> dict[str, object]:
        return {}

    def observe(self, within_s: float) -> Seen | None:
        if not self.scene.watch.wait_for(lambda: all(self._caught().values()), within_s):
            return None
        return Seen("a gateway holds seals of the liar that contradict others", self._caught())

    def _caught(self) -> dict[str, int]:
        """How many contradictions gateways logged, by liar."""
        conflicts = Counter(
            event["replica"]
            for gateway in self.scene.deployment.with_role("gateway")
            for event in self.since.logged(gateway.name, "conflict")
        )
        return {node.name: conflicts[node.index] for node in self.hit}


register(
    Kind(
        "byzantine.false-seal",
        FalseSeal,
        category="fault",
        layer="consensus",
        summary="tells gateways of blocks that do not exist",
        mechanisms=(Mechanism("switch", FalseSealFault, equip=equip),),
        impairs=those("on"),
        lies=True,
        seen="a gateway holds seals of the liar that contradict others",
    )
)
