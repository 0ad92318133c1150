"""Orders to the switch of our own processes (`nodes.switch`): the same file in every stage.

A mechanism that uses the switch has this `equip`, so processes that can have a switch run the
program with it. An order is written to a process's directory and read back from its event log.
Removing the file undoes it. If the orchestrator is gone, the host's dead man does that.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from testbed.campaign.injection import Scene
from testbed.care.dead_man import arm, disarm
from testbed.errors import LabFault
from testbed.hosts.port import NodeCommand
from testbed.provision.configs import EVENTS, File
from testbed.provision.deployment import Deployment
from testbed.provision.layout import Node, NodeRole

__all__ = ["SWITCH", "TAKEN_S_MAX", "SwitchOrder", "equip"]

SWITCH = "switch"
TAKEN_S_MAX = 5.0  # until a process has logged that it took an order

_PROGRAMS: dict[NodeRole, str] = {
    role: f"nodes.switch.{role}" for role in ("replica", "gateway", "environment", "mobile")
}


class SwitchOrder:
    """One order for one process. `seam` is the place in the process; `scene.event.id` distinguishes
    it from other orders."""

    def __init__(self, scene: Scene, node: Node, seam: str) -> None:
        self._scene = scene
        self._node = node
        self._host = scene.deployment.host(node)
        self._name = f"{seam}.{scene.event.id}.json"
        self._undo = f"{seam}-{scene.event.id}-{node.name}"

    @property
    def _outlives_us(self) -> bool:
        """A process that is a child of this program ends with it and needs no undo."""
        deployment = self._scene.deployment
        return self._host.start_command(deployment.unit(self._node)) is not None

    @property
    def path(self) -> str:
        """The order's file, relative to the host's root."""
        return self._node.file(f"{SWITCH}/{self._name}")

    def arm(self) -> None:
        """Makes the host remove the order by itself if the orchestrator is gone. Raises LabFault if
        the same order is there already."""
        if self._host.exists(self.path):
            raise LabFault(f"{self._node.name}: {self._name} is there already")
        if self._outlives_us:
            undo = NodeCommand(("rm", "-f", self.path))
            arm(self._host, self._undo, self._scene.undo_after_s, undo)

    def give(self, order: Mapping[str, object]) -> None:
        """Writes the order. Raises LabFault unless the process logs that it took it."""
        view = self._scene.watch.nodes[self._node.name]
        before = view.counts["ordered"]
        data = json.dumps(order).encode()
        self._scene.deployment.put(self._node, File(f"{SWITCH}/{self._name}", data, 0o600))

        def taken() -> bool:
            return view.counts["ordered"] > before

        slowness = self._host.slowness
        if not self._scene.watch.wait_for(taken, TAKEN_S_MAX * slowness):
            raise LabFault(f"{self._node.name}: the order was not taken; see its {EVENTS}")

    def take_back(self) -> None:
        """Idempotent."""
        self._host.run(["rm", "-f", self.path])
        if self._outlives_us:
            disarm(self._host, self._undo)

    def let_go(self) -> None:
        """As `take_back`, also for an order that was never given. If the host is lost, when it is
        back."""
        self._scene.deployment.when_back(self._node.host, self.take_back)

    def gone(self, within_s: float) -> bool:
        """Whether the process logs that it has no order any more."""
        view = self._scene.watch.nodes[self._node.name]
        return self._scene.watch.wait_for(partial(_is_gone, view.events, self._name), within_s)


def _is_gone(events: Collection[dict[str, Any]], name: str) -> bool:
    """Decided by the newest line about this order. A restarted process has no such line."""
    for event in reversed(list(events)):
        if event["event"] == "started":
            return True
        if event["event"] in ("ordered", "order-gone") and event["order"] == name:
            return bool(event["event"] == "order-gone")
    return True


def equip(deployment: Deployment) -> None:
    """Every process that can have a switch gets one."""
    for role, program in _PROGRAMS.items():
        for node in deployment.with_role(role):
            deployment.configure(node, switch=SWITCH)
            deployment.programs[node.name] = program
