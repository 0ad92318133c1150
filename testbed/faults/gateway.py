"""Faults of gateway and broker: `gateway.destroy` and `broker.kill`."""

from __future__ import annotations

import time
from typing import Final

from testbed.campaign.injection import Scene, Seen
from testbed.campaign.kinds import Kind, Mechanism, OnProcesses, register
from testbed.campaign.selectors import Selector, SelectorField
from testbed.faults.process import CrashFault
from testbed.provision.layout import Node

__all__ = ["BrokerKill", "GatewayDestroy"]

QUIET_S: Final = 1.0
"""If no message comes to any gateway for so long, the broker carries nothing."""
_STATE: Final = ("copy*", "outbox*")
"""The state that is wiped: a gateway's copy of the ledger, and the requests that it has not
delivered yet. Its keys stay."""


class Destroy(OnProcesses):
    """Kills gateways with SIGKILL and wipes their state: the copy of the ledger and the outbox.
    New ones start when `for` has passed, with the same keys."""

    on: SelectorField = Selector.parse("gateway")


class Kill(OnProcesses):
    """Kills the broker with SIGKILL. It is started again when `for` has passed."""

    on: SelectorField = Selector.parse("broker")


class GatewayDestroy(CrashFault):
    """Seen when the process is gone and replicas have lost their links to it."""

    def strike(self, node: Node) -> None:
        super().strike(node)
        first, second = _STATE
        names = ("(", "-name", first, "-o", "-name", second, ")")
        self.host(node).run(["find", node.name, "-maxdepth", "1", *names, "-delete"])

    def observe(self, within_s: float) -> Seen | None:
        if not self.all_down():
            return None
        if not self.scene.watch.wait_for(lambda: all(map(self.lost_by, self.hit)), within_s):
            return None
        missed = {node.name: self.lost_by(node) for node in self.hit}
        return Seen("the process is gone, and replicas lost their links to it", missed)


class BrokerKill(CrashFault):
    """Seen when the process is gone and no message comes to any gateway."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._requests = -1
        self._quiet_since_s = 0.0

    def observe(self, within_s: float) -> Seen | None:
        if not self.all_down():
            return None
        if not self.scene.poll(self._is_quiet, within_s):
            return None
        return Seen(f"the process is gone, and for {QUIET_S:g} s no message came to a gateway")

    def _is_quiet(self) -> bool:
        watch, now_s = self.scene.watch, time.monotonic()
        gateways = self.scene.deployment.with_role("gateway")
        requests = sum(watch.nodes[node.name].counts["request"] for node in gateways)
        if requests != self._requests:
            self._requests, self._quiet_since_s = requests, now_s
        return now_s - self._quiet_since_s >= QUIET_S


register(
    Kind(
        "gateway.destroy",
        Destroy,
        category="fault",
        layer="gateway",
        summary="kill -9 of a gateway, whose state is wiped; a new one starts in its place",
        mechanisms=(Mechanism("signal", GatewayDestroy),),
        seen="the process is gone, and replicas lost their links to it",
    )
)
register(
    Kind(
        "broker.kill",
        Kill,
        category="fault",
        layer="gateway",
        summary="kill -9 of the broker, which is started again when `for` has passed",
        mechanisms=(Mechanism("signal", BrokerKill),),
        seen="the process is gone, and no message comes to a gateway",
    )
)
