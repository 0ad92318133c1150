"""`byzantine.false-seal`: a replica that lies only to gateways."""

from __future__ import annotations

from nodes.switch.seals import SEAM
from testbed.campaign.injection import Injection, Scene, Seen
from testbed.campaign.kinds import Kind, Mechanism, register, those
from testbed.faults.byzantine import Lie
from testbed.faults.switch import Order, equip
from testbed.provision.layout import Node

__all__ = ["FalseSealFault"]


class FalseSeal(Lie):
    """Sends gateways well-signed seals of blocks that do not exist. A gateway believes only what
    f+1 replicas say, so f liars deceive no gateway."""


class FalseSealFault(Injection):
    """Seen when a gateway has two heads of one height from the liar, or one that contradicts a
    final block. Healed when the liar has no order and is as high as the others were."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._marks: dict[str, int] = {}
        self._tip = 0
        self._given: list[Node] = []

    def arm(self) -> None:
        for node in self.scene.candidates("on"):
            self._order(node).arm()

    def apply(self) -> None:
        watch = self.scene.watch
        for gateway in self.scene.deployment.with_role("gateway"):
            self._marks[gateway.name] = watch.nodes[gateway.name].counts.total()
        for node in self.scene.nodes("on"):
            self._given.append(node)
            self._order(node).give({})

    def observe(self, within_s: float) -> Seen | None:
        if not self.scene.watch.wait_for(lambda: all(self._caught().values()), within_s):
            return None
        return Seen("a gateway holds seals of the liar that contradict others", self._caught())

    def heal(self) -> None:
        self._tip = self.scene.watch.tip()
        for node in self._given:
            self._order(node).take_back()

    def close(self) -> None:
        for node in self.scene.candidates("on"):
            self._order(node).let_go()

    def verify(self, within_s: float) -> bool:
        watch = self.scene.watch
        liars = {node.name for node in self.scene.nodes("on")}
        views = [view for view in watch.replicas if view.name in liars]
        gone = all(self._order(node).gone(within_s) for node in self.scene.nodes("on"))
        return gone and watch.wait_for(lambda: all(v.height >= self._tip for v in views), within_s)

    def _caught(self) -> dict[str, int]:
        """How many contradictions gateways logged, by liar."""
        found = {node.index: 0 for node in self.scene.nodes("on")}
        for name, mark in self._marks.items():
            view = self.scene.watch.nodes[name]
            new = view.counts.total() - mark
            for event in list(view.events)[-new:] if new else ():
                if event["event"] == "conflict" and event["replica"] in found:
                    found[event["replica"]] += 1
        return {node.name: found[node.index] for node in self.scene.nodes("on")}

    def _order(self, node: Node) -> Order:
        return Order(self.scene, node, SEAM)


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
