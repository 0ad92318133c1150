"""`gateway.no-limits`: a run without the limits of gateway and broker, to see what the limits
achieve.

Only a campaign can do this: it changes the configs of that run's processes before they start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from testbed.campaign.injection import Injection, Seen
from testbed.campaign.kinds import Kind, Mechanism, Params, register

if TYPE_CHECKING:
    from testbed.provision.deployment import Deployment

__all__ = ["NoLimits"]

MANY = 1_000_000  # per second, at once, or waiting: nobody sends so many
_LIMITS: dict[str, dict[str, int]] = {
    "gateway": dict.fromkeys(
        (
            "rate_per_s",
            "burst",
            "relay_rate_per_s",
            "relay_burst",
            "sync_rate_per_s",
            "sync_burst",
            "total_rate_per_s",
            "total_burst",
            "waiting_max",
            "device_waiting_max",
            "relay_waiting_max",
        ),
        MANY,
    ),
    "broker": dict.fromkeys(
        ("connections_max", "handshakes_max", "publishes_per_s", "publishes_burst"), MANY
    ),
}


class NoLimits(Params):
    """Gateway and broker run with limits that nobody reaches, from the start of the run and in both
    arms. Put it beside `device.flood` and compare with the same campaign without it."""


class NoLimitsAction(Injection):
    """`equip` does everything; here it is only read back."""

    def apply(self) -> None:
        pass

    def observe(self, within_s: float) -> Seen | None:
        deployment = self.scene.deployment
        held = {
            node.name: _LIMITS[node.role].items() <= deployment.config(node)["limits"].items()
            for node in deployment.nodes
            if node.role in _LIMITS
        }
        return Seen("the configs name no limit", held) if held and all(held.values()) else None


def equip(deployment: Deployment) -> None:
    for node in deployment.nodes:
        if node.role in _LIMITS:
            limits = deployment.config(node).get("limits", {})
            deployment.configure(node, limits=limits | _LIMITS[node.role])


register(
    Kind(
        "gateway.no-limits",
        NoLimits,
        category="action",
        layer="gateway",
        summary="gateway and broker run without limits, to measure the effect of the limits",
        mechanisms=(Mechanism("config", NoLimitsAction, equip=equip),),
        seen="the configs are read back",
    )
)
