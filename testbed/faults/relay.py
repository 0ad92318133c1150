"""Faults of relays: `relay.drop`, `relay.alter` and `relay.delay`.

A relay is an environmental device. The seam `relay` of its switch (`nodes.switch.relay`) makes the
fault, but only for messages of other devices.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from nodes.switch.relay import SEAM, RelayTrick
from testbed.campaign.injection import Injection, Scene, Seen
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.campaign.quantities import DurationField, SpanField
from testbed.campaign.selectors import Selector, SelectorField
from testbed.faults.switch import Order, equip
from testbed.provision.layout import Node

__all__ = ["RelayFault"]

Share = Annotated[float, Field(gt=0, le=1)]


class Drop(Params):
    """A relay drops a share of the messages that it should carry. Devices that get no answer ask
    again through another relay."""

    on: SelectorField = Selector.parse("environment(0)")
    share: Share = 1.0
    for_: SpanField = Field(alias="for")


class Alter(Drop):
    """A relay flips a bit in a share of the messages that it carries. The gateway refuses them,
    because the device's signature does not fit."""


class Delay(Drop):
    """A relay carries a share of the messages `by` later."""

    by: DurationField


class RelayFault(Injection):
    """Seen when relays log that they did it; for altered messages, when the gateway also refuses
    some."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._marks: dict[str, int] = {}
        self._trick = RelayTrick(scene.event.kind.partition(".")[2])

    def arm(self) -> None:
        for relay in self.scene.candidates("on"):
            self._order(relay).arm()

    def apply(self) -> None:
        deployment, watch = self.scene.deployment, self.scene.watch
        gateways = deployment.with_role("gateway")
        for node in (*self.scene.nodes("on"), *gateways):
            self._marks[node.name] = watch.nodes[node.name].counts.total()
        params = self.scene.event.params
        order: dict[str, object] = {
            "trick": self._trick,
            "share": params["share"],
            "seed": self.scene.rng.getrandbits(31),
        }
        if "by_ms" in params:
            order["delay_ms"] = params["by_ms"]
        for relay in self.scene.nodes("on"):
            self._order(relay).give(order)

    def observe(self, within_s: float) -> Seen | None:
        if not self.scene.watch.wait_for(self._is_noticed, within_s):
            return None
        refused = self._refused()
        acts = {relay.name: self._acts(relay) for relay in self.scene.nodes("on")}
        said = "relays did it" if not refused else "relays did it, and the gateway refused messages"
        return Seen(said, {"messages": acts, "refused": refused})

    def heal(self) -> None:
        for relay in self.scene.candidates("on"):
            self._order(relay).take_back()

    def verify(self, within_s: float) -> bool:
        return all(self._order(relay).gone(within_s) for relay in self.scene.nodes("on"))

    def _is_noticed(self) -> bool:
        done = all(self._acts(relay) for relay in self.scene.nodes("on"))
        return done and (self._trick is not RelayTrick.ALTER or self._refused() > 0)

    def _acts(self, relay: Node) -> int:
        return sum(event["event"] == "relay-acts" for event in self._new(relay))

    def _refused(self) -> int:
        return sum(
            event["event"] == "request" and event["outcome"].startswith("refused:")
            for gateway in self.scene.deployment.with_role("gateway")
            for event in self._new(gateway)
        )

    def _new(self, node: Node) -> list[dict[str, str]]:
        view = self.scene.watch.nodes[node.name]
        new = view.counts.total() - self._marks.get(node.name, view.counts.total())
        return list(view.events)[-new:] if new else []

    def _order(self, relay: Node) -> Order:
        return Order(self.scene, relay, SEAM)


_KINDS: Final = (
    (RelayTrick.DROP, Drop, "a relay drops messages that it should carry", "it logs each"),
    (
        RelayTrick.ALTER,
        Alter,
        "a relay alters messages that it carries",
        "it logs each, and the gateway refuses some",
    ),
    (RelayTrick.DELAY, Delay, "a relay carries messages late", "it logs each"),
)
for _trick, _params, _summary, _seen in _KINDS:
    register(
        Kind(
            f"relay.{_trick}",
            _params,
            category="fault",
            layer="gateway",
            summary=_summary,
            mechanisms=(Mechanism("switch", RelayFault, equip=equip),),
            seen=_seen,
        )
    )
