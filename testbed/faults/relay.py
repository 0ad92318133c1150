"""Faults of relays: `relay.drop`, `relay.alter` and `relay.delay`.

A relay is an environmental device. The seam `relay` of its switch (`nodes.switch.relay`) makes the
fault, but only for messages of other devices.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from nodes.switch.relay import SEAM, RelayTrick
from testbed.campaign.injection import Scene, Seen
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.campaign.quantities import DurationField, SpanField
from testbed.campaign.selectors import Selector, SelectorField
from testbed.faults.switch import equip
from testbed.faults.switched import SwitchFault
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


class RelayFault(SwitchFault):
    """Seen when relays log that they did it; for altered messages, when the gateway also refuses
    some."""

    seam = SEAM

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._trick = RelayTrick(scene.event.kind.partition(".")[2])

    def order(self, node: Node) -> dict[str, object]:
        params = self.scene.event.params
        order: dict[str, object] = {
            "trick": self._trick,
            "share": params["share"],
            "seed": self.scene.rng.getrandbits(31),
        }
        if "by_ms" in params:
            order["delay_ms"] = params["by_ms"]
        return order

    def observe(self, within_s: float) -> Seen | None:
        if not self.scene.watch.wait_for(self._is_noticed, within_s):
            return None
        refused = self._refused()
        said = "relays did it" if not refused else "relays did it, and the gateway refused messages"
        return Seen(said, {"messages": self._acts(), "refused": refused})

    def _is_noticed(self) -> bool:
        done = all(self._acts().values())
        return done and (self._trick is not RelayTrick.ALTER or self._refused() > 0)

    def _acts(self) -> dict[str, int]:
        return {node.name: len(self.since.logged(node.name, "relay-acts")) for node in self.hit}

    def _refused(self) -> int:
        return sum(
            event["outcome"].startswith("refused:")
            for gateway in self.scene.deployment.with_role("gateway")
            for event in self.since.logged(gateway.name, "request")
        )


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
