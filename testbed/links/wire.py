"""Link rules inside our own processes: the seam `wire` of their switch (`nodes.switch.links`).

Ends are processes. A way is shaped where its messages are sent. Messages of the broker are shaped
where they arrive. The processes add up the orders of several events themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from gateway.shaping import NO_SHAPE, Shape
from nodes.switch.links import BROKER, SEAM
from testbed.campaign.injection import Scene
from testbed.errors import LabFault
from testbed.faults.switch import SwitchOrder
from testbed.fleet import at_once
from testbed.links.port import Links, RuleInForce, Rules, Way
from testbed.provision.layout import Node

__all__ = ["WireLinks"]

_CHAIN = ("replica", "gateway")


class WireLinks(Links):
    """The links of one event. The event's id is the only owner."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene.deployment)
        self._scene = scene
        self._armed: tuple[Node, ...] = ()

    def ways(self, pairs: Iterable[tuple[Node, Node]]) -> tuple[Way, ...]:
        found = [Way(source.name, target.name) for source, target in pairs]
        for way in found:
            self._end(way)
        return tuple(dict.fromkeys(found))

    def arm(self, owner: str, nodes: Iterable[Node], after_s: float) -> None:
        self._armed = tuple(node for node in dict.fromkeys(nodes) if node.role != "broker")
        at_once(lambda node: self._order(node).arm(), self._armed)

    def clear(self, owner: str) -> None:
        super().clear(owner)
        at_once(lambda node: self._order(node).take_back(), self._armed)

    def read_back(self, ways: Iterable[Way]) -> dict[Way, RuleInForce]:
        return {way: self._read(way) for way in ways}

    def _read(self, way: Way) -> RuleInForce:
        """The rule on a way, from the log of the process that shapes it."""
        node, direction, party = self._end(way)
        name = f"{SEAM}.{self._scene.event.id}.json"
        touched = 0
        for event in reversed(list(self._scene.watch.nodes[node.name].events)):
            match event["event"]:
                case "link-acts" if not touched:
                    touched = sum(event[direction].get(party, {}).values())
                case "ordered" if event["order"] == name:
                    given = event.get(direction, {}).get(party, {})
                    return RuleInForce(msgspec.convert(given, Shape), touched)
                case "order-gone" if event["order"] == name:
                    break
                case "started":
                    break
        return RuleInForce(NO_SHAPE)

    def _places(self, way: Way, shape: Shape) -> tuple[str, ...]:
        return (self._end(way)[0].name,)

    def _write(self, place: str, rules: Rules) -> None:
        order = self._order(self.deployment.node(place))
        if not rules:
            order.take_back()
            return
        given: dict[str, Any] = {"seed": self._scene.rng.getrandbits(31)}
        for way, shape in rules.items():
            _, direction, party = self._end(way)
            given.setdefault(direction, {})[party] = msgspec.to_builtins(shape)
        order.give(given)

    def _order(self, node: Node) -> SwitchOrder:
        return SwitchOrder(self._scene, node, SEAM)

    def _end(self, way: Way) -> tuple[Node, str, str]:
        """The process that shapes a way, the direction, and its name for the other end."""
        source, target = (self.deployment.node(name) for name in way)
        if target.role == BROKER and source.role not in ("replica", BROKER):
            return source, "to", BROKER
        if source.role == BROKER and target.role not in ("replica", BROKER):
            return target, "from", BROKER
        if {source.role, target.role} <= {*_CHAIN} and "replica" in (source.role, target.role):
            return source, "to", str(target.index) if target.role == "replica" else target.name
        raise LabFault(f"there is no link {way}: devices and gateways talk to the broker")
